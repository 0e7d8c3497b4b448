"""The training loop: a configuration goes in, a run's folder with a trained model comes out.

One plain loop for a laptop CPU and a T4: mixed precision, AdamW with warm-up and a cosine, one
caption drawn a step, a state that can be resumed after any interruption. Built in chapter 8.
"""

import contextlib
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.optim import AdamW
from tqdm import tqdm

from distilclip.data import (
    Batch,
    TrainingPairs,
    augment,
    decode_pixels,
    load_pairs,
    normalise_pixels,
    seeded,
)
from distilclip.files import save_tensors, write_text
from distilclip.loss import contrastive_loss
from distilclip.model import DistilCLIP, DistilCLIPConfig
from distilclip.search import evaluate_retrieval
from distilclip.vit import ViTConfig

PRESETS = {
    # A small ViT beside a locked MiniLM: learns something real on two laptop cores.
    "cpu": {
        "text_model": "minilm",
        "image_size": 48,
        "patch_size": 8,
        "dim": 192,
        "depth": 6,
        "num_heads": 3,
        "patch_dropout": 0.5,
        "image_pool": "mean",
        "epochs": 180,
        "batch_size": 64,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "warmup": 0.05,
        "augmentation": 0.7,
    },
    # ViT-S/16 at 224 pixels and DistilBERT, both trained, each at its own learning rate.
    "t4": {
        "text_model": "distilbert-base-uncased",
        "image_size": 224,
        "patch_size": 16,
        "dim": 384,
        "depth": 12,
        "num_heads": 6,
        "text_lr": 3e-5,
        "epochs": 25,
        "batch_size": 128,
        "lr": 5e-4,
        "weight_decay": 0.1,
        "warmup": 0.1,
        "augmentation": 0.5,
        "flip": True,
    },
    # The system that this book starts from, with its flaws.
    "original": {
        "text_model": "distilbert-base-uncased",
        "image_size": 224,
        "patch_size": 16,
        "dim": 768,
        "depth": 12,
        "num_heads": 12,
        "cls_token": False,
        "final_norm": False,
        "projection_norm": True,
        "pad_to_max_length": True,
        "learn_temperature": False,
        "mask_positives": False,
        "text_lr": 5e-5,
        "epochs": 25,
        "batch_size": 64,
        "lr": 5e-5,
        "weight_decay": 0.01,
        "beta2": 0.999,
        "warmup": 0.0,
        "clip_gradient": 0.0,
        "augmentation": 0.0,
    },
}

SAVE_SECONDS = 60  # at the end of an epoch, save if the last time is longer ago


@dataclass
class TrainConfig:
    """What to train, on what, and where to put it.

    A field left at None takes the value of the preset ("cpu", "t4" or "original"), or else the
    value that `DEFAULTS` gives it. `text_lr` 0 locks the text encoder: its features are then
    computed once. `augmentation` scales the random views from 0 (none) to 1 (strong);
    `precision` is "auto", "float32", "bfloat16" or "float16".
    """

    data: str = "emoji"
    out: str = "runs/emoji"
    preset: str = "cpu"
    resume: bool = False
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    text_model: str | None = None
    image_size: int | None = None
    patch_size: int | None = None
    dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    dropout: float | None = None
    patch_dropout: float | None = None
    cls_token: bool | None = None
    final_norm: bool | None = None
    image_pool: str | None = None
    embed_dim: int | None = None
    projection_norm: bool | None = None
    pad_to_max_length: bool | None = None
    learn_temperature: bool | None = None
    mask_positives: bool | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    text_lr: float | None = None
    weight_decay: float | None = None
    beta2: float | None = None
    warmup: float | None = None
    clip_gradient: float | None = None
    augmentation: float | None = None
    flip: bool | None = None
    evaluations: int | None = None

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise ValueError(f"Unknown preset {self.preset!r}: choose {', '.join(PRESETS)}.")
        for name, value in (DEFAULTS | PRESETS[self.preset]).items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.batch_size < 2:
            raise ValueError("batch_size must be at least 2: one pair has nothing to compare with.")
        if self.lr <= 0 or self.text_lr < 0:
            raise ValueError("lr must be positive and text_lr not negative.")
        if self.precision not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(
                f"Unknown precision {self.precision!r}: choose auto, float32, bfloat16 or float16."
            )
        self.model_config()  # raises ValueError where the shape of the model is at fault

    def model_config(self) -> DistilCLIPConfig:
        """The model that this configuration trains."""
        return DistilCLIPConfig(
            vision=ViTConfig(
                image_size=self.image_size,
                patch_size=self.patch_size,
                dim=self.dim,
                depth=self.depth,
                num_heads=self.num_heads,
                dropout=self.dropout,
                patch_dropout=self.patch_dropout,
                cls_token=self.cls_token,
                final_norm=self.final_norm,
            ),
            text_model=self.text_model,
            image_pool=self.image_pool,
            embed_dim=self.embed_dim,
            projection_norm=self.projection_norm,
            pad_to_max_length=self.pad_to_max_length,
        )


DEFAULTS = {
    "dropout": 0.0,
    "patch_dropout": 0.0,
    "cls_token": True,
    "final_norm": True,
    "image_pool": "first",
    "embed_dim": 256,
    "projection_norm": False,
    "pad_to_max_length": False,
    "learn_temperature": True,
    "mask_positives": True,
    "text_lr": 0.0,
    "beta2": 0.98,
    "clip_gradient": 1.0,
    "flip": False,
    "evaluations": 5,
}


@dataclass
class TrainResult:
    """A trained model, its folder, its metrics by split, and every logged line."""

    model: DistilCLIP
    folder: Path
    metrics: dict[str, dict[str, float]]
    history: list[dict]


def learning_rate(step: int, total: int, warmup: float) -> float:
    """The share of the peak rate at `step`: a linear rise over `warmup`, then half a cosine."""
    rise = max(1, round(total * warmup))
    if warmup and step < rise:
        return (step + 1) / rise
    start = rise if warmup else 0
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, total - start)))


def parameter_groups(model: DistilCLIP, config: TrainConfig) -> list[dict]:
    """Four groups for AdamW: image side and text encoder, each with and without weight decay.

    Matrices decay; norms, biases, position embeddings and the temperature do not.
    """
    groups = []
    for is_text, lr in ((False, config.lr), (True, config.text_lr)):
        for decays in (True, False):
            chosen = [
                parameter
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
                and name.startswith("text.") == is_text
                and (parameter.ndim == 2) == decays
            ]
            decay = config.weight_decay if decays else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": lr, "peak": lr, "weight_decay": decay})
    return groups


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("No CUDA device was found: use --device cpu.")
    return torch.device(name)


def choose_precision(config: TrainConfig, model: DistilCLIP, device: torch.device) -> str:
    """The fastest safe number format: a GPU by its generation, a CPU by timing both."""
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        # A T4 (compute capability 7.5) has float16 only; bfloat16 came with 8.0.
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    if device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return "float32"
    seconds = {name: time_vision(model, config, name) for name in ("float32", "bfloat16")}
    return min(seconds, key=seconds.get)


def time_vision(model: DistilCLIP, config: TrainConfig, precision: str) -> float:
    """Seconds of one forward and backward of the image side on random pixels: best of 3."""
    vision, size = model.config.vision, min(config.batch_size, 64)
    pixels = torch.zeros(size, vision.in_channels, vision.image_size, vision.image_size)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        with autocast(pixels.device, precision):
            loss = model.embed_image(pixels).sum()
        torch.autograd.grad(loss, list(model.vision.parameters()), allow_unused=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision for the encoders; losses and norms stay in float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def train(config: TrainConfig, progress: bool = True) -> TrainResult:
    """Train a model as `config` says and write it to the folder `config.out`.

    The folder ends up with the model (`save_pretrained`), `train_config.json`, `metrics.jsonl`
    and `training_state.safetensors`, from which `resume` goes on, bitwise as if nothing had
    happened. Raises ValueError where the data or the configuration are at fault, FileExistsError
    where the folder holds another run, FloatingPointError where the loss is no longer a number.
    """
    folder = Path(config.out).expanduser()
    state = prepare_folder(folder, config)
    splits = load_pairs(config.data)
    if len(splits["train"]) < config.batch_size:
        raise ValueError(
            f"{config.data} has {len(splits['train'])} training pictures, fewer than one batch of "
            f"{config.batch_size}: choose a smaller batch size."
        )
    device = choose_device(config.device)
    torch.manual_seed(config.seed)
    model = DistilCLIP(config.model_config())
    model.text.requires_grad_(config.text_lr > 0)
    model.log_logit_scale.requires_grad_(config.learn_temperature)
    model.to(device)
    optimizer = AdamW(parameter_groups(model, config), betas=(0.9, config.beta2))
    precision = state["precision"] if state else choose_precision(config, model, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    history, losses = [], []
    if state:
        load_state(state, model, optimizer, scaler)
        history = [line for line in state["history"] if line["kind"] != "final"]
        losses = state["losses"]
    pixels = decode_pixels(splits["train"], config.image_size, progress=progress)
    pairs = TrainingPairs(pixels, splits["train"]["captions"])
    features = None
    if config.text_lr == 0:  # a locked text encoder: every caption is encoded once
        features = model.text.encode(pairs.captions, progress=progress)

    steps_an_epoch = len(pairs) // config.batch_size
    total = steps_an_epoch * config.epochs
    step = state["step"] if state else 0
    evaluate_every = math.ceil(config.epochs / config.evaluations) if config.evaluations else 0
    saved = time.monotonic()
    bar = tqdm(total=total, initial=step, desc="training", disable=not progress, unit="step")
    try:
        for epoch in range(step // steps_an_epoch, config.epochs):
            start, first = time.perf_counter(), step
            for number, rows in enumerate(pairs.epoch(config.batch_size, config.seed, epoch)):
                if epoch * steps_an_epoch + number < step:
                    continue  # done before the interruption
                share = learning_rate(step, total, config.warmup)
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * share
                losses.append(
                    train_step(
                        model, pairs, features, rows, optimizer, scaler, config, precision, step
                    )
                )
                step += 1
                bar.update()
                if step % 10 == 0:
                    speed = (step - first) * config.batch_size / (time.perf_counter() - start)
                    bar.set_postfix(
                        loss=f"{losses[-1]:.3f}",
                        lr=f"{config.lr * share:.1e}",
                        images_per_s=f"{speed:.0f}",
                    )
            seconds = time.perf_counter() - start
            history.append(
                {
                    "kind": "epoch",
                    "epoch": epoch + 1,
                    "step": step,
                    "loss": sum(losses) / len(losses),
                    "lr": config.lr * share,
                    "logit_scale": model.logit_scale.item(),
                    "images_per_second": (step - first) * config.batch_size / seconds,
                    "seconds": seconds,
                }
            )
            losses = []
            evaluating = evaluate_every and (epoch + 1) % evaluate_every == 0
            if evaluating and epoch + 1 < config.epochs:
                scores = evaluate_retrieval(model, splits["validation"])
                history.append({"kind": "evaluation", "split": "validation", "step": step} | scores)
                if progress:
                    bar.write(f"epoch {epoch + 1}: validation {format_metrics(scores)}")
            if evaluating or epoch == 0 or time.monotonic() - saved > SAVE_SECONDS:
                save_run(folder, model, optimizer, scaler, config, precision, step, history, losses)
                saved = time.monotonic()
    except KeyboardInterrupt:
        save_run(folder, model, optimizer, scaler, config, precision, step, history, losses)
        bar.close()
        raise KeyboardInterrupt(
            f"Stopped at step {step} of {total}; add --resume to the same command to go on."
        ) from None
    bar.close()

    model.eval()
    metrics = {}
    for split in [name for name in splits if name != "train"]:
        metrics[split] = evaluate_retrieval(model, splits[split])
        history.append({"kind": "final", "split": split, "step": step} | metrics[split])
    save_run(folder, model, optimizer, scaler, config, precision, step, history, losses)
    return TrainResult(model, folder, metrics, history)


def train_step(
    model: DistilCLIP,
    pairs: TrainingPairs,
    features: Tensor | None,
    rows: Tensor,
    optimizer: AdamW,
    scaler: torch.amp.GradScaler,
    config: TrainConfig,
    precision: str,
    step: int,
) -> float:
    """One batch forward, backward, and one step of AdamW -> the loss.

    Whatever is random here follows from the seed and the step: a resumed run draws the same.
    """
    device = model.log_logit_scale.device
    generator = seeded(config.seed, 1, step)  # 1: another stream than the epochs' orders
    torch.manual_seed(generator.initial_seed())  # for dropout
    model.train()
    model.text.train(config.text_lr > 0)  # a locked encoder keeps its dropout off
    batch = pairs.draw(rows, generator)
    with autocast(device, precision):
        image_embeds = model.embed_image(views(batch, model, config, generator).to(device))
        if features is not None:
            text_embeds = model.embed_text_features(features[batch.caption_ids.to(device)])
        else:
            tokens = model.tokenize([pairs.captions[i] for i in batch.caption_ids.tolist()])
            text_embeds = model.embed_text(**{k: v.to(device) for k, v in tokens.items()})
    positives = batch.positives.to(device) if config.mask_positives else None
    loss = contrastive_loss(image_embeds, text_embeds, model.logit_scale, positives)
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The loss became {value} at step {step}: try a smaller learning rate than "
            f"{config.lr:g}. The last saved state in {config.out} is intact."
        )
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    if config.clip_gradient:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_gradient)
    scaler.step(optimizer)
    scaler.update()
    with torch.no_grad():  # past its limit the scale has no gradient that could bring it back
        model.log_logit_scale.clamp_(max=math.log(model.config.max_logit_scale))
    return value


def views(
    batch: Batch, model: DistilCLIP, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """The batch's pixels, augmented as far as the configuration says, and normalised."""
    if not config.augmentation and not config.flip:
        return model.normalise(batch.pixels)
    strength = config.augmentation
    images = augment(
        batch.pixels,
        generator,
        shift=0.1 * strength,
        scale=0.25 * strength,
        turn=15 * strength,
        colour=0.1 * strength,  # more would turn a red heart into an orange one
        grey=0.1 * strength,
        flip=config.flip,
    )
    return normalise_pixels(images, model.config.image_mean, model.config.image_std)


def prepare_folder(folder: Path, config: TrainConfig) -> dict | None:
    """Make the run's folder, or read the state to resume from.

    Raises FileExistsError for a folder that holds a run already, unless it is to be resumed.
    """
    file = folder / "training_state.safetensors"
    if config.resume:
        return read_state(file, config)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another folder for the run.")
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder} is not empty: add --resume to go on with the run in it, or choose another "
            "folder."
        )
    return None


def save_run(
    folder: Path,
    model: DistilCLIP,
    optimizer: AdamW,
    scaler: torch.amp.GradScaler,
    config: TrainConfig,
    precision: str,
    step: int,
    history: list[dict],
    losses: list[float],
) -> None:
    """Write model, state and metrics; each file is there whole or not at all."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("resume", "out")}
    tensors = {f"model.{n}": p for n, p in model.named_parameters() if p.requires_grad}
    for position, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{position}.{key}": value for key, value in values.items()}
    description = {
        "step": step,
        "precision": precision,
        "config": settings,
        "scaler": scaler.state_dict(),
        "history": history,
        "losses": losses,
    }
    model.save_pretrained(folder)
    write_text(folder / "train_config.json", json.dumps(settings, indent=2))
    write_text(folder / "metrics.jsonl", "\n".join(json.dumps(line) for line in history))
    metadata = {"state": json.dumps(description)}
    save_tensors(tensors, folder / "training_state.safetensors", metadata)


def read_state(file: Path, config: TrainConfig) -> dict:
    """The state that `save_run` wrote; ValueError where it is damaged or of another run."""
    if not file.is_file():
        raise FileNotFoundError(f"Nothing to resume: there is no {file}.")
    try:
        with safe_open(file, "pt") as opened:
            state = json.loads(opened.metadata()["state"])
            state["tensors"] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is damaged and cannot be resumed from: {error}.") from None
    now = {k: v for k, v in asdict(config).items() if k not in ("resume", "out")}
    changed = [k for k in now if state["config"].get(k) != now[k]]
    if changed:
        before = ", ".join(f"{name} {state['config'].get(name)!r}" for name in changed)
        raise ValueError(
            f"The run in {file.parent} was started with {before}: resume with the same settings."
        )
    return state


def load_state(
    state: dict, model: DistilCLIP, optimizer: AdamW, scaler: torch.amp.GradScaler
) -> None:
    """Put a state from `read_state` back into model, optimizer and scaler."""
    parameters = dict(model.named_parameters())
    values: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        for name, tensor in state["tensors"].items():
            kind, rest = name.split(".", 1)
            if kind == "model":
                parameters[rest].copy_(tensor)
            else:
                position, key = rest.split(".")
                values.setdefault(int(position), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": values})
    if state["scaler"]:
        scaler.load_state_dict(state["scaler"])


def format_metrics(metrics: dict[str, float]) -> str:
    """Recalls as one line of percentages: text to image, then image to text."""
    parts = []
    for direction, title in (("t2i", "text→image"), ("i2t", "image→text")):
        values = [
            f"R@{name.split('_r')[1]} {100 * value:.1f}"
            for name, value in metrics.items()
            if name.startswith(direction)
        ]
        parts.append(f"{title} {' '.join(values)}")
    return ", ".join(parts) + " %"

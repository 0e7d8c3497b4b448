"""The training loop: a configuration goes in, a run's folder with a trained model comes out.

One plain loop for a laptop CPU, a T4, and several processes: mixed precision, AdamW with warm-up
and a cosine, one caption drawn a step, a state that can be resumed after any interruption. Built
in chapter 8. What is asked for stands in `settings`, how a run is kept safe in `checkpoint`, what
it shows of itself in `watch`.
"""

import contextlib
import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW
from tqdm import tqdm

from distilclip.checkpoint import (
    Run,
    hold_folder,
    new_epoch,
    pairs_hash,
    read_state,
    restore,
    save_run,
    uninterrupted,
    write_metrics,
)
from distilclip.data import (
    TrainingPairs,
    augment,
    decode_pixels,
    load_pairs,
    normalise_pixels,
    seeded,
)
from distilclip.loss import contrastive_loss
from distilclip.memory import keep_freed_memory
from distilclip.model import DistilCLIP
from distilclip.scale import (
    average_gradients,
    broadcast_weights,
    cached_contrastive_backward,
    gather,
    gather_embeds,
    process_group,
    processes,
)
from distilclip.search import evaluate_retrieval
from distilclip.settings import PRECISIONS, TrainConfig, TrainResult
from distilclip.text import TextEncoder
from distilclip.vit import ViTConfig
from distilclip.watch import (
    epoch_line,
    evaluate_and_draw,
    format_metrics,
    log_to_tensorboard,
    open_tensorboard,
)

SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)  # a mirrored picture makes these words lies


def learning_rate(step: int, total: int, warmup: float) -> float:
    """The share of the peak rate at `step`: a linear rise over `warmup`, then half a cosine."""
    rise = max(1, round(total * warmup))
    if warmup and step < rise:
        return (step + 1) / rise
    start = rise if warmup else 0
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, total - start)))


def parameter_groups(model: DistilCLIP, config: TrainConfig) -> list[dict]:
    """Groups for AdamW, by learning rate and weight decay; what is locked is in none.

    The ViT, the text encoder, and the captions' projection have rates of their own. Matrices
    decay; norms, biases, position embeddings and the temperature do not.
    """
    rates = {
        "vision": config.vision_lr,
        "text": config.text_lr,
        "text_projection": config.text_projection_lr,
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            lr = rates.get(name.split(".")[0], config.lr)
            decays = parameter.ndim == 2 and "position_embedding" not in name
            key = lr, config.weight_decay if decays else 0.0
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "peak": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Mixed precision for the encoders; losses and norms stay in float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def choose_precision(config: TrainConfig, model: DistilCLIP, device: torch.device) -> str:
    """The fastest safe number format: a GPU by its generation, a CPU by timing both."""
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        # A T4 (compute capability 7.5) has float16 only; bfloat16 came with 8.0.
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    if device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return "float32"
    seconds = {name: _time_vision(model, config, name) for name in ("float32", "bfloat16")}
    faster = "bfloat16" if seconds["bfloat16"] < 0.9 * seconds["float32"] else "float32"
    # Processes that work together must agree: the first one's timing counts for all.
    return PRECISIONS[int(gather(torch.tensor([PRECISIONS.index(faster)]))[0])]


def _time_vision(model: DistilCLIP, config: TrainConfig, precision: str) -> float:
    """Seconds of one forward and backward of the image side on random pixels: best of 3."""
    vision = model.config.vision
    tokens = (vision.image_size // vision.patch_size) ** 2
    size = min(config.batch_size, max(4, 2048 // tokens))  # enough to see, soon done
    pixels = torch.zeros(size, vision.in_channels, vision.image_size, vision.image_size)
    learning = [p for p in model.parameters() if p.requires_grad]
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        with autocast(pixels.device, precision):
            loss = model.embed_image(pixels).sum()
        torch.autograd.grad(loss, learning, allow_unused=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("No CUDA device was found: use --device cpu.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f"Unknown device {name!r}: choose auto, cpu or cuda.") from None


@dataclass
class TrainingData:
    """A split ready for training, and what is known of it before the first step.

    `features` (C, D) are the locked text encoder's for each of `pairs.captions`, and then for
    what else `encode_text` was given; None while it is trained. Where only its last layers are,
    `below` holds what those are given, (T, D) for each caption. `may_flip` (N, bool) says which
    images no caption ties to a side.
    """

    pairs: TrainingPairs
    features: Tensor | None
    may_flip: Tensor
    below: list[Tensor] | None = None

    def __post_init__(self):
        self.row_of = {caption: row for row, caption in enumerate(self.pairs.captions)}

    @torch.no_grad()
    def encode_text(self, model: DistilCLIP, texts: Sequence[str]) -> Tensor:
        """`model.encode_text`, but a locked text encoder reads a caption once in the whole run."""
        if self.features is None:
            return model.encode_text(texts)
        if new := [text for text in dict.fromkeys(texts) if text not in self.row_of]:
            features = model.text.encode(new).cpu()
            self.row_of |= {text: len(self.features) + n for n, text in enumerate(new)}
            self.features = torch.cat([self.features, features])
        features = self.features[[self.row_of[text] for text in texts]]
        return model.embed_text_features(features.to(model.log_logit_scale.device))


def text_learns(config: TrainConfig, epoch: int) -> bool:
    """Whether the text encoder is trained in an epoch: not at rate 0, not before `text_start`."""
    return config.text_lr > 0 and epoch >= round(config.text_start * config.epochs)


def unlock_text(text: TextEncoder, learns: bool, layers: int = 0) -> None:
    """Let the text encoder learn, or only its last `layers` layers, or nothing of it.

    Raises ValueError where it has fewer layers.
    """
    blocks = text.model.transformer.layer
    if layers > len(blocks):
        raise ValueError(
            f"text_layers {layers} is too many: the text encoder {text.name} has {len(blocks)}."
        )
    text.requires_grad_(learns and not layers)
    if learns and layers:
        blocks[-layers:].requires_grad_(True)


def prepare_data(
    model: DistilCLIP,
    rows: datasets.Dataset,
    config: TrainConfig,
    progress: bool = False,
    epoch: int = 0,
) -> TrainingData:
    """Decode every image once; encode every caption once by what is locked at `epoch`."""
    captions = list(rows["captions"])
    pixels = decode_pixels(rows, config.image_size, config.cache or None, progress)
    pairs = TrainingPairs(pixels, captions)
    features = below = None
    if not text_learns(config, epoch):
        features = model.text.encode(pairs.captions, progress=progress).cpu()
    if config.text_layers:
        states = model.text.encode_below(pairs.captions, config.text_layers, progress=progress)
        below = [hidden.cpu() for hidden in states]
    sided = [any(SIDES.search(text) for text in texts) for texts in captions]
    return TrainingData(pairs, features, ~torch.tensor(sided), below)


def draw_batch(
    data: TrainingData,
    rows: Tensor,
    step: int,
    config: TrainConfig,
    tokenize: Callable[[Sequence[str]], dict[str, Tensor]],
) -> tuple[dict[str, Tensor], Tensor]:
    """What a step needs of the images at `rows` (B): the encoders' inputs, and the positives.

    One caption is drawn for each image, and which images to mirror. Of the inputs, each process
    gets its share; the positives (B, B) are those of the whole batch. All of it follows from the
    seed and the step.
    """
    generator = seeded(config.seed, 1, step)  # 1: another stream than the epochs' orders
    like_length = config.sort_captions and data.features is None
    drawn = data.pairs.draw(rows, generator, like_length)
    flip = torch.rand(len(rows), generator=generator) < (0.5 if config.flip else 0)
    rank, world = processes()
    share = slice(rank * len(rows) // world, (rank + 1) * len(rows) // world)
    inputs = {"pixels": drawn.pixels[share], "flip": (flip & data.may_flip[rows])[share]}
    caption_ids = drawn.caption_ids[share]
    if data.features is not None:
        inputs["features"] = data.features[caption_ids]
    elif data.below is not None:
        given = [data.below[i] for i in caption_ids.tolist()]
        inputs["hidden"] = pad_sequence(given, batch_first=True)
        masks = [torch.ones(len(hidden), dtype=torch.long) for hidden in given]
        inputs["attention_mask"] = pad_sequence(masks, batch_first=True)
    else:
        inputs |= tokenize([data.pairs.captions[i] for i in caption_ids.tolist()])
    return inputs, drawn.positives


def picture_size(config: TrainConfig, shape: ViTConfig, epoch: int) -> int:
    """The width of pictures in an epoch: half of it, in whole patches, before `full_size_start`."""
    if epoch >= round(config.full_size_start * config.epochs):
        return shape.image_size
    return max(1, shape.image_size // shape.patch_size // 2) * shape.patch_size


def shrink(pixels: Tensor, size: int) -> Tensor:
    """uint8 pixels (B, C, S, S) -> the same pictures, smaller: (B, C, size, size)."""
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


def prefetch(draw: Callable[[Any], tuple], items: Sequence, device: torch.device) -> Iterator:
    """`draw(item)` for each item; on a GPU, the next one is drawn while this one is at work.

    There, the tensors also come in pinned memory, from which they are copied in the background.
    """
    if device.type != "cuda":
        yield from map(draw, items)
        return

    def draw_pinned(item):
        inputs, positives = draw(item)
        return {name: tensor.pin_memory() for name, tensor in inputs.items()}, positives

    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = []
        for item in items:
            waiting.append(thread.submit(draw_pinned, item))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        for last in waiting:
            yield last.result()


def views(pixels: Tensor, flip: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """uint8 pixels (B, 3, S, S), mirrored where `flip` (B) says so, and augmented.

    As strongly as the configuration has it: the result is float in [0, 1], or uint8 without any.
    """
    pixels = torch.where(flip.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    strength = config.augmentation
    if not strength:
        return pixels
    return augment(
        pixels,
        generator,
        shift=0.1 * strength,
        scale=0.25 * strength,
        turn=15 * strength,
        colour=0.1 * strength,  # more would turn a red heart into an orange one
        grey=0.1 * strength,
        texture=strength,
        shade=0.6 * strength,
    )


def embed(
    run: Run, inputs: dict[str, Tensor], config: TrainConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Inputs of `draw_batch` -> image_embeds and text_embeds, (B, E) each, with gradients."""
    model, device = run.model, run.model.log_logit_scale.device
    inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
    pixels = views(inputs.pop("pixels"), inputs.pop("flip"), config, generator)
    pixels = normalise_pixels(pixels, model.config.image_mean, model.config.image_std)
    with autocast(device, run.precision):
        image_embeds = model.embed_image(pixels, any_size=True)
        if "features" in inputs:
            return image_embeds, model.embed_text_features(**inputs)
        if "hidden" in inputs:
            features = model.text.last_layers(config.text_layers, **inputs)
            return image_embeds, model.embed_text_features(features)
        return image_embeds, model.embed_text(**inputs)


def train_step(
    run: Run, inputs: dict[str, Tensor], positives: Tensor, config: TrainConfig
) -> float:
    """One batch forward, backward, and one step of AdamW -> the loss.

    Whatever is random here follows from the seed and the step: a resumed run draws the same. In
    float16, a step whose gradients overflow is left out, and the next one is scaled less. Raises
    FloatingPointError, before any weight has changed, where loss or gradients are no numbers.
    """
    model, rank = run.model, processes()[0]
    torch.manual_seed(seeded(config.seed, 2, run.step, rank).initial_seed())  # for dropout
    model.train()
    model.vision.train(config.vision_lr > 0)  # a locked encoder keeps its dropout off
    model.text.train(config.text_lr > 0)

    def encode(part: tuple[int, dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
        return embed(run, part[1], config, seeded(config.seed, 3, run.step, rank, part[0]))

    run.optimizer.zero_grad(set_to_none=True)
    positives = positives.to(model.log_logit_scale.device) if config.mask_positives else None
    if config.micro_batch:
        parts = zip(*(tensor.split(config.micro_batch) for tensor in inputs.values()), strict=True)
        parts = [(n, dict(zip(inputs, part, strict=True))) for n, part in enumerate(parts)]
        loss = cached_contrastive_backward(encode, parts, model.logit_scale, positives, run.scaler)
    else:
        image_embeds, text_embeds = map(gather_embeds, encode((0, inputs)))
        loss = contrastive_loss(image_embeds, text_embeds, model.logit_scale, positives)
        run.scaler.scale(loss).backward()
    average_gradients(model.parameters())
    run.scaler.unscale_(run.optimizer)
    limit = config.clip_gradient or math.inf
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
    loss, norm = torch.stack([loss.detach(), norm]).tolist()  # the step's one wait for a GPU
    overflows = run.scaler.is_enabled() and run.scaler.get_scale() >= 1
    if not math.isfinite(loss) or not (math.isfinite(norm) or overflows):
        raise FloatingPointError(
            f"The loss became {loss} and its gradient {norm} at step {run.step}: try a smaller "
            f"learning rate than {config.lr:g}. The last saved state in {config.out} is intact."
        )
    run.scaler.step(run.optimizer)
    run.scaler.update()
    with torch.no_grad():  # past its limit the scale has no gradient that could bring it back
        model.log_logit_scale.clamp_(max=math.log(model.config.max_logit_scale))
    if run.average is not None and math.isfinite(norm):
        update_average(run.average, model, config.ema, run.step)
    return loss


@torch.no_grad()
def update_average(average: DistilCLIP, model: DistilCLIP, decay: float, step: int) -> None:
    """Move `average` towards the weights of `model` by a share of 1 - `decay`.

    In the first steps by more, or the random start would stay in it for long: the decay is then
    (1 + step) / (10 + step).
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
        if parameter.requires_grad:
            mean.lerp_(parameter, 1 - decay)


def start_run(config: TrainConfig, device: torch.device, saved: dict | None = None) -> Run:
    """A new model with its optimiser; with a `saved` state, all as it was then."""
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    model = DistilCLIP(config.model_config())
    unlock_text(model.text, config.text_lr > 0, config.text_layers)
    model.vision.requires_grad_(config.vision_lr > 0)
    model.log_logit_scale.requires_grad_(config.learn_temperature)
    model.to(device)
    broadcast_weights(model)  # several processes start as one
    # Fused: one kernel for the whole update, on a GPU and on a CPU.
    fused = device.type in ("cpu", "cuda") or None
    optimizer = AdamW(parameter_groups(model, config), betas=(0.9, config.beta2), fused=fused)
    precision = saved["precision"] if saved else choose_precision(config, model, device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    average = None
    if config.ema:  # what does not learn is shared, not copied
        shared = model.text.tokenizer if config.text_lr else model.text
        average = copy.deepcopy(model, {id(shared): shared}).eval()
    run = Run(model, optimizer, scaler, precision, average)
    if saved:
        restore(run, saved)
    if config.compile:
        model.vision.compile()
    return run


def train_epoch(
    run: Run,
    data: TrainingData,
    config: TrainConfig,
    epoch: int,
    bar: tqdm,
    save: Callable[[], None],
) -> None:
    """What is left of an epoch, step by step; `save` is called when the last time is long ago."""
    unlock_text(run.model.text, text_learns(config, epoch), config.text_layers)
    if text_learns(config, epoch):
        data.features = None  # they stay as they are only while the encoder does
    steps = len(data.pairs) // config.batch_size
    order = enumerate(data.pairs.epoch(config.batch_size, config.seed, epoch), epoch * steps)
    remaining = [(step, rows) for step, rows in order if step >= run.step]

    size = picture_size(config, run.model.config.vision, epoch)

    def draw(item: tuple[int, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        inputs, positives = draw_batch(data, item[1], item[0], config, run.model.tokenize)
        return inputs | {"pixels": shrink(inputs["pixels"], size)}, positives

    started = time.perf_counter()
    for inputs, positives in prefetch(draw, remaining, run.model.log_logit_scale.device):
        waited = time.perf_counter() - started
        share = learning_rate(run.step, steps * config.epochs, config.warmup)
        for group in run.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        with uninterrupted():  # Ctrl-C never finds half a step
            run.epoch["losses"].append(train_step(run, inputs, positives, config))
            run.step += 1
            run.epoch["lr"] = config.lr * share
            run.epoch["waiting"] += waited
            run.epoch["seconds"] += time.perf_counter() - started
        bar.update()
        if run.step % 10 == 0:
            speed = len(run.epoch["losses"]) * config.batch_size / run.epoch["seconds"]
            rate, loss = f"{run.epoch['lr']:.1e}", f"{run.epoch['losses'][-1]:.3f}"
            bar.set_postfix(loss=loss, lr=rate, images_per_s=f"{speed:.0f}")
        if time.monotonic() > run.save_at:
            save()
        started = time.perf_counter()


def train(config: TrainConfig, progress: bool = True) -> TrainResult:
    """Train a model as `config` says and write it to the folder `config.out`.

    The folder ends up with the model (`save_pretrained`), `train_config.json`, `metrics.jsonl`,
    a sheet of samples for each evaluation, and `training_state.safetensors`, from which `resume`
    goes on, bitwise as if nothing had happened. Processes that `torchrun` started share every
    batch; the first of them writes. Raises ValueError where the data or the configuration are at
    fault, FileExistsError where the folder holds another run, OSError where it cannot be
    written to, FloatingPointError where the loss is no longer a number.
    """
    folder, device = Path(config.out).expanduser(), _choose_device(config.device)
    with contextlib.ExitStack() as stack:
        rank, world = stack.enter_context(process_group(device.type))
        writes, progress = rank == 0, progress and rank == 0
        if writes:
            stack.enter_context(hold_folder(folder, config.resume))
        saved = read_state(folder, config) if config.resume else None
        splits = load_pairs(config.data, config.skip_broken)
        _check_batch(config, splits["train"], world)
        pairs = pairs_hash(splits["train"])
        if saved and saved.get("data", pairs) != pairs:
            raise ValueError(
                f"The training pairs of {config.data} have changed since the run in {folder} was "
                "started: put them back as they were, or start a new run in another folder."
            )
        run = start_run(config, device, saved)
        run.data = pairs
        data = prepare_data(run.model, splits["train"], config, progress, run.epochs)
        validation = splits["validation"]
        held_out = decode_pixels(validation, config.image_size, config.cache or None, progress)
        board = None
        if config.tensorboard and writes:
            board = open_tensorboard(folder, run.step)
            stack.callback(board.close)
        every = math.ceil(config.epochs / config.evaluations) if config.evaluations else 0
        total = len(data.pairs) // config.batch_size * config.epochs
        bar = tqdm(
            total=total, initial=run.step, desc="training", disable=not progress, unit="step"
        )
        stack.callback(bar.close)

        def save() -> None:
            if writes:
                save_run(run, folder, config)

        def log(lines: list[dict]) -> None:
            run.history += lines
            if writes:
                write_metrics(run, folder)
            if board is not None:
                log_to_tensorboard(board, lines)

        def encode_text(texts: Sequence[str]) -> Tensor:
            return data.encode_text(run.outcome, texts)

        def evaluate_validation() -> dict[str, float]:
            sheet = folder / "samples" / f"step_{run.step:06}.png"
            return evaluate_and_draw(run.outcome, validation, held_out, sheet, encode_text)

        try:
            if not saved:
                save()
            for epoch in range(run.epochs, config.epochs):
                train_epoch(run, data, config, epoch, bar, save)
                lines, is_last = [epoch_line(run, config)], epoch + 1 == config.epochs
                evaluates = every and (epoch + 1) % every == 0 and not is_last
                if evaluates and writes:
                    scores = evaluate_validation()
                    about = {"kind": "evaluation", "split": "validation", "step": run.step}
                    lines.append(about | scores)
                    if progress:
                        bar.write(f"epoch {epoch + 1}: validation {format_metrics(scores)}")
                with uninterrupted():
                    log(lines)
                    run.epoch = new_epoch()
                if evaluates or is_last or time.monotonic() > run.save_at:
                    save()
            metrics = {}
            for split in [name for name in splits if name != "train" and writes]:
                if split == "validation":
                    metrics[split] = evaluate_validation()
                else:
                    rows = splits[split]
                    metrics[split] = evaluate_retrieval(run.outcome, rows, encode_text=encode_text)
            log([{"kind": "final", "split": s, "step": run.step} | m for s, m in metrics.items()])
            save()
        except KeyboardInterrupt:
            save()
            raise KeyboardInterrupt(
                f"Stopped at step {run.step} of {total}; add --resume to the same command to go on."
            ) from None
    return TrainResult(run.outcome.eval(), folder, metrics, run.history)


def _check_batch(config: TrainConfig, rows: datasets.Dataset, world: int) -> None:
    """ValueError where there are fewer pictures than a batch, or it cannot be shared out."""
    if len(rows) < config.batch_size:
        raise ValueError(
            f"{config.data} has {len(rows)} training pictures, fewer than one batch of "
            f"{config.batch_size}: choose a smaller batch size."
        )
    if config.batch_size % world:
        raise ValueError(
            f"A batch of {config.batch_size} cannot be shared by {world} processes: choose a "
            "multiple of their number."
        )

"""The training loop: a configuration goes in, a run with a trained model comes out.

One plain loop for a laptop CPU, a T4, and several processes: mixed precision, AdamW
with warm-up and a cosine, one caption drawn a step, a state that can be resumed
after any interruption. Built in chapters 8a and 8b. What is asked for stands in
`runs.settings`, how a run is kept safe in `runs.checkpoint`, what it shows of
itself in `runs.watch`.
"""

import contextlib
import copy
import logging
import math
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import datasets
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW
from tqdm import tqdm

from distilclip.data import (
    TrainingPairs,
    augment,
    decode_pixels,
    load_pairs,
    random_crops,
    seeded,
)
from distilclip.loss import contrastive_loss
from distilclip.model import DistilCLIP
from distilclip.runs.checkpoint import (
    Run,
    check_pairs,
    hold_folder,
    new_sums,
    read_state,
    restore,
    steps_of_run,
    uninterrupted,
)
from distilclip.runs.held_out import check_held_out
from distilclip.runs.memory import (
    cache_folder,
    explained_out_of_memory,
    keep_freed_memory,
)
from distilclip.runs.settings import (
    PRECISIONS,
    READING,
    TrainConfig,
    TrainResult,
)
from distilclip.runs.starting import first_model, with_replay
from distilclip.runs.streaming import StreamedPairs, open_streamed
from distilclip.runs.watch import (
    Logbook,
    epoch_line,
    evaluate_and_draw,
    format_metrics,
    show_step,
)
from distilclip.scale import (
    average_gradients,
    broadcast_weights,
    cached_contrastive_backward,
    data_parallel,
    gather,
    gather_embeds,
    in_touch,
    process_group,
    processes,
)
from distilclip.search import evaluate_retrieval
from distilclip.sources.splits import take_split
from distilclip.storage.pictures import normalise_pixels
from distilclip.text import TextEncoder
from distilclip.vit import ViTConfig

LOG = logging.getLogger("distilclip.training")
CaptionForm = Literal["tokens", "features", "states"]
Given = TypeVar("Given")  # what a step is given
# A mirrored picture makes these words lies
SIDES = re.compile(r"\b(left|right)", re.IGNORECASE)


def learning_rate(step: int, total: int, warmup: float) -> float:
    """The share of the peak rate at `step`: a linear rise, then half a cosine.

    The rise takes the share `warmup` of the steps.
    """
    rise = max(1, round(total * warmup))
    if warmup and step < rise:
        return (step + 1) / rise
    start = rise if warmup else 0
    return 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, total - start)))


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Give every group of parameters this share of its own peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share


def parameter_groups(model: DistilCLIP, config: TrainConfig) -> list[dict]:
    """Groups for AdamW by learning rate and weight decay, of all that learns.

    The ViT, the text encoder, and the captions' projection have rates of their own.
    Matrices decay; norms, biases, position embeddings and the temperature do not.
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


def autocast(
    device: torch.device, precision: str
) -> contextlib.AbstractContextManager:
    """Mixed precision for the encoders; losses and norms stay in float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def choose_precision(
    config: TrainConfig, model: DistilCLIP, device: torch.device
) -> str:
    """The fastest safe format: for a GPU by its generation, for a CPU by timing."""
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        # A T4 (compute capability 7.5) has float16 only; bfloat16 came with 8.0.
        return (
            "bfloat16"
            if torch.cuda.get_device_capability(device) >= (8, 0)
            else "float16"
        )
    if device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return "float32"
    seconds = time_formats(model, config)
    faster = (
        "bfloat16" if seconds["bfloat16"] < 0.9 * seconds["float32"] else "float32"
    )
    timed = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
    LOG.info("Number format: %s (a pass of the image side: %s).", faster, timed)
    # Processes that work together must agree: the first one's timing counts.
    return PRECISIONS[int(gather(torch.tensor([PRECISIONS.index(faster)]))[0])]


def time_formats(
    model: DistilCLIP, config: TrainConfig, rounds: int = 30
) -> dict[str, float]:
    """Seconds of a pass of the image side in each format, on a machine at rest.

    The formats take turns until the four shortest passes of each are as good as
    alike, at most `rounds` times: what else the machine does makes passes longer,
    and none of them shorter.
    """
    vision = model.config.vision
    tokens = vision.patches_a_side**2
    # Enough pictures to tell the formats apart, and soon done
    size = min(config.batch_size, max(4, 2048 // tokens))
    pixels = torch.zeros(
        size, vision.in_channels, vision.image_size, vision.image_size
    )
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for name in seconds:
        time_pass(model, pixels, name)  # the first one warms up
    for turn in range(rounds):
        for name, passes in seconds.items():
            passes.append(time_pass(model, pixels, name))
            passes.sort()
        if turn >= 3 and all(p[3] < 1.15 * p[0] for p in seconds.values()):
            break
    return {name: passes[0] for name, passes in seconds.items()}


def time_pass(model: DistilCLIP, pixels: Tensor, precision: str) -> float:
    """Seconds of a forward and backward pass of the image side."""
    learning = [p for p in model.parameters() if p.requires_grad]
    start = time.perf_counter()
    with autocast(pixels.device, precision):
        loss = model.embed_image(pixels).sum()
    torch.autograd.grad(loss, learning, allow_unused=True)
    return time.perf_counter() - start


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" is cuda where there is one, else cpu.

    Raises ValueError where there is no such device here, or none that can compute.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("No CUDA device was found: use --device cpu.")
    try:
        with warnings.catch_warnings(
            action="ignore"
        ):  # of names that were given up
            device = torch.device(name)
    except RuntimeError:
        raise ValueError(
            f"Unknown device {name!r}: choose auto, cpu or cuda."
        ) from None
    try:
        if device.type == "cuda":  # no memory of it is taken yet
            torch.cuda.get_device_properties(device)
        else:
            torch.ones(2, device=device).sum().item()
    except Exception:  # of many kinds: the backend is not built, has no driver, ...
        raise ValueError(
            f"There is no device {name!r} here: choose auto, cpu or cuda."
        ) from None
    return device


@dataclass
class TrainingData:
    """`TrainingPairs`, and what is known of them before the first step of a run.

    `features` (C, D) are the frozen text encoder's for each of `pairs.captions`,
    and then for what else `encode_text` was given; None while it is trained. Where
    only its last layers are, `below` holds what those are given, (T, D) for each
    caption. `may_flip` (N, bool) says which images no caption ties to a side.
    """

    pairs: TrainingPairs
    features: Tensor | None
    may_flip: Tensor
    below: list[Tensor] | None = None

    def __post_init__(self):
        self.row_of = {
            caption: row for row, caption in enumerate(self.pairs.captions)
        }

    @property
    def form(self) -> CaptionForm:
        """The form in which a step is given its captions, as in `StepInputs`."""
        if self.features is not None:
            return "features"
        return "tokens" if self.below is None else "states"

    @torch.no_grad()
    def encode_text(self, model: DistilCLIP, texts: Sequence[str]) -> Tensor:
        """`model.encode_text`; a frozen encoder reads a caption once in a run."""
        if self.features is None:
            return model.encode_text(texts)
        if new := [
            text for text in dict.fromkeys(texts) if text not in self.row_of
        ]:
            features = model.text.encode(new).cpu()
            self.row_of |= {
                text: len(self.features) + n for n, text in enumerate(new)
            }
            self.features = torch.cat([self.features, features])
        features = self.features[[self.row_of[text] for text in texts]]
        return model.embed_text_features(features.to(model.log_logit_scale.device))


@dataclass
class StepInputs:
    """What one process's encoders are given in a step: a `Batch` made ready.

    `pixels` (B, 3, S, S, uint8) and which of them to `flip` (B); `captions` as the
    text encoder takes them, one or more for each picture. By `form`, these are
    "tokens" (input_ids and attention_mask) for an encoder that learns, "features"
    (B, D) of a frozen one, or the hidden "states" (B, T, D) and attention_mask that
    its last layers are given, where only those learn.
    """

    pixels: Tensor
    flip: Tensor
    captions: dict[str, Tensor]
    form: CaptionForm

    def map(self, change: Callable[[Tensor], Tensor]) -> "StepInputs":
        """The same inputs with every tensor changed."""
        captions = {name: change(tensor) for name, tensor in self.captions.items()}
        return StepInputs(
            change(self.pixels), change(self.flip), captions, self.form
        )

    def split(self, size: int) -> list["StepInputs"]:
        """The same inputs in parts of `size` pictures; the last may be smaller."""
        pictures = len(self.pixels)

        def part(tensor: Tensor, start: int) -> Tensor:
            each = len(tensor) // pictures  # captions of a picture, or 1
            return tensor[start * each : (start + size) * each]

        return [
            self.map(partial(part, start=start))
            for start in range(0, pictures, size)
        ]


Item = tuple[int, TrainingData, Tensor]  # a step, and its rows of some data


def text_learns(config: TrainConfig, epoch: int) -> bool:
    """Whether the text encoder learns in an epoch: not before `text_start`."""
    return config.text_lr > 0 and epoch >= round(config.text_start * config.epochs)


def vision_learns(config: TrainConfig, epoch: int) -> bool:
    """Whether the ViT learns in an epoch: not before `vision_start`."""
    start = round(config.vision_start * config.epochs)
    return config.vision_lr > 0 and epoch >= start


def unfreeze_text(text: TextEncoder, learns: bool, layers: int = 0) -> None:
    """Let the text encoder learn, or its last `layers` layers, or nothing of it.

    Raises ValueError where it has fewer layers.
    """
    blocks = text.model.transformer.layer
    if layers > len(blocks):
        raise ValueError(
            f"text_layers {layers} is too many: the text encoder {text.name} has "
            f"{len(blocks)}."
        )
    text.requires_grad_(learns and not layers)
    if learns and layers:
        blocks[-layers:].requires_grad_(True)


def may_mirror(captions_of_images: Sequence[Sequence[str]]) -> Tensor:
    """Which images no caption ties to a side: bool (N)."""
    sided = [any(map(SIDES.search, texts)) for texts in captions_of_images]
    return ~torch.tensor(sided, dtype=torch.bool)


def prepare_data(
    model: DistilCLIP,
    rows: datasets.Dataset | StreamedPairs,
    config: TrainConfig,
    progress: bool = False,
    epoch: int = 0,
) -> TrainingData:
    """Decode every image, and let what is frozen at `epoch` read every caption.

    Of a stream nothing is: each of its batches is prepared when it comes. Bundled
    drawings are added where `config.replay` asks for some.
    """
    if isinstance(rows, StreamedPairs):
        return TrainingData(rows, None, may_mirror([]))
    if config.replay:
        own, rows = len(rows), with_replay(rows, config.replay)
        text = "%d bundled drawings are learned beside the %d pictures."
        LOG.info(text, len(rows) - own, own)
    captions = list(rows["captions"])
    cache = cache_folder(config, len(rows))
    pixels = decode_pixels(rows, config.image_size, cache, progress)
    pairs = TrainingPairs(pixels, captions)
    features = below = None
    if not text_learns(config, epoch):
        features = model.text.encode(pairs.captions, progress=progress).cpu()
    if config.text_layers:
        states = model.text.encode_below(
            pairs.captions, config.text_layers, progress=progress
        )
        below = [hidden.cpu() for hidden in states]
    if features is None and below is None:
        model.tokenize(pairs.captions)  # counts those that it cannot read, once
    return TrainingData(pairs, features, may_mirror(captions), below)


def draw_batch(
    data: TrainingData,
    rows: Tensor,
    step: int,
    config: TrainConfig,
    tokenize: Callable[[Sequence[str]], dict[str, Tensor]],
) -> tuple[StepInputs, Tensor]:
    """What a step needs of the images at `rows` (B): inputs and positives.

    The captions of each image are drawn, and which images to mirror. Of the inputs,
    each process gets its share; the positives (B, B * K) are those of the whole
    batch. All of it follows from the seed and the step.
    """
    # 1: another stream than the epochs' orders
    generator = seeded(config.seed, 1, step)
    like_length = config.sort_captions and data.features is None
    each = config.captions_per_picture
    drawn = data.pairs.draw(rows, generator, like_length, each)
    flip = torch.rand(len(rows), generator=generator) < (0.5 if config.flip else 0)
    flip &= data.may_flip[rows]
    rank, world = processes()
    share = slice(rank * len(rows) // world, (rank + 1) * len(rows) // world)
    chosen = drawn.caption_ids.view(len(rows), each)[share].flatten()
    captions = prepare_captions(data, chosen, tokenize)
    inputs = StepInputs(drawn.pixels[share], flip[share], captions, data.form)
    return inputs, drawn.positives


def prepare_captions(
    data: TrainingData,
    caption_ids: Tensor,
    tokenize: Callable[[Sequence[str]], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """The captions numbered `caption_ids`, in the form of `data`."""
    if data.features is not None:
        return {"features": data.features[caption_ids]}
    if data.below is not None:
        given = [data.below[i] for i in caption_ids.tolist()]
        masks = [torch.ones(len(hidden), dtype=torch.long) for hidden in given]
        return {
            "hidden": pad_sequence(given, batch_first=True),
            "attention_mask": pad_sequence(masks, batch_first=True),
        }
    return tokenize([data.pairs.captions[i] for i in caption_ids.tolist()])


def picture_size(config: TrainConfig, shape: ViTConfig, epoch: int) -> int:
    """The width of pictures in an epoch: half of it before `full_size_start`.

    Half is a whole number of patches, at least one.
    """
    if epoch >= round(config.full_size_start * config.epochs):
        return shape.image_size
    return max(1, shape.patches_a_side // 2) * shape.patch_size


def shrink(pixels: Tensor, size: int) -> Tensor:
    """uint8 pixels (B, C, S, S) -> the same, smaller: (B, C, size, size)."""
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


def prefetch(
    draw: Callable[[Item], tuple[StepInputs, Tensor]],
    items: Iterable[Item],
    device: torch.device,
) -> Iterator[tuple[StepInputs, Tensor]]:
    """`draw(item)` for each item; for a GPU, one ahead of the step at work.

    There, the tensors also come in pinned memory, from which they are copied in the
    background.
    """
    if device.type != "cuda":
        yield from map(draw, items)
        return

    def draw_pinned(item: Item) -> tuple[StepInputs, Tensor]:
        inputs, positives = draw(item)
        return inputs.map(Tensor.pin_memory), positives

    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting = []
        for item in items:
            waiting.append(thread.submit(draw_pinned, item))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        for last in waiting:
            yield last.result()


def views(
    pixels: Tensor, flip: Tensor, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """uint8 pixels (B, 3, S, S) -> views: mirrored where `flip` (B), and augmented.

    Float in [0, 1]; uint8 where the configuration asks for no augmentation.
    """
    pixels = torch.where(flip.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    if config.crop_scale < 1:
        pixels = random_crops(pixels, generator, config.crop_scale)
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
    run: Run, inputs: StepInputs, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Inputs -> image_embeds and text_embeds, (B, E) each, with gradients."""
    model, device = run.model, run.model.log_logit_scale.device
    inputs = inputs.map(lambda tensor: tensor.to(device, non_blocking=True))
    pixels = views(inputs.pixels, inputs.flip, run.config, generator)
    pixels = normalise_pixels(
        pixels, model.config.image_mean, model.config.image_std
    )
    with autocast(device, run.precision):
        image_embeds = model.embed_image(pixels, any_size=True)
        if inputs.form == "tokens":
            return image_embeds, model.embed_text(**inputs.captions)
        if inputs.form == "states":
            features = model.text.last_layers(
                run.config.text_layers, **inputs.captions
            )
        else:
            features = inputs.captions["features"]
        return image_embeds, model.embed_text_features(features)


# A numbered part of a step's inputs -> image_embeds and text_embeds
Encode = Callable[[tuple[int, StepInputs]], tuple[Tensor, Tensor]]


def encoder(run: Run) -> Encode:
    """`embed` for a numbered part of a step's inputs, with the randomness of both.

    Of several processes, its backward pass averages the gradients of all that
    learns in the encoders, while it runs.
    """

    def encode(part: tuple[int, StepInputs]) -> tuple[Tensor, Tensor]:
        number, inputs = part
        numbers = 3, run.step, processes()[0], number
        return embed(run, inputs, seeded(run.config.seed, *numbers))

    model = run.model
    image_side = model.vision, model.image_projection
    return data_parallel(encode, (*image_side, model.text, model.text_projection))


def train_step(run: Run, inputs: StepInputs, positives: Tensor) -> float:
    """One batch forward, backward, and one step of AdamW -> the loss.

    Whatever is random here follows from the seed and the step: a resumed run draws
    the same. Raises what `descend` raises, and ConnectionError where processes lose
    touch.
    """
    model, config, rank = run.model, run.config, processes()[0]
    # For dropout, which a frozen encoder keeps off
    torch.manual_seed(seeded(config.seed, 2, run.step, rank).initial_seed())
    model.train()
    for tower in (model.vision, model.text):
        tower.train(any(p.requires_grad for p in tower.parameters()))
    encode = run.encode or encoder(run)
    run.optimizer.zero_grad(set_to_none=True)
    device = model.log_logit_scale.device
    targets = positives.to(device) if config.mask_positives else None
    with in_touch():
        if config.micro_batch:
            parts = list(enumerate(inputs.split(config.micro_batch)))
            loss = cached_contrastive_backward(
                encode, parts, model.logit_scale, targets, run.scaler
            )
        else:
            image_embeds, text_embeds = map(gather_embeds, encode((0, inputs)))
            loss = contrastive_loss(
                image_embeds, text_embeds, model.logit_scale, targets
            )
            run.scaler.scale(loss).backward()
    # The encoders' gradients are averaged; the temperature belongs to neither
    average_gradients([model.log_logit_scale])
    value, is_finite = descend(run, loss)
    if run.average is not None and is_finite:
        update_average(run.average, model, config.ema, run.step)
    return value


def descend(run: Run, loss: Tensor) -> tuple[float, bool]:
    """Step the optimiser -> the value of `loss`, whether gradients were finite.

    In float16, a step whose gradients overflow is left out, and the next one is
    scaled less. Raises FloatingPointError, before any weight has changed, where
    loss or gradients are no numbers.
    """
    model = run.model
    run.scaler.unscale_(run.optimizer)
    limit = run.config.clip_gradient or math.inf
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    # The step's one wait for a GPU
    value, norm = torch.stack([loss.detach(), norm]).tolist()
    overflows = run.scaler.is_enabled() and run.scaler.get_scale() >= 1
    if not math.isfinite(value) or not (math.isfinite(norm) or overflows):
        raise FloatingPointError(
            f"The loss became {value} and its gradient {norm} at step {run.step}: "
            f"try a smaller learning rate than {run.peak_lr:g}."
        )
    run.scaler.step(run.optimizer)
    run.scaler.update()
    # Past its limit the scale has no gradient that could bring it back
    with torch.no_grad():
        model.log_logit_scale.clamp_(max=math.log(model.config.max_logit_scale))
    return value, math.isfinite(norm)


@torch.no_grad()
def update_average(
    average: DistilCLIP, model: DistilCLIP, decay: float, step: int
) -> None:
    """Move `average` towards the weights of `model` by a share of 1 - `decay`.

    In the first steps by more, or the random start would stay in it for long: the
    decay is then (1 + step) / (10 + step).
    """
    decay = min(decay, (1 + step) / (10 + step))
    for mean, parameter in zip(
        average.parameters(), model.parameters(), strict=True
    ):
        if parameter.requires_grad:
            mean.lerp_(parameter, 1 - decay)


def start_run(
    config: TrainConfig, device: torch.device, saved: dict | None = None
) -> Run:
    """A model to start with and its optimiser; `saved`, all as it was then."""
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    shape = config.model_config()
    model, start = first_model(shape, config.start_from, config.out, saved)
    unfreeze_text(model.text, config.text_lr > 0, config.text_layers)
    model.vision.requires_grad_(config.vision_lr > 0)
    model.log_logit_scale.requires_grad_(config.learn_temperature)
    model.to(device)
    broadcast_weights(model)  # several processes start as one
    # Fused: one kernel for the whole update, on a GPU and on a CPU.
    fused = device.type in ("cpu", "cuda") or None
    optimizer = AdamW(
        parameter_groups(model, config), betas=(0.9, config.beta2), fused=fused
    )
    precision = (
        saved["precision"] if saved else choose_precision(config, model, device)
    )
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    average = None
    if config.ema:  # what does not learn is shared, not copied
        shared = model.text.tokenizer if config.text_lr else model.text
        average = copy.deepcopy(model, {id(shared): shared}).eval()
    run = Run(model, optimizer, scaler, precision, config, average, start=start)
    if saved:
        restore(run, saved)
    if config.compile:
        model.vision.compile()
    return run


def batches_left(run: Run, data: TrainingData, epoch: int) -> Iterator[Item]:
    """The steps of an epoch that are not done yet: their numbers, data, rows (B).

    A batch of a stream is data of its own, all of whose rows are meant.
    """
    pairs, batch_size, done = data.pairs, run.config.batch_size, run.step
    steps = len(pairs) // batch_size
    if isinstance(pairs, StreamedPairs):
        left = range(done, (epoch + 1) * steps)
        for step, batch, captions in pairs.take(left):
            some = TrainingData(batch, None, may_mirror(captions))
            yield step, some, torch.arange(batch_size)
        return
    order = pairs.epoch(batch_size, run.config.seed, epoch)
    for step, rows in enumerate(order, start=epoch * steps):
        if step >= done:
            yield step, data, rows


def take_steps(
    run: Run,
    batches: Iterable[Given],
    step: Callable[[Given], float],
    total: int,
    after: Callable[[], None],
) -> None:
    """The loop: take a step on each of `batches`, at its place in the schedule.

    `step` learns from a batch and returns its loss; `total` is the number of steps
    in the whole run. `after` is called after every step, when run and model agree
    again.
    """
    started = time.perf_counter()
    for batch in batches:
        waited = time.perf_counter() - started
        share = learning_rate(run.step, total, run.config.warmup)
        set_learning_rate(run.optimizer, share)
        with uninterrupted():  # Ctrl-C never finds half a step
            run.sums["losses"].append(step(batch))
            run.step += 1
            run.sums["lr"] = run.config.lr * share
            run.sums["waiting"] += waited
            run.sums["seconds"] += time.perf_counter() - started
        after()
        started = time.perf_counter()


def train_epoch(
    run: Run,
    data: TrainingData,
    epoch: int,
    bar: tqdm,
    save: Callable[[], None],
) -> None:
    """Take the steps left of an epoch; `save` is called now and then."""
    config = run.config
    learns = text_learns(config, epoch)
    unfreeze_text(run.model.text, learns, config.text_layers)
    if learns:
        data.features = None  # they stay as they are only while the encoder does
    run.model.vision.requires_grad_(vision_learns(config, epoch))
    changes = (
        now(config, epoch) != now(config, epoch - 1)
        for now in (text_learns, vision_learns)
    )
    if run.encode is None or any(changes):
        run.encode = encoder(run)
    size = picture_size(config, run.model.config.vision, epoch)
    total = len(data.pairs) // config.batch_size * config.epochs

    def draw(item: Item) -> tuple[StepInputs, Tensor]:
        step, some, rows = item
        inputs, positives = draw_batch(some, rows, step, config, run.model.tokenize)
        return replace(inputs, pixels=shrink(inputs.pixels, size)), positives

    def after() -> None:
        show_step(bar, run)
        if time.monotonic() > run.save_at:
            save()

    device = run.model.log_logit_scale.device
    batches = prefetch(draw, batches_left(run, data, epoch), device)
    take_steps(run, batches, lambda batch: train_step(run, *batch), total, after)


@contextlib.contextmanager
def open_run(
    config: TrainConfig, data: Any = None
) -> Iterator[tuple[Run, datasets.DatasetDict]]:
    """A run with its folder and its processes while the block runs, and its pairs.

    New, or as its last saved state has it. Raises what `train` raises before its
    first step.
    """
    folder, device = Path(config.out).expanduser(), choose_device(config.device)
    with contextlib.ExitStack() as stack:
        rank, world = stack.enter_context(process_group(device.type))
        if rank == 0:
            stack.enter_context(hold_folder(folder, config.resume))
        saved = read_state(folder, config) if config.resume else None
        if config.streaming:
            group = rank, world
            streamed = open_streamed(config, saved, group, device, data)
            splits, pairs = stack.enter_context(streamed)
        else:
            reading = {name: getattr(config, name) for name in READING}
            source = config.data if data is None else data
            splits = load_pairs(source, config.skip_broken, **reading)
            pairs = check_pairs(
                take_split(splits, "train", config.data), config, saved
            )
        check_batch(config, splits["train"], world)
        run = start_run(config, device, saved)
        run.data = pairs
        run.place = getattr(splits["train"], "place", None)
        yield run, splits


def train(
    config: TrainConfig, progress: bool = True, data: Any = None
) -> TrainResult:
    """Train a model as `config` says and write it to the folder `config.out`.

    The folder ends up with the model (`save_pretrained`), `train_config.json`,
    `metrics.jsonl`, a sheet of samples for each evaluation, and a state from which
    `resume` goes on, bitwise as if nothing had happened. `data` stands in for
    `config.data`: a data set in memory, or an iterable one to be streamed.
    Processes that `torchrun` started share every batch; the first one writes.
    Raises ValueError where data or configuration are at fault, FileExistsError
    where the folder holds another run, OSError where it cannot be written to,
    FloatingPointError and torch.OutOfMemoryError where loss or memory give out.
    """
    with explained_out_of_memory(config), open_run(config, data) as (run, splits):
        progress = progress and processes()[0] == 0
        check_held_out(splits, progress)  # then decode and encode, once
        rows, epoch = splits["train"], run.epochs_done
        data = prepare_data(run.model, rows, config, progress, epoch)
        held_out = decode_held_out(splits["validation"], config, progress)
        steps = steps_of_run(run, len(data.pairs) // config.batch_size)
        with Logbook(run, steps, progress) as log:
            try:
                if run.is_new:
                    log.save()  # so that there is something to resume from
                for epoch in range(run.epochs_done, config.epochs):
                    train_epoch(run, data, epoch, log.bar, log.save)
                    finish_epoch(run, data, splits, held_out, log)
                metrics = measure_splits(run, data, splits, held_out, log)
                log.add_final(metrics)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"{error} The last saved state in {config.out} is intact."
                ) from None
            except KeyboardInterrupt:
                log.save()
                raise KeyboardInterrupt(
                    f"Stopped at step {run.step} of {steps}; add --resume to the "
                    "same command to go on."
                ) from None
    return TrainResult(run.outcome.eval(), log.folder, metrics, run.history)


def decode_held_out(
    rows: datasets.Dataset, config: TrainConfig, progress: bool = False
) -> Tensor:
    """The pictures of a split that is measured often -> uint8 (N, 3, S, S)."""
    cache = cache_folder(config, len(rows))
    return decode_pixels(rows, config.image_size, cache, progress)


def finish_epoch(
    run: Run,
    data: TrainingData,
    splits: datasets.DatasetDict,
    held_out: Tensor,
    log: Logbook,
) -> None:
    """Write an epoch's line; measure the validation split and save when due.

    `held_out` are the pixels of the validation split. After the last epoch it is
    not measured here: `measure_splits` does it.
    """
    config, epochs = run.config, run.epochs_done + 1
    lines, is_last = [epoch_line(run)], epochs == config.epochs
    every = (
        math.ceil(config.epochs / config.evaluations) if config.evaluations else 0
    )
    evaluates = every and epochs % every == 0 and not is_last
    if evaluates and log.writes:
        scores = measure_validation(run, data, splits["validation"], held_out, log)
        about = {"kind": "evaluation", "split": "validation", "step": run.step}
        lines.append(about | scores)
        log.say(f"epoch {epochs}: validation {format_metrics(scores)}")
    with uninterrupted():
        log.add(lines)
        run.sums = new_sums()
    if evaluates or is_last or time.monotonic() > run.save_at:
        log.save()


def measure_validation(
    run: Run,
    data: TrainingData,
    rows: datasets.Dataset,
    pixels: Tensor,
    log: Logbook,
) -> dict[str, float]:
    """Recalls of the present model on the validation split, and a sheet."""
    sheet = log.folder / "samples" / f"step_{run.step:06}.png"
    encode_text = partial(data.encode_text, run.outcome)
    return evaluate_and_draw(run.outcome, rows, pixels, sheet, encode_text)


def measure_splits(
    run: Run,
    data: TrainingData,
    splits: datasets.DatasetDict,
    held_out: Tensor,
    log: Logbook,
) -> dict[str, dict[str, float]]:
    """Recalls of the finished model on every split but `train`."""
    metrics, encode_text = {}, partial(data.encode_text, run.outcome)
    for split, rows in splits.items() if log.writes else ():
        if split == "validation":
            metrics[split] = measure_validation(run, data, rows, held_out, log)
        elif split != "train":
            metrics[split] = evaluate_retrieval(
                run.outcome, rows, encode_text=encode_text
            )
    return metrics


def check_batch(config: TrainConfig, rows: datasets.Dataset, world: int) -> None:
    """ValueError where no batch can be filled, or it cannot be shared out."""
    learned = with_replay(rows, config.replay) if config.replay else rows
    if len(learned) < config.batch_size:
        more = len(learned) - len(rows)
        beside = f" and {more} drawings beside them" if more else ""
        raise ValueError(
            f"{config.data} has {len(rows)} training pictures{beside}, fewer than "
            f"one batch of {config.batch_size}: choose a smaller batch size."
        )
    if config.batch_size % world:
        raise ValueError(
            f"A batch of {config.batch_size} cannot be shared by {world} "
            "processes: choose a multiple of their number."
        )

"""What a run shows of itself: recalls, pictures of what it finds, memory, TensorBoard.

`evaluate_and_draw` measures a model on a split and draws a few fixed queries with the pictures
that it ranks first; a look at one such sheet says more than a curve.
"""

import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import torch
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distilclip.checkpoint import Run
from distilclip.files import write_whole
from distilclip.model import DistilCLIP
from distilclip.search import retrieval_metrics
from distilclip.settings import TrainConfig

QUERIES = 5  # rows of a sheet of samples
TOP = 5  # pictures in a row
RIGHT = "#009E73"  # the frame of the right picture


def evaluate_and_draw(
    model: DistilCLIP,
    rows: datasets.Dataset,
    pixels: Tensor,
    file: Path,
    encode_text: Callable[[Sequence[str]], Tensor],
) -> dict[str, float]:
    """`retrieval_metrics` of a model on a split, and a sheet of samples in `file`.

    `pixels` (N, 3, S, S) are the split's pictures, decoded; `encode_text` makes captions unit
    vectors. The queries are the first captions of `QUERIES` rows at equal distances: always the
    same ones, so that sheets can be compared.
    """
    captions_of_rows = list(rows["captions"])
    texts = [text for captions in captions_of_rows for text in captions]
    owners = [row for row, captions in enumerate(captions_of_rows) for _ in captions]
    image_embeds, text_embeds = model.encode_image(pixels), encode_text(texts)
    chosen = sorted({round(k * (len(rows) - 1) / (QUERIES - 1)) for k in range(QUERIES)})
    scores = text_embeds[[owners.index(row) for row in chosen]] @ image_embeds.T
    queries = [captions_of_rows[row][0] for row in chosen]
    draw_samples(queries, chosen, scores.cpu(), pixels, file)
    return retrieval_metrics(image_embeds, text_embeds, owners)


def draw_samples(
    queries: Sequence[str], owners: Sequence[int], scores: Tensor, pixels: Tensor, file: Path
) -> None:
    """Draw the first `TOP` pictures for each query as a PNG, the right one in a green frame.

    `scores` (Q, N) rates each of the N pictures `pixels` for each query; `owners` (Q) are the
    rows of the right ones, whose ranks stand beside the queries.
    """
    font = ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 14)
    side, gap, line = 112, 8, 24
    height = line + side + gap
    sheet = Image.new("RGB", (TOP * (side + gap) + gap, len(queries) * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    order = scores.argsort(dim=1, descending=True, stable=True)
    for number, (query, owner) in enumerate(zip(queries, owners, strict=True)):
        rank = int((order[number] == owner).nonzero()) + 1
        top = gap + number * height
        title = f"{textwrap.shorten(query, 50, placeholder='…')}  (right: rank {rank})"
        draw.text((gap, top), title, fill="black", font=font)
        for place, row in enumerate(order[number, :TOP].tolist()):
            left = gap + place * (side + gap)
            picture = Image.fromarray(pixels[row].permute(1, 2, 0).numpy())
            sheet.paste(picture.resize((side, side)), (left, top + line))
            if row == owner:
                box = (left - 3, top + line - 3, left + side + 2, top + line + side + 2)
                draw.rectangle(box, outline=RIGHT, width=4)
    write_whole(file, lambda path: sheet.save(path, "PNG"))


def epoch_line(run: Run, config: TrainConfig) -> dict:
    """The line of metrics.jsonl for the epoch that has just been done.

    `loss` is its mean, `waiting` the share of its time in which the model waited for data,
    `peak_memory_mib` the most memory that the run has used so far.
    """
    losses, seconds = run.epoch["losses"], max(run.epoch["seconds"], 1e-9)
    return {
        "kind": "epoch",
        "epoch": run.epochs + 1,
        "step": run.step,
        "loss": sum(losses) / len(losses),
        "lr": run.epoch["lr"],
        "logit_scale": run.model.logit_scale.item(),
        "images_per_second": len(losses) * config.batch_size / seconds,
        "seconds": seconds,
        "waiting": run.epoch["waiting"] / seconds,
        "peak_memory_mib": peak_memory(run.model.log_logit_scale.device),
        "precision": run.precision,
    }


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, in MiB: of the GPU, or of the whole process on a CPU.

    0 where the system does not say (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def open_tensorboard(folder: Path, step: int):
    """A writer of TensorBoard's files below `folder`, for what comes after `step`."""
    from torch.utils.tensorboard import SummaryWriter  # an optional package, and slow to load

    return SummaryWriter(folder / "tensorboard", purge_step=step + 1)


def log_to_tensorboard(writer, lines: list[dict]) -> None:
    """Add the numbers of lines of metrics.jsonl to their curves."""
    for line in lines:
        group = line.get("split", "train")
        for name, value in line.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                writer.add_scalar(f"{group}/{name}", value, line["step"])
    writer.flush()


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

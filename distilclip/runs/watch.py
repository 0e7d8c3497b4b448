"""What a run shows of itself: recalls, pictures that it finds, memory, TensorBoard.

`evaluate_and_draw` measures a model on a split and draws a few fixed queries with
the pictures that it ranks first; a look at one such sheet says more than a curve.
"""

import sys
import textwrap
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from distilclip.loss import cosines
from distilclip.model import DistilCLIP
from distilclip.runs.checkpoint import Run, save_run, write_metrics
from distilclip.scale import processes
from distilclip.search import TIE, flatten_captions, retrieval_metrics
from distilclip.storage.files import remove_leftovers, write_whole
from distilclip.storage.pictures import label_font
from distilclip.storage.terminal import fitting, silence

QUERIES = 5  # rows of a sheet of samples
TOP = 5  # pictures in a row
RIGHT = "#009E73"  # the frame of a right picture


def evaluate_and_draw(
    model: DistilCLIP,
    rows: datasets.Dataset,
    pixels: Tensor,
    file: Path,
    encode_text: Callable[[Sequence[str]], Tensor],
) -> dict[str, float]:
    """`retrieval_metrics` of a model on a split, and a sheet of samples in `file`.

    `pixels` (N, 3, S, S) are the split's pictures, decoded; `encode_text` makes
    captions unit vectors. The queries are the first captions of `QUERIES` rows at
    equal distances: always the same ones, so that sheets can be compared. A caption
    that several pictures share is right for each of them.
    """
    captions_of_rows = list(rows["captions"])
    texts, owners = flatten_captions(captions_of_rows)
    image_embeds, text_embeds = model.encode_image(pixels), encode_text(texts)
    last = len(rows) - 1
    chosen = sorted({round(k * last / (QUERIES - 1)) for k in range(QUERIES)})
    first = [owners.index(row) for row in chosen]
    scores = cosines(text_embeds[first], image_embeds)
    queries = [captions_of_rows[row][0] for row in chosen]
    right = [
        {row for row, text in zip(owners, texts, strict=True) if text == query}
        for query in queries
    ]
    draw_samples(queries, right, scores.cpu(), pixels, file)
    return retrieval_metrics(image_embeds, text_embeds, owners, texts=texts)


def draw_samples(
    queries: Sequence[str],
    right: Sequence[Collection[int]],
    scores: Tensor,
    pixels: Tensor,
    file: Path,
) -> None:
    """Draw the first `TOP` pictures for each query as a PNG.

    `scores` (Q, N) rates each of the N pictures `pixels` for each query; `right`
    (Q) holds the rows of its right ones, which have a green frame. The rank of the
    best of them stands beside the query: other right ones do not count, and equals
    stand before it, as in `retrieval_metrics`.
    """
    font = label_font(14)
    side, gap, line = 112, 8, 24
    height = line + side + gap
    extent = (TOP * (side + gap) + gap, len(queries) * height + gap)
    sheet = Image.new("RGB", extent, "white")
    draw = ImageDraw.Draw(sheet)
    for number, (query, rows) in enumerate(zip(queries, right, strict=True)):
        order = rank_pictures(scores[number], rows)
        rank = next(place for place, row in enumerate(order, 1) if row in rows)
        top = gap + number * height
        words = textwrap.shorten(query, 50, placeholder="…")
        title = f"{words}  (right: rank {rank})"
        draw.text((gap, top), title, fill="black", font=font)
        for place, row in enumerate(order[:TOP]):
            left = gap + place * (side + gap)
            picture = Image.fromarray(pixels[row].permute(1, 2, 0).numpy())
            sheet.paste(picture.resize((side, side)), (left, top + line))
            if row in rows:
                x, y = left - 3, top + line - 3
                box = (x, y, x + side + 5, y + side + 5)
                draw.rectangle(box, outline=RIGHT, width=4)
    write_whole(file, lambda path: sheet.save(path, "PNG"))


def rank_pictures(scores: Tensor, right: Collection[int]) -> list[int]:
    """The rows of pictures by falling score (N); a right one follows its equals."""
    is_right = torch.zeros_like(scores, dtype=torch.bool)
    is_right[list(right)] = True
    lowered = torch.where(is_right, scores.float() - TIE, scores.float())
    return np.lexsort((is_right.numpy(), -lowered.numpy())).tolist()


def epoch_line(run: Run) -> dict:
    """The line of metrics.jsonl for the epoch that has just been done.

    `loss` is its mean, `waiting` the share of its time in which the model waited
    for data, `peak_memory_mib` the most memory that the run has used so far.
    """
    losses, seconds = run.sums["losses"], max(run.sums["seconds"], 1e-9)
    return {
        "kind": "epoch",
        "epoch": run.epochs_done + 1,
        "step": run.step,
        "loss": sum(losses) / len(losses),
        "lr": run.sums["lr"],
        "logit_scale": run.model.logit_scale.item(),
        "images_per_second": len(losses) * run.config.batch_size / seconds,
        "seconds": seconds,
        "waiting": run.sums["waiting"] / seconds,
        "peak_memory_mib": peak_memory(run.model.log_logit_scale.device),
        "precision": run.precision,
    }


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, in MiB.

    That of the GPU, or of the whole process on a CPU; 0 where the system does not
    say (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class Logbook:
    """What a run writes as it goes on: bar, metrics, state, TensorBoard's curves.

    Of several processes only the first one `writes`; all others keep quiet. To be
    used in a `with` block, which closes bar and curves at its end.
    """

    def __init__(self, run: Run, steps: int, progress: bool):
        self.run, self.folder = run, Path(run.config.out).expanduser()
        self.writes = processes()[0] == 0
        if self.writes:  # only now: nothing can be refused any more
            remove_leftovers(self.folder)
            remove_leftovers(self.folder / "samples")
        self.board = None
        if run.config.tensorboard and self.writes:
            self.board = open_tensorboard(self.folder, run.step)
        self.bar = tqdm(
            total=steps,
            initial=run.step,
            desc="training",
            disable=not (progress and self.writes),
            unit="step",
        )

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, *problem) -> None:
        if self.writes:  # what a signal may have left half way
            remove_leftovers(self.folder)
            remove_leftovers(self.folder / "samples")
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def save(self) -> None:
        """Write the state of the run, its metrics and its model."""
        if self.writes:
            save_run(self.run, self.folder)

    def add(self, lines: list[dict]) -> None:
        """Add lines to the run's history and to metrics.jsonl."""
        self.run.history += lines
        if self.writes:
            write_metrics(self.run, self.folder)
        if self.board is not None:
            log_to_tensorboard(self.board, lines)

    def add_final(self, metrics: dict[str, dict[str, float]]) -> None:
        """Add each split's last metrics, and save the finished run."""
        step = self.run.step
        lines = [
            {"kind": "final", "split": split, "step": step} | values
            for split, values in metrics.items()
        ]
        self.add(lines)
        self.save()

    def say(self, text: str) -> None:
        """Print a line above the bar, where there is one.

        KeyboardInterrupt where whoever read our output, such as `head`, has left:
        that is a way to say that it is enough.
        """
        if not self.bar.disable:
            try:
                self.bar.write(fitting(text, sys.stdout))
                sys.stdout.flush()
            except BrokenPipeError:
                silence(sys.stdout)
                raise KeyboardInterrupt from None
            except (OSError, ValueError):
                silence(sys.stdout)


def show_step(bar: tqdm, run: Run) -> None:
    """Move a run's bar on by a step, with the loss beside it now and then."""
    bar.update()
    if run.step % 10 == 0:
        pictures = len(run.sums["losses"]) * run.config.batch_size
        speed = pictures / run.sums["seconds"]
        rate, loss = f"{run.sums['lr']:.1e}", f"{run.sums['losses'][-1]:.3f}"
        bar.set_postfix(loss=loss, lr=rate, images_per_s=f"{speed:.0f}")


def open_tensorboard(folder: Path, step: int):
    """A writer of TensorBoard's files below `folder`, for what follows `step`."""
    # An optional package, and slow to import.
    from torch.utils.tensorboard import SummaryWriter

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

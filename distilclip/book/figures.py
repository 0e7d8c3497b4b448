"""The book's pictures: one palette, readable on a phone and in dark mode."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
RED, PURPLE, SKY = "#C8102E", "#8E44AD", "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
INK, PAPER = "#222222", "#FFFFFF"
SEQUENTIAL = "viridis"  # for heat maps; "RdBu_r" where zero is in the middle


def use_book_style() -> None:
    """Set matplotlib's defaults to the book's, once at the top of a notebook."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.edgecolor": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": 12,
            "axes.labelsize": 12,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "figure.facecolor": PAPER,
            "figure.figsize": (7, 3.6),
            "font.size": 11,
            "grid.color": "#DDDDDD",
            "image.cmap": SEQUENTIAL,
            "image.interpolation": "nearest",
            "legend.frameon": False,
            "lines.linewidth": 2,
            "savefig.bbox": "tight",
            "savefig.facecolor": PAPER,
        }
    )


def show_images(
    images: Sequence,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    size: float = 1.2,
) -> Figure:
    """Pictures in rows of `columns`.

    They are PIL images, arrays, or tensors (3, H, W), uint8 or in [0, 1]. `size` is
    the width of one picture in inches.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = size * (1.25 if titles else 1)
    inches = (size * columns, height * rows)
    figure, axes = plt.subplots(rows, columns, figsize=inches, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for position, image in enumerate(images):
        if isinstance(image, torch.Tensor):
            image = image.permute(1, 2, 0).numpy()
        axis = axes.flat[position]
        axis.imshow(np.asarray(image))
        if titles:
            axis.set_title(titles[position], fontsize=9, wrap=True)
    return figure


def show_table(
    axis,
    values: torch.Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    digits: int = 2,
    **options,
) -> None:
    """A labelled heat map of `values` on `axis`, with the numbers written in."""
    style = {"ha": "center", "va": "center", "fontsize": 9}
    image = axis.imshow(values.numpy(), **options)
    axis.grid(False)
    axis.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axis.set_yticks(range(len(rows)), rows)
    for row in range(len(rows)):
        for column in range(len(columns)):
            value = float(values[row, column])
            red, green, blue, _ = image.cmap(image.norm(value))
            is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            ink = PAPER if is_dark else INK
            axis.text(column, row, f"{value:.{digits}f}", color=ink, **style)

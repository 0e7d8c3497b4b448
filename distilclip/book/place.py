"""Where a notebook runs: what is installed, and on which device."""

import os
import platform

import torch

from distilclip import __version__


def describe_place() -> str:
    """One sentence on the package, PyTorch, Python, the GPU if any, and cores."""
    device = "no GPU"
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        device = f"a {card.name} with {card.total_memory / 2**30:.0f} GiB"
    cores = os.cpu_count() or 1
    device += f", {cores} CPU core" + "s" * (cores > 1)
    python = platform.python_version()
    versions = (
        f"distilclip {__version__}, torch {torch.__version__}, Python {python}"
    )
    return f"{versions}; {device}."

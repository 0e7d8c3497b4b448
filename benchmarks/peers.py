"""Makes `timm`, `open_clip` and torchvision importable: they lie apart, in .bench-packages.

`make bench` puts them there (requirements.txt), so that the tested set stays what it is. The wheel
of torchvision on PyPI is built for CUDA. Beside a CPU torch its compiled part does not load, and
`import torchvision` fails where it describes the operators `nms` and `qnms`, which nobody has
declared. Declared, without any code behind them, they let the import pass. Neither is called
here: they sort out overlapping boxes of object detectors. Whatever is timed (models, losses,
transforms of PIL images) is the packages' own code.
"""

import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[1] / ".bench-packages"
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # what it declares lives as long


def allow_peers() -> None:
    """From now on this process can import them; SystemExit where they are not installed.

    To be called when `transformers` is imported already: it takes torchvision where it finds it,
    and would not be what its users without it have.
    """
    if not (FOLDER / "open_clip").is_dir():
        raise SystemExit(f"The packages to compare with are not in {FOLDER}: run 'make bench'.")
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

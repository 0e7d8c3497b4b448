"""What many tests look at: pictures, and folders of them with captions."""

import numpy as np
import pytest
from PIL import Image

COLOURS = ["red", "green", "blue", "yellow", "black", "orange", "purple", "grey"]
COLUMNS = {"image", "captions", "image_id"}
TEXTS = ["a red square", "", "something blue and rather long to say", "dog " * 300]


def picture(path, colour="red", size=(20, 30)):
    """Write a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def folder_of(path, count=12):
    """A folder of `count` pictures, each with two captions in a file beside it."""
    for number in range(count):
        picture(path / f"p{number}.png", (20 * number, 0, 0))
        (path / f"p{number}.txt").write_text(f"picture {number}\nanother of {number}\n")
    return path


def noise_pictures(count=5):
    """Noise, each of another size."""
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (30 + 7 * i, 41, 3), dtype=np.uint8))
        for i in range(count)
    ]


def modes_of(module):
    """Which parts of a module are in training, by their names."""
    return {name: part.training for name, part in module.named_modules()}


def mix_modes(module):
    """Leave a module in training, but every third part of it in evaluation -> its modes."""
    for number, part in enumerate(module.modules()):
        part.training = number % 3 != 1
    return modes_of(module)


def rest_slow(cases, quick=1):
    """Cases for `parametrize`: the first ones for `make test`, the rest for `make slow`."""
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    rest = [pytest.param(*case, marks=pytest.mark.slow) for case in cases[quick:]]
    return [*(pytest.param(*case) for case in cases[:quick]), *rest]

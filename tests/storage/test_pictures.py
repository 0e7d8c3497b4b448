"""A picture of any kind becomes upright RGB, a square, and normalised pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from distilclip.storage.pictures import normalise_pixels, square, to_rgb


def test_images_become_upright_rgb_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    assert to_rgb(deep).getpixel((0, 0)) == (255, 255, 255)
    tall = Image.new("RGB", (2, 6), "red")
    tall.getexif()[0x0112] = 6  # turned by a quarter
    assert to_rgb(tall).size == (6, 2)
    for mode in ("1", "L", "P", "CMYK", "LA", "F"):
        assert to_rgb(Image.new(mode, (3, 3))).mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (5, 900), (33, 32)])
def test_any_size_becomes_a_square(size):
    assert square(Image.new("RGB", size), 16).size == (16, 16)


def test_normalising_bytes_is_normalising_what_they_stand_for():
    pixels = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4) * 5
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    expected = normalise_pixels(pixels.float() / 255, mean, std)
    assert torch.equal(normalise_pixels(pixels, mean, std), expected)
    assert pixels.dtype == torch.uint8 and pixels.max() == 235  # not changed themselves

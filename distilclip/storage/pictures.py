"""Pictures: which files are some, how one is decoded, and the pixels for a model.

The one walk over a folder of pictures, the one way to decode a file, and what
follows: upright RGB, the middle square, uint8 pixels, normalised pixels. Training,
search and galleries all read pictures through here, so that a model is shown later
what it was shown before.
"""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
PIXELS_VERSION = 1  # to be raised when `square` gives other pixels than before


def find_pictures(folder: Path) -> tuple[dict[str, os.stat_result], list[OSError]]:
    """Every picture below `folder`, and why folders or links were not followed.

    A picture goes by its path within `folder`, with slashes; the order is that of
    the paths. Hidden files and folders and links that lead nowhere are left out.
    """
    found: dict[str, os.stat_result] = {}
    closed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            try:
                status = path.stat()
            except FileNotFoundError:  # gone since, or a link to nowhere
                continue
            except OSError as error:  # a link to itself, or into a closed folder
                closed.append(error)
                continue
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = status
    in_order = sorted(found, key=lambda name: name.split("/"))
    return {name: found[name] for name in in_order}, closed


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as upright RGB, on white where it is transparent."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"Expected a PIL image, got a {type(image).__name__}.")
    image.load()  # a truncated file is an error here, and none of those below
    with contextlib.suppress(Exception):  # damaged EXIF, of many kinds
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a channel
        high_bytes = np.asarray(image).clip(0, 65535) >> 8
        image = Image.fromarray(high_bytes.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an image, resized to `size` pixels."""
    return ImageOps.fit(to_rgb(image), (size, size), Image.Resampling.BICUBIC)


def pixels_of(images: Sequence[Image.Image], size: int) -> Tensor:
    """PIL images -> uint8 pixels (B, 3, size, size)."""
    arrays = np.stack([np.asarray(square(image, size)) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()


def normalise_pixels(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Pixels, uint8 or float in [0, 1], less `mean` and over `std`, as float."""
    device, shape = pixels.device, (1, -1, 1, 1)
    means = torch.tensor(mean, device=device).view(shape)
    stds = torch.tensor(std, device=device).view(shape)
    if pixels.dtype != torch.uint8:
        return (pixels - means) / stds
    # In place: on a CPU, fresh memory for a batch costs more than the arithmetic.
    return pixels.float().div_(255).sub_(means).div_(stds)


def decode_image(image: dict | None) -> Image.Image:
    """An image from its `bytes`, or the file at its `path`, as `datasets` has them.

    Raises ValueError that says, as a part of a sentence, why it cannot be decoded.
    """
    content, path = (image or {}).get("bytes"), (image or {}).get("path")
    if content is None and path is None:
        raise ValueError("there is no image")
    try:
        content = Path(str(path)).read_bytes() if content is None else content
        opened = Image.open(io.BytesIO(content))
        opened.load()
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise ValueError(why_undecodable(error)) from None
    return opened


def find_fault(image: dict | None) -> str | None:
    """Why an image, as `datasets` has it, cannot be decoded; None where it can."""
    try:
        decode_image(image)
    except ValueError as error:
        return str(error)
    return None


def why_undecodable(error: Exception) -> str:
    """What an error of Pillow means, as a part of a sentence."""
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, or in no image format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return "it is so large (a decompression bomb?) that Pillow refuses it"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def read_picture(path: Path, size: int) -> Image.Image:
    """The picture at `path` as a model sees it: upright RGB, `size` x `size`.

    A large JPEG is decoded at a fraction of its size, never below twice `size`:
    several times as fast, and the result is as good as the same.
    """
    with Image.open(path) as image:
        image.draft("RGB", (2 * size, 2 * size))
        return square(image, size)


def read_pictures(
    folder: Path, names: Sequence[str], size: int, batch_size: int
) -> Iterator[tuple[list[str], Tensor, list[tuple[str, Exception]]]]:
    """Batches of pictures: their names, their pixels, and what could not be read.

    The pixels are uint8 (B, 3, size, size); a failure is a name with its error.
    Several pictures are decoded at once, and no more than these are in memory at
    their full size.
    """

    def attempt(name: str) -> Tensor | Exception:
        try:
            image = np.array(read_picture(folder / name, size))
        except Exception as error:  # Pillow raises many kinds for a broken file
            return error
        return torch.from_numpy(image).permute(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), batch_size):
            batch = names[start : start + batch_size]
            results = dict(zip(batch, pool.map(attempt, batch), strict=True))
            pixels = {n: p for n, p in results.items() if isinstance(p, Tensor)}
            errors = [
                (n, e) for n, e in results.items() if isinstance(e, Exception)
            ]
            stacked = torch.empty(0, 3, size, size)
            if pixels:
                stacked = torch.stack(list(pixels.values()))
            yield list(pixels), stacked, errors


def thumbnail(path: Path, size: int) -> Image.Image:
    """The picture at `path`, no side longer than `size`."""
    with Image.open(path) as image:
        # A large JPEG need not be decoded in full.
        image.draft("RGB", (2 * size, 2 * size))
        picture = to_rgb(image)
    picture.thumbnail((size, size))
    return picture

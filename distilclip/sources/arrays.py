"""Pictures in memory, in whatever form, as undecoded bytes; or they are refused.

Arrays and tensors, PIL's images, bytes and opened files go in, as a DataFrame has
them; what `datasets` calls an undecoded picture comes out.
"""

import io
from collections.abc import Iterable
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from distilclip.sources.entries import Asked
from distilclip.sources.skipping import SKIP, refuse_or_skip

UNDECODED = datasets.Image(decode=False)
CHANNELS = (1, 3, 4)


def is_blank(value: Any) -> bool:
    """Whether a cell of pandas holds nothing: None, NaN, NA, NaT."""
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float) and value != value)
    )


def is_empty(value: Any) -> bool:
    """Whether an undecoded picture has neither bytes nor a path."""
    keys = {"bytes", "path"}
    is_one = isinstance(value, dict) and bool(value) and keys >= value.keys()
    return is_one and not any(value.values())


def encode_all(
    values: Iterable[Any], table: str, asked: Asked
) -> tuple[list[dict | None], list[int]]:
    """`encode_picture` of each row, and which rows are left if some are skipped."""
    pictures, kept = [], []
    for row, value in enumerate(values):
        try:
            pictures.append(encode_picture(value, f"in row {row} of {table}"))
            kept.append(row)
        except ValueError as error:
            refuse_or_skip(error, asked.skipped)
    if asked.skipped and not kept:
        raise ValueError(f"Nothing in {table} can be read. {asked.skipped[-1]}")
    return pictures, kept


def encode_picture(value: Any, where: str) -> dict | None:
    """A picture as `datasets` has it undecoded, its bytes or its path.

    None where the cell is blank. Raises ValueError, which says `where`, for what is
    no picture, and for arrays that could be meant in several ways.
    """
    if is_blank(value) or is_empty(value):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes(value), "path": None}
    if hasattr(value, "getvalue"):  # io.BytesIO, from its start
        return {"bytes": bytes(value.getvalue()), "path": None}
    if hasattr(value, "read"):
        return {"bytes": value.read(), "path": None}
    if isinstance(value, np.ndarray | torch.Tensor | list | tuple | np.generic):
        return {"bytes": png_of(value, where), "path": None}
    try:
        return UNDECODED.encode_example(value)
    except (TypeError, ValueError, KeyError, AttributeError, OSError) as error:
        raise ValueError(
            f"The picture {where} cannot be read, it is of the type "
            f"{type(value).__name__} ({' '.join(str(error).split())[:100]}): give "
            "a PIL image, bytes, a path, or an array (H, W, 3) of uint8; or "
            f"{SKIP}."
        ) from None


def png_of(value: Any, where: str) -> bytes:
    """An array as the bytes of a PNG.

    An array is (H, W), (H, W, C) or (C, H, W), a tensor the other way round where
    both would do; C is 1, 3 or 4. See `as_uint8` for its numbers.
    """
    first = isinstance(value, torch.Tensor)  # channels come first
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    shape: tuple[int, ...] = array.shape
    if array.ndim == 3:
        is_first, is_last = shape[0] in CHANNELS, shape[-1] in CHANNELS
        if is_first and (first or not is_last):
            array = array.transpose(1, 2, 0)
        elif not is_last:
            array = array[:0]
    if array.ndim not in (2, 3) or not array.size:
        raise ValueError(
            f"The picture {where} is an array of the shape {shape}: expected "
            "(H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels. Reshape it, "
            f"or {SKIP}."
        )
    array = as_uint8(array, where)
    array = array[:, :, 0] if array.shape[2:] == (1,) else array
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(file, "PNG")
    return file.getvalue()


def as_uint8(array: np.ndarray, where: str) -> np.ndarray:
    """Numbers that count to 255, or floats and booleans that count to 1, as uint8.

    Raises ValueError for others: how they are meant cannot be told from them.
    """
    if array.dtype == np.uint8:
        return array
    kind, low, high = array.dtype.kind, 0.0, 0.0
    if kind in "fiu":
        low, high = float(array.min()), float(array.max())
    if kind == "b" or (kind == "f" and low >= -0.01 and high <= 1.01):
        return (array.astype(np.float64).clip(0, 1) * 255).round().astype(np.uint8)
    if kind in "iu" and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    raise ValueError(
        f"The picture {where} is an array of {array.dtype}, from {low:.4g} to "
        f"{high:.4g}: expected uint8, or whole numbers from 0 to 255, or floats in "
        f"[0, 1]. Scale it (16 bits: divide by 65535), or {SKIP}."
    )

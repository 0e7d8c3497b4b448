"""What retrieval metrics are given, checked: vectors, image ids, and places.

Numbers that could be counted, but not as they were meant, end in a sentence.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distilclip.storage.terminal import shown


def checked_embeds(
    image_embeds: Tensor | np.ndarray,
    text_embeds: Tensor | np.ndarray,
    ks: Sequence[int],
) -> tuple[Tensor, Tensor, Sequence[int]]:
    """Vectors (N, E) and (M, E) as tensors, and the same `ks`.

    Raises ValueError for other shapes, and for places that are no list of whole
    numbers from 1.
    """
    images, texts = torch.as_tensor(image_embeds), torch.as_tensor(text_embeds)
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise ValueError(
            "Expected vectors (N, E) of images and (M, E) of texts, got the shapes "
            f"{tuple(images.shape)} and {tuple(texts.shape)}."
        )
    is_list = isinstance(ks, Sequence | range) and not isinstance(ks, str)
    if not is_list or not all(is_place(k) for k in ks):
        raise ValueError(
            f"ks must be a list of whole numbers from 1, such as (1, 5, 10), got "
            f"{shown(ks)}."
        )
    return images, texts, ks


def is_place(k: object) -> bool:
    """Whether this is a place in a ranking: a whole number from 1."""
    is_whole = isinstance(k, int | np.integer) and not isinstance(k, bool)
    return is_whole and k >= 1  # type: ignore[operator]


def checked_ids(
    ids: Tensor | np.ndarray | Sequence[int], device: torch.device
) -> Tensor:
    """For each text the row of its image: whole numbers (M) on `device`.

    Raises ValueError for others: floats, booleans, names.
    """
    try:
        numbers = torch.as_tensor(ids, device=device)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0, 0)
    if numbers.numel() == 0 and numbers.ndim == 1:
        return numbers.long()  # of no texts, which is said elsewhere
    whole = not numbers.is_floating_point() and not numbers.is_complex()
    if numbers.ndim != 1 or not whole or numbers.dtype == torch.bool:
        raise ValueError(
            "image ids must be whole numbers, for each text the row of its image, "
            f"got {shown(ids)}."
        )
    return numbers.long()

"""What a score means: how far a picture stands out from all others of its index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from distilclip.search import ImageIndex


def standing(index: ImageIndex, query: str | Tensor, score: float) -> float:
    """How many standard deviations `score` lies above the index's mean cosine.

    `query` is words or a unit vector (E). A cosine alone says little: each model
    has its own usual ones, and so has each folder. 0 where all cosines are alike.
    """
    vector = index.model.encode_text(query)[0] if isinstance(query, str) else query
    scores = index.embeds @ vector.detach().to(index.embeds)
    spread = scores.std(correction=0).item()
    return (score - scores.mean().item()) / spread if spread > 1e-6 else 0.0

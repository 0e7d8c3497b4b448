"""What a score means: how far a picture stands out from all others of its index."""

from torch import Tensor


def standing(embeds: Tensor, query: Tensor, score: float) -> float:
    """How many standard deviations `score` lies above the mean of all cosines.

    These are of a query (E) with the vectors `embeds` (N, E) of an index, all of
    unit length. A cosine alone says little: each model has its own usual ones, and
    so has each folder. 0 where all are alike.
    """
    scores = embeds @ query.detach().to(embeds)
    spread = scores.std(correction=0).item()
    return (score - scores.mean().item()) / spread if spread > 1e-6 else 0.0

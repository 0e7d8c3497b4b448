"""Nearest neighbours among very many vectors, by FAISS where it is installed.

Exact search compares a query with every vector. The approximate kinds look at a
part of them: inverted lists (Jegou et al., 2011) at the clusters nearest to the
query, HNSW (Malkov and Yashunin, 2020) along a graph of neighbours.
"""

from collections.abc import Callable

import torch
from torch import Tensor

KINDS = ("flat", "ivf", "hnsw")


def faiss_neighbours(
    embeds: Tensor, kind: str = "hnsw", effort: int = 128
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Build a FAISS index over `embeds` (N, E) -> a function that searches it.

    The function takes queries (Q, E) and k, and gives scores and rows, (Q, k) each,
    best first. Scores are inner products; a row of -1 is a place that was not
    filled. `kind` is "flat" (exact), "ivf" (inverted lists) or "hnsw" (a graph).
    More `effort` finds more of the true neighbours and takes longer: lists visited,
    or candidates kept; the function takes another one as a third argument. Raises
    ImportError where FAISS is not installed, ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(
            f"Unknown kind of index {kind!r}: choose {', '.join(KINDS)}."
        )
    try:
        import faiss
    except ImportError:
        raise ImportError(
            "FAISS is not installed: pip install faiss-cpu."
        ) from None
    vectors = embeds.detach().cpu().float().contiguous().numpy()
    count, dim = vectors.shape
    # k-means wants 40 vectors a list
    lists = max(1, min(int(4 * count**0.5), count // 40))
    if kind == "flat":
        index = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
    else:
        centres = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFFlat(centres, dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
    index.add(vectors)

    def nearest(
        queries: Tensor, k: int, effort: int = effort
    ) -> tuple[Tensor, Tensor]:
        settings = None
        if kind == "ivf":
            settings = faiss.SearchParametersIVF()
            settings.nprobe = min(effort, lists)
        elif kind == "hnsw":
            # Missing in faiss's type stubs
            settings = faiss.SearchParametersHNSW()  # pyright: ignore[reportAttributeAccessIssue]
            settings.efSearch = max(effort, k)
        asked = queries.detach().cpu().float().contiguous().numpy()
        scores, rows = index.search(asked, k, params=settings)
        return torch.from_numpy(scores), torch.from_numpy(rows)

    return nearest

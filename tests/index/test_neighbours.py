"""FAISS finds what the exact search finds, and may be absent."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from distilclip import ImageIndex


def clusters(count, dim=16):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(count // 50, dim, generator=generator)
    vectors = centres.repeat(50, 1) + 0.5 * torch.randn(count, dim, generator=generator)
    return F.normalize(vectors, dim=-1)


def test_faiss_finds_what_we_find(small_model):
    pytest.importorskip("faiss")
    vectors = clusters(5000)
    queries = F.normalize(vectors[::100] + 0.1, dim=-1)
    index = ImageIndex(small_model, [str(n) for n in range(5000)], vectors)
    scores, rows = index.nearest(queries, 10)
    table = queries @ vectors.T
    assert torch.equal(rows, table.topk(10).indices)
    for kind, recall in (("flat", 1.0), ("ivf", 0.9), ("hnsw", 0.9)):
        index.accelerate(kind)
        found_scores, found = index.nearest(queries, 10)
        share = (found.unsqueeze(2) == rows.unsqueeze(1)).any(dim=2).double().mean()
        assert share >= recall, kind
        if kind == "flat":
            assert torch.allclose(found_scores, scores, atol=1e-5)
        hit = index.search(vectors[1234], k=1)[0]
        assert hit.name == "1234" and hit.score == pytest.approx(1, abs=1e-5)
    index.add(["new"], [Image.new("RGB", (32, 32), "red")])  # and FAISS is left behind
    assert (
        len(index.nearest(small_model.encode_image(Image.new("RGB", (9, 9))), 5001)[1][0]) == 5001
    )


def test_faiss_may_be_absent_and_small_indexes_work(small_model, monkeypatch):
    index = ImageIndex(small_model, ["a", "b"], clusters(50)[:2])
    with pytest.raises(ValueError, match="Unknown kind of index 'tree'"):
        index.accelerate("tree")
    with monkeypatch.context() as absent:
        absent.setitem(__import__("sys").modules, "faiss", None)
        with pytest.raises(ImportError, match="pip install faiss-cpu"):
            index.accelerate("hnsw")
    pytest.importorskip("faiss")
    for kind in ("flat", "ivf", "hnsw"):
        index.accelerate(kind)
        assert [hit.name for hit in index.search(index.embeds[1], k=9)] == ["b", "a"]

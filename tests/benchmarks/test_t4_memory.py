"""Counted memory is that of the weights, and grows with the batch."""

import itertools

import pytest
import t4_memory
from transformers import DistilBertConfig, DistilBertModel

from distilclip import ViTConfig

VISION = ViTConfig(32, 8, dim=64, depth=2, num_heads=2)


TEXT = DistilBertConfig(vocab_size=100, dim=64, hidden_dim=256, n_layers=1, n_heads=2)


@pytest.mark.slow
def test_counted_memory_is_that_of_the_weights_and_grows_with_the_batch():
    kinds = [t4_memory.count(batch, 8, VISION, TEXT) for batch in (128, 256, 384)]
    text = sum(p.numel() for p in DistilBertModel(TEXT).parameters())
    expected = 4 * text / 2**30
    assert all(line["param"] == kinds[0]["param"] > expected for line in kinds)
    assert kinds[0]["opt"] == pytest.approx(2 * kinds[0]["param"], abs=2e-3)  # AdamW's moments
    growth = [b["total"] - a["total"] for a, b in itertools.pairwise(kinds)]
    assert growth[0] == pytest.approx(growth[1], rel=0.1) and growth[0] > 0

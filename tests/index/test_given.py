"""Retrieval metrics refuse in a sentence what cannot be counted as it is meant."""

import numpy as np
import pytest
import torch

from distilclip.search import retrieval_metrics

VECTORS = torch.eye(4)


@pytest.mark.parametrize(
    "ids",
    [[0.0, 1.0, 2.0, 3.0], ["a", "b", "c", "d"], [True, False, True, True], np.ones((4, 1), int)],
)
def test_image_ids_are_whole_numbers(ids):
    for given in (ids, np.array(ids)):
        with pytest.raises(ValueError, match="image ids must be whole numbers, for each text"):
            retrieval_metrics(VECTORS, VECTORS, given)


@pytest.mark.parametrize("ks", [5, "15", (0,), (1.5,), (True,), ("1",), None])
def test_places_are_a_list_of_whole_numbers(ks):
    with pytest.raises(ValueError, match=r"ks must be a list of whole numbers from 1"):
        retrieval_metrics(VECTORS, VECTORS, range(4), ks=ks)


def test_vectors_have_one_width():
    with pytest.raises(ValueError, match=r"got the shapes \(4, 4\) and \(4, 3\)"):
        retrieval_metrics(VECTORS, VECTORS[:, :3], range(4))
    with pytest.raises(ValueError, match=r"got the shapes \(4,\) and \(4, 4\)"):
        retrieval_metrics(VECTORS[0], VECTORS, range(4))


@pytest.mark.parametrize("kind", [list, tuple, range, np.uint8, torch.int32])
def test_any_kind_of_whole_numbers_will_do(kind):
    ids = range(4)
    if kind in (list, tuple):
        ids = kind(ids)
    elif kind is np.uint8:
        ids = np.array(ids, kind)
    elif kind is torch.int32:
        ids = torch.tensor(list(ids), dtype=kind)
    metrics = retrieval_metrics(VECTORS, VECTORS.numpy(), ids, ks=[1, np.int64(2)])
    assert set(metrics.values()) == {1.0}

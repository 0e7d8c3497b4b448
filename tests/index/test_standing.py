"""How far a score stands out is counted in standard deviations of the whole index."""

import pytest
import torch

from distilclip.index.standing import standing

EAST = torch.tensor([1.0, 0.0])


def test_the_score_is_held_against_all_cosines():
    cosines = torch.tensor([0.9, 0.1, -0.1, 0.3])
    embeds = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)
    expected = (0.9 - cosines.mean()) / cosines.std(correction=0)
    assert standing(embeds, EAST, 0.9) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("count", [1, 5])
def test_pictures_that_are_all_alike_do_not_stand_out(count):
    assert standing(torch.tensor([[0.6, 0.8]] * count), EAST, 0.6) == 0

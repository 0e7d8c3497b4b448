"""Chance is what random rankings find on average, and few pictures are warned about."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict

from distilclip import retrieval_metrics
from distilclip.runs.chance import chance_metrics, say_chance
from distilclip.search import flatten_captions

CAPTIONS = {
    "one each": [[f"picture {number}"] for number in range(30)],
    "unlike numbers": [[f"{number} {n}" for n in range(1 + number % 4)] for number in range(25)],
    "shared": [[f"kind {number % 3}", f"picture {number}", "any"] for number in range(20)],
    "fewer than ten": [["a"], ["b"], ["a", "c"]],
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", CAPTIONS)
def test_chance_is_the_mean_of_random_rankings(kind, strict):
    captions = CAPTIONS[kind]
    texts, owners = flatten_captions(captions)
    generator, rounds, sums = torch.Generator().manual_seed(0), 400, {}
    for _ in range(rounds):
        images, vectors = (
            F.normalize(torch.randn(count, 64, generator=generator), dim=1)
            for count in (len(captions), len(texts))
        )
        found = retrieval_metrics(images, vectors, owners, texts=texts, strict=strict)
        sums = {name: sums.get(name, 0) + value / rounds for name, value in found.items()}
    chance = chance_metrics(captions, strict=strict)
    assert chance.keys() == sums.keys()
    assert chance == pytest.approx(sums, abs=0.02)


def test_one_caption_each_has_the_share_that_one_expects():
    chance = chance_metrics(CAPTIONS["one each"], ks=(1, 3, 30, 99))
    assert chance == pytest.approx(
        {f"{way}_r{k}": min(1, k / 30) for way in ("i2t", "t2i") for k in (1, 3, 30, 99)}
    )


def test_what_chance_finds_is_said_and_few_pictures_are_warned_about(caplog):
    def rows(count):
        return Dataset.from_dict({"captions": [[f"picture {n}"] for n in range(count)]})

    caplog.set_level("INFO", "distilclip")
    say_chance(DatasetDict(train=rows(9), validation=rows(100), test=rows(8)))
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["INFO", "INFO", "INFO"]
    assert "validation would have text→image R@1 1.0 R@5 5.0 R@10 10.0" in said[0][1]
    assert "test has 8 pictures, one of which is 12.5 points" in said[2][1]

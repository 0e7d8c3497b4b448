"""The ways of loading pictures load the same ones."""

import pipeline
import torch

from distilclip import load_pairs
from distilclip.data import decode_pixels


def test_the_ways_of_the_pipeline_see_the_same_pixels(tmp_path):
    size = pipeline.make_photographs(tmp_path, 10, 64, 48)
    rows = load_pairs(tmp_path)["train"]
    once = decode_pixels(rows, 32, tmp_path / "cache")
    each_time = pipeline.DecodedEachTime(rows, 32)
    assert torch.equal(once, torch.stack([each_time[row] for row in range(len(rows))]))
    assert len(once.unique(dim=0)) == len(rows) and size > 1000

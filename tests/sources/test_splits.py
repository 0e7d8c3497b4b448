"""Splits that are missing are drawn, each picture once; what is too small is refused."""

import datasets
import pytest
from samples import folder_of

from distilclip import load_pairs
from distilclip.sources.splits import with_all_splits


def test_drawn_splits_are_a_tenth_each():
    """Of 3,000 ids, and whichever of the two splits is missing; binomial, so 300 ± 50."""
    ids = [f"p{n}.png" for n in range(3000)]
    whole = datasets.Dataset.from_dict({"image_id": ids})
    both = with_all_splits(datasets.DatasetDict(train=whole), "x")
    assert all(250 < len(both[split]) < 350 for split in ("validation", "test"))
    assert sorted(name for rows in both.values() for name in rows["image_id"]) == sorted(ids)
    one = with_all_splits(datasets.DatasetDict(train=whole, test=both["test"]), "x")
    assert list(one["validation"]["image_id"]) == list(both["validation"]["image_id"])
    none = with_all_splits(datasets.DatasetDict(both), "x")
    assert {split: len(rows) for split, rows in none.items()} == {s: len(both[s]) for s in both}


def test_too_few_pictures_to_split_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has 2 captioned pictures; at least 3"):
        load_pairs(folder_of(tmp_path, 2))

"""Splits that are missing are drawn, each picture once; what is too small is refused."""

import datasets
import pytest
from samples import folder_of

from distilclip import load_pairs
from distilclip.sources.splits import split_name, with_all_splits


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


@pytest.mark.parametrize(
    ("word", "split"),
    [
        *[(word, "train") for word in ("train", "Train2017", "train_set", "['train']", "trn")],
        *[(word, "validation") for word in ("val", "validation set", "Dev", "'eval'", "VALID")],
        *[(word, "test") for word in ("Test Set", "test2017", "split=test", "tst", "testing")],
        *[(word, word) for word in ("testA", "extra", "PublicTest", "holdout", "0", "True")],
    ],
)
def test_a_source_s_words_for_splits_are_understood(word, split):
    assert split_name(word) == split


@pytest.mark.parametrize("own", ["testA", "PublicTest", "test_1k", "held-out", "holdout"])
def test_no_test_is_drawn_beside_one_of_another_name(own, caplog):
    rows = datasets.Dataset.from_dict({"image_id": [f"p{n}.png" for n in range(20)]})
    splits = with_all_splits(datasets.DatasetDict({"train": rows, own: rows.select([0])}), "x")
    assert splits.keys() == {"train", "validation", own}
    assert own in caplog.text and "no test is drawn" in caplog.text


@pytest.mark.parametrize("words", [["0", "1"], ["True", "False"], ["1.0"]])
def test_splits_that_are_numbers_are_refused(words):
    rows = datasets.Dataset.from_dict({"image_id": ["a", "b"]})
    with pytest.raises(ValueError, match="does not say which is which"):
        with_all_splits(datasets.DatasetDict(dict.fromkeys(words, rows)), "x")

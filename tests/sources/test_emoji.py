"""The embedded data set is real, and no style, concept or caption leaks between its splits."""

import numpy as np
from samples import COLUMNS


def test_emoji_has_real_pictures_and_captions(emoji):
    assert set(emoji) == {"train", "validation", "test", "test_concepts"}
    assert COLUMNS | {"style", "emoji"} <= set(emoji["train"].column_names)
    row = emoji["test"][0]
    assert row["image"].size == (64, 64) and row["image"].mode == "RGB"
    assert np.asarray(row["image"]).std() > 10
    for split in emoji.values():
        assert all(2 <= len(c) <= 5 and all(map(str.strip, c)) for c in split["captions"])
        assert len(set(split["image_id"])) == len(split)


def test_emoji_styles_do_not_leak(emoji):
    styles = {"noto", "twemoji", "openmoji", "blob", "emojione"}
    assert set(emoji["train"]["style"]) == styles
    assert set(emoji["test"]["style"]) == set(emoji["test_concepts"]["style"]) == {"fluent"}
    assert set(emoji["test"]["emoji"]) <= set(emoji["train"]["emoji"])
    train = set(zip(emoji["train"]["emoji"], emoji["train"]["style"], strict=True))
    assert train.isdisjoint(
        zip(emoji["validation"]["emoji"], emoji["validation"]["style"], strict=True)
    )


def test_emoji_concepts_do_not_leak(emoji):
    seen = set(emoji["train"]["emoji"]) | set(emoji["validation"]["emoji"])
    unseen = set(emoji["test_concepts"]["emoji"])
    assert len(unseen) > 100 and unseen.isdisjoint(seen)
    said = {text for texts in emoji["train"]["captions"] for text in texts}
    assert said.isdisjoint(t for texts in emoji["test_concepts"]["captions"] for t in texts)


def test_emoji_captions_belong_to_one_concept(emoji):
    owner = {}
    for split in emoji.values():
        for character, captions in zip(split["emoji"], split["captions"], strict=True):
            for text in captions:
                assert owner.setdefault(text, character) == character

"""Composed drawings follow from their seed, show what they say, and keep pairs held out."""

import numpy as np

from distilclip.sources.scenes import HELD_OUT, load_scenes


def test_scenes_are_seeded_and_described():
    first, again = load_scenes(20, 5), load_scenes(20, 5)
    for split in first:
        assert first[split]["captions"] == again[split]["captions"]
        assert all(len(set(captions)) == 5 for captions in first[split]["captions"])
    image, other = (np.asarray(s["train"][3]["image"]) for s in (first, again))
    assert (image == other).all()
    assert load_scenes(20, 5, seed=1)["train"]["captions"] != first["train"]["captions"]


def test_held_out_combinations_are_only_in_their_split():
    for split, rows in load_scenes(300, 60).items():
        for first, second in zip(rows["first"], rows["second"], strict=True):
            held = {tuple(name.split()[1:]) for name in (first, second)} & HELD_OUT
            assert bool(held) == (split == "test_combinations")


def test_a_scene_shows_what_it_says():
    colour = {"red": (214, 39, 40), "blue": (31, 90, 200)}
    for row in load_scenes(400, 1)["train"]:
        names = row["first"].split()[1], row["second"].split()[1]
        if set(names) != {"red", "blue"}:
            continue
        pixels = np.asarray(row["image"]).astype(int)
        axis = 1 if row["relation"] == "left of" else 0
        places = [
            np.argwhere(abs(pixels - colour[name]).sum(-1) < 20)[:, axis].mean() for name in names
        ]
        assert places[0] < places[1]

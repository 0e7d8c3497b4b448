"""Savings are compared at equal steps and equal time, and no run is made twice."""

import json
from argparse import Namespace

import less_work


def test_equal_time_is_as_long_as_the_whole_took_and_no_run_is_made_twice(tmp_path, monkeypatch):
    asked = []

    def train_once(changes, epochs, seed):
        asked.append((changes, epochs, seed))
        seconds = epochs * (10 if changes.get("full_size_start") is None else 6)
        metrics = {"test": {"t2i_r10": 0.4}}
        return {"epochs": epochs, "seconds": seconds, "images_per_second": 1, "metrics": metrics}

    monkeypatch.setattr(less_work, "train_once", train_once)
    options = Namespace(
        seeds=[0, 1],
        only=["small pictures first"],
        budgets=[less_work.IMAGES, less_work.TIME],
        augmentation=0.5,
        out=tmp_path / "runs.json",
        device_name="",
        threads=1,
    )
    less_work.measure(options, {}, 12)
    assert [(epochs, seed) for _, epochs, seed in asked] == [
        (epochs, seed) for seed in (0, 1) for epochs in (12, 12, 20)
    ]
    whole, first = asked[0][0], asked[1][0]
    assert first == whole | less_work.SAVINGS["small pictures first"]  # and nothing else
    less_work.measure(options, {}, 12)
    assert len(asked) == len(json.loads(options.out.read_text())["runs"]) == 6

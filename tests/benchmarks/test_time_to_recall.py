"""The race gives each peer its own recipe, and twice the time that ours needed."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import time_to_recall

from distilclip import TrainConfig


@pytest.mark.parametrize("recipe", time_to_recall.PEERS.values(), ids=list(time_to_recall.PEERS))
def test_a_peer_s_recipe_trains_everything_at_one_rate(recipe):
    config = TrainConfig(**recipe)
    rates = {config.lr, config.text_lr, config.vision_lr, config.text_projection_lr}
    assert len(rates) == 1 and not config.mask_positives
    assert not config.patch_dropout and not config.full_size_start


def test_each_peer_gets_twice_the_time_that_ours_needed_with_the_same_seed(monkeypatch):
    def train_once(settings, epochs, seed):
        ours = "text_layers" in settings
        recall = 0.05 * (epochs - seed) if ours else 0.3 + 0.1 * seed
        return {
            "seed": seed,
            "epochs": epochs,
            "seconds": epochs * (30 if ours else 60),
            "t2i_r10": recall,
        }

    monkeypatch.setattr(time_to_recall, "train_once", train_once)
    results = time_to_recall.compare({}, goal=0.4, epochs=8, seeds=(0, 1))
    ours, *peers = results["runs"].values()
    assert [(run["seed"], run["epochs"]) for run in ours] == [(0, 8), (1, 8), (1, 10)]
    for peer in peers:
        epochs = [(run["seed"], run["epochs"]) for run in peer]
        assert epochs == [(0, 1), (0, 8), (1, 1), (1, 10)]
    bars = [bar["measured"] for bar in results["bars"].values()]
    assert bars == [pytest.approx(0.4 / 0.35, abs=1e-3)] * 2


def test_the_small_race_has_a_text_encoder_with_layers_enough(monkeypatch):
    asked = []

    def train_once(settings, epochs, seed):
        config = json.loads((Path(settings["text_model"]) / "config.json").read_text())
        asked.append((settings.get("text_layers", 0), config["n_layers"]))
        return {"seed": seed, "epochs": epochs, "seconds": 1.0, "t2i_r10": 1.0}

    monkeypatch.setattr(time_to_recall, "train_once", train_once)
    time_to_recall.measure(Namespace(small=True, seeds=[0, 1]))
    assert len(asked) == 5  # of one seed
    assert all(layers <= there for layers, there in asked)

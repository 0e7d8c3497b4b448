"""The benchmarks about training count and time what they say."""

import itertools
import json
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from transformers import DistilBertConfig, DistilBertModel

from distilclip import TrainConfig, ViTConfig
from distilclip.train import train_epoch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ablations
import less_work
import t4_memory
import time_to_recall

VISION = ViTConfig(32, 8, dim=64, depth=2, num_heads=2)
TEXT = DistilBertConfig(vocab_size=100, dim=64, hidden_dim=256, n_layers=1, n_heads=2)


def test_counted_memory_is_that_of_the_weights_and_grows_with_the_batch():
    kinds = [t4_memory.count(batch, 8, VISION, TEXT) for batch in (128, 256, 384)]
    text = sum(p.numel() for p in DistilBertModel(TEXT).parameters())
    expected = 4 * text / 2**30
    assert all(line["param"] == kinds[0]["param"] > expected for line in kinds)
    assert kinds[0]["opt"] == pytest.approx(2 * kinds[0]["param"], abs=2e-3)  # AdamW's moments
    growth = [b["total"] - a["total"] for a, b in itertools.pairwise(kinds)]
    assert growth[0] == pytest.approx(growth[1], rel=0.1) and growth[0] > 0


def test_epochs_are_timed_by_what_the_processor_does(monkeypatch):
    module = sys.modules["distilclip.train"]

    def lazy_epoch(work: float, rest: float) -> None:
        start = time.process_time()
        while time.process_time() - start < work:
            pass
        time.sleep(rest)

    monkeypatch.setattr(module, "train_epoch", lazy_epoch)
    monkeypatch.setattr(ablations.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(module, "prepare_data", lazy_epoch)
    with ablations.timed_epochs() as seconds:
        module.prepare_data(0.4, 0)
        module.train_epoch(0.2, 0.3)
        module.train_epoch(0.1, 0.3)
    assert seconds == pytest.approx([0.2, 0.1, 0.05], abs=0.04)
    assert module.train_epoch is lazy_epoch is not train_epoch


def test_every_ablation_is_a_recipe_of_its_own():
    configurations = [str(ablations.configure(c, 0, 1, "")) for c in ablations.variants().values()]
    assert len(set(configurations)) == len(configurations)
    original = ablations.configure(ablations.ORIGINAL, 0, 1, "")
    assert original.lr == original.text_lr == original.text_projection_lr == 5e-5
    assert not original.sort_captions and original.pad_to_max_length and not original.patch_dropout


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

"""What several tests share: small models and data, runs to read, and no network."""

import gc
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest
import torch
from PIL import Image, ImageDraw
from samples import COLOURS
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel, ViTModel
from transformers import ViTConfig as TheirConfig

from distilclip.data import load_pairs
from distilclip.model import DistilCLIP, DistilCLIPConfig
from distilclip.runs.settings import TrainConfig
from distilclip.storage.weights import find_text_weights
from distilclip.text import TextEncoder
from distilclip.vit import ViTConfig

# A busy machine makes nothing wrong: no example is timed.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Notebooks that are left to `make slow`: the longer chapters, and all the solutions.
SLOW_CHAPTERS = ("06_model", "08_train", "09_search", "10_explain", "11_scale", "13_export")

# The files that take longest, which begin first: two workers then end at about the same time.
LONGEST = [
    *("10_explain", "08_train", "06_model", "09_search", "03_vit", "11_scale", "13_export"),
    *("00_one_evening", "14_pretrained", "07_data", "08b_run", "04_text", "test_training"),
    *("test_faults", "test_scale", "test_endings", "test_checkpoint", "test_streaming"),
    *("test_build_search_page", "test_starting", "test_export", "test_attack", "test_start_here"),
]


def is_slow(path: Path) -> bool:
    """Whether a notebook is left to `make slow`."""
    return path.suffix == ".ipynb" and (
        path.stem in SLOW_CHAPTERS or path.parent.name == "solutions"
    )


@pytest.hookimpl(tryfirst=True)  # before marks are looked at
def pytest_collection_modifyitems(items):
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage meanwhile, nor later among what was imported: it all stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(find_text_weights("minilm")[0])


@pytest.fixture
def small_text(tokenizer):
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=4, hidden_dim=64
    )
    return TextEncoder(DistilBertModel(config).eval(), tokenizer, "mean", "random")


@pytest.fixture
def small_model(small_text):
    torch.manual_seed(1)
    vision = ViTConfig(image_size=32, patch_size=8, dim=32, depth=2, num_heads=4)
    config = DistilCLIPConfig(vision=vision, text_model="random", embed_dim=16)
    return DistilCLIP(config, small_text).eval()


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory, tokenizer):
    """The folder of a random DistilBERT that costs nothing to load and to run."""
    torch.manual_seed(0)
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    config = DistilBertConfig(
        vocab_size=len(tokenizer), **sizes, dropout=0.0, attention_dropout=0.0
    )
    folder = tmp_path_factory.mktemp("models") / "tiny_text"
    DistilBertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory):
    """The folder of a random ViT, as `transformers` saves one."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2}
    shape = TheirConfig(**sizes, num_attention_heads=2, image_size=32, patch_size=8)
    folder = tmp_path_factory.mktemp("models") / "tiny_vit"
    ViTModel(shape, add_pooling_layer=False).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache of indexes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def emoji():
    """The embedded data set."""
    return load_pairs("emoji")


@pytest.fixture
def pictures(tmp_path):
    """A folder of three pictures, and of what is none."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name, colour in (("red.png", "red"), ("deep/blue.jpg", "blue"), ("green.webp", "green")):
        Image.new("RGB", (30, 50), colour).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("not a picture either")
    return folder


# Runs: sixty-four pictures to train on, and what a run leaves behind


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Sixty-four real pictures: eight colours, eight places, captions that say both."""
    folder = tmp_path_factory.mktemp("shapes")
    for number, colour in enumerate(COLOURS):
        for place in range(8):
            image = Image.new("RGB", (32, 32), "white")
            x, y = 2 + 8 * (place % 4), 4 + 14 * (place // 4)
            ImageDraw.Draw(image).rectangle((x, y, x + 6, y + 8), fill=colour)
            image.save(folder / f"{number}{place}.png")
            words = (
                f"a {colour} box in column {place % 4} of the {'top' if place < 4 else 'bottom'}"
            )
            (folder / f"{number}{place}.txt").write_text(f"{words}\n{colour} {words}\n")
    return folder


@pytest.fixture
def config(shapes, tiny_text):
    """A short run on the shapes with a small model and a random text encoder."""

    def make(out, **changes):
        settings = {
            "data": str(shapes),
            "device": "cpu",  # on every machine, also where there is a GPU
            "text_model": str(tiny_text),
            "image_size": 32,
            "patch_size": 8,
            "dim": 32,
            "depth": 2,
            "num_heads": 2,
            "embed_dim": 32,
            "patch_dropout": 0.0,
            "epochs": 3,
            "batch_size": 16,
            "lr": 2e-3,
            "text_projection_lr": 2e-3,
            "augmentation": 0.0,
            "precision": "float32",
            "evaluations": 3,
        }
        return TrainConfig(out=str(out), **(settings | changes))

    return make


@pytest.fixture(params=["with text weights", "text by name"])
def saved(request, tiny_text, tmp_path):
    """A folder that save_pretrained wrote, with and without the text encoder in it."""
    torch.manual_seed(1)
    vision = ViTConfig(image_size=32, patch_size=8, dim=32, depth=2, num_heads=4)
    config = DistilCLIPConfig(
        vision=vision,
        text_model=str(tiny_text),
        embed_dim=16,
        image_mean=(0.4, 0.5, 0.6),
        image_pool="mean",
    )
    DistilCLIP(config).save_pretrained(tmp_path, request.param == "with text weights")
    return tmp_path


@pytest.fixture
def recorded_run(saved):
    """A run's folder, with records that no other test or text knows."""
    settings = {"data": "emoji", "preset": "cpu", "seed": 7, "lr": 0.003, "batch_size": 12}
    lines = [
        {"kind": "epoch", "epoch": 1, "loss": 3.5, "seconds": 60.0},
        {"kind": "evaluation", "split": "validation", "t2i_r1": 0.999, "i2t_r1": 0.999},
        {"kind": "epoch", "epoch": 2, "loss": 2.125, "seconds": 90.0},
        {"kind": "final", "split": "validation", "t2i_r1": 0.25, "i2t_r1": 0.125},
        {"kind": "final", "split": "test", "t2i_r1": 0.0625, "i2t_r1": 0.3333333, "step": 9},
    ]
    (saved / "train_config.json").write_text(json.dumps(settings))
    (saved / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return saved

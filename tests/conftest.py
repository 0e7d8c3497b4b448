"""What several tests share: small models with random weights, and no network."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

from distilclip.model import DistilCLIP, DistilCLIPConfig
from distilclip.text import TextEncoder, _resolve_text_name
from distilclip.vit import ViTConfig

# The files that take longest, which begin first: two workers then end at about the same time.
LONGEST = ["08_train", "10_explain", "test_faults", "06_model", "09_search", "test_train", "03_vit"]
LONGEST += ["test_search_page", "11_scale", "04_text", "test_share", "12_share"]


def pytest_collection_modifyitems(items):
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


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
    return AutoTokenizer.from_pretrained(_resolve_text_name("minilm")[0])


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


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes the user's cache of indexes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))

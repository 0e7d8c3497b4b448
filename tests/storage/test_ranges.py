"""Whatever stands in a config.json, a model computes numbers, or a sentence says why not."""

import copy
import json
import math
import random

import pytest
from PIL import Image
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, ViTModel
from transformers import ViTConfig as TheirViT

from distilclip import DistilCLIP, TextEncoder, ViT
from distilclip.storage.ranges import BERTS, MODEL, TEXT, VIT, out_of_range, shape_of_text

VALUES = [-5, 0, 1, 1.5, "x", "", None, [], {}, True, 1e30, 10**9, 10**30, math.nan, math.inf]
VALUES += [[1, 2], [0, 0, 0], ["a"], {"a": 1}, "../../etc/passwd", "nothing here"]


def places(settings, above=()):
    """Where each setting is, those of the parts too."""
    for name, value in settings.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from places(value, (*above, name))


def changed(settings, place, value):
    settings = copy.deepcopy(settings)
    part = settings
    for name in place[:-1]:
        part = part[name]
    if value == "nothing here":
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return settings


@pytest.fixture
def folder(small_model, tmp_path):
    folder = tmp_path / "model"
    small_model.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_any_value_anywhere_gives_numbers_or_one_sentence(folder):
    whole = json.loads((folder / "config.json").read_text())
    cases = [(place, value) for place in places(whole) for value in VALUES]
    sizes = [(place, value) for place, value in cases if place[-1] in {**MODEL, **TEXT}]
    draw = random.Random(0)
    loaded = 0
    for place, value in [*draw.sample(sizes, 150), *draw.sample(cases, 100)]:
        (folder / "config.json").write_text(json.dumps(changed(whole, place, value)))
        try:
            model = DistilCLIP.from_pretrained(folder)
            embeds = model.encode_text(["a dog"]), model.encode_image([Image.new("RGB", (9, 9))])
        except (ValueError, OSError) as error:
            assert "\n" not in str(error) and str(error).endswith("."), (place, value, error)
        else:
            loaded += 1
            assert all(each.isfinite().all() for each in embeds), (place, value)
    assert 0 < loaded < 200
    (folder / "config.json").write_text(json.dumps(whole))


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"embed_dim": 0}, ["embed_dim"]),
        ({"vision": {"depth": 10**9}}, ["depth"]),
        ({"image_mean": [0.5]}, ["image_mean"]),
        ({"vision": {"in_channels": 1}, "image_mean": [0.5], "image_std": [0.5]}, []),
        ({"image_std": [0.5, 0.0, 0.5]}, ["image_std"]),
        ({"text_config": {"dim": 10, "n_heads": 3}}, ["n_heads"]),
        ({"text_config": {"n_layers": 2.0}}, ["n_layers"]),
        ({"text_config": {"pad_token_id": 9, "vocab_size": 9}}, ["pad_token_id"]),
        ({"text_config": {"activation": "import os"}}, ["activation"]),
        ({"text_config": None}, []),
    ],
)
def test_what_cannot_be_is_named(settings, wrong):
    assert out_of_range(settings) == wrong


def test_only_what_shapes_a_text_encoder_is_taken():
    given = {"dim": 8, "dropout": 0, "auto_map": {"AutoModel": "x.py"}, "bos_token_id": "x"}
    assert shape_of_text(given) == {"dim": 8, "dropout": 0.0}


STRANGE = [-5, 0, 1.5, "x", "", None, [], {}, True, 10**9, 10**30, math.nan, [16, 16], [None]]


@pytest.mark.parametrize("which", ["a ViT", "a DistilBERT", "a BERT"])
def test_any_value_in_a_pretrained_encoder_gives_it_or_one_sentence(which, tokenizer, tmp_path):
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    shape |= {"hidden_size": 8}
    if which == "a ViT":
        theirs = ViTModel(TheirViT(**shape, image_size=16, patch_size=8), add_pooling_layer=False)
        load = ViT.from_pretrained
    elif which == "a BERT":
        shape |= {"vocab_size": len(tokenizer)}
        theirs, load = BertModel(BertConfig(**shape)), TextEncoder.from_pretrained
    else:
        shape = {"dim": 8, "hidden_dim": 16, "n_heads": 2, "n_layers": 1}
        shape |= {"vocab_size": len(tokenizer)}
        theirs, load = DistilBertModel(DistilBertConfig(**shape)), TextEncoder.from_pretrained
    theirs.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    whole = json.loads((tmp_path / "config.json").read_text())
    load(tmp_path)
    draw = random.Random(0)
    sizes = [(name, value) for name in whole.keys() & {*VIT, *TEXT, *BERTS} for value in STRANGE]
    others = [(name, value) for name in sorted(whole) for value in STRANGE]
    must = [("hidden_size", 0)] if which == "a ViT" else []
    refused = 0
    for name, value in [*must, *draw.sample(sorted(sizes, key=repr), 40), *draw.sample(others, 20)]:
        (tmp_path / "config.json").write_text(json.dumps(whole | {name: value}))
        try:
            load(tmp_path)
        except (ValueError, OSError) as error:
            refused += 1
            assert "\n" not in str(error) and str(error).endswith("."), (name, value, error)
    assert 20 < refused < 60

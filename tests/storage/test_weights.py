"""A checkpoint is read from safetensors, pooled as its folder says, or refused in a sentence."""

import json
import math

import pytest
import safetensors.torch
import torch
from transformers import ViTConfig as TheirViTConfig
from transformers import ViTModel

from distilclip import DistilCLIP, TextEncoder, ViT
from distilclip.storage.weights import load_tensors, read_pooling

KINDS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")


def folder_with(pooling, tmp_path, small_text):
    small_text.model.save_pretrained(tmp_path)
    small_text.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return tmp_path


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"word_embedding_dimension": 32}, "mean"),  # the default there
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean", "embedding_dimension": 32}, "mean"),
    ],
)
def test_the_folder_says_how_to_pool(pooling, pool, tmp_path, small_text):
    folder = folder_with(pooling, tmp_path, small_text)
    assert TextEncoder.from_pretrained(folder).pool == pool
    for chosen in ("cls", "mean"):
        assert TextEncoder.from_pretrained(folder, chosen).pool == chosen


@pytest.mark.parametrize("kinds", [(2,), (3,), (4,), (0, 1), (1, 2)])
def test_another_way_to_pool_is_refused_unless_one_is_chosen(kinds, tmp_path, small_text):
    pooling = {f"pooling_mode_{kind}": n in kinds for n, kind in enumerate(KINDS)}
    folder = folder_with(pooling, tmp_path, small_text)
    with pytest.raises(ValueError, match=r"pools its tokens by '.*--text-pool"):
        TextEncoder.from_pretrained(folder)
    assert TextEncoder.from_pretrained(folder, "mean").pool == "mean"


def test_a_folder_that_says_nothing_pools_by_cls(tmp_path, tiny_text):
    assert read_pooling(str(tiny_text)) == "cls"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"1_Pooling.config\.json is damaged"):
        read_pooling(str(tmp_path))


@pytest.mark.parametrize(("known", "warnings"), [(None, 1), (object(), 0), ("no weights", 0)])
def test_a_pooling_that_cannot_be_seen_offline_is_warned_about(
    known, warnings, monkeypatch, caplog
):
    """Where only the weights are cached: nobody knows whether there is one on the Hub."""

    def cached(source, name):
        if name == "config.json":
            return None if known == "no weights" else "/cache/config.json"
        return known

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert read_pooling("somebody/encoder") == "cls"
    assert len(caplog.records) == warnings
    assert all(
        "1_Pooling/config.json of somebody/encoder" in r.getMessage() for r in caplog.records
    )


def write_text_encoder(folder, small_model):
    small_model.text.model.save_pretrained(folder)
    small_model.text.tokenizer.save_pretrained(folder)


def write_vit(folder, small_model):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(TheirViTConfig(**sizes, intermediate_size=32)).save_pretrained(folder)


LOADERS = {
    TextEncoder.from_pretrained: write_text_encoder,
    ViT.from_pretrained: write_vit,
    DistilCLIP.from_pretrained: lambda folder, small_model: small_model.save_pretrained(folder),
}


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "pickle", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "m.pt"]
)
def test_pickled_weights_alone_are_refused_with_the_way_out(load, pickle, tmp_path, small_model):
    LOADERS[load](tmp_path, small_model)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / pickle)
    with pytest.raises(FileNotFoundError) as caught:
        load(tmp_path)
    text = str(caught.value)
    assert f"{tmp_path} has no model.safetensors, only {pickle}" in text
    assert "save_pretrained" in text and "no folder" not in text


@pytest.mark.parametrize("load", LOADERS)
def test_a_folder_without_weights_is_not_said_to_be_missing(load, tmp_path, small_model):
    LOADERS[load](tmp_path, small_model)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"The folder .* has no file model\.safetensors"):
        load(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, small_text):
    small_text.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer: neither"):
        TextEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused(value, kind, tmp_path):
    tensors = {"a": torch.zeros(3, dtype=kind), "b": torch.ones(2, 2, dtype=kind)}
    tensors["b"][1, 0] = value
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"'b' in .* holds numbers that are not finite"):
        load_tensors(tmp_path / "model.safetensors")


def test_no_weight_of_a_text_encoder_is_made_up(small_text, tmp_path):
    small_text.model.save_pretrained(tmp_path)
    small_text.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = safetensors.torch.load_file(file)
    for name in sorted(whole)[::4]:
        lacking = {n: tensor for n, tensor in whole.items() if n != name}
        safetensors.torch.save_file(lacking, file, {"format": "pt"})
        with pytest.raises(ValueError, match=f"lack {name.replace('.', '[.]')}"):
            TextEncoder.from_pretrained(tmp_path)
        other = whole | {name: torch.zeros(3, 3, 3)}
        safetensors.torch.save_file(other, file, {"format": "pt"})
        with pytest.raises(ValueError, match=r"do not fit|another shape"):
            TextEncoder.from_pretrained(tmp_path)


def test_a_vit_whose_tensors_are_of_other_shapes_is_refused(tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    shape |= {"intermediate_size": 16, "image_size": 16, "patch_size": 8}
    ViTModel(TheirViTConfig(**shape), add_pooling_layer=False).save_pretrained(tmp_path)
    whole = safetensors.torch.load_file(tmp_path / "model.safetensors")
    for name in whole:
        strange = whole | {name: torch.zeros(3, 5)}
        safetensors.torch.save_file(strange, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="other shapes"):
            ViT.from_pretrained(tmp_path)

"""What is exported computes what the model computes, in 32 bits and nearly so in 8."""

import json

import numpy as np
import pytest
import torch
from samples import TEXTS as PLAIN_TEXTS
from samples import mix_modes, modes_of, noise_pictures
from transformers import DistilBertConfig, DistilBertModel

from distilclip import DistilCLIP, DistilCLIPConfig, ViTConfig, retrieval_metrics
from distilclip.export import OnnxDistilCLIP, export_onnx, quantise_matrix, quantise_onnx
from distilclip.text import TextEncoder

TEXTS = [*PLAIN_TEXTS, "a 🦄 beside 👩‍🚀"]  # which the vocabulary lacks


@pytest.fixture(scope="module")
def model(tokenizer):
    """The same as `small_model`; no test of this module changes it, so one export will do."""
    torch.manual_seed(0)
    text = DistilBertConfig(vocab_size=len(tokenizer), dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    vision = ViTConfig(image_size=32, patch_size=8, dim=32, depth=2, num_heads=4)
    config = DistilCLIPConfig(vision=vision, text_model="random", embed_dim=16)
    encoder = TextEncoder(DistilBertModel(text).eval(), tokenizer, "mean", "random")
    return DistilCLIP(config, encoder).eval()


@pytest.fixture(scope="module")
def onnx_folder(model, tmp_path_factory):
    return export_onnx(model, tmp_path_factory.mktemp("export") / "onnx")


@pytest.mark.slow
def test_onnx_towers_give_the_models_vectors(model, onnx_folder):
    ours = OnnxDistilCLIP(onnx_folder)
    for count in (1, 5):
        images = noise_pictures(count)
        assert (ours.encode_image(images) - model.encode_image(images)).abs().max() < 1e-5
    for texts in (TEXTS, TEXTS[:1], TEXTS[2]):
        assert (ours.encode_text(texts) - model.encode_text(texts)).abs().max() < 1e-5
    assert ours.encode_text([]).shape == ours.encode_image([]).shape == (0, 16)
    assert torch.isclose(ours.logit_scale, model.logit_scale)


@pytest.mark.slow
def test_onnx_files_can_be_run_with_nothing_of_ours(model, onnx_folder):
    import onnxruntime
    from tokenizers import Tokenizer

    names = ("image.onnx", "text.onnx", "preprocess.json", "tokenizer.json")
    assert all((onnx_folder / name).is_file() for name in names)
    image = onnxruntime.InferenceSession(onnx_folder / "image.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    (embeds,) = image.run(["image_embeds"], {"pixel_values": pixels.astype(np.float32) / 255})
    assert np.abs(embeds - model.encode_image(torch.from_numpy(pixels)).numpy()).max() < 1e-5
    text = onnxruntime.InferenceSession(onnx_folder / "text.onnx")
    encoded = Tokenizer.from_file(str(onnx_folder / "tokenizer.json")).encode("a red square")
    inputs = {"input_ids": [encoded.ids], "attention_mask": [[1] * len(encoded.ids)]}
    (embeds,) = text.run(["text_embeds"], {k: np.array(v) for k, v in inputs.items()})
    assert np.abs(embeds - model.encode_text("a red square").numpy()).max() < 1e-5
    description = json.loads((onnx_folder / "preprocess.json").read_text())
    assert description["config"]["vision"]["image_size"] == 32


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "vision": {"patch_dropout": 0.5, "dropout": 0.1},
            "image_pool": "mean",
            "image_mean": (0.4, 0.5, 0.6),
            "projection_norm": True,
        },
        {
            "vision": {"cls_token": False, "final_norm": False},
            "image_std": (0.2, 0.3, 0.4),
            "pad_to_max_length": True,
        },
    ],
)
def test_onnx_holds_every_kind_of_model(small_text, tmp_path, changes):
    shape = {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "num_heads": 2}
    config = DistilCLIPConfig(
        **(changes | {"vision": ViTConfig(**(shape | changes.get("vision", {}))), "embed_dim": 8})
    )
    model = DistilCLIP(config, small_text)
    modes = mix_modes(model)
    ours = OnnxDistilCLIP(export_onnx(model, tmp_path))
    assert modes_of(model) == modes and model.training and not model.text.model.training
    images = noise_pictures(3)
    assert (ours.encode_image(images) - model.encode_image(images)).abs().max() < 1e-5
    assert (ours.encode_text(TEXTS) - model.encode_text(TEXTS)).abs().max() < 1e-5


def test_a_quantised_matrix_is_off_by_half_a_step_at_most():
    matrix = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    matrix[:, 3] *= 100
    matrix[:, 4] = 0
    for axis in (0, 1):
        integers, scales = quantise_matrix(matrix, axis)
        assert integers.dtype == np.int8 and scales.size == matrix.shape[axis]
        assert (np.abs(integers * scales - matrix) <= 0.5001 * scales).all()
        assert (np.abs(integers).max(axis=1 - axis)[np.abs(matrix).max(1 - axis) > 0] == 127).all()


@pytest.mark.slow
@pytest.mark.parametrize(("activations", "cosine"), [(True, 0.98), (False, 0.9995)])
def test_eight_bits_are_a_quarter_of_the_size_and_nearly_the_same(
    model, onnx_folder, tmp_path, activations, cosine
):
    folder = quantise_onnx(onnx_folder, tmp_path / "int8", activations)
    before, after = ((f / "text.onnx").stat().st_size for f in (onnx_folder, folder))
    assert after < 0.4 * before
    ours, images = OnnxDistilCLIP(folder), noise_pictures()
    assert (ours.encode_text(TEXTS) * model.encode_text(TEXTS)).sum(1).min() > cosine
    assert (ours.encode_image(images) * model.encode_image(images)).sum(1).min() > cosine
    metrics = retrieval_metrics(ours.encode_image(images), model.encode_image(images), range(5))
    assert metrics["t2i_r1"] == 1


@pytest.mark.slow
def test_the_onnx_part_says_what_is_missing(model, tmp_path, onnx_folder, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file image\.onnx"):
        OnnxDistilCLIP(tmp_path / "nothing")
    with pytest.raises(ValueError, match="Choose another folder"):
        quantise_onnx(onnx_folder, onnx_folder)
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match="needs the package onnxscript"):
        export_onnx(model, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_an_export_that_fails_leaves_the_old_file_and_the_model(model, onnx_folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in onnx_folder.iterdir()}
    modes = mix_modes(model)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(OSError, match="No space left"):
        export_onnx(model, onnx_folder)
    assert {file.name: file.read_bytes() for file in onnx_folder.iterdir()} == before
    assert modes_of(model) == modes
    model.eval()

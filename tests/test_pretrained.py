"""Checkpoints of `transformers` compute here what they compute there, and live in our rooms."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from clips import WORDS, clip_tokenizer, gemma_like_tokenizer, preprocessing, save_clip
from PIL import Image
from samples import noise_pictures
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from distilclip import DistilCLIP, ImageIndex, PretrainedCLIP, load_model, zero_shot_classify
from distilclip.command.cli import main
from distilclip.explain import (
    attention_maps,
    attention_rollout,
    occlusion,
    patch_relevance,
    pooled_row,
    word_relevance,
)
from distilclip.export import OnnxDistilCLIP, export_onnx
from distilclip.patches import patchify
from distilclip.runs.starting import settings_of_model

VARIANTS = {
    "OpenAI's": {"kind": "clip"},
    "LAION's, with another GELU": {"kind": "clip", "act": "gelu", "side": 32},
    "wide, with one patch a row less": {"kind": "clip", "hidden_size": 64, "side": 16},
    "deep": {"kind": "clip", "num_hidden_layers": 4, "num_attention_heads": 2},
    "SigLIP": {"kind": "siglip"},
    "SigLIP whose patches leave a rim": {"kind": "siglip", "side": 30},
    "SigLIP, wide": {"kind": "siglip", "hidden_size": 64, "act": "gelu"},
    "SigLIP 2, NaFlex": {"kind": "siglip2"},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of each variant a folder and the model of `transformers`, made once."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("clip")
            made[name] = folder, save_clip(folder, **VARIANTS[name])
        return made[name]

    return of


def their_inputs(kind, pixels, side):
    """The same pixels in the form that a model of `transformers` takes."""
    if kind == "siglip2":
        patches = patchify(pixels, 8).unflatten(2, (3, 64)).transpose(2, 3).flatten(2)
        count, batch = patches.shape[1], len(pixels)
        shapes = torch.tensor([[3, 3]] * batch)
        mask = torch.ones(batch, count)
        return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
    rim = side - pixels.shape[-1]  # a convolution leaves out what fills no patch
    return {"pixel_values": torch.nn.functional.pad(pixels, (0, rim, 0, rim))}


@pytest.mark.parametrize("name", VARIANTS)
def test_embeddings_and_logits_are_those_of_transformers(name, checkpoints):
    folder, theirs = checkpoints(name)
    ours = load_model(folder)
    assert isinstance(ours, PretrainedCLIP) and not ours.training
    size = ours.config.vision.image_size
    pixels = torch.randn(3, 3, size, size)
    tokens = ours.tokenize(WORDS)
    kind, side = VARIANTS[name]["kind"], VARIANTS[name].get("side", 24)
    with torch.no_grad():
        given = their_inputs(kind, pixels, side) | tokens
        if kind != "clip":  # its processor gives it no mask
            del given["attention_mask"]
        expected, found = theirs(**given), ours(pixels, **tokens)
    for part in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        assert (found[part] - expected[part]).abs().max() < 1e-5
    assert expected.image_embeds.std(dim=0).max() > 1e-3  # they are not all the same
    assert expected.text_embeds.std(dim=0).max() > 1e-3


@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_saved_is_a_checkpoint_of_transformers_again(name, checkpoints, tmp_path):
    folder, theirs = checkpoints(name)
    ours = load_model(folder)
    ours.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} <= {".json", ".safetensors", ".txt"}
    again = type(theirs).from_pretrained(tmp_path).state_dict()
    assert again.keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, again[n]) for n, tensor in theirs.state_dict().items())
    images = noise_pictures(3)
    ours_again = load_model(tmp_path)
    assert torch.equal(ours.encode_image(images), ours_again.encode_image(images))
    assert torch.equal(ours.encode_text(WORDS), ours_again.encode_text(WORDS))


SHAPES = ((24, 24), (60, 31), (31, 60), (25, 24), (300, 200), (7, 90))


def pictures_of(shapes):
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes
    ]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_pictures_are_prepared_as_by_transformers(kind, checkpoints):
    name = {"clip": "OpenAI's", "siglip": "SigLIP"}[kind]
    ours = load_model(checkpoints(name)[0])
    made = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}[kind]
    processor = made(**preprocessing(kind, 24))
    images = pictures_of(SHAPES)
    expected = processor(images, return_tensors="pt").pixel_values
    assert (ours.preprocess(images) - expected).abs().max() < 1e-5


def test_a_shortest_edge_longer_than_the_crop(checkpoints, tmp_path):
    shutil.copytree(checkpoints("OpenAI's")[0], tmp_path / "model")
    said = preprocessing("clip", 24) | {"size": 40, "crop_size": 24}  # as old files say it
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(said))
    images = pictures_of(SHAPES)
    expected = CLIPImageProcessorPil(**said)(images, return_tensors="pt").pixel_values
    found = load_model(tmp_path / "model").preprocess(images)
    assert (found - expected).abs().max() < 1e-5


def test_files_are_prepared_alike_on_every_way(checkpoints, tmp_path):
    """One by one, in a batch, through an index and through a data set."""
    from distilclip.data import decode_pixels, load_pairs

    ours = load_model(checkpoints("SigLIP")[0])
    for number, image in enumerate(pictures_of(SHAPES)):
        image.save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"picture number {number}")
    files = sorted(tmp_path.glob("*.png"))
    expected = ours.encode_image(files)
    index = ImageIndex.from_folder(ours, tmp_path)
    assert (index.embeds - expected).abs().max() < 1e-6
    for rows in load_pairs(str(tmp_path)).values():
        pixels = decode_pixels(rows, ours.config.vision.image_size)
        for image, found in zip(rows["image"], pixels, strict=True):
            assert torch.equal(ours.preprocess(image)[0], ours.normalise(found[None])[0])


def test_texts_are_read_as_by_transformers(checkpoints):
    texts = ["A Red Circle", "a dog, in the SNOW! and more than fits"]
    clip = load_model(checkpoints("OpenAI's")[0])
    expected = clip_tokenizer()(
        texts, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    found = clip.tokenize(texts)
    assert all(torch.equal(found[name], expected[name]) for name in found)
    siglip = load_model(checkpoints("SigLIP")[0])
    options = {"padding": "max_length", "truncation": True, "max_length": 16}
    expected = gemma_like_tokenizer()(texts, return_tensors="pt", **options).input_ids
    assert torch.equal(siglip.tokenize(texts)["input_ids"], expected)
    assert siglip.tokenize(texts)["attention_mask"].all()
    assert torch.equal(siglip.encode_text("RED"), siglip.encode_text("red"))


@pytest.mark.parametrize("name", ["OpenAI's", "SigLIP"])
def test_a_tenant_lives_in_our_rooms(name, checkpoints):
    model, images = load_model(checkpoints(name)[0]), noise_pictures(4)
    texts, pixels = model.encode_text(WORDS[:3]), model.preprocess(images)
    assert torch.allclose(texts.norm(dim=1), torch.ones(3))
    assert torch.allclose(zero_shot_classify(model, images, WORDS[:3]).sum(dim=1), torch.ones(4))
    with torch.no_grad():
        cosine = (model.embed_image(pixels[:3]) * texts).sum(dim=1)
        white = model.embed_image(model.normalise(torch.ones(1, 3, 24, 24)))
    shares = patch_relevance(model, pixels[:3], texts, steps=64)
    assert (shares.sum(dim=(1, 2)) - (cosine - white @ texts.T)).abs().max() < 1e-2
    assert occlusion(model, pixels[:3], texts).shape == (3, 3, 3)
    assert len(word_relevance(model, "a red circle", texts[0])) == 3
    maps = attention_maps(model.vision, pixels)
    assert maps.shape[:3] == (2, 4, 4) and torch.allclose(maps.sum(-1), torch.tensor(1.0))
    if name == "SigLIP":
        with pytest.raises(ValueError, match="a pool of its own"):
            pooled_row(model, attention_rollout(maps))
    else:
        assert pooled_row(model, attention_rollout(maps)).shape == (4, 3, 3)


@pytest.mark.slow
def test_the_exports_give_the_same_vectors(checkpoints, tmp_path):
    model, images = load_model(checkpoints("OpenAI's")[0]), noise_pictures(3)
    folder = export_onnx(model, tmp_path)
    pixels = model.preprocess(images)
    mean, std = (
        torch.tensor(x).view(3, 1, 1) for x in (model.config.image_mean, model.config.image_std)
    )
    given = {"pixel_values": (pixels * std + mean).numpy()}
    run = onnxruntime.InferenceSession(folder / "image.onnx").run
    assert np.abs(run(None, given)[0] - model.encode_image(images).numpy()).max() < 1e-5
    tokens = {key: ids.numpy() for key, ids in model.tokenize(WORDS).items()}
    run = onnxruntime.InferenceSession(folder / "text.onnx").run
    assert np.abs(run(None, tokens)[0] - model.encode_text(WORDS).numpy()).max() < 1e-5
    assert "preprocessing" in json.loads((folder / "preprocess.json").read_text())["images"]
    with pytest.raises(ValueError, match="run them with onnxruntime"):
        OnnxDistilCLIP(folder)


def test_the_command_searches_and_evaluates(checkpoints, tmp_path, capsys):
    folder = str(checkpoints("OpenAI's")[0])
    for number, image in enumerate(noise_pictures(12)):
        image.save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"picture number {number}")
    assert main(["search", folder, "a dog", str(tmp_path), "-k", "3", "-f"]) == 0
    found = capsys.readouterr().out.split()
    index = ImageIndex.from_folder(load_model(folder), tmp_path)
    assert found == [str(hit.path) for hit in index.search("a dog", 3)]
    assert main(["search", folder, str(tmp_path), "--image", f"{tmp_path}/3.png", "-f"]) == 0
    assert f"{tmp_path}/3.png" not in capsys.readouterr().out.split()
    arguments = ["evaluate", folder, "--data", str(tmp_path), "--split", "train"]
    assert main(arguments) == 0
    assert "text→image R@1" in capsys.readouterr().out


def test_indexes_of_other_preparation_are_not_mixed(checkpoints, tmp_path):
    folder = checkpoints("OpenAI's")[0]
    shutil.copytree(folder, tmp_path / "other")
    said = preprocessing("clip", 24) | {"size": 40, "crop_size": 24}
    (tmp_path / "other" / "preprocessor_config.json").write_text(json.dumps(said))
    index = ImageIndex(load_model(folder))
    index.add(["a", "b"], noise_pictures(2))
    index.save(tmp_path / "index.safetensors")
    assert len(ImageIndex.load(load_model(folder), tmp_path / "index.safetensors")) == 2
    with pytest.raises(ValueError, match="made by another model"):
        ImageIndex.load(load_model(tmp_path / "other"), tmp_path / "index.safetensors")


def test_a_model_of_our_own_comes_through_the_same_door(saved):
    assert type(load_model(saved)) is DistilCLIP


def damage(folder, what):
    """Take something from a checkpoint, or spoil it."""
    config = json.loads((folder / "config.json").read_text())
    said = json.loads((folder / "preprocessor_config.json").read_text())
    weights = folder / "model.safetensors"
    if what == "no safetensors":
        weights.rename(folder / "pytorch_model.bin")
    elif what == "cut off":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == "too shallow":
        config["vision_config"]["num_hidden_layers"] = 3
    elif what == "another activation":
        config["vision_config"]["hidden_act"] = "relu"
    elif what == "no preparation":
        (folder / "preprocessor_config.json").unlink()
        return
    elif what == "no square":
        said["crop_size"] = {"height": 24, "width": 30}
    elif what == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif what == "not finite":
        tensors = safetensors.torch.load_file(weights)
        tensors["visual_projection.weight"][0, 0] = torch.nan
        safetensors.torch.save_file(tensors, weights, {"format": "pt"})
    elif what == "needs sentencepiece":
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
        tokenizer["tokenizer_class"] = "SiglipTokenizer"
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no safetensors", "only pytorch_model.bin, a pickle.*convert it once"),
        ("cut off", "damaged"),
        ("too shallow", "does not fit its config.json"),
        ("another activation", "activation is 'relu'"),
        ("no preparation", "no preprocessor_config.json, which says"),
        ("no square", "gives no square of 24 pixels"),
        ("no tokenizer", "tokenizer"),
        ("not finite", "not finite"),
        ("needs sentencepiece", "pip install sentencepiece"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(
    what, message, checkpoints, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    shutil.copytree(checkpoints("OpenAI's")[0], tmp_path / "model")
    damage(tmp_path / "model", what)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(tmp_path / "model")
    noise_pictures(1)[0].save(tmp_path / "a.png")
    assert main(["search", str(tmp_path / "model"), "a dog", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("distilclip: error: ") and error.count("\n") == 1


def test_a_run_cannot_go_on_from_one(checkpoints):
    folder = str(checkpoints("OpenAI's")[0])
    with pytest.raises(ValueError, match=r"type 'clip'.*no DistilCLIP to train"):
        settings_of_model(folder)
    with pytest.raises(ValueError, match=r"distilclip\.load_model"):
        DistilCLIP.from_pretrained(folder)

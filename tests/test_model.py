"""Both sides meet in unit vectors, and what is saved is what is loaded."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from samples import mix_modes, modes_of

import distilclip
from distilclip import DistilCLIP, DistilCLIPConfig, ViTConfig
from distilclip.model import Projection
from distilclip.search import ImageIndex, zero_shot_classify
from distilclip.text import TextEncoder

TEXTS = ["a red square", "something blue and rather long to say"]

# In the first releases of transformers 5 it has no class of this name for Pillow alone.
ViTProcessor = getattr(transformers, "ViTImageProcessorPil", None) or transformers.ViTImageProcessor


def images(count=2):
    return [Image.new("RGB", (40 + 9 * i, 33), (50 * i, 90, 200)) for i in range(count)]


def test_forward_gives_unit_vectors_and_their_scaled_cosines(small_model):
    tokens = small_model.tokenize(TEXTS)
    with torch.no_grad():
        output = small_model(torch.randn(3, 3, 32, 32), **tokens)
    assert output.image_embeds.shape == (3, 16)
    assert output.text_embeds.shape == (2, 16)
    for embeds in (output.image_embeds, output.text_embeds):
        assert torch.allclose(embeds.norm(dim=-1), torch.ones(len(embeds)))
    expected = output.image_embeds @ output.text_embeds.T / 0.07
    assert torch.allclose(output.logits_per_image, expected, atol=1e-5)
    assert torch.equal(output.logits_per_text, output.logits_per_image.T)


def test_temperature_is_clamped(small_model):
    with torch.no_grad():
        small_model.log_logit_scale.fill_(50.0)
    assert small_model.logit_scale == 100


def test_encoding_one_by_one_or_together_is_the_same(small_model):
    small_model.train()
    together = small_model.encode_image(images(5), batch_size=2)
    assert small_model.training and not together.requires_grad
    alone = torch.cat([small_model.encode_image(image) for image in images(5)])
    assert torch.allclose(together, alone, atol=1e-6)
    mixed = TEXTS[::-1] * 2  # the long ones first, and not beside each other
    texts = torch.cat([small_model.encode_text(text) for text in mixed])
    assert torch.allclose(small_model.encode_text(mixed, batch_size=2), texts, atol=1e-6)
    assert small_model.encode_text([]).shape == (0, 16)


def freeze_text(model):
    """As training has it where the text encoder does not learn."""
    model.train().text.eval()
    return modes_of(model)


@pytest.mark.parametrize("freeze", [mix_modes, freeze_text])
def test_every_part_keeps_its_mode_whatever_is_encoded(small_model, freeze):
    image_embeds, text_embeds = small_model.encode_image(images()), small_model.encode_text(TEXTS)
    modes = freeze(small_model)
    assert torch.equal(small_model.encode_image(images()), image_embeds)
    assert modes_of(small_model) == modes
    assert torch.equal(small_model.encode_text(TEXTS), text_embeds)
    assert modes_of(small_model) == modes
    for encode, wrong in (
        (small_model.encode_image, [*images(), None]),
        (small_model.encode_image, torch.zeros(2, 5, 16, 16)),
        (small_model.encode_text, [*TEXTS, None]),
    ):
        with pytest.raises(ValueError, match="Expected"):
            encode(wrong)
        assert modes_of(small_model) == modes


def test_pixels_have_one_vector_however_they_are_given(small_model, tmp_path):
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        normalised = (pixels.float() / 255 - 0.5) / 0.5
        expected = small_model.eval().embed_image(normalised)
    assert torch.allclose(small_model.preprocess(pixels), normalised, atol=1e-6)
    arrays = [picture.permute(1, 2, 0).numpy() for picture in pixels]
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    given = {
        "floats": pixels / 255,
        "double floats": pixels.double() / 255,
        "a list of tensors": list(pixels),
        "arrays": arrays,
        "one array": np.stack(arrays),
        "arrays of floats": [array / 255 for array in arrays],
        "tensors of floats": list(pixels / 255),
        "mixed": [arrays[0] / 255, pixels[1]],
        "paths": paths,
        "names": list(map(str, paths)),
        "a generator": (Image.open(path) for path in paths),
    }
    for form, pictures in given.items():
        found = small_model.encode_image(pictures)
        assert torch.allclose(found, expected, atol=1e-5), form
    for alone in (pixels[0], pixels[:1] / 255, arrays[0], paths[0], str(paths[0])):
        assert torch.allclose(small_model.encode_image(alone), expected[:1], atol=1e-5)


def test_pixels_of_any_size_are_seen_as_a_picture_of_that_size_is(small_model):
    for image in images():
        array = np.asarray(image)
        expected = small_model.encode_image(image)
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
        for form in (array, array / 255, tensor, tensor.float() / 255, tensor.unsqueeze(0)):
            assert torch.allclose(small_model.encode_image(form), expected, atol=1e-5)
    grey, faint = np.full((9, 7), 100, np.uint8), np.zeros((9, 7, 4), np.uint8)
    expected = small_model.encode_image(Image.new("RGB", (7, 9), (100, 100, 100)))
    assert torch.allclose(small_model.encode_image(grey), expected, atol=1e-5)
    expected = small_model.encode_image(Image.new("RGB", (7, 9), "white"))
    assert torch.allclose(small_model.encode_image(faint), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (torch.randn(2, 3, 32, 32), r"floats in \[0, 1\], got floats from -.* embed_image"),
        (torch.full((3, 32, 32), 255.0), r"got floats from 255 to 255"),
        (torch.full((3, 9, 9), torch.nan), "got floats from nan"),
        (torch.ones(3, 9, 9, dtype=torch.long), r"got torch\.int64"),
        (np.ones((9, 9, 3), np.int32), "got int32"),
        (np.ones((3, 9, 9)), r"an array \(H, W, 3\) .* got the shape \(3, 9, 9\)"),
        (torch.ones(9, 9, 3), r"tensor \(3, H, W\) .* the shape \(9, 9, 3\)"),
        (torch.ones(9, 9), r"got the shape \(9, 9\)"),
        (np.array(["a.png"]), "Expected pixels"),
        ("no/such.png", "There is no picture no/such.png"),
        (None, "Expected a PIL image, a path, an array"),
        ({"path": "a.png"}, "got a dict"),
    ],
)
def test_what_is_no_picture_is_said(small_model, thing, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        small_model.encode_image(thing)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_any_format_of_numbers_encodes_both_sides(small_model, dtype, tmp_path):
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    given = [pixels, pixels / 255, images()]
    expected = [small_model.encode_image(each) for each in given]
    words = small_model.encode_text(TEXTS)
    small_model.to(dtype)
    assert small_model.normalise(pixels).dtype == dtype
    for each, before in zip(given, expected, strict=True):
        found = small_model.encode_image(each)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, before, atol=0.03, rtol=0)
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))
    torch.testing.assert_close(small_model.encode_text(TEXTS), words, atol=0.03, rtol=0)
    chances = zero_shot_classify(small_model, images(), ["cat", "dog"])
    torch.testing.assert_close(chances.sum(dim=-1), torch.ones(len(chances)))
    for number, image in enumerate(images()):
        image.save(tmp_path / f"{number}.png")
    index = ImageIndex.from_folder(small_model, tmp_path)
    assert index.search("a cat", k=1)[0].score <= 1.01


def test_captions_are_as_long_as_the_text_encoder_has_positions(small_text):
    small_text.model.config.max_position_embeddings = 16
    vision = ViTConfig(image_size=16, patch_size=8, dim=16, depth=1, num_heads=2)
    config = DistilCLIPConfig(vision=vision)
    model = DistilCLIP(config, small_text)
    assert model.config.max_text_length == 16 and config.max_text_length == 64
    assert model.tokenize(["word " * 99])["input_ids"].shape == (1, 16)


@pytest.mark.parametrize("pool", ["first", "mean"])
def test_image_pooling_reads_the_tokens_that_it_names(small_model, pool):
    small_model.config.image_pool = pool
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = small_model.vision(pixels)
        features = tokens[:, 0] if pool == "first" else tokens[:, 1:].mean(1)
        expected = torch.nn.functional.normalize(small_model.image_projection(features), dim=-1)
        assert torch.equal(small_model.embed_image(pixels), expected)


def test_saved_and_loaded_is_the_same(small_model, tmp_path):
    small_model.save_pretrained(tmp_path)
    loaded = DistilCLIP.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode_image(images()), small_model.encode_image(images()))
    assert torch.equal(loaded.encode_text(TEXTS), small_model.encode_text(TEXTS))
    assert loaded.config == DistilCLIPConfig(**(vars(small_model.config) | {"text_pool": "mean"}))
    assert not list(tmp_path.glob("*.bin")) and not list(tmp_path.glob(".*"))


def test_without_text_weights_the_encoder_is_fetched_by_name(small_model, tmp_path):
    text = tmp_path / "text"
    small_model.text.model.save_pretrained(text)
    small_model.text.tokenizer.save_pretrained(text)
    small_model.config.text_model = str(text)
    small_model.save_pretrained(tmp_path / "run", text_weights=False)
    loaded = DistilCLIP.from_pretrained(tmp_path / "run")
    assert torch.equal(loaded.encode_text(TEXTS), small_model.encode_text(TEXTS))
    whole = (text / "model.safetensors").stat().st_size
    assert (tmp_path / "run" / "model.safetensors").stat().st_size < whole


def test_a_pretrained_text_encoder_is_loaded_by_name():
    vision = ViTConfig(image_size=16, patch_size=8, dim=16, depth=1, num_heads=2)
    model = DistilCLIP(DistilCLIPConfig(vision=vision, text_model="minilm"))
    reference = TextEncoder.from_pretrained("minilm").state_dict()
    assert all(torch.equal(reference[name], t) for name, t in model.text.state_dict().items())


def test_folders_that_are_no_model_are_refused(small_model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no file config\.json"):
        DistilCLIP.from_pretrained(tmp_path)
    small_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="does not describe a DistilCLIP"):
        DistilCLIP.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        DistilCLIP.from_pretrained(tmp_path)


def test_weights_of_another_shape_are_refused(small_model, tmp_path):
    small_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision"]["depth"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        DistilCLIP.from_pretrained(tmp_path)
    config["vision"]["depth"], config["embed_dim"] = 2, 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"does not fit its config\.json"):
        DistilCLIP.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_the_old_model(small_model, tmp_path, monkeypatch):
    small_model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with torch.no_grad():
        small_model.log_logit_scale.add_(1)
    with pytest.raises(OSError, match="No space left"):
        small_model.save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def save_pretrained_vit(folder, **preprocessing):
    """A random checkpoint in the layout of google/vit-base-patch16-224-in21k, but small."""
    torch.manual_seed(3)
    config = transformers.ViTConfig(
        image_size=32,
        patch_size=16,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
    )
    vit = transformers.ViTModel(config).eval()
    vit.save_pretrained(folder)
    if preprocessing:
        ViTProcessor(**preprocessing).save_pretrained(folder)
    return vit


def test_pretrained_eyes_see_what_they_saw(small_text, tmp_path):
    theirs = save_pretrained_vit(tmp_path, image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3])
    wanted = ViTConfig(image_size=32, patch_dropout=0.5)
    config = DistilCLIPConfig(vision=wanted, vision_model=str(tmp_path), embed_dim=16)
    model = DistilCLIP(config, small_text).eval()
    assert (model.config.vision.dim, model.config.vision.patch_size) == (24, 16)
    assert model.config.vision.patch_dropout == 0.5
    assert model.config.image_mean == (0.4, 0.5, 0.6)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    processor = ViTProcessor.from_pretrained(tmp_path)
    inputs = processor(list(pixels), do_resize=False, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**inputs).last_hidden_state[:, 0]
        features = model.image_features(model.normalise(pixels))
        assert (features - expected).abs().max() < 1e-5
        assert torch.equal(
            model.embed_image_features(features), model.embed_image(model.normalise(pixels))
        )


def test_pretrained_eyes_at_another_size_are_saved_and_need_not_be_fetched_again(
    small_text, tmp_path
):
    save_pretrained_vit(tmp_path / "vit")
    config = DistilCLIPConfig(
        vision=ViTConfig(image_size=48), vision_model=str(tmp_path / "vit"), embed_dim=16
    )
    model = DistilCLIP(config, small_text).eval()
    assert model.config.vision.image_size == 48 and model.config.image_std == (0.5, 0.5, 0.5)
    model.vision.requires_grad_(False)  # frozen
    model.embed_image(torch.randn(2, 3, 48, 48)).sum().backward()
    assert model.vision.cls_token.grad is None
    assert model.image_projection.linear.weight.grad is not None
    model.save_pretrained(tmp_path / "run")
    shutil.rmtree(tmp_path / "vit")
    loaded = DistilCLIP.from_pretrained(tmp_path / "run")
    assert torch.equal(loaded.encode_image(images()), model.encode_image(images()))


def test_pretrained_eyes_that_are_nowhere_give_one_sentence(small_text):
    with pytest.raises(FileNotFoundError, match="Cannot get 'nobody/nothing'"):
        DistilCLIP(DistilCLIPConfig(vision_model="nobody/nothing"), small_text)


def test_a_projection_starts_as_a_rotation():
    torch.manual_seed(0)
    features = torch.randn(6, 12)
    wider = Projection(12, 20).linear(features)
    torch.testing.assert_close(wider @ wider.T, features @ features.T)
    narrower = Projection(12, 5).linear.weight
    torch.testing.assert_close(narrower @ narrower.T, torch.eye(5))


def test_a_model_is_loaded_where_and_in_what_format_one_likes(small_model, tmp_path):
    small_model.save_pretrained(tmp_path)
    picture = torch.randint(0, 256, (3, 40, 30), dtype=torch.uint8)
    plain = DistilCLIP.from_pretrained(tmp_path)
    half = DistilCLIP.from_pretrained(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert (plain.dtype, half.dtype, half.device.type) == (torch.float32, torch.bfloat16, "cpu")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    for encode, what in (("encode_image", picture), ("encode_text", "a red box")):
        mine, theirs = getattr(plain, encode)(what), getattr(half, encode)(what)
        assert theirs.dtype == torch.float32
        assert F.cosine_similarity(mine, theirs).item() > 0.99


@pytest.mark.parametrize("name", ["DistilCLIP", "PretrainedCLIP", "load_model"])
def test_a_model_has_the_upload_as_a_method(name, small_model, monkeypatch):
    getattr(distilclip, name)
    given = []
    monkeypatch.setattr(
        "distilclip.share.push_to_hub", lambda *a, **s: given.append((a, s)) or "there"
    )
    assert small_model.push_to_hub("me/mine", private=True) == "there"
    assert given == [((small_model, "me/mine"), {"private": True})]

"""The model of a search gives DistilCLIP's vectors, and is there without transformers."""

import json
import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import torch
from PIL import Image
from samples import TEXTS, noise_pictures
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from distilclip import DistilCLIP, DistilCLIPConfig, ImageIndex, ViTConfig
from distilclip.command.search_model import SETTINGS, SearchModel, load_search_model
from distilclip.index.file import image_side_key
from distilclip.text import TextEncoder

WORDS = [
    *filter(None, TEXTS),
    "",
    " ",
    "\t\n\u200b",
    "Café naïve, ZÜRICH!",
    "a 🍎 beside a 👩‍🚒",
    "猫とネズミ",
    "[MASK] [SEP] a [CLS]",
    "don't — “quoted”… 3.14 €",
    "e\u0301clair \x00 \ufffd",
    "word " * 300,
]
VISION = ViTConfig(image_size=32, patch_size=8, dim=32, depth=2, num_heads=4)


def assert_same_vectors(folder):
    """The model of a search does not fall back, and agrees with the whole one."""
    quick, whole = load_search_model(str(folder)), DistilCLIP.from_pretrained(str(folder))
    assert isinstance(quick, SearchModel)
    for texts in (WORDS, WORDS[0], []):
        found, expected = quick.encode_text(texts), whole.encode_text(texts)
        assert torch.allclose(found, expected, atol=2e-6)
    assert quick.read.__qualname__ == "SearchModel.reader.<locals>.read"
    pictures = noise_pictures()
    for images in (pictures, pictures[0], []):
        found, expected = quick.encode_image(images), whole.encode_image(images)
        assert torch.allclose(found, expected, atol=2e-6)
    assert image_side_key(quick) == image_side_key(whole)


def test_the_packaged_model_gives_its_vectors():
    assert_same_vectors("emoji")


def test_saved_models_give_theirs_with_and_without_the_text_encoder(saved):
    assert_same_vectors(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"text_pool": "cls", "image_pool": "first"},
        {"projection_norm": True, "pad_to_max_length": True, "max_text_length": 9},
        {"vision": ViTConfig(**asdict(VISION) | {"cls_token": False, "final_norm": False})},
    ],
)
@pytest.mark.parametrize("with_text", [True, False])
def test_models_of_other_shapes_give_theirs(changes, with_text, tiny_text, tmp_path):
    torch.manual_seed(3)
    settings = {"vision": VISION, "text_model": str(tiny_text), "embed_dim": 16}
    DistilCLIP(DistilCLIPConfig(**settings | changes)).save_pretrained(tmp_path, with_text)
    assert_same_vectors(tmp_path)


def test_a_bert_is_read_as_it_is(tokenizer, tmp_path):
    torch.manual_seed(4)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=64, **shape)
    for parameter in (bert := BertModel(config)).parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    config = DistilCLIPConfig(vision=VISION, text_model=str(tmp_path / "bert"), embed_dim=16)
    DistilCLIP(config).save_pretrained(tmp_path / "model", text_weights=False)
    assert_same_vectors(tmp_path / "model")


def test_every_setting_of_a_model_is_known_here():
    assert {f.name for f in fields(DistilCLIPConfig)} | {"model_type", "text_config"} == SETTINGS


def test_what_is_not_read_in_this_way_is_read_by_the_whole_model(tokenizer, tmp_path):
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "activation": "relu"}
    text = DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **sizes)).eval()
    config = DistilCLIPConfig(vision=VISION, text_model="mine", embed_dim=16)
    whole = DistilCLIP(config, TextEncoder(text, tokenizer, "mean", "mine")).eval()
    whole.save_pretrained(tmp_path)
    quick = load_search_model(str(tmp_path))
    assert torch.allclose(quick.encode_text(WORDS), whole.encode_text(WORDS), atol=2e-6)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(whole.state_dict(), "model-00001-of-00001.safetensors")
    index = json.dumps({"weight_map": names})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert isinstance(load_search_model(str(tmp_path)), DistilCLIP)


@pytest.mark.parametrize(
    "changes",
    [{"embed_dim": 17}, {"unknown": 1}, {"image_pool": "max"}, {"model_type": "bert"}],
)
def test_the_same_is_refused_in_the_same_words(saved, changes):
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError) as expected:
        DistilCLIP.from_pretrained(saved)
    with pytest.raises(ValueError) as found:
        load_search_model(str(saved))
    assert str(found.value) == str(expected.value)


def test_warnings_and_refusals_are_those_of_the_whole_model(saved, caplog):
    quick, whole = load_search_model(str(saved)), DistilCLIP.from_pretrained(saved)
    said = []
    for model in (quick, whole):
        caplog.clear()
        model.encode_text(["ภาษา", "a cat", "word " * 300])
        said.append(caplog.messages)
        with pytest.raises(ValueError, match="holds half a character"):
            model.encode_text(["\ud83d"])
    assert said[0] == said[1] and len(said[0]) == 2


def test_an_index_of_one_serves_the_other(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(noise_pictures()):
        picture.save(folder / f"{number}.png")
    quick, whole = load_search_model(str(saved)), DistilCLIP.from_pretrained(saved)
    ImageIndex.from_folder(quick, folder, progress=False).save(folder / "index.safetensors")
    index = ImageIndex.load(whole, folder / "index.safetensors")
    with Image.open(folder / "3.png") as picture:
        assert index.search(picture, 1)[0].name == "3.png"


SEARCH = """
import sys
from distilclip.command.cli import main
assert main(["search", "emoji", *sys.argv[1:]]) == 0
heavy = {"datasets", "pyarrow", "pandas", "transformers", "distilclip.data"}
heavy |= {"distilclip.training", "distilclip.model", "distilclip.text", "matplotlib"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""


@pytest.mark.slow
def test_a_search_loads_no_training_no_data_sets_and_no_transformers(pictures, tmp_path):
    page = ["--html", str(tmp_path / "found.html")]
    for given in (
        ["a red thing", str(pictures)],  # embeds the folder
        ["a red thing", str(pictures), *page, "--without", "a blue one"],
        [str(pictures), "--image", str(pictures / "red.png")],
    ):
        command = [sys.executable, "-c", SEARCH, *given]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "blue.jpg" in done.stdout

"""A preset fills what is not given, and settings that cannot work are refused."""

import math
from dataclasses import fields

import pytest

from distilclip import TrainConfig


def test_presets_can_be_changed_one_by_one():
    assert TrainConfig(preset="original").batch_size == 64
    assert TrainConfig(preset="original").lr == TrainConfig(preset="original").text_lr == 5e-5
    assert TrainConfig(preset="original").epochs == 25
    assert TrainConfig(preset="t4", epochs=2).epochs == 2


def test_photographs_and_drawings_have_presets_of_their_own():
    photographs, drawings = TrainConfig(preset="t4"), TrainConfig(preset="t4-drawings")
    assert photographs.text_start == 0 and photographs.crop_scale < 1
    assert drawings.augmentation > 0 and drawings.crop_scale == 1
    assert photographs.model_config() == drawings.model_config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "tpu"}, "Unknown preset 'tpu'"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "at least 2"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be a finite number, got nan"),
        ({"lr": math.inf}, "lr must be a finite number, got inf"),
        ({"weight_decay": math.inf}, "weight_decay must be a finite number"),
        ({"augmentation": math.inf}, "augmentation must be a finite number"),
        ({"seed": -1}, r"seed must be at least 0 and below 2\*\*63, got -1"),
        ({"seed": 2**63}, r"seed must be at least 0 and below 2\*\*63"),
        ({"crop_scale": 0.0}, "crop_scale must be above 0 and at most 1, got 0.0"),
        ({"crop_scale": 1.5}, "crop_scale must be above 0 and at most 1, got 1.5"),
        ({"precision": "int8"}, "Unknown precision"),
        ({"captions_per_picture": 0}, "captions_per_picture must be at least 1, got 0"),
        (
            {"captions_per_picture": 2, "mask_positives": False},
            "captions_per_picture above 1 needs mask_positives",
        ),
        ({"micro_batch": -1}, "micro_batch must not be negative, got -1"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"embed_dim": 0}, "embed_dim must be at least 1"),
        ({"image_size": 30}, "image_size 30 is not divisible by patch_size 8"),
        (
            {"epochs": 3, "text_lr": 1e-4, "text_start": 0.9},
            "text_start 0.9 of 3 epochs leaves the text encoder none to learn in",
        ),
        (
            {"epochs": 3, "start_from": "emoji", "vision_start": 0.9},
            "vision_start 0.9 of 3 epochs leaves the ViT none to learn in",
        ),
        ({"vision_start": 0.5}, "vision_start freezes the ViT at first: name a pretrained one"),
        ({"full_size_start": 1.0}, "full_size_start must be in"),
        ({"text_layers": 2}, "text_layers needs a text_lr above 0"),
        ({"text_layers": -1, "text_lr": 1e-4}, "text_layers must not be negative"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


def test_a_missing_tensorboard_is_named_before_anything_starts(config, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        config(tmp_path / "run", tensorboard=True)


@pytest.mark.parametrize("value", ["3", 3.5, [1], {}, None, True, b"x", (1, 2), object()])
@pytest.mark.parametrize("name", [field.name for field in fields(TrainConfig)])
def test_a_setting_of_another_type_is_refused_in_one_sentence(name, value):
    """Or it is what the field may be: nothing ends in an error of Python's own."""
    if (name, value) == ("vision_model", None):  # as version 0.1 wrote "none"
        return
    try:
        TrainConfig(**{name: value})
    except (ValueError, FileNotFoundError) as error:
        assert "\n" not in str(error) and str(error).endswith("."), error
    else:
        kinds = {"text": str, "number": (int, float)}
        assert isinstance(value, (kinds["text"], *kinds["number"])), (name, value)

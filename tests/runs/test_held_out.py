"""A picture that does not decode ends a run before its first step, whatever its split."""

import pytest
from samples import folder_of

from distilclip import TrainConfig, load_pairs, train
from distilclip.runs.held_out import check_held_out

TINY = {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "num_heads": 2}


def make(folder, split):
    """Train, validation and test, and half a picture in `split`, or in none of them."""
    for each in ("train", "validation", "test"):
        folder_of(folder / each, 12)
        for number, file in enumerate(sorted((folder / each).glob("*.png"))):
            content = file.read_bytes() + f"{each} {number}".encode()  # no two alike
            file.write_bytes(content)
    if split:
        broken = folder / split / "p7.png"
        broken.write_bytes(broken.read_bytes()[:60])
    return folder


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_broken_picture_ends_a_run_before_its_first_step(split, tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr("distilclip.training.take_steps", lambda *_: steps.append(1))
    data, out = make(tmp_path / "data", split), tmp_path / "run"
    config = TrainConfig(data=str(data), out=str(out), batch_size=4, epochs=1, **TINY)
    with pytest.raises(ValueError, match=rf"Cannot decode the image '{split}/p7.png'.*skip"):
        train(config, progress=False)
    assert not steps and not (out / "model.safetensors").exists()


def test_whole_pictures_pass_and_skipped_ones_are_not_met(tmp_path):
    check_held_out(load_pairs(make(tmp_path / "whole", "")))
    pairs = load_pairs(make(tmp_path / "broken", "test"), skip_broken=True)
    check_held_out(pairs)
    assert len(pairs["test"]) == 11

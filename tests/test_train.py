"""Training trains, stops and goes on as if nothing had happened, and refuses what cannot work."""

import json
import math
import sys

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from distilclip import DistilCLIP, TrainConfig, train
from distilclip.train import autocast, learning_rate

COLOURS = ["red", "green", "blue", "yellow", "black", "orange", "purple", "grey"]


@pytest.fixture(scope="module")
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


def config(data, out, **changes):
    settings = {
        "image_size": 32,
        "patch_size": 8,
        "dim": 32,
        "depth": 2,
        "num_heads": 2,
        "embed_dim": 32,
        "epochs": 3,
        "batch_size": 16,
        "lr": 2e-3,
        "augmentation": 0.0,
        "precision": "float32",
        "evaluations": 3,
    }
    return TrainConfig(data=str(data), out=str(out), **(settings | changes))


def test_learning_starts_at_ln_n_and_learns(shapes, tmp_path):
    result = train(config(shapes, tmp_path / "run", epochs=40), progress=False)
    losses = [line["loss"] for line in result.history if line["kind"] == "epoch"]
    assert len(losses) == 40
    # With random towers a batch of 16 is a guess among 16.
    assert losses[0] == pytest.approx(math.log(16), abs=0.6)
    assert losses[-1] < 0.7 * math.log(16)
    test = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert test["split"] == "test" and test["t2i_r5"] == result.metrics["test"]["t2i_r5"]
    loaded = DistilCLIP.from_pretrained(tmp_path / "run")
    picture = Image.open(shapes / "20.png")
    assert torch.equal(loaded.encode_image(picture), result.model.encode_image(picture))
    words = [f"a {colour} box in column 0 of the top" for colour in COLOURS]
    scores = (loaded.encode_image(picture) @ loaded.encode_text(words).T)[0]
    assert COLOURS[scores.argmax()] == "blue"


def test_a_locked_text_encoder_stays_as_it_was_and_a_tuned_one_moves(shapes, tmp_path):
    start = DistilCLIP(config(shapes, tmp_path).model_config()).text.state_dict()
    for text_lr in (0.0, 1e-4):
        out = tmp_path / f"run{text_lr}"
        result = train(config(shapes, out, epochs=1, text_lr=text_lr), progress=False)
        same = all(torch.equal(start[n], t) for n, t in result.model.text.state_dict().items())
        assert same == (text_lr == 0)


@pytest.mark.parametrize("text_lr", [0.0, 1e-4])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_ends_with_the_same_weights(shapes, tmp_path, monkeypatch, stop, text_lr):
    changes = {"text_lr": text_lr, "dropout": 0.1, "patch_dropout": 0.25, "augmentation": 1.0}
    changes["epochs"] = 3 if text_lr == 0 else 2
    whole = train(config(shapes, tmp_path / "whole", **changes), progress=False)
    module = sys.modules["distilclip.train"]  # distilclip.train itself is the function
    step = module.train_step
    calls = []

    def stopping(*arguments):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(1)
        return step(*arguments)

    monkeypatch.setattr(module, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt, match=f"Stopped at step {stop}"):
        train(config(shapes, tmp_path / "part", **changes), progress=False)
    monkeypatch.setattr(module, "train_step", step)
    resumed = train(config(shapes, tmp_path / "part", resume=True, **changes), progress=False)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    files = [load_file(tmp_path / d / "training_state.safetensors") for d in ("whole", "part")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][n], files[1][n]) for n in files[0])
    curves = [[h["loss"] for h in r.history if h["kind"] == "epoch"] for r in (whole, resumed)]
    assert curves[1][-1] == pytest.approx(curves[0][-1])


def test_a_finished_run_resumes_to_itself(shapes, tmp_path):
    first = train(config(shapes, tmp_path / "run"), progress=False)
    again = train(config(shapes, tmp_path / "run", resume=True), progress=False)
    assert first.metrics == again.metrics and first.history == again.history


def test_bfloat16_learns_what_float32_learns(shapes, tmp_path):
    curves = []
    for precision in ("float32", "bfloat16"):
        run = config(shapes, tmp_path / precision, precision=precision, epochs=6)
        history = train(run, progress=False).history
        curves.append([line["loss"] for line in history if line["kind"] == "epoch"])
    assert curves[0] == pytest.approx(curves[1], rel=0.05)
    with autocast(torch.device("cpu"), "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0 and rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[100] == pytest.approx(0)
    assert rates[55] == pytest.approx(0.5)
    assert learning_rate(0, 100, 0.0) == 1.0


def test_presets_can_be_changed_one_by_one():
    assert TrainConfig(preset="original").batch_size == 64
    assert TrainConfig(preset="original").lr == TrainConfig(preset="original").text_lr == 5e-5
    assert TrainConfig(preset="original").epochs == 25
    assert TrainConfig(preset="t4", epochs=2).epochs == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "tpu"}, "Unknown preset 'tpu'"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 1}, "at least 2"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"precision": "int8"}, "Unknown precision"),
        ({"image_size": 30}, "image_size 30 is not divisible by patch_size 8"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)


def test_nothing_is_left_behind_where_the_data_are_at_fault(shapes, tmp_path):
    with pytest.raises(ValueError, match="fewer than one batch of 500"):
        train(config(shapes, tmp_path / "run", batch_size=500), progress=False)
    with pytest.raises(ValueError, match="Unknown data source"):
        train(config("nothing", tmp_path / "run"), progress=False)
    with pytest.raises(FileNotFoundError, match="Cannot get 'no/where'"):
        train(config(shapes, tmp_path / "run", text_model="no/where"), progress=False)
    assert not (tmp_path / "run").exists()


def test_another_run_is_never_overwritten(shapes, tmp_path):
    train(config(shapes, tmp_path / "run", epochs=1), progress=False)
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(FileExistsError, match="is not empty: add --resume"):
        train(config(shapes, tmp_path / "run", epochs=1), progress=False)
    with pytest.raises(ValueError, match=r"was started with lr 0\.002"):
        train(config(shapes, tmp_path / "run", epochs=1, lr=1e-4, resume=True), progress=False)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_damaged_or_absent_state_is_named(shapes, tmp_path):
    with pytest.raises(FileNotFoundError, match="Nothing to resume"):
        train(config(shapes, tmp_path / "run", resume=True), progress=False)
    train(config(shapes, tmp_path / "run", epochs=1), progress=False)
    state = tmp_path / "run" / "training_state.safetensors"
    whole = state.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        state.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is damaged and cannot be resumed"):
            train(config(shapes, tmp_path / "run", epochs=1, resume=True), progress=False)


def test_a_loss_that_is_no_number_stops_the_run(shapes, tmp_path, monkeypatch):
    train_module = sys.modules["distilclip.train"]
    monkeypatch.setattr(
        train_module, "contrastive_loss", lambda *_: torch.tensor(math.nan, requires_grad=True)
    )
    with pytest.raises(FloatingPointError, match="The loss became nan at step 0"):
        train(config(shapes, tmp_path / "run"), progress=False)

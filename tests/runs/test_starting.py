"""A run that goes on from a model: its shape, its weights, exactly resumed, and what is refused."""

import json
import shutil

import pytest
import torch
from recorded_runs import assert_same_weights, losses
from samples import rest_slow

import distilclip.training as training
from distilclip import DistilCLIP, TrainConfig, load_pairs, train
from distilclip.runs.checkpoint import STATE_FILE
from distilclip.runs.settings import OF_THE_MODEL
from distilclip.runs.starting import first_model, hash_of, settings_of_model, with_replay
from distilclip.training import start_run

CPU = torch.device("cpu")
SHAPE = ("text_model", "image_size", "patch_size", "dim", "depth", "num_heads", "embed_dim")


@pytest.fixture
def tune(shapes):
    """A short run that goes on from a model."""

    def make(start_from, out, **changes):
        settings = {
            "data": str(shapes),
            "device": "cpu",
            "epochs": 2,
            "batch_size": 16,
            "precision": "float32",
            "evaluations": 0,
        }
        return TrainConfig(start_from=str(start_from), out=str(out), **(settings | changes))

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes, tiny_text):
    """A run's folder: the ViT, and the text encoder, too, have learned for two epochs."""
    out = tmp_path_factory.mktemp("runs") / "first"
    sizes = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "num_heads": 2}
    settings = {"text_model": str(tiny_text), "embed_dim": 32, "image_pool": "first"}
    settings |= {"epochs": 2, "batch_size": 16, "lr": 2e-3, "text_lr": 1e-3, "evaluations": 0}
    config = TrainConfig(
        data=str(shapes), out=str(out), device="cpu", precision="float32", **sizes, **settings
    )
    train(config, progress=False)
    return out


def test_the_shape_is_that_of_the_model_and_the_preset_is_tune(trained, tune, tmp_path):
    config = tune(trained, tmp_path / "next")
    before = json.loads((trained / "train_config.json").read_text())
    assert config.preset == "tune" and config.image_pool == "first"
    assert [getattr(config, name) for name in SHAPE] == [before[name] for name in SHAPE]
    assert tune(trained, tmp_path / "next", preset="t4", epochs=3).image_size == 32
    assert TrainConfig(preset="tune").start_from == "emoji"
    assert settings_of_model("emoji").keys() == set(OF_THE_MODEL)


def test_the_first_weights_are_those_of_the_model(trained, tune, tmp_path):
    run = start_run(tune(trained, tmp_path / "next"), CPU)
    model = DistilCLIP.from_pretrained(trained)
    assert_same_weights(run.model, model)
    assert run.start == hash_of(model)
    assert not start_run(TrainConfig(**SMALL), CPU).start


SMALL = {"dim": 32, "depth": 1, "num_heads": 2, "precision": "float32"}


def test_pictures_may_come_in_another_size(trained, tune, tmp_path):
    run = start_run(tune(trained, tmp_path / "next", image_size=48, patch_dropout=0.25), CPU)
    model = DistilCLIP.from_pretrained(trained)
    pixels = torch.rand(3, 3, 48, 48)
    with torch.no_grad():
        found = run.model.eval().embed_image(pixels)
        assert torch.allclose(found, model.embed_image(pixels, any_size=True), atol=1e-5)
    assert run.model.config.vision.image_size == 48
    assert run.model.vision.config.patch_dropout == 0.25


def test_a_run_goes_on_where_the_other_one_stopped(trained, tune, tmp_path):
    before = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    result = train(tune(trained, tmp_path / "next", flip=False), progress=False)
    first, *_, last = losses(before)
    assert losses(result.history)[0] < (first + last) / 2 < first


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},  # the text encoder, which had learned, is frozen now
        {"text_lr": 1e-4, "ema": 0.9},
        {"text_lr": 1e-4, "text_layers": 1, "image_size": 48},
        {"vision_lr": 0.0, "text_lr": 1e-3},
        {"learn_temperature": False},
        {"replay": 1.0},
    ],
)
def test_a_resumed_run_ends_as_if_nothing_had_happened(
    trained, tune, tmp_path, monkeypatch, changes
):
    start = tmp_path / "start"
    shutil.copytree(trained, start)
    whole = train(tune(start, tmp_path / "whole", **changes), progress=False)
    step, calls = training.train_step, []

    def stopping(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt, match="Stopped at step 3"):
        train(tune(start, tmp_path / "part", **changes), progress=False)
    monkeypatch.setattr(training, "train_step", step)
    shutil.rmtree(start)  # what a run needs of it lies in the run's own folder
    resumed = train(tune(start, tmp_path / "part", resume=True, **changes), progress=False)
    assert_same_weights(whole.model, resumed.model)
    assert losses(whole.history) == losses(resumed.history)


@pytest.mark.slow
def test_a_run_killed_before_it_wrote_its_model_reads_the_other_one_again(
    trained, tune, tmp_path, monkeypatch
):
    start, out = tmp_path / "start", tmp_path / "run"
    shutil.copytree(trained, start)

    def stop(*arguments):
        raise KeyboardInterrupt

    whole = train(tune(trained, tmp_path / "whole"), progress=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "train_step", stop)
        train(tune(start, out), progress=False)
    for file in out.iterdir():
        if file.name != STATE_FILE:
            file.unlink()
    shutil.copytree(out, tmp_path / "changed")
    resumed = train(tune(start, out, resume=True), progress=False)
    assert_same_weights(whole.model, resumed.model)
    other = DistilCLIP.from_pretrained(start)
    with torch.no_grad():
        other.image_projection.linear.weight += 1
    other.save_pretrained(start)
    with pytest.raises(ValueError, match=r"has changed since the run in .* was started"):
        train(tune(start, tmp_path / "changed", resume=True), progress=False)


def test_a_run_is_resumed_with_the_model_that_it_started_from(trained, tune, tmp_path, monkeypatch):
    train(tune(trained, tmp_path / "run", epochs=1), progress=False)
    with pytest.raises(ValueError, match=r"was started with start_from '.*first'"):
        train(tune("emoji", tmp_path / "run", epochs=1, resume=True), progress=False)
    with pytest.raises(ValueError, match="cannot start from its own folder"):
        tune(tmp_path / "run", tmp_path / "run" / ".." / "run", resume=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()
    assert tune("emoji", "emoji").dim == 192  # that is the packaged model, not the folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 64}, "dim 64 contradicts start_from: emoji is a model with dim 192. Leave dim"),
        ({"text_model": "bert-base-cased"}, "text_model 'bert-base-cased' contradicts"),
        ({"text_pool": "cls"}, "text_pool 'cls' contradicts start_from"),
        ({"vision_model": "google/vit-base-patch16-224"}, "each bring a ViT"),
        ({"image_size": 50}, "image_size 50 is not divisible by patch_size 8"),
        ({"start_from": "/nowhere/at all"}, "There is no folder /nowhere/at all"),
        ({"start_from": "owner/unknown"}, "Cannot get 'owner/unknown'"),
    ],
)
def test_what_contradicts_is_refused(changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TrainConfig(**{"start_from": "emoji"} | changes)


def test_a_folder_without_a_model_is_refused(tmp_path, tiny_text):
    with pytest.raises(FileNotFoundError, match=r"no model to start from in .*no config.json"):
        settings_of_model(str(tmp_path))
    with pytest.raises(ValueError, match="does not describe a DistilCLIP model"):
        settings_of_model(str(tiny_text))


def test_settings_that_were_all_given_are_compared_when_the_run_begins(trained, tmp_path):
    config = TrainConfig(**SMALL)
    with pytest.raises(ValueError, match="contradicts start_from"):
        first_model(config.model_config(), str(trained))


@pytest.mark.parametrize("source", rest_slow(["shapes", "scenes"]))
def test_replay_puts_bundled_drawings_behind_one_s_own(shapes, source):
    rows = load_pairs(str(shapes) if source == "shapes" else source)["train"]
    known = load_pairs("emoji")["train"]
    more = with_replay(rows, 0.5)
    own, others = more.select(range(len(rows))), more.select(range(len(rows), len(more)))
    assert own["image_id"] == rows["image_id"] and own["captions"] == rows["captions"]
    assert len(others) == round(0.5 * len(rows))
    captions = dict(zip(known["image_id"], known["captions"], strict=True))
    assert all(captions[row["image_id"]] == row["captions"] for row in others)
    assert more["image_id"] == with_replay(rows, 0.5)["image_id"]
    assert with_replay(rows, 1e-9) is rows
    assert len(with_replay(rows, 1e9)) == len(rows) + len(known)


def test_replay_shows_no_drawing_twice():
    known = load_pairs("emoji")["train"]
    assert with_replay(known, 1.0) is known
    half = known.select(range(0, len(known), 2))
    both = with_replay(half, 9.0)["image_id"]
    assert sorted(both) == sorted(known["image_id"])


@pytest.mark.slow
def test_a_run_with_replay_is_longer_and_says_so(trained, tune, tmp_path, caplog):
    caplog.set_level("INFO", "distilclip")
    plain = train(tune(trained, tmp_path / "plain"), progress=False)
    assert "bundled drawings" not in caplog.text
    whole = train(tune(trained, tmp_path / "whole", replay=0.5), progress=False)
    pictures = len(load_pairs(tune(trained, "any").data)["train"])
    together = pictures + round(pictures / 2)
    steps = [max(line["step"] for line in run.history) for run in (plain, whole)]
    assert steps == [2 * (pictures // 16), 2 * (together // 16)]
    assert plain.metrics["test"].keys() == whole.metrics["test"].keys()
    said = f"{round(pictures / 2)} bundled drawings are learned beside the {pictures} pictures."
    assert said in caplog.text


@pytest.mark.slow
def test_a_batch_is_filled_by_what_is_there(trained, tune, tmp_path):
    pictures = len(load_pairs(tune(trained, "any").data)["train"])
    for share in (0.25, 0.5, 1 / 3):
        drawings = round(share * pictures)
        fits, whole = {"replay": share, "epochs": 1}, pictures + drawings
        config = tune(trained, tmp_path / f"{share}", batch_size=whole, **fits)
        assert train(config, progress=False).history[-1]["kind"] == "final"
        text = rf"{pictures} training pictures and {drawings} drawings beside them, fewer"
        with pytest.raises(ValueError, match=text):
            train(tune(trained, tmp_path / "more", batch_size=whole + 1, **fits), progress=False)


def test_replay_is_asked_for_and_not_for_a_stream():
    assert TrainConfig(start_from="emoji").replay == 0
    with pytest.raises(ValueError, match="replay does not work with streaming"):
        TrainConfig(start_from="emoji", streaming=True, replay=0.5)

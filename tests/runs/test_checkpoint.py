"""A resumed run ends as if nothing had happened; a state that does not fit is refused."""

import json
import random
import re
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from recorded_runs import assert_same_weights, losses
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from samples import folder_of, picture, rest_slow

import distilclip.training as training
from distilclip import TrainConfig, load_pairs, train
from distilclip.runs.checkpoint import STATE_FILE, pictures_hash, read_state
from distilclip.runs.settings import PRESETS
from distilclip.training import start_run

RANDOM = {"dropout": 0.1, "patch_dropout": 0.25, "augmentation": 1.0, "flip": True}

RESUMED = [  # after how many steps, of a run with which settings
    (1, {}),
    (3, {}),
    (5, {"text_lr": 1e-4}),
    (2, {"ema": 0.9}),
    (3, {"text_lr": 1e-4, "captions_per_picture": 2, "sort_captions": True}),
    (5, {"text_lr": 1e-4, "ema": 0.99, "micro_batch": 5}),
    (5, {"precision": "float16"}),
    (3, {"precision": "bfloat16"}),
    (2, {"text_lr": 1e-4, "text_start": 0.5, "ema": 0.9}),
    (3, {"text_lr": 1e-4, "text_start": 0.5}),  # the first step in which the captions learn
    (5, {"text_lr": 1e-4, "text_start": 0.5}),
    (3, {"text_lr": 1e-4, "text_layers": 1, "text_start": 0.5}),
    (2, {"vision_start": 0.5}),
    (3, {"vision_start": 0.5, "ema": 0.9}),  # the ViT's first step
    (5, {"text_lr": 1e-4, "text_layers": 1, "micro_batch": 5, "ema": 0.9}),
    (2, {"full_size_start": 0.5, "precision": "bfloat16"}),
    (3, {"full_size_start": 0.5}),  # the first step with pictures of full size
]


@pytest.mark.parametrize(("stop", "changes"), rest_slow(RESUMED))
def test_a_resumed_run_ends_with_the_same_weights(
    config, tmp_path, tiny_vit, monkeypatch, stop, changes
):
    changes = RANDOM | {"epochs": 2} | changes
    if "vision_start" in changes:
        changes["vision_model"] = tiny_vit
    whole = train(config(tmp_path / "whole", **changes), progress=False)
    step, calls = training.train_step, []

    def stopping(*arguments):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(1)
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", stopping)
    with pytest.raises(KeyboardInterrupt, match=f"Stopped at step {stop}"):
        train(config(tmp_path / "part", **changes), progress=False)
    monkeypatch.setattr(training, "train_step", step)
    resumed = train(config(tmp_path / "part", resume=True, **changes), progress=False)
    assert_same_weights(whole.model, resumed.model)
    files = [load_file(tmp_path / d / STATE_FILE) for d in ("whole", "part")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][n], files[1][n]) for n in files[0])
    assert losses(whole.history) == losses(resumed.history)
    states = [read_state(tmp_path / d, config(tmp_path, **changes)) for d in ("whole", "part")]
    assert states[0]["scaler"] == states[1]["scaler"]
    assert bool(states[0]["scaler"]) == (changes.get("precision") == "float16")


def test_a_finished_run_resumes_to_itself(config, tmp_path):
    first = train(config(tmp_path / "run"), progress=False)
    again = train(config(tmp_path / "run", resume=True), progress=False)
    assert first.metrics == again.metrics and first.history == again.history


def test_a_run_is_not_resumed_on_other_pairs(config, shapes, tmp_path):
    folder = tmp_path / "shapes"
    shutil.copytree(shapes, folder)
    first = train(config(tmp_path / "run", data=str(folder)), progress=False)
    state = (tmp_path / "run" / STATE_FILE).read_bytes()
    rest = {"data": str(folder), "resume": True}
    caption = folder / Path(load_pairs(folder)["train"]["image_id"][0]).with_suffix(".txt")
    before = caption.read_text()
    caption.write_text("something else")
    with pytest.raises(ValueError, match=r"The training pairs of .* have changed"):
        train(config(tmp_path / "run", **rest), progress=False)
    assert (tmp_path / "run" / STATE_FILE).read_bytes() == state
    caption.write_text(before)
    assert train(config(tmp_path / "run", **rest), progress=False).metrics == first.metrics


def test_a_setting_that_an_older_version_did_not_know_was_off_then(config, tmp_path):
    changes = {"preset": "t4", "text_start": 0.0, "epochs": 1}
    train(config(tmp_path, **changes), progress=False)
    file = tmp_path / STATE_FILE
    with safe_open(file, "pt") as opened:
        state = json.loads(opened.metadata()["state"])
    del state["config"]["text_start"]
    save_file(load_file(file), file, {"state": json.dumps(state)})
    read_state(tmp_path, config(tmp_path, **changes))
    with pytest.raises(ValueError, match=r"started with text_start 0\.0: resume with the same"):
        read_state(tmp_path, config(tmp_path, **changes | {"text_start": 0.5}))


def test_what_a_preset_was_called_does_not_matter_but_its_settings_do(config, tmp_path):
    old = PRESETS["t4-drawings"] | {"crop_scale": 1.0}
    shape = {"patch_size": 8, "text_model": config(tmp_path).text_model, "device": "cpu"}
    shape |= {"image_size": 32, "dim": 32, "depth": 1, "num_heads": 2, "batch_size": 16}
    about = {"data": config(tmp_path).data, "out": str(tmp_path), "epochs": 1}
    train(TrainConfig(preset="t4", **old | shape | about), progress=False)
    read_state(tmp_path, TrainConfig(preset="t4-drawings", **shape | about))
    with pytest.raises(ValueError, match=r"started with .*text_start 0\.5"):
        read_state(tmp_path, TrainConfig(preset="t4", **shape | about))


def files_of(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_another_run_is_never_overwritten(config, tmp_path):
    train(config(tmp_path / "run", epochs=1), progress=False)
    before = files_of(tmp_path / "run")
    with pytest.raises(FileExistsError, match="is not empty: add --resume"):
        train(config(tmp_path / "run", epochs=1), progress=False)
    with pytest.raises(ValueError, match=r"was started with lr 0\.002"):
        train(config(tmp_path / "run", epochs=1, lr=1e-4, resume=True), progress=False)
    assert files_of(tmp_path / "run") == before


def test_a_damaged_or_absent_state_is_named(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="Nothing to resume"):
        train(config(tmp_path / "run", resume=True), progress=False)
    train(config(tmp_path / "run", epochs=1), progress=False)
    state = tmp_path / "run" / STATE_FILE
    whole = state.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        state.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is damaged and cannot be resumed"):
            train(config(tmp_path / "run", epochs=1, resume=True), progress=False)


def test_a_state_of_another_model_is_refused(config, tmp_path):
    settings = config(tmp_path / "run", epochs=1)
    train(settings, progress=False)
    saved = read_state(tmp_path / "run", settings)
    for name, tensor, message in (
        ("model.image_projection.linear.weight", torch.zeros(2, 2), "is another tensor"),
        ("model.nothing", torch.zeros(1), "is another tensor"),
        ("optimizer.log_logit_scale.exp_avg", torch.zeros(2), "is another tensor"),
        ("optimizer.0.exp_avg", torch.zeros(2), "is another tensor"),
        ("model.log_logit_scale", None, "is missing"),
    ):
        tensors = {n: t for n, t in (saved["tensors"] | {name: tensor}).items() if t is not None}
        with pytest.raises(ValueError, match=message):
            start_run(settings, torch.device("cpu"), saved | {"tensors": tensors})


@pytest.mark.parametrize("change", rest_slow(["one byte", "swapped", "repainted"]))
def test_a_run_is_not_resumed_on_other_pictures(config, shapes, tmp_path, change):
    """Of the same names, with the same captions; a copy elsewhere, of any age, is the same."""
    data = shutil.copytree(shapes, tmp_path / "data")
    train(config(tmp_path / "run", data=str(data)), progress=False)
    copy = tmp_path / "copy"
    shutil.copytree(data, copy, copy_function=shutil.copyfile)
    moved = data.rename(tmp_path / "moved")
    copy.rename(data)  # the same path, and other inodes and times
    resumed = config(tmp_path / "run", data=str(data), resume=True)
    train(resumed, progress=False)
    names = [row["image_id"] for row in load_pairs(data)["train"].remove_columns("image")]
    first, second = (data / name for name in names[:2])
    if change == "swapped":
        shutil.copyfile(moved / first.name, second)
        shutil.copyfile(moved / second.name, first)
    elif change == "repainted":
        picture(first, "pink", (32, 32))
    else:
        content = bytearray(first.read_bytes())
        content[len(content) // 2] ^= 1
        first.write_bytes(content)
    with pytest.raises(ValueError, match=r"Pictures of .* have changed since the run"):
        train(resumed, progress=False)


def test_a_run_is_not_resumed_with_another_text_encoder(config, tiny_text, tmp_path):
    text = shutil.copytree(tiny_text, tmp_path / "text")
    train(config(tmp_path / "run", text_model=str(text)), progress=False)
    tensors = load_file(text / "model.safetensors")
    name = min(tensors)
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, text / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"The frozen weights, .* have changed"):
        train(config(tmp_path / "run", text_model=str(text), resume=True), progress=False)


def test_a_flipped_bit_anywhere_in_a_state_is_refused(config, tmp_path):
    train(config(tmp_path / "run"), progress=False)
    file = tmp_path / "run" / STATE_FILE
    whole = file.read_bytes()
    resumed = config(tmp_path / "run", resume=True)
    read_state(tmp_path / "run", resumed)
    draw = random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [draw.randrange(header) for _ in range(60)]
    places += [draw.randrange(header, len(whole)) for _ in range(60)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged and cannot be resumed from"):
            read_state(tmp_path / "run", resumed)
    file.write_bytes(whole)
    read_state(tmp_path / "run", resumed)


def test_the_hash_of_pictures_tells_bytes_from_files(tmp_path):
    """The same for both, and another for any other order."""
    folder = folder_of(tmp_path / "pictures", 12)
    rows = load_pairs(folder)["train"]
    contents = [(folder / name).read_bytes() for name in rows["image_id"]]
    held = rows.remove_columns("image").add_column("image", contents)
    held = held.cast_column("image", datasets.Image())
    assert pictures_hash(held) == pictures_hash(rows)
    assert pictures_hash(rows.select(range(len(rows))[::-1])) != pictures_hash(rows)


def contents_of(file):
    """What a state says, and its tensors."""
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return json.loads(opened.metadata()["state"]), tensors


@pytest.mark.slow
def test_any_value_in_a_state_is_resumed_from_or_refused_in_one_sentence(config, tmp_path):
    """As by hand, without the checksum, which would betray it."""
    train(config(tmp_path / "run"), progress=False)
    file, resumed = tmp_path / "run" / STATE_FILE, config(tmp_path / "run", resume=True)
    state, tensors = contents_of(file)
    values = [None, -1, 1.5, "x", [], {}, [1], {"a": 1}, True, 10**30]
    places = [(state, name) for name in state]
    places += [(state["config"], name) for name in state["config"]]
    places += [(state["history"], 0), (state["history"][0], "kind")]
    refused = 0
    for holder, name in places:
        before = holder[name]
        for value in random.Random(str(name)).sample(values, 3):
            holder[name] = value
            save_file(tensors, file, {"state": json.dumps(state)})
            try:
                read_state(tmp_path / "run", resumed)
            except ValueError as error:
                refused += 1
                assert "\n" not in str(error) and str(error).endswith("."), error
                assert not re.search("NoneType|not supported|unexpected|object is", str(error))
        holder[name] = before
    assert refused > 100


def test_a_state_whose_step_is_not_where_its_epochs_end_is_refused(config, tmp_path):
    """As by hand: a resumed run would leave out steps, or divide by none."""
    train(config(tmp_path / "run"), progress=False)
    file, resumed = tmp_path / "run" / STATE_FILE, config(tmp_path / "run", resume=True)
    state, tensors = contents_of(file)
    lines = [line for line in state["history"] if line["kind"] == "epoch"]
    for change in ({"step": state["step"] - 1}, {"history": lines[:-1]}, {"step": 0}):
        save_file(tensors, file, {"state": json.dumps(state | change)})
        with pytest.raises(ValueError, match=r"is damaged: it says step \d+, but \d+ epochs"):
            train(resumed, progress=False)

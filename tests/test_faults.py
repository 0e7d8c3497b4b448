"""Nothing is lost: kills, Ctrl-C, full disks, damaged files and rivals, anywhere in a run."""

import json
import os
import random
import resource
import shutil
import signal
import time

import fault_worker
import pytest
import torch
from fault_worker import STEPS, configure, run, start, together
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from samples import rest_slow
from transformers import DistilBertConfig, DistilBertModel

from distilclip import DistilCLIP, DistilCLIPConfig, ImageIndex, TextEncoder, ViTConfig, load_pairs
from distilclip.command.cli import main
from distilclip.command.index_cache import folder_index
from distilclip.data import decode_pixels
from distilclip.runs import checkpoint
from distilclip.runs.checkpoint import STATE_FILE, hold_folder, read_state, uninterrupted
from distilclip.storage.files import remove_leftovers


@pytest.fixture(autouse=True)
def ctrl_c_works():
    """Also where the tests run in the background, and a shell has switched it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_text):
    """A folder that other users can enter, with forty pictures in it."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "data").mkdir()
    for number in range(40):
        Image.new("RGB", (16, 16), (6 * number, 255 - 6 * number, 99)).save(
            folder / "data" / f"{number}.png"
        )
        (folder / "data" / f"{number}.txt").write_text(f"shade {number}\nnumber {number}\n")
    return folder


@pytest.fixture(scope="module")
def config(place, tiny_text):
    return lambda out, **changes: configure(place / "data", tiny_text, out, **changes)


@pytest.fixture(scope="module")
def whole(place, config):
    """The run to which nothing happens, and how many calls it makes."""
    end, calls = run(config(place / "whole"), "any call", 0)
    assert end == "done"
    return place / "whole", calls


def weights(folder):
    return load_file(folder / STATE_FILE) | {
        f"saved {name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()
    }


def lines(folder):
    """The lines of metrics.jsonl, less what a clock decides."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = ("seconds", "images_per_second", "waiting", "peak_memory_mib")
    return [{k: v for k, v in line.items() if k not in measured} for line in read]


def assert_same(folder, whole):
    """Bitwise the same weights, moments, average and model; the same metrics; the same files."""
    ours, theirs = weights(folder), weights(whole)
    assert ours.keys() == theirs.keys()
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert not different
    assert lines(folder) == lines(whole)
    names = [{p.relative_to(f) for p in f.rglob("*")} for f in (folder, whole)]
    assert names[0] == names[1]


def go_on(config, out):
    """Resume a run, or start it where it never got as far as its first state."""
    return run(config(out, resume=(out / STATE_FILE).is_file()))


KILLS = [
    ("half a file", 6),
    ("before a rename", 1),  # the first state of all
    ("after a rename", 1),  # a state, and nothing else yet
    ("before a rename", 4),
    ("before a rename", 15),
    ("after a rename", 16),
    ("after a rename", 33),
    ("half a file", 1),
    ("half a file", 11),
    ("before AdamW", 1),
    ("after AdamW", 6),
    ("after AdamW", STEPS),
    ("samples", 2),
    ("evaluation", 1),
    ("evaluation", 3),
]


@pytest.mark.parametrize(("fault", "at"), rest_slow(KILLS))
def test_killed_at_a_chosen_point(whole, config, tmp_path, fault, at):
    assert run(config(tmp_path / "run"), fault, at) == ("killed", 9)
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_killed_anywhere(whole, config, tmp_path, number):
    """At a call drawn at random from all the calls of the run, in Python or below."""
    at = random.Random(number).randrange(1, int(0.98 * whole[1]))
    assert run(config(tmp_path / "run"), "any call", at) == ("killed", 9)
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_killed_again_and_again(whole, config, tmp_path):
    for at in (3, 2, 3, 1):
        resume = (tmp_path / "run" / STATE_FILE).is_file()
        assert run(config(tmp_path / "run", resume=resume), "after AdamW", at) == ("killed", 9)
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


INTERRUPTS = [
    ("Ctrl-C before AdamW", 6),
    ("Ctrl-C after AdamW", 6),
    ("Ctrl-C after AdamW", 4),
    ("Ctrl-C in a save", 20),
    ("Ctrl-C in an evaluation", 1),
    ("Ctrl-C in an evaluation", 3),
]


@pytest.mark.parametrize(("fault", "at"), rest_slow(INTERRUPTS))
def test_ctrl_c_saves_a_whole_number_of_steps(whole, config, tmp_path, fault, at):
    end, message = run(config(tmp_path / "run"), fault, at)
    assert end == "KeyboardInterrupt" and "add --resume to the same command" in message
    step = read_state(tmp_path / "run", config(tmp_path / "run"))["step"]
    assert f"Stopped at step {step} of {STEPS}" in message
    if fault.endswith("AdamW"):
        assert step == at  # the step was completed
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_ctrl_c_anywhere(whole, config, tmp_path, number):
    """At a call drawn at random: saved or not begun, the run can always be completed."""
    at = random.Random(100 + number).randrange(1, int(0.98 * whole[1]))
    end, _ = run(config(tmp_path / "run"), "Ctrl-C at any call", at)
    assert end in ("KeyboardInterrupt", "done")  # Python itself drops one that meets a destructor
    if end != "done":
        assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_ctrl_c_again_while_the_state_is_saved(whole, config, tmp_path):
    assert run(config(tmp_path / "run"), "Ctrl-C twice", 6)[0] == "KeyboardInterrupt"
    assert not list((tmp_path / "run").glob(".*"))
    assert read_state(tmp_path / "run", config(tmp_path / "run"))["step"] == 5
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


def test_ctrl_c_waits_for_the_end_of_a_block():
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        fault_worker.interrupt()
        fault_worker.interrupt()
        done.append(True)
    assert done
    with pytest.raises(ValueError), uninterrupted():
        raise ValueError
    with pytest.raises(KeyboardInterrupt):
        fault_worker.interrupt()
        time.sleep(1)


def test_ctrl_c_stays_ignored_where_it_was():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        fault_worker.interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state(whole, config, tmp_path):
    end, message = run(config(tmp_path / "run"), "small disk", 6)
    assert end == "OSError"
    assert f"Cannot write {tmp_path}/run/{STATE_FILE}: " in message
    assert "untouched" in message and "add --resume" in message
    assert not list((tmp_path / "run").glob(".*"))
    assert read_state(tmp_path / "run", config(tmp_path / "run"))["step"] == 5
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.parametrize("room", [1000, 100_000, 600_000])
def test_a_full_disk_leaves_every_file_whole(room, small_text, tmp_path):
    """Whichever of a model's files meets the end: the weights, or the tokenizer's."""
    torch.manual_seed(0)
    sizes = {"dim": 4, "n_layers": 1, "n_heads": 2, "hidden_dim": 8}
    vocabulary = len(small_text.tokenizer)
    narrow = DistilBertModel(DistilBertConfig(vocab_size=vocabulary, **sizes))
    config = DistilCLIPConfig(vision=ViTConfig(16, 8, dim=16, depth=1, num_heads=2), embed_dim=8)
    model = DistilCLIP(config, TextEncoder(narrow, small_text.tokenizer))
    model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(before["model.safetensors"]) < 600_000 < len(before["tokenizer.json"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(OSError, match="Cannot write"):
            model.save_pretrained(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to(config, place, tmp_path):
    folders = {folder: folder.stat().st_mode for folder in (place, *list(place.parents)[:2])}
    for folder in folders:
        folder.chmod(0o755)  # another user may look in
    closed = place / "closed"
    closed.mkdir(mode=0o555)
    for out in (closed / "run", closed):
        end, message = run(config(out), "nobody")
        assert end == "PermissionError", message
        assert str(closed) in message
    assert not list(closed.iterdir())
    for folder, mode in folders.items():
        folder.chmod(mode)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        end, message = run(config(out))
        assert end in ("FileExistsError", "NotADirectoryError") and str(out) in message


@pytest.mark.slow
def test_two_runs_never_share_a_folder(whole, config, tmp_path):
    out = tmp_path / "run"
    first, _ = start(config(out), "hang", 3)
    while not (out / "config.json").is_file():
        assert first.is_alive()
        time.sleep(0.05)
    for resume in (False, True):
        end, message = run(config(out, resume=resume))
        assert end == "FileExistsError"
        assert f"Another process is training in {out}" in message
    first.kill()  # the lock goes with its process
    first.join()
    assert go_on(config, out)[0] == "done"
    assert_same(out, whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_processes_that_die_lose_nothing(config, tmp_path, world):
    """Not a bit, whatever the place in which four sum up: see `data_parallel`."""
    assert {end for end, _ in together(config(tmp_path / "whole"), world=world)} == {"done"}
    for at, (fault, steps) in enumerate(
        {"before AdamW": (5, 6), "in the backward pass": (5,)}.items()
    ):
        out = tmp_path / str(at)
        (first, message), *others = together(config(out), fault, 6, world)
        assert others == [("killed", 9)] * (world - 1)
        assert first == "ConnectionError" and "lost touch" in message and "--resume" in message
        assert read_state(out, config(out))["step"] in steps
        ends = together(config(out, resume=True), world=world)
        assert {end for end, _ in ends} == {"done"}
        assert_same(out, tmp_path / "whole")


def test_the_lock_where_the_system_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "fcntl", None)
    with hold_folder(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").is_file()
        (tmp_path / "run" / ".distilclip-abcdefgh.part").mkdir()
    (tmp_path / "run" / ".lock").touch()
    with hold_folder(tmp_path / "run"):
        remove_leftovers(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())
    shutil.rmtree(tmp_path / "run")
    with hold_folder(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_clock_that_goes_backwards(whole, config, tmp_path):
    assert run(config(tmp_path / "run"), "clock")[0] == "done"
    assert_same(tmp_path / "run", whole[0])
    seconds = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["seconds"] > 0 for line in seconds if line["kind"] == "epoch")


@pytest.mark.slow
def test_a_gradient_that_is_no_number_changes_no_weight(whole, config, tmp_path):
    end, message = run(config(tmp_path / "run"), "broken gradient", 6)
    assert end == "FloatingPointError"
    assert "its gradient nan at step 5" in message and "intact" in message
    assert read_state(tmp_path / "run", config(tmp_path / "run"))["step"] == 5
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_only_the_state_is_needed_to_go_on(whole, config, tmp_path):
    """Whatever else a fault has done to the folder is mended from the state."""
    assert run(config(tmp_path / "run"), "after AdamW", 6) == ("killed", 9)
    for file in [p for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != STATE_FILE]:
        os.truncate(file, file.stat().st_size // 2)
    (tmp_path / "run" / "metrics.jsonl").unlink(missing_ok=True)
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])
    DistilCLIP.from_pretrained(tmp_path / "run")


@pytest.mark.slow
def test_a_truncated_state_is_refused_wherever_it_ends(whole, config, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    state = (whole[0] / STATE_FILE).read_bytes()
    header = 8 + int.from_bytes(state[:8], "little")
    places = [*range(header + 2), *random.Random(0).sample(range(header, len(state)), 40)]
    (out / STATE_FILE).write_bytes(state)
    assert read_state(out, config(out))["step"] == STEPS
    for size in sorted(places, reverse=True):
        os.truncate(out / STATE_FILE, size)
        with pytest.raises(ValueError, match="is damaged and cannot be resumed from"):
            read_state(out, config(out))
    assert run(config(out, resume=True))[0] == "ValueError"


@pytest.mark.slow
def test_bytes_changed_in_the_header_never_end_in_a_traceback(whole, config, tmp_path):
    out, draw = tmp_path / "run", random.Random(0)
    out.mkdir()
    state = (whole[0] / STATE_FILE).read_bytes()
    header = 8 + int.from_bytes(state[:8], "little")
    for _ in range(200):
        broken = bytearray(state)
        broken[draw.randrange(header)] = draw.randrange(256)
        (out / STATE_FILE).write_bytes(broken)
        try:
            read_state(out, config(out))
        except ValueError as error:
            assert str(out) in str(error)


# What another version left


def rewritten(state, change):
    """Put a changed description into a state's file."""
    with safe_open(state, "pt") as opened:
        description = json.loads(opened.metadata()["state"])
    change(description)
    save_file(load_file(state), state, {"state": json.dumps(description)})


@pytest.mark.slow
def test_a_state_of_an_older_version_goes_on(whole, config, tmp_path):
    assert run(config(tmp_path / "run"), "after AdamW", STEPS // 3 + 1) == ("killed", 9)
    state = tmp_path / "run" / STATE_FILE
    assert read_state(tmp_path / "run", config(tmp_path / "run"))["step"] == STEPS // 3

    def age(description):
        del description["epoch"]  # what the steps of an unfinished epoch added up to
        for setting in ("vision_model", "flip", "skip_broken"):
            del description["config"][setting]  # they are what they are by default

    rewritten(state, age)
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.slow
def test_a_state_of_a_newer_version_is_refused(whole, config, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    state = tmp_path / "run" / STATE_FILE
    rewritten(state, lambda description: description["config"].update(rotary=True))
    before = state.read_bytes()
    end, message = run(config(tmp_path / "run", resume=True))
    assert end == "ValueError" and "cannot be resumed from" in message and "rotary" in message
    assert state.read_bytes() == before


def test_an_index_of_an_older_version_is_built_again(place, small_model, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("distilclip.index.file.INDEX_VERSION", 1)
    assert folder_index(small_model, place / "data").done.startswith("40 pictures: 40 embedded")
    (old,) = tmp_path.rglob("*.safetensors")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="is not an index of this version; build it again"):
        ImageIndex.load(small_model, old)
    assert folder_index(small_model, place / "data").done.startswith("40 pictures: 40 embedded")
    assert folder_index(small_model, place / "data").done.startswith("40 pictures: 0 embedded")


def test_decoded_pictures_of_an_older_version_are_not_used(place, monkeypatch, tmp_path):
    rows = load_pairs(place / "data")["train"]
    expected = decode_pixels(rows, 8)
    with monkeypatch.context() as earlier:
        earlier.setattr("distilclip.data.PIXELS_VERSION", 0)
        earlier.setattr("distilclip.data.square", lambda _, size: Image.new("RGB", (size, size)))
        assert not decode_pixels(rows, 8, cache=tmp_path).any()
    (old,) = tmp_path.iterdir()
    before = old.read_bytes()
    assert torch.equal(decode_pixels(rows, 8, cache=tmp_path), expected)
    assert old.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


# The other commands


def test_a_picture_older_than_the_one_it_replaces_is_embedded_again(small_model, tmp_path):
    """Files copied from elsewhere, or a clock set back: any other time is another picture."""
    (tmp_path / "pictures").mkdir()
    file = tmp_path / "pictures" / "a.png"
    for colour, year in (("red", 2040), ("blue", 1990)):
        Image.new("RGB", (9, 9), colour).save(file)
        os.utime(file, ((year - 1970) * 31_556_952,) * 2)
        kept = folder_index(small_model, file.parent)
        assert kept.done.startswith("1 pictures: 1 embedded") and kept.problem is None
        with Image.open(file) as image:
            assert torch.allclose(kept.index.embeds, small_model.encode_image(image), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["a full disk", "a file in the way"])
def test_what_cannot_be_written_is_said_and_nothing_is_lost(
    trouble, place, whole, tmp_path, monkeypatch, capsys
):
    """The pages, sheets and figures of `evaluate` and `search`."""
    folder = tmp_path / "out"

    def full(_):
        raise OSError(28, "No space left on device")

    if trouble == "a full disk":
        folder.mkdir()
        monkeypatch.setattr("os.fsync", full)
    else:
        folder.write_text("before")
    run_and_data = [str(whole[0]), "--data", str(place / "data")]
    commands = {
        "figures.json": ["evaluate", *run_and_data, "--json"],
        "page.html": ["search", str(whole[0]), "x", str(place / "data"), "--html"],
        "sheet.png": ["search", str(whole[0]), "x", str(place / "data"), "--png"],
    }
    for name, command in commands.items():
        if folder.is_dir():
            (folder / name).write_text("before")
        assert main([*command, str(folder / name)]) == 1
        (error,) = [x for x in capsys.readouterr().err.splitlines() if "distilclip: error" in x]
        assert name in error or str(folder) in error
        files = list(folder.iterdir()) if folder.is_dir() else [folder]
        assert {file.read_text() for file in files} == {"before"}

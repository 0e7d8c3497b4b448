"""Nothing is lost: kills, Ctrl-C, full disks, damaged files and rivals, anywhere in a run."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time

import fault_worker
import pytest
import torch
from fault_worker import STEPS, configure
from PIL import Image
from safetensors.torch import load_file

from distilclip import checkpoint
from distilclip.checkpoint import STATE_FILE, hold_folder, read_state, uninterrupted

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["distilclip.train", "torch.utils.data"])


@pytest.fixture(autouse=True)
def ctrl_c_works():
    """Also where the tests run in the background, and a shell has switched it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def start(*arguments):
    """A worker in a process of its own, and the end at which its message arrives."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=fault_worker.work, args=(sender, *arguments))
    process.start()
    sender.close()
    return process, receiver


def run(*arguments) -> tuple[str, object]:
    """How a worker ended: ("killed", signal), ("done", calls), or an error's name and text."""
    process, receiver = start(*arguments)
    try:
        message = receiver.recv()
    except EOFError:
        message = None
    process.join()
    return message or ("killed", -process.exitcode)


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
    ("before a rename", 1),  # the first state of all
    ("after a rename", 1),  # a state, and nothing else yet
    ("before a rename", 4),
    ("before a rename", 15),
    ("after a rename", 16),
    ("after a rename", 33),
    ("half a file", 1),
    ("half a file", 6),
    ("half a file", 11),
    ("before AdamW", 1),
    ("after AdamW", 6),
    ("after AdamW", STEPS),
    ("samples", 2),
    ("evaluation", 1),
    ("evaluation", 3),
]


@pytest.mark.parametrize(("fault", "at"), KILLS)
def test_killed_at_a_chosen_point(whole, config, tmp_path, fault, at):
    assert run(config(tmp_path / "run"), fault, at) == ("killed", 9)
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.parametrize("number", range(10))
def test_killed_anywhere(whole, config, tmp_path, number):
    """At a call drawn at random from all the calls of the run, in Python or below."""
    at = random.Random(number).randrange(1, int(0.98 * whole[1]))
    assert run(config(tmp_path / "run"), "any call", at) == ("killed", 9)
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


def test_killed_again_and_again(whole, config, tmp_path):
    for at in (3, 2, 3, 1):
        resume = (tmp_path / "run" / STATE_FILE).is_file()
        assert run(config(tmp_path / "run", resume=resume), "after AdamW", at) == ("killed", 9)
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


@pytest.mark.parametrize(
    ("fault", "at"),
    [
        ("Ctrl-C before AdamW", 6),
        ("Ctrl-C after AdamW", 6),
        ("Ctrl-C after AdamW", 4),
        ("Ctrl-C in a save", 20),
        ("Ctrl-C in an evaluation", 1),
        ("Ctrl-C in an evaluation", 3),
    ],
)
def test_ctrl_c_saves_a_whole_number_of_steps(whole, config, tmp_path, fault, at):
    end, message = run(config(tmp_path / "run"), fault, at)
    assert end == "KeyboardInterrupt" and "add --resume to the same command" in message
    step = read_state(tmp_path / "run", config(tmp_path / "run"))["step"]
    assert f"Stopped at step {step} of {STEPS}" in message
    if fault.endswith("AdamW"):
        assert step == at  # the step was brought to its end
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


def test_a_full_disk_leaves_the_last_state(whole, config, tmp_path):
    end, message = run(config(tmp_path / "run"), "small disk", 6)
    assert end == "OSError"
    assert f"Cannot write {tmp_path}/run/{STATE_FILE}: " in message
    assert "untouched" in message and "add --resume" in message
    assert not list((tmp_path / "run").glob(".*"))
    assert read_state(tmp_path / "run", config(tmp_path / "run"))["step"] == 5
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


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


def test_the_lock_where_the_system_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "fcntl", None)
    with hold_folder(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").is_file()
        (tmp_path / "run" / ".x.part").touch()
    (tmp_path / "run" / ".lock").touch()
    with hold_folder(tmp_path / "run"):
        assert not (tmp_path / "run" / ".x.part").exists()
    assert not list((tmp_path / "run").iterdir())
    shutil.rmtree(tmp_path / "run")
    with hold_folder(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_clock_that_goes_backwards(whole, config, tmp_path):
    assert run(config(tmp_path / "run"), "clock")[0] == "done"
    assert_same(tmp_path / "run", whole[0])
    seconds = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["seconds"] > 0 for line in seconds if line["kind"] == "epoch")


def test_a_gradient_that_is_no_number_changes_no_weight(whole, config, tmp_path):
    end, message = run(config(tmp_path / "run"), "broken gradient", 6)
    assert end == "FloatingPointError"
    assert "its gradient nan at step 5" in message and "intact" in message
    assert read_state(tmp_path / "run", config(tmp_path / "run"))["step"] == 5
    assert go_on(config, tmp_path / "run")[0] == "done"
    assert_same(tmp_path / "run", whole[0])


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

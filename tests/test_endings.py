"""How a command ends: by a signal, with a reader that leaves, in any terminal."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from distilclip.runs.checkpoint import STATE_FILE

COMMAND = [sys.executable, "-m", "distilclip.command.cli"]
TINY = [
    "--image-size",
    "32",
    "--dim",
    "16",
    "--depth",
    "1",
    "--num-heads",
    "2",
    "--batch-size",
    "8",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(20):
        Image.new("RGB", (40, 40), (12 * number, 99, 0)).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"shade number {number} → naïve")
    return folder


def train(pictures, out, *more: str, **options) -> subprocess.Popen:
    command = [*COMMAND, "train", "--data", str(pictures), "--out", str(out), *TINY, *more]
    return subprocess.Popen(command, **options)


def wait_for_steps(run, process) -> None:
    """Until the run has a state and has taken some steps of a very long training."""
    end = time.monotonic() + 60
    while not (run / "samples").exists() and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_asks_to_stop_saves_the_run(pictures, tmp_path, name):
    run, number = tmp_path / "run", getattr(signal, name)
    long = ("--epochs", "100000", "--evaluations", "50000")
    process = train(pictures, run, *long, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    wait_for_steps(run, process)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 128 + number
    assert "Stopped at step" in said and "--resume" in said and "Traceback" not in said
    assert (run / STATE_FILE).is_file()


@pytest.mark.slow
def test_a_reader_that_leaves_ends_the_training_with_its_state_saved(pictures, tmp_path):
    run = tmp_path / "run"
    long = ("--epochs", "100000", "--evaluations", "50000")
    process = train(pictures, run, *long, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()  # as `head -1` does
    said = process.stderr.read().decode()
    assert process.wait(timeout=60) == 130
    assert "Stopped at step" in said and "--resume" in said and "Traceback" not in said
    assert (run / STATE_FILE).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_run_and_its_evaluation_in_a_terminal_without_arrows(pictures, tmp_path, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    run = tmp_path / "run"
    short = ("--epochs", "2", "--evaluations", "2")
    process = train(pictures, run, *short, env=environment, stdout=subprocess.PIPE)
    assert b"text->image" in process.communicate(timeout=120)[0]
    assert process.returncode == 0
    evaluate = [*COMMAND, "evaluate", str(run), "--data", str(pictures), "--split", "test"]
    ended = subprocess.run(evaluate, env=environment, capture_output=True, timeout=120)
    assert ended.returncode == 0 and b"text->image" in ended.stdout


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_finished_work_stays_finished_where_nothing_can_be_said(pictures, tmp_path):
    run = tmp_path / "run"
    with open("/dev/full", "w") as full:
        assert train(pictures, run, "--epochs", "1", stdout=full, stderr=full).wait(120) == 0
    assert (run / "model.safetensors").is_file()
    command = [*COMMAND, "evaluate", str(run), "--data", str(pictures), "--json"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [*command, str(tmp_path / "kept.json")], stdout=full, stderr=subprocess.PIPE
        )
    assert ended.returncode == 1 and b"No space left" in ended.stderr
    assert (tmp_path / "kept.json").is_file()  # what was asked for first is there
    ended = subprocess.run([*command, "/dev/stdout"], capture_output=True)
    assert ended.returncode == 0 and b'"t2i_r10"' in ended.stdout

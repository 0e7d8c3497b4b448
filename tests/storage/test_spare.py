"""Memory that must be there first: what lacks it says so, and hangs and crashes nowhere."""

import subprocess
import sys

import pytest
import torch

from distilclip.command.cli import main
from distilclip.storage import spare
from distilclip.storage.spare import check_spare, has_spare, threads
from distilclip.storage.weights import load_tensors, save_tensors


def test_what_is_there_and_what_is_not():
    assert has_spare(0) and has_spare(1 << 20)
    assert not has_spare(1 << 62) and not has_spare(1 << 80)
    check_spare(1 << 20)
    with pytest.raises(MemoryError):
        check_spare(1 << 62)


@pytest.mark.parametrize("room", [0, 1, 3, 100])
def test_as_many_threads_as_memory_allows_give_the_same(monkeypatch, room):
    asked = []

    def has(count: int) -> bool:
        asked.append(count)
        return count <= room * spare.A_THREAD

    monkeypatch.setattr(spare, "has_spare", has)
    with threads(4) as spread:
        assert list(spread(lambda each: each * each, range(50))) == [n * n for n in range(50)]
        assert (spread is map) == (room == 0)
    assert asked and asked == sorted(asked, reverse=True)


def test_a_file_that_there_is_no_memory_to_write_stays_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    save_tensors({"a": torch.ones(3)}, file, {})
    monkeypatch.setattr(spare, "has_spare", lambda count: False)
    with pytest.raises(MemoryError):
        save_tensors({"a": torch.zeros(3)}, file, {})
    assert load_tensors(file)["a"].tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_command_without_memory_ends_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(spare, "has_spare", lambda count: False)
    assert main(["evaluate", "emoji"]) == 1
    assert capsys.readouterr().err.startswith("distilclip: error: Out of memory")


UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from PIL import Image
from distilclip.storage.pictures import read_pictures
folder = Path(sys.argv[1])
for number in range(20):
    Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number:02}.png")
pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
most = pages + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (most, most))
names = sorted(path.name for path in folder.iterdir())
print([p[:, 0].unique().tolist() for _, p, e in read_pictures(folder, names, 8, 20) if not e])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on memory")
@pytest.mark.parametrize("mebibytes", [64, 130, 220])
def test_pictures_are_read_in_little_memory(tmp_path, mebibytes):
    command = [sys.executable, "-c", UNDER_A_LIMIT, str(tmp_path), str(mebibytes << 20)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str([list(range(20))])

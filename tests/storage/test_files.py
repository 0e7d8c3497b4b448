"""Files are there whole or not at all; what is not ours is never touched."""

import os
import stat
import threading
import time

import pytest

from distilclip.storage.files import is_leftover, remove_leftovers, write_text, write_whole

OTHERS = [  # as other programs call what they have not finished, or keep
    ".tmpA1b2C3",
    ".tmp",
    ".model.safetensors.part",
    ".download.part",
    ".distilclip.part",
    ".distilclip-.part",
    ".distilclip-abcdefgh.part.bak",
    "x.distilclip-abcdefgh.part",
    ".distilclip-ABCDEFGH.part",
]


def test_only_what_we_have_left_is_removed_and_only_at_its_own_level(tmp_path):
    below = tmp_path / "below"
    ours = [tmp_path / ".distilclip-abcdefgh.part", below / ".distilclip-12345678.part"]
    for place in ours:
        place.mkdir(parents=True)
        (place / "model.safetensors").write_text("half")
    for name in OTHERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").write_text("by another program")
    (tmp_path / ".distilclip-a_file00.part").write_text("no folder")
    (tmp_path / ".distilclip-a_link00.part").symlink_to(below)
    remove_leftovers(tmp_path)
    assert not ours[0].exists() and ours[1].exists()
    assert all((tmp_path / name / "kept").is_file() for name in OTHERS)
    assert (tmp_path / ".distilclip-a_file00.part").is_file()
    assert (tmp_path / ".distilclip-a_link00.part").is_symlink()
    remove_leftovers(tmp_path / "nowhere")


def test_what_a_kill_leaves_is_recognised(tmp_path):
    seen = []

    def die(path):
        path.write_text("half")
        seen.append(path.parent)
        assert is_leftover(path.parent)
        raise SystemExit  # what a kill would leave is seen from inside

    with pytest.raises(SystemExit):
        write_whole(tmp_path / "file.txt", die)
    assert seen[0].parent == tmp_path and not seen[0].exists()


def test_a_file_that_is_replaced_keeps_its_permissions_and_a_link_its_place(tmp_path):
    file, link = tmp_path / "real.json", tmp_path / "link.json"
    write_text(file, "1")
    usual = stat.S_IMODE(file.stat().st_mode)
    (tmp_path / "plain").touch()
    assert usual == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, "2")
    assert link.is_symlink() and file.read_text() == "2\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.json", "plain", "real.json"]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(timeout=10)
    assert read == ["through\n"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_reader_never_sees_half_a_file(tmp_path):
    file, stop, sizes = tmp_path / "file", time.monotonic() + 1, set()
    write_text(file, "a" * 99_999)

    def read():
        while time.monotonic() < stop:
            sizes.add(len(file.read_text()))

    reader = threading.Thread(target=read)
    reader.start()
    while time.monotonic() < stop:
        write_text(file, "b" * 99_999)
    reader.join()
    assert sizes == {100_000}


def test_a_pipe_that_nobody_reads_is_an_error_and_no_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"^Cannot write .*pipe: "):
        write_text(tmp_path / "pipe", "to nobody")

"""The index that the command keeps follows its folder, and survives kills and rivals."""

import os
import signal

import pytest
import torch
from child_processes import in_a_child_that_dies
from PIL import Image

from distilclip import ImageIndex
from distilclip.command.index_cache import folder_index, index_file


def test_only_new_and_changed_pictures_are_embedded_again(small_model, pictures, monkeypatch):
    first = folder_index(small_model, pictures)
    assert len(first.index) == 3 and first.problem is None
    assert first.done == "3 pictures: 3 embedded, 0 forgotten"
    assert folder_index(small_model, pictures).done == "3 pictures: 0 embedded, 0 forgotten"
    Image.new("RGB", (5, 5)).save(pictures / "new.png")
    (pictures / "red.png").unlink()
    changed = folder_index(small_model, pictures)
    assert changed.done == "3 pictures: 1 embedded, 1 forgotten"
    rebuilt = folder_index(small_model, pictures, rebuild=True)
    assert rebuilt.done == "3 pictures: 3 embedded, 0 forgotten"
    index, fresh = changed.index, rebuilt.index
    assert fresh.names == index.names
    assert torch.allclose(fresh.embeds, index.embeds, atol=1e-6)
    assert [hit.path for hit in index.search("x", 3)] == [hit.path for hit in fresh.search("x", 3)]


def test_without_a_cache_nothing_is_kept(small_model, pictures):
    kept = folder_index(small_model, pictures, cache=False)
    assert kept.done == "3 pictures: 3 embedded, 0 forgotten"
    assert not index_file(small_model, pictures).exists()


def test_a_damaged_or_unwritable_cache_is_no_obstacle(small_model, pictures, tmp_path, monkeypatch):
    folder_index(small_model, pictures)
    file = index_file(small_model, pictures)
    file.write_bytes(file.read_bytes()[:-9])
    assert folder_index(small_model, pictures).done.startswith("3 pictures: 3 embedded")
    assert folder_index(small_model, pictures).done.startswith("3 pictures: 0 embedded")
    (tmp_path / "a file").write_text("where the cache's folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    kept = folder_index(small_model, pictures)
    assert len(kept.index) == 3 and "a file" in kept.problem
    assert kept.done.startswith("3 pictures: 3 embedded")


def test_an_interrupted_index_goes_on_where_it_stopped(small_model, tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:03}.png")
    encode, calls = small_model.encode_image, []

    def stop_at_the_third(pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(pixels)

    with monkeypatch.context() as stopping, pytest.raises(KeyboardInterrupt):
        stopping.setattr(small_model, "encode_image", stop_at_the_third)
        folder_index(small_model, folder, progress=False)
    kept = folder_index(small_model, folder, progress=False)
    assert kept.done == "200 pictures: 72 embedded, 0 forgotten"
    assert torch.allclose(
        kept.index.embeds, ImageIndex.from_folder(small_model, folder).embeds, atol=1e-6
    )


def test_a_killed_index_goes_on_from_its_last_save(small_model, tmp_path, monkeypatch):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number:03}.png")
    monkeypatch.setattr("distilclip.command.index_cache.AUTOSAVE_SECONDS", 0)
    keep, calls = ImageIndex.save, []

    def save_and_die(index, file):
        keep(index, file)
        calls.append(len(index))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(
        small_model, "encode_image", lambda p: p.float().mean((2, 3)).repeat(1, 6)[:, :16]
    )

    def embed():
        ImageIndex.save = save_and_die
        folder_index(small_model, folder, progress=False)

    assert in_a_child_that_dies(embed, 60)
    kept = folder_index(small_model, folder, progress=False)
    assert kept.done == "200 pictures: 72 embedded, 0 forgotten"
    assert not list(index_file(small_model, folder).parent.glob("*.part"))


def test_what_killed_processes_left_is_removed_in_time(small_model, pictures):
    folder_index(small_model, pictures)
    file = index_file(small_model, pictures)
    old, young = (file.parent / f".distilclip-{name}.part" for name in ("old_old0", "young_00"))
    for place in (old, young):
        place.mkdir()
        (place / file.name).write_bytes(b"half an index")
    os.utime(old, (0, 0))
    Image.new("RGB", (5, 5)).save(pictures / "new.png")
    folder_index(small_model, pictures)
    assert not old.exists() and young.exists()  # the young one may be another process at work


def test_two_processes_at_once_leave_one_whole_index(small_model, pictures):
    children = []
    small_model.encode_image = lambda p: p.float().mean((2, 3)).repeat(1, 6)[:, :16]
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                for _ in range(10):
                    folder_index(small_model, pictures, rebuild=True)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert folder_index(small_model, pictures).done == "3 pictures: 0 embedded, 0 forgotten"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_cache_is_for_its_owner_alone(small_model, pictures):
    folder_index(small_model, pictures)
    file = index_file(small_model, pictures)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    Image.new("RGB", (5, 5)).save(pictures / "new.png")
    folder_index(small_model, pictures)
    assert file.stat().st_mode & 0o777 == 0o600


def test_two_pictures_that_change_places_are_embedded_again(small_model, pictures):
    """Of one size and one age, so that only their inodes tell them apart."""
    files = [pictures / "a.bmp", pictures / "b.bmp"]
    for file, colour in zip(files, ("red", "green"), strict=True):
        Image.new("RGB", (5, 5), colour).save(file)
        os.utime(file, (1, 1))
    before = folder_index(small_model, pictures).index
    files[0].rename(pictures / "c.bmp")
    files[1].rename(files[0])
    (pictures / "c.bmp").rename(files[1])
    after = folder_index(small_model, pictures)
    assert after.done == "5 pictures: 2 embedded, 0 forgotten"
    rows = [[index.names.index(file.name) for file in files] for index in (before, after.index)]
    assert torch.allclose(before.embeds[rows[0]], after.index.embeds[rows[1][::-1]], atol=1e-6)

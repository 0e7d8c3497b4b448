"""What cannot be read is one entry skipped, or a sentence: the same in every layout."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from samples import picture

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import same_pairs

from distilclip.data import load_pairs
from distilclip.search import ImageIndex


def link_to_itself(path):
    path.symlink_to(path)


def link_to_a_long_name(path):
    path.symlink_to("x" * 300)


def link_to_nothing(path):
    path.symlink_to("nothing")


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


def pipe(path):
    os.mkfifo(path)


STRANGE = [link_to_itself, link_to_a_long_name, link_to_nothing, link_to_a_device, pipe]
IN_FILES = {
    name: write
    for name, write in same_pairs.LAYOUTS.items()
    if write not in (same_pairs.webdataset_tars, same_pairs.parquet_files, same_pairs.saved_to_disk)
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    found = []
    for number in range(12):
        split = ("train", "validation", "test")[number % 3]
        path = tmp_path_factory.mktemp("drawn") / f"{number:09}.png"
        picture(path, (20 * number, 99, 9))
        captions = (f"number {number}", f"again {number}")
        found.append(same_pairs.Pair(path.name, path.read_bytes(), captions, split))
    return found


def written(write, pairs, place):
    """The folder of a layout, and what to load."""
    source = write(place / "source", pairs)
    return place / "source", source


def ids(source, **options):
    return [name for rows in load_pairs(source, **options).values() for name in rows["image_id"]]


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("layout", IN_FILES)
def test_a_picture_that_cannot_be_read_is_refused_or_skipped(
    layout, strange, pairs, tmp_path, caplog
):
    folder, source = written(IN_FILES[layout], pairs, tmp_path)
    for path in sorted(folder.rglob("00000000*.png"))[:1]:
        path.unlink()
        strange(path)
    if layout.startswith("a .txt") and strange is link_to_nothing:
        assert len(ids(source)) == 11  # as good as gone
        return
    with pytest.raises((ValueError, OSError)) as refused:
        load_pairs(source)
    assert path.name in str(refused.value) and "\n" not in str(refused.value)
    assert 11 <= len(ids(source, skip_broken=True)) <= 12  # 12: where a copy is left
    (skipped,) = [r.getMessage() for r in caplog.records if "Skipped" in r.getMessage()]
    assert skipped.startswith(("Skipped 1 of", "Skipped 2 of")) and path.name in caplog.text


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("layout", same_pairs.LAYOUTS)
def test_a_container_that_cannot_be_read_is_never_left_out(layout, strange, pairs, tmp_path):
    """Without one of its shards or tables, a source would be another data set."""
    folder, source = written(same_pairs.LAYOUTS[layout], pairs, tmp_path)
    containers = (".tar", ".parquet", ".arrow", ".csv", ".jsonl", ".json")
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in containers]
    if layout == "Kaggle's Flickr8k":
        found = [folder / "captions.txt"]
    if layout == "Flickr8k.token.txt":
        found = list((folder / "Flickr8k_text").iterdir())
    if layout.startswith("img2dataset"):
        found = [path for path in found if path.suffix == ".parquet"]
    for path in found:
        shutil.copytree(folder, tmp_path / "copy")
        copy = tmp_path / "copy" / path.relative_to(folder)
        copy.unlink()
        strange(copy)
        for skip in (False, True):
            with pytest.raises((ValueError, OSError)) as refused:
                load_pairs(tmp_path / "copy" / source.relative_to(folder), skip_broken=skip)
            assert "\n" not in str(refused.value)
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_a_broken_shard_is_never_left_out(content, pairs, tmp_path):
    folder, source = written(same_pairs.parquet_files, pairs, tmp_path)
    (folder / "test-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot read.*test-00000-of-00001\.parquet"):
        load_pairs(source)


@pytest.mark.parametrize("strange", STRANGE)
def test_a_search_skips_what_training_skips(strange, pairs, tmp_path, small_model):
    folder, _ = written(same_pairs.texts_beside, pairs, tmp_path)
    path = folder / "train" / "000000000.png"
    path.unlink()
    strange(path)
    if strange is link_to_nothing:
        assert len(ImageIndex.from_folder(small_model, folder)) == 11
        return
    with pytest.raises(OSError, match=path.name):
        ImageIndex.from_folder(small_model, folder)
    index = ImageIndex.from_folder(small_model, folder, skip_broken=True)
    assert len(index) == 11 and [name for name, _ in index.skipped] == [path]


@pytest.fixture
def nobody():
    """The rights of a user whom nobody knows: root may read everything."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other permissions")
@pytest.mark.parametrize("suffix", [".txt", ".png"])
def test_a_file_that_one_may_not_read_counts_as_broken(suffix, pairs, request, caplog):
    place = Path(f"/tmp/distilclip-test-{os.getpid()}{suffix}")
    try:
        folder, _ = written(same_pairs.texts_beside, pairs, place)
        (folder / "train" / f"000000000{suffix}").chmod(0)
        request.getfixturevalue("nobody")
        if suffix == ".txt":
            with pytest.raises(OSError, match=r"000000000\.txt"):
                load_pairs(folder)
        assert len(ids(folder, skip_broken=True)) == 11
        assert "Skipped 1 of" in caplog.text and f"000000000{suffix}" in caplog.text
    finally:
        if hasattr(os, "seteuid"):
            os.seteuid(os.getuid())
        shutil.rmtree(place)


def test_a_sub_folder_that_cannot_be_read_is_never_left_out(pairs, monkeypatch, tmp_path):
    """Also below a table at the top, which knows nothing of the tables below it."""
    folder, _ = written(same_pairs.metadata_jsonl, pairs, tmp_path)
    closed = folder / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match=r"closed|Permission denied"):
        load_pairs(folder)

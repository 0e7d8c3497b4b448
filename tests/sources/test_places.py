"""What cannot be read is one entry skipped, or a sentence: the same in every layout."""

import codecs
import os
import re
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
    codecs.lookup("utf-8-sig")  # a codec that cannot be read now would be missing for good
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


@pytest.mark.parametrize("layout", same_pairs.LAYOUTS)
def test_no_table_shard_or_folder_is_a_link_that_leads_out(layout, pairs, tmp_path):
    """Whatever the layout: what lies outside is not opened, nor looked into."""
    folder, source = written(same_pairs.LAYOUTS[layout], pairs, tmp_path)
    if not Path(source).is_dir():
        pytest.skip("a table that a user names may lead anywhere")
    loaded = sorted(ids(source))
    for inside in sorted(folder.rglob("*")):
        outside = tmp_path / f"outside{inside.suffix}"
        if (
            not inside.exists()
            or inside.is_symlink()
            or any(p.is_symlink() for p in inside.parents)
        ):
            continue
        shutil.move(inside, outside)
        inside.symlink_to(outside)
        try:
            found = sorted(ids(source))
        except (ValueError, OSError) as error:
            assert re.search("leads out of|lies outside", str(error)), error
        else:  # it is not read at all
            assert layout == "img2dataset's files" and outside.suffix == ".json", inside
            assert found == loaded
        inside.unlink()
        shutil.move(outside, inside)
    assert sorted(ids(source)) == loaded


def test_the_files_of_a_snapshot_of_the_hub_are_read(pairs, tmp_path):
    """There, every file is a link into another folder of the same cache."""
    repository = tmp_path / "datasets--a--b"
    folder = repository / "snapshots" / "0123"
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    source = same_pairs.parquet_files(tmp_path / "written", pairs)
    for number, file in enumerate(sorted(Path(source).rglob("*.parquet"))):
        blob = repository / "blobs" / str(number)
        shutil.move(file, blob)
        (folder / file.name).symlink_to(os.path.relpath(blob, folder))
    assert len(ids(folder)) == len(pairs)


def test_nothing_outside_is_listed_to_explain_a_name(pairs, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret").mkdir()
    picture(folder / "a.png")
    names = ["../secret/x.png", "x/../../secret/x.png", f"{tmp_path}/secret/x", "..\\secret\\x.png"]
    for name in names:
        (folder / "metadata.csv").write_text(f"file_name,text\n{name},a dog\n")
        listed, plain = [], os.listdir

        def spy(place=".", seen=listed, plain=plain):
            seen.append(place)
            return plain(place)

        monkeypatch.setattr(
            "os.listdir", lambda p=".", seen=listed, f=plain: seen.append(p) or f(p)
        )
        with pytest.raises(ValueError, match=r"lies outside|does not exist"):
            load_pairs(folder)
        monkeypatch.undo()
        assert not [p for p in listed if os.path.realpath(p) == str(tmp_path / "secret")]


def test_a_search_follows_no_link_out_of_its_folder(tmp_path, small_model):
    folder = tmp_path / "pictures"
    picture(folder / "a.png")
    picture(tmp_path / "secret.png")
    (folder / "b.png").symlink_to("a.png")
    (folder / "c.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(OSError, match="leads out of the folder"):
        ImageIndex.from_folder(small_model, folder)
    index = ImageIndex.from_folder(small_model, folder, skip_broken=True)
    assert index.names == ["a.png", "b.png"]
    assert [path.name for path, _ in index.skipped] == ["c.png"]

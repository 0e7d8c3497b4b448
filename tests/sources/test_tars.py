"""Shards of WebDataset and the output of img2dataset are read right, nothing extracted."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import folder_of, picture

from distilclip.sources import tars
from distilclip.sources.entries import Asked
from distilclip.sources.tars import Tally, samples_of

OWN_READERS = (
    (tars.recognises_img2dataset, tars.read_img2dataset),
    (tars.recognises_tars, tars.read_tars),
)


def read(path, **asked):
    """The entries of a source, by the one reader that takes it."""
    readers = [reader for recognises, reader in OWN_READERS if recognises(path)]
    assert len(readers) == 1
    return list(readers[0](path, Asked(**asked)))


def captions_in(path, **asked):
    return {entry.image_id: entry.captions for entry in read(path, **asked)}


def drawing(number=0, kind="JPEG"):
    content = io.BytesIO()
    Image.new("RGB", (20, 30), (20 * number, 0, 0)).save(content, kind)
    return content.getvalue()


def tar(path, members):
    """A tar of these members, (name, bytes or a link's target)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as opened:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                opened.addfile(member)
            else:
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
    return path


def pair(key, number=0, caption=None, suffix="jpg"):
    caption = f"caption {number}" if caption is None else caption
    return [(f"{key}.{suffix}", drawing(number)), (f"{key}.txt", caption.encode())]


@pytest.mark.parametrize("start", ["", "./", "some/folder/"])
def test_a_shard_holds_pairs_by_key(tmp_path, start):
    members = [m for n in range(3) for m in pair(f"{start}{n:09}", n)]
    shard = tar(tmp_path / "00000.tar", members)
    for source in (tmp_path, shard):
        entries = read(source)
        assert [e.captions for e in entries] == [[f"caption {n}"] for n in range(3)]
        assert [e.image for e in entries] == [drawing(n) for n in range(3)]
        assert {e.split for e in entries} == {""} and len({e.image_id for e in entries}) == 3


CAPTIONS = {
    ("txt", 'one\r\ntwo, "three"\n\n'): ["one", 'two, "three"'],
    ("TXT", "\ufeffone"): ["one"],
    ("caption", "one"): ["one"],
    ("json", '{"caption": "one\\ntwo", "width": 3}'): ["one two"],
    ("json", '{"captions": ["one", "two"], "split": "x", "path": "y", "file": "z"}'): [
        "one",
        "two",
    ],
    ("json", '{"caption_0": "one", "caption_1": "two"}'): ["one", "two"],
    ("json", '"one"'): ["one"],
    ("json", '["one", "two"]'): ["one", "two"],
}


@pytest.mark.parametrize("written", CAPTIONS)
def test_captions_of_every_kind(tmp_path, written):
    suffix, text = written
    members = [("1.JPG", drawing()), (f"1.{suffix}", text.encode())]
    tar(tmp_path / "a.tar", members)
    assert captions_in(tmp_path) == {"1.JPG": CAPTIONS[written]}


def test_the_text_and_the_json_of_img2dataset_are_one_caption(tmp_path):
    about = {"caption": "one,\n two", "url": "http://x", "key": "1", "status": "success"}
    members = [*pair("1", caption="one,\n two"), ("1.json", json.dumps(about).encode())]
    about = {"caption": None, "title": "no caption", "text": "nor this"}
    members += [*pair("2", caption="alone"), ("2.json", json.dumps(about).encode())]
    members += [*pair("3", caption="one"), ("3.json", b'{"caption": "another"}')]
    tar(tmp_path / "00000.tar", members)
    assert list(captions_in(tmp_path).values()) == [["one, two"], ["alone"], ["one", "another"]]


def test_a_caption_that_the_user_names(tmp_path):
    members = [*pair("1", caption="text"), ("1.json", b'{"caption": "a", "recaption": "b"}')]
    tar(tmp_path / "00000.tar", members)
    assert list(captions_in(tmp_path, caption_columns=("recaption",)).values()) == [["b"]]
    assert list(captions_in(tmp_path, caption_columns=("txt",)).values()) == [["text"]]
    with pytest.raises(ValueError, match="names its own columns"):
        read(tmp_path, split_column="split")
    with pytest.raises(ValueError, match=r"found 1\.json, 1\.txt with caption, recaption"):
        read(tmp_path, caption_columns=("title",))


@pytest.mark.parametrize(
    "names",
    [
        {"x-train-0.tar": "train", "x-train-1.tar": "train", "x-val-0.tar": "val"},
        {"train/0.tar": "train", "validation/0.tar": "validation", "test/0.tar": "test"},
    ],
)
def test_splits_by_the_names_of_shards_or_folders(tmp_path, names):
    for number, name in enumerate(names):
        tar(tmp_path / name, pair("0", number))
    entries = read(tmp_path)
    assert sorted(e.split for e in entries) == sorted(names.values())
    assert len({e.image_id for e in entries}) == len(names)


def test_shards_whose_split_is_not_clear_are_refused(tmp_path, caplog):
    for split in ("train", "holdout"):
        img2dataset(tmp_path / split, "tars", shards=1)
    with pytest.raises(ValueError, match="holdout looks like a split"):
        read(tmp_path)
    (tmp_path / "train").rename(tmp_path / "data")
    assert len(read(tmp_path)) == 3
    assert "Left out the shards in" in caplog.text and "holdout" in caplog.text


@pytest.mark.parametrize("form", ["files", "tars"])
def test_a_closed_folder_is_refused(tmp_path, form, monkeypatch):
    for split in ("train", "val"):
        img2dataset(tmp_path / split, form, shards=2)
    closed = tmp_path / "val" / ("00001" if form == "files" else "")
    real_scandir, real_iterdir = os.scandir, Path.iterdir

    def scandir(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    def iterdir(path):
        scandir(path).close()
        return real_iterdir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(PermissionError):
        read(tmp_path)
    skipped = []
    assert len(read(tmp_path, skipped=skipped)) == (9 if form == "files" else 6)
    assert len(skipped) == 1


def test_nothing_but_plain_members_is_read(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    members = [*pair("1"), ("2.jpg", drawing(2)), ("2.txt", str(secret)), ("._1.jpg", b"x")]
    shard = tar(tmp_path / "s" / "0.tar", [*members, *pair("../3", 3)])
    with pytest.raises(ValueError, match=r"2\.jpg in .* has no caption.*found no text"):
        read(shard)
    skipped = []
    assert list(captions_in(shard, skipped=skipped).values()) == [["caption 0"], ["caption 3"]]
    assert len(skipped) == 1 and list(tmp_path.rglob("*.jpg")) == []


def test_a_key_twice(tmp_path):
    shard = tar(tmp_path / "0.tar", [*pair("1"), *pair("1")])
    assert len(read(shard)) == 1
    tar(shard, [*pair("1"), *pair("1", 2)])
    with pytest.raises(ValueError, match=r"two different files called '1\.jpg'"):
        read(shard)


@pytest.mark.parametrize("missing", [1, 700, 2000, 5000])
def test_a_shard_that_is_cut_short_is_refused(tmp_path, missing):
    shard = tar(tmp_path / "0.tar", [m for n in range(8) for m in pair(str(n), n)])
    content = shard.read_bytes().rstrip(b"\0")
    shard.write_bytes(content[:-missing])
    with pytest.raises(ValueError, match=r"cut short|has no caption|cannot be read"):
        read(shard)
    skipped = []
    kept = read(shard, skipped=skipped)
    assert 4 <= len(kept) < 8 and skipped
    assert [e.image for e in kept] == [drawing(n) for n in range(len(kept))]


def test_damage_in_the_middle_is_not_the_end(tmp_path):
    shard = tar(tmp_path / "0.tar", [m for n in range(4) for m in pair(str(n), n)])
    with tarfile.open(shard) as opened:
        place = opened.getmembers()[4].offset
    content = bytearray(shard.read_bytes())
    content[place : place + 512] = b"x" * 512
    shard.write_bytes(content)
    with pytest.raises(ValueError, match="damaged behind its first 4 files"):
        read(shard)


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_named(tmp_path, content):
    (tmp_path / "0.tar").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a tar"):
        read(tmp_path)


def test_a_compressed_shard_is_named(tmp_path):
    (tmp_path / "0.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="compressed: uncompress it"):
        read(tmp_path)


BAD_TEXTS = {
    ("txt", b" \n"): "Empty caption",
    ("txt", b"caf\xe9"): "not UTF-8",
    ("json", b"{"): "not valid JSON",
    ("json", b'{"width": 3}'): "found 1.json with width",
    ("json", b'{"caption": 3}'): "an int, not text",
    ("cls", b"3"): "found no text",
}


@pytest.mark.parametrize("written", BAD_TEXTS)
def test_texts_at_fault_are_named(tmp_path, written):
    suffix, content = written
    tar(tmp_path / "0.tar", [("1.jpg", drawing()), (f"1.{suffix}", content), *pair("2", 2)])
    with pytest.raises(ValueError, match=BAD_TEXTS[written]):
        read(tmp_path)
    skipped = []
    assert list(captions_in(tmp_path, skipped=skipped)) == ["2.jpg"] and len(skipped) == 1


def test_what_is_not_read_is_counted(tmp_path, caplog):
    members = [*pair("1"), ("1.cls", b"3"), ("1.seg.png", drawing(3, "PNG")), ("9.txt", b"x")]
    tar(tmp_path / "0.tar", members)
    assert len(read(tmp_path)) == 1
    assert "1 .seg.png" in caplog.text and "1 .cls" in caplog.text
    assert "Left out 1 keys" in caplog.text


def test_names_with_roles(tmp_path):
    members = [("1.image.jpg", drawing()), ("1.caption.txt", b"one"), *pair("2")]
    tar(tmp_path / "0.tar", members)
    assert captions_in(tmp_path) == {"1.image.jpg": ["one"], "2.jpg": ["caption 0"]}


def test_names_with_dots(tmp_path):
    tar(tmp_path / "0.tar", [m for n in range(3) for m in pair(f"v1.{n}", n)])
    assert list(captions_in(tmp_path)) == ["v1.0.jpg", "v1.1.jpg", "v1.2.jpg"]


@settings(max_examples=50, deadline=None)
@given(st.permutations([f"{n}.{end}" for n in range(4) for end in ("jpg", "txt", "json")]))
def test_the_order_of_members_does_not_matter(names):
    samples = {sample.key: sample for sample in samples_of(names, Tally(Path()))}
    wanted = {str(n): (f"{n}.jpg", [f"{n}.json", f"{n}.txt"]) for n in range(4)}
    assert {key: (s.picture, s.texts) for key, s in samples.items()} == wanted


def img2dataset(path, form="files", shards=2, each=3):
    """What img2dataset writes: shards, a table and statistics for each; one download failed."""
    path.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        members = []
        for n in range(each):
            number = each * shard + n
            key = f"{shard:05}{n:04}"
            about = {"caption": f"caption {number}", "key": key, "url": "http://x/1.jpg"}
            members += [*pair(key, number), (f"{key}.json", json.dumps(about).encode())]
        if form == "tars":
            tar(path / f"{shard:05}.tar", members)
        else:
            (path / f"{shard:05}").mkdir()
            for name, content in members:
                (path / f"{shard:05}" / name).write_bytes(content)
        (path / f"{shard:05}.parquet").write_bytes(b"PAR1")
        stats = {"count": each + 1, "successes": each, "failed_to_download": 1}
        (path / f"{shard:05}_stats.json").write_text(json.dumps(stats))
    return path


@pytest.mark.parametrize("form", ["files", "tars"])
def test_what_img2dataset_writes(tmp_path, form, caplog):
    entries = read(img2dataset(tmp_path, form))
    assert [e.captions for e in entries] == [[f"caption {n}"] for n in range(6)]
    assert entries[4].image_id == "000010001.jpg"
    wanted = drawing(4) if form == "tars" else str(tmp_path / "00001" / "000010001.jpg")
    assert entries[4].image == wanted
    assert "Left out 2 keys" in caplog.text and "failed downloads" in caplog.text


@pytest.mark.parametrize("form", ["files", "tars"])
def test_img2dataset_in_folders_of_splits(tmp_path, form):
    for split in ("train", "val"):
        img2dataset(tmp_path / split, form, shards=1)
    assert [e.split for e in read(tmp_path)] == ["train"] * 3 + ["val"] * 3


def test_a_link_out_of_img2datasets_folder_is_refused(tmp_path):
    outside = picture(tmp_path / "outside.jpg")
    (img2dataset(tmp_path / "out") / "00000" / "000000009.jpg").symlink_to(outside)
    with pytest.raises(ValueError, match="lies outside"):
        read(tmp_path / "out")


@pytest.mark.parametrize("place", ["data", "shards", "train"])
def test_a_stray_picture_beside_shards_changes_nothing(tmp_path, place, caplog):
    tar(tmp_path / place / "0.tar", pair("1"))
    picture(tmp_path / "overview.png")
    (tmp_path / "README.md").write_text("what this is")
    (tmp_path / ".cache").mkdir()
    assert len(read(tmp_path)) == 1
    assert "Left out 1 picture, beside" in caplog.text


def test_other_layouts_are_not_recognised(tmp_path):
    folder_of(tmp_path / "texts")
    tar(tmp_path / "texts" / "backup.tar", pair("1"))
    folder_of(tmp_path / "below" / "train" / "dogs")
    tar(tmp_path / "below" / "backup.tar", pair("1"))
    tar(tmp_path / "hub" / "backup.tar", pair("1"))
    (tmp_path / "hub" / "data").mkdir()
    (tmp_path / "hub" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    tar(tmp_path / "deep" / "other" / "0.tar", pair("1"))
    (tmp_path / "deep" / "README").write_text("one more")
    tar(tmp_path / "hidden" / ".0.tar", pair("1"))
    folder_of(tmp_path / "numbers" / "00000")
    for name in ("texts", "below", "hub", "deep", "hidden", "numbers", "absent", "texts/p1.png"):
        assert not any(recognises(tmp_path / name) for recognises, _ in OWN_READERS), name

"""The layouts of the Hub give the columns of every source, and each name its data set."""

import json
import os

import datasets
import pandas as pd
import pytest
from PIL import Image
from samples import COLUMNS, picture
from shards import encoded

from distilclip import load_pairs
from distilclip.data import fingerprint
from distilclip.runs.checkpoint import pictures_hash


def test_the_layout_of_flickr8k(tmp_path):
    (tmp_path / "data").mkdir()
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        rows = {f"caption_{c}": [f"{split} {n} {c}" for n in range(count)] for c in range(5)}
        rows["image"] = [Image.new("RGB", (50, 40), (n, count, len(split))) for n in range(count)]
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(
            tmp_path / "data" / f"{split}-00000-of-00001.parquet"
        )
    pairs = load_pairs(tmp_path)
    assert [len(pairs[s]) for s in ("train", "validation", "test")] == [6, 2, 2]
    assert set(pairs["train"].column_names) == COLUMNS
    assert pairs["test"][1]["captions"] == [f"test 1 {c}" for c in range(5)]


def test_the_layout_of_naruto(tmp_path):
    (tmp_path / "data").mkdir()
    rows = {
        "image": [Image.new("RGB", (50, 40), (n, 0, 0)) for n in range(20)],
        "text": [f"a man number {n}" for n in range(20)],
    }
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(
        tmp_path / "data" / "train-00000-of-00001.parquet"
    )
    pairs = load_pairs(tmp_path)
    assert all(map(len, pairs.values())) and len(pairs["train"]) >= 10
    for split in pairs.values():
        for row in split:
            assert row["captions"] == [f"a man number {row['image'].getpixel((0, 0))[0]}"]
    ids = [i for split in pairs.values() for i in split["image_id"]]
    assert sorted(ids) == sorted(f"train/{n}" for n in range(20))  # each picture in one split
    again = load_pairs(tmp_path)
    assert all(again[s]["image_id"][:] == pairs[s]["image_id"][:] for s in pairs)


@pytest.mark.parametrize(
    ("name", "hub_id", "sizes"),
    [
        ("flickr8k", "jxie/flickr8k", [6, 3, 3]),
        ("naruto", "lambda/naruto-blip-captions", [8, 1, 1]),
        ("someone/anything", "someone/anything", [8, 1, 1]),
    ],
)
def test_the_names_of_the_hub_sources(name, hub_id, sizes, monkeypatch):
    def columns(count, green=0):
        texts = [f"number {n}" for n in range(count)]
        captions = (
            {f"caption_{c}": [f"{t} {c}" for t in texts] for c in range(5)}
            if name == "flickr8k"
            else {"text": texts}
        )
        images = [Image.new("RGB", (5, 5), (n, green, 0)) for n in range(count)]
        rows = {"image": images, **captions}
        return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())

    def on_the_hub(asked):
        assert asked == hub_id
        if name != "flickr8k":
            return datasets.DatasetDict(train=columns(10))
        return datasets.DatasetDict(train=columns(6), validation=columns(3, 1), test=columns(3, 2))

    monkeypatch.setattr(datasets, "load_dataset", on_the_hub)
    pairs = load_pairs(name)
    assert [len(pairs[s]) for s in ("train", "validation", "test")] == sizes
    assert all(len(c) == (5 if name == "flickr8k" else 1) for c in pairs["test"]["captions"])


@pytest.mark.parametrize("name", ["{outside}", "../secret.png"])
def test_what_was_saved_names_no_file_outside_its_folder(tmp_path, monkeypatch, name):
    secret, folder = tmp_path / "secret.png", tmp_path / "saved"
    picture(secret, "blue")
    cells = [{"bytes": secret.read_bytes() + bytes([n]), "path": None} for n in range(5)]
    cells.append({"bytes": None, "path": name.format(outside=secret)})
    rows = {"image": cells, "caption": [f"number {n}" for n in range(6)]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["image"] = {"_type": "Image"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="lies outside"):
        load_pairs(folder)
    os.utime(secret, (1, 10**9))  # a read renews only an old time of access
    pairs = load_pairs(folder, skip_broken=True)
    rows = [row for split in pairs.values() for row in split["captions"]]
    assert ["number 5"] not in rows and len(rows) == 5
    assert secret.stat().st_atime == 1


def test_a_cell_without_a_picture_is_no_leave_to_open_its_name(tmp_path):
    """Empty bytes beside a name: nobody looks for that name."""
    secret, folder = tmp_path / "secret.png", tmp_path / "saved"
    picture(secret, "blue")
    cells = [{"bytes": secret.read_bytes() + bytes([n]), "path": None} for n in range(6)]
    cells[5] = {"bytes": b"", "path": str(secret)}
    rows = {"image": cells, "caption": [f"number {n}" for n in range(6)]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["image"] = {"_type": "Image"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    os.utime(secret, (1, 10**9))
    with pytest.raises(ValueError, match="no picture"):
        load_pairs(folder)
    pairs = load_pairs(folder, skip_broken=True)
    assert sum(len(split) for split in pairs.values()) == 5
    for split in pairs.values():
        pictures_hash(split), fingerprint(split)
    assert secret.stat().st_atime == 1


NO_PICTURES = (None, b"", float("nan"), pd.NaT, {"bytes": None, "path": None})


def frame_without(blank, place, column="image"):
    """Six pictures with captions; where the third picture should be is `blank`."""
    contents = [encoded(number) for number in range(6)]
    contents[place] = blank
    return pd.DataFrame({column: contents, "caption": [f"number {n}" for n in range(6)]})


@pytest.mark.parametrize("blank", NO_PICTURES, ids=str)
@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("kind", ["frame", "Dataset", "parquet"])
def test_a_row_without_a_picture_is_refused_or_counted(blank, place, kind, tmp_path, caplog):
    is_plain = not isinstance(blank, float | type(pd.NaT))
    frame = frame_without(blank if kind == "frame" or is_plain else None, place)
    if kind != "frame":
        pictures = [
            p if isinstance(p, dict) else {"bytes": p, "path": None} for p in frame["image"]
        ]
        frame = pd.DataFrame({"image": pictures, "caption": frame["caption"]})
        frame.to_parquet(tmp_path / "x.parquet")
    source = frame if kind == "frame" else tmp_path / "x.parquet"
    if kind == "Dataset":
        data = datasets.Dataset.from_pandas(frame)
        source = data.cast_column("image", datasets.Image(decode=False))
    with pytest.raises(ValueError, match=f"no picture in row {place} of .*--skip-broken"):
        load_pairs(source)
    pairs = load_pairs(source, skip_broken=True)
    captions = sorted(row["captions"][0] for rows in pairs.values() for row in rows)
    assert captions == [f"number {n}" for n in range(6) if n != place]
    assert "Skipped 1 of the pictures" in caplog.text


def test_failed_downloads_of_img2dataset_are_refused_or_counted(tmp_path):
    frame_without(None, 2, "jpg").to_parquet(tmp_path / "00000.parquet")
    with pytest.raises(ValueError, match=r"no picture in row 2 of .*--skip-broken"):
        load_pairs(tmp_path / "00000.parquet")
    pairs = load_pairs(tmp_path / "00000.parquet", skip_broken=True)
    assert sum(map(len, pairs.values())) == 5


def test_captions_of_many_kinds_in_a_frame(caplog):
    texts = ["one", {"raw": "two", "id": 2}, '["three"]', b"four", ["five", "5"], pd.NaT]
    frame = pd.DataFrame({"image": [encoded(n) for n in range(6)], "caption": texts})
    with pytest.raises(ValueError, match="Empty caption: row 5"):
        load_pairs(frame)
    pairs = load_pairs(frame, skip_broken=True)
    found = sorted(row["captions"] for rows in pairs.values() for row in rows)
    assert found == [["five", "5"], ["four"], ["one"], ["three"], ["two"]]


def test_a_column_of_another_type_is_no_column_of_pictures(tmp_path):
    cells = [{"bytes": number, "path": None} for number in range(6)]
    frame = pd.DataFrame({"image": cells, "caption": [f"number {n}" for n in range(6)]})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column.*image") as refused:
        load_pairs(tmp_path / "t.parquet", skip_broken=True)
    assert "\n" not in str(refused.value) and "cast" not in str(refused.value)


def test_a_description_that_is_no_text_is_named(tmp_path):
    rows = {"image": [{"bytes": encoded(n), "path": None} for n in range(6)], "caption": ["a"] * 6}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "dataset_info.json").write_bytes(b"\x80\xbb{")
    with pytest.raises(ValueError, match=r"^Cannot read the data set .*saved: ") as refused:
        load_pairs(tmp_path / "saved")
    assert "codec" not in str(refused.value)

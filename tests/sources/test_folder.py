"""A folder of one's own gives the columns of every source, and bad metadata is named."""

import csv
import json

import pytest
from samples import COLUMNS, folder_of, picture

from distilclip import load_pairs
from distilclip.sources.splits import SPLITS


def test_a_folder_with_text_files(tmp_path):
    pairs = load_pairs(folder_of(tmp_path / "a" / "b").parent)
    assert all(map(len, pairs.values())) and len(pairs["train"]) >= 6
    ids = [i for split in pairs.values() for i in split["image_id"]]
    assert sorted(ids) == sorted(f"b/p{n}.png" for n in range(12))
    row = pairs["train"][0]
    assert set(row) == COLUMNS and row["image"].size == (20, 30)
    number = row["image_id"][3:-4]
    assert row["captions"] == [f"picture {number}", f"another of {number}"]
    assert load_pairs(tmp_path / "a")["test"]["image_id"] == pairs["test"]["image_id"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_with_metadata_and_splits(tmp_path, kind):
    for split in ("train", "validation", "test"):
        rows = [
            {"file_name": "x/1.png", "text": "one, two"},
            {"file_name": "2.png", "text": "three"},
        ]
        for row in rows:
            colour = (SPLITS.index(split), len(row["text"]), 0)
            picture(tmp_path / split / row["file_name"], colour)
        if kind == "csv":
            with open(tmp_path / split / "metadata.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, ["file_name", "text"])
                writer.writeheader()
                writer.writerows(rows)
        else:
            lines = "\n".join(json.dumps(row) for row in rows)
            (tmp_path / split / "metadata.jsonl").write_text(lines)
    pairs = load_pairs(tmp_path)
    assert pairs["test"]["captions"] == [["one, two"], ["three"]]
    assert pairs["test"]["image_id"] == ["test/x/1.png", "test/2.png"]


def test_metadata_with_several_captions(tmp_path):
    rows = [{"file_name": f"{n}.png", "captions": ["a", f"b {n}"]} for n in range(4)]
    for number, row in enumerate(rows):
        picture(tmp_path / row["file_name"], (number, 0, 0))
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert load_pairs(tmp_path)["train"][0]["captions"][0] == "a"


BAD_METADATA = [
    ("file_name,text\n../secret.png,no\n", ValueError, "lies outside"),
    ("file_name,text\nabsent.png,no\n", FileNotFoundError, "does not exist"),
    ("file_name,text\np0.png,\n", ValueError, "Empty caption: entry 1"),
    ("file_name,words\np0.png,no\n", ValueError, "No caption in .*found .* file_name, words"),
    ("name,text\np0.png,no\n", ValueError, "No file_name in .*a comma .* name, text"),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD_METADATA)
def test_bad_metadata_is_named(tmp_path, text, error, message):
    picture(tmp_path / "secret.png")
    folder = folder_of(tmp_path / "pictures")
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(error, match=message):
        load_pairs(folder)


def test_metadata_must_be_utf8(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "metadata.csv").write_bytes(b"file_name,text\np0.png,caf\xe9\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        load_pairs(folder)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No captioned pictures"):
        load_pairs(tmp_path)


def test_a_picture_without_captions_is_refused(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "p3.txt").unlink()
    with pytest.raises(ValueError, match=r"p3\.png has no captions"):
        load_pairs(folder)
    (folder / "p3.txt").write_text(" \n")
    with pytest.raises(ValueError, match="Empty caption"):
        load_pairs(folder)


@pytest.mark.parametrize("end", [".png", ".txt"])
def test_a_link_leads_to_a_file_of_the_folder_and_never_out_of_it(tmp_path, end):
    folder = tmp_path / "pictures"
    for n in range(4):
        picture(folder / f"{n}.png", (20 * n, 99, n))
        (folder / f"{n}.txt").write_text(f"number {n}")
    picture(folder / "deep" / "5.png", "red")
    (folder / "deep" / "5.txt").write_text("number 5")
    for kind in (".png", ".txt"):
        (folder / f"inside{kind}").symlink_to(folder / "deep" / f"5{kind}")
    texts = {t for rows in load_pairs(folder).values() for ts in rows["captions"] for t in ts}
    assert texts == {"number 0", "number 1", "number 2", "number 3", "number 5"}
    picture(tmp_path / "secret.png", "blue")
    (tmp_path / "secret.txt").write_text("a secret")
    (folder / f"0{end}").unlink()
    (folder / f"0{end}").symlink_to(tmp_path / f"secret{end}")
    said = f"0{end}.* lies outside|leads out of the folder.*0{end}"
    with pytest.raises((ValueError, OSError), match=said):
        load_pairs(folder)
    kept = load_pairs(folder, skip_broken=True)
    assert (
        "a secret" not in str(list(kept["train"]["captions"])) and sum(map(len, kept.values())) == 4
    )

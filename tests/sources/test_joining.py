"""One picture is one row, whatever the source: however its captions are dealt out."""

import io
import json
import logging
import os
import tempfile
from pathlib import Path

import datasets
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilclip import load_pairs

FEW = settings(max_examples=12, deadline=None)
COUNT = 6
# For each picture, its captions dealt out over one or more rows, files or copies
DEALT = st.lists(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=4),
    min_size=COUNT,
    max_size=COUNT,
)


def content(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * number, 0, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def words(number, caption):
    return f"caption {caption} of picture {number}"


def expected(dealt):
    """Each picture's captions, once each, in the order in which they were dealt."""
    return {
        content(number): list(dict.fromkeys(words(number, c) for row in rows for c in row))
        for number, rows in enumerate(dealt)
    }


def found(pairs):
    """Each picture's captions and split; every picture is in one row."""
    rows = {}
    for split, part in pairs.items():
        for row in part.cast_column("image", datasets.Image(decode=False)):
            image = row["image"]
            key = image["bytes"] or Path(image["path"]).read_bytes()
            assert key not in rows
            rows[key] = (row["captions"], split)
    return rows


def as_copies(folder, dealt):
    for number, rows in enumerate(dealt):
        for copy, row in enumerate(rows):
            file = folder / f"{number}{copy}.png"
            file.write_bytes(content(number))
            file.with_suffix(".txt").write_text("\n".join(words(number, c) for c in row))
    return folder


def as_lines(folder, dealt):
    lines = []
    for number, rows in enumerate(dealt):
        (folder / f"{number}0.png").write_bytes(content(number))
        for row in rows:
            captions = [words(number, c) for c in row]
            lines.append(json.dumps({"file_name": f"{number}0.png", "captions": captions}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def as_named_table(folder, dealt):
    as_lines(folder, dealt)
    return (folder / "metadata.jsonl").rename(folder / "table.jsonl")


def rows_of(dealt):
    return [
        {"image": content(number), "captions": [words(number, c) for c in row]}
        for number, rows in enumerate(dealt)
        for row in rows
    ]


def as_frame(folder, dealt):
    return pd.DataFrame(rows_of(dealt))


def as_parquet(folder, dealt):
    as_frame(folder, dealt).to_parquet(folder / "pairs.parquet")
    return folder


def as_dataset(folder, dealt):
    return datasets.Dataset.from_list(rows_of(dealt)).cast_column("image", datasets.Image())


def as_shuffled_dataset(folder, dealt):
    rows = as_dataset(folder, dealt)
    order = list(range(len(rows)))
    return rows.select([*order[::-1]]).select([*order[::-1]])  # through row numbers


def as_saved(folder, dealt):
    as_dataset(folder, dealt).save_to_disk(folder / "saved")
    return folder / "saved"


FILES = (as_copies, as_lines, as_named_table)
ROWS = (as_frame, as_parquet, as_dataset, as_shuffled_dataset, as_saved)


@pytest.mark.slow
@pytest.mark.parametrize("layouts", [FILES, ROWS], ids=["files", "rows"])
@FEW
@given(dealt=DEALT)
def test_however_captions_are_dealt_out_the_pairs_and_splits_are_the_same(layouts, dealt):
    whole = [[[c for row in rows for c in row]] for rows in dealt]
    seen = set()
    for layout in layouts:
        for form in (dealt, whole):
            with tempfile.TemporaryDirectory() as folder:
                rows = found(load_pairs(layout(Path(folder), form)))
            assert {key: captions for key, (captions, _) in rows.items()} == expected(dealt)
            seen.add(tuple(sorted((key, split) for key, (_, split) in rows.items())))
    assert len(seen) == 1


SPLIT_WORDS = ("train", "Val", "test")
NAMES = {"train": "train", "Val": "validation", "test": "test"}


@FEW
@given(places=st.lists(st.sets(st.sampled_from(SPLIT_WORDS), min_size=1), min_size=1, max_size=5))
def test_a_picture_in_several_splits_is_kept_in_the_one_held_out(places):
    """Whether the split is a folder, a column or a split of a data set."""
    fixed = [{"train"}, {"Val"}, {"test"}]
    rows = [
        {"image": content(n), "caption": f"{n} in {word}", "Split": word}
        for n, words in enumerate([*fixed, *places])
        for word in sorted(words)
    ]
    wanted = {
        content(n): NAMES[next(w for w in ("test", "Val", "train") if w in words)]
        for n, words in enumerate([*fixed, *places])
    }
    frame = pd.DataFrame(rows)
    parts = {
        word: datasets.Dataset.from_pandas(some.drop(columns="Split"), preserve_index=False)
        for word, some in frame.groupby("Split")
    }
    with tempfile.TemporaryDirectory() as folder:
        for number, row in enumerate(rows):
            file = Path(folder, row["Split"], f"{number}.png")
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(row["image"])
            file.with_suffix(".txt").write_text(row["caption"])
        for source in (Path(folder), frame, datasets.DatasetDict(parts)):
            assert {k: split for k, (_, split) in found(load_pairs(source)).items()} == wanted


def test_the_number_of_rows_joined_is_said_in_one_line(tmp_path, caplog):
    for name in ("train/a.png", "train/b.png", "test/c.png", "test/d.png", "val/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content(1 if name[-5] in "abc" else ord(name[-5]) % 6))
        (tmp_path / name).with_suffix(".txt").write_text(name)
    for number in range(2):
        as_copies(tmp_path / "train", [[[0]]] * COUNT if number else [])
    with caplog.at_level(logging.INFO, "distilclip.sources"):
        load_pairs(tmp_path)
    (line,) = [r.getMessage() for r in caplog.records if "were joined" in r.getMessage()]
    assert "rows were joined" in line and "kept only where held out" in line


def test_links_to_one_file_are_one_picture(tmp_path):
    as_copies(tmp_path, [[[0]]] * 4)
    (tmp_path / "again.png").symlink_to(tmp_path / "00.png")
    (tmp_path / "again.txt").write_text("another caption")
    os.link(tmp_path / "10.png", tmp_path / "hard.png")
    (tmp_path / "hard.txt").write_text("a hard link's caption")
    rows = found(load_pairs(tmp_path))
    assert rows[content(0)][0] == [words(0, 0), "another caption"]
    assert rows[content(1)][0] == [words(1, 0), "a hard link's caption"] and len(rows) == 4


def test_pictures_of_one_size_and_one_end_are_not_the_same(tmp_path):
    for number in range(4):
        head = bytes([number]) * 10
        (tmp_path / f"{number}.png").write_bytes(head + b"x" * 10_000)
        (tmp_path / f"{number}.txt").write_text(str(number))
    assert sum(map(len, load_pairs(tmp_path).values())) == 4


def test_pictures_in_arrow_stay_where_they_are(tmp_path):
    """A saved data set is selected from, not copied."""
    saved = as_saved(tmp_path, [[[0], [1]]] * COUNT)
    rows = load_pairs(saved)["train"]
    assert rows.cache_files and all(str(saved) in f["filename"] for f in rows.cache_files)

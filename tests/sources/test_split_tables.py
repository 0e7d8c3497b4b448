"""The same pictures and captions, told in a table for each split, or by a column, are the same."""

import csv
import json

import datasets
import pandas as pd
import pytest
from samples import picture

from distilclip import load_pairs

WORDS = {"train": "train", "validation": "val", "test": "test"}
NUMBERS = {"train": range(6), "validation": range(6, 8), "test": range(8, 11)}
EXPECTED = {split: {f"number {n}" for n in numbers} for split, numbers in NUMBERS.items()}


def captions_of(source, **options) -> dict[str, set[str]]:
    """The captions of each split; a picture has one."""
    pairs = load_pairs(source, **options)
    assert all(len(texts) == 1 for rows in pairs.values() for texts in rows["captions"])
    return {split: {texts[0] for texts in rows["captions"]} for split, rows in pairs.items()}


def write(file, records: list[dict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".csv", ".tsv"):
        with open(file, "w", newline="") as opened:
            delimiter = "\t" if file.suffix == ".tsv" else ","
            writer = csv.DictWriter(opened, list(records[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(records)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif file.suffix == ".json":
        file.write_text(json.dumps(records))
    else:
        pd.DataFrame(records).to_parquet(file)


def draw(folder, place: str = "images/{n}.png") -> None:
    for split, numbers in NUMBERS.items():
        for n in numbers:
            picture(folder / place.format(n=n, split=WORDS[split]), (20 * n, 99, n))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize(
    ("tables", "place", "name"),
    [
        ("{word}", "images/{n}.png", "images/{n}.png"),
        ("{word}", "images/{n}.png", "{n}.png"),
        ("{Word}", "{n}.png", "{n}.png"),
        ("annotations/{word}", "images/{n}.png", "{n}.png"),
        ("captions_{word}", "images/{split}/{n}.png", "{n}.png"),
    ],
)
def test_a_table_for_each_split(tmp_path, suffix, tables, place, name):
    draw(tmp_path, place)
    for split, numbers in NUMBERS.items():
        word = WORDS[split]
        records = [{"image": name.format(n=n), "caption": f"number {n}"} for n in numbers]
        write(tmp_path / (tables.format(word=word, Word=word.title()) + suffix), records)
    assert captions_of(tmp_path) == EXPECTED


@pytest.mark.parametrize("column", ["split", "set", "subset", "partition"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_column_of_splits_is_heeded_whatever_it_is_called(tmp_path, column, suffix):
    draw(tmp_path)
    records = [
        {"image": f"images/{n}.png", "caption": f"number {n}", column: WORDS[split]}
        for split, numbers in NUMBERS.items()
        for n in numbers
    ]
    write(tmp_path / f"all{suffix}", records)
    assert captions_of(tmp_path / f"all{suffix}") == EXPECTED


def test_splits_that_are_labels_go_by_their_names(tmp_path):
    draw(tmp_path)
    label = datasets.ClassLabel(names=["test", "train", "val"])
    numbers = [n for some in NUMBERS.values() for n in some]
    words = [WORDS[split] for split, some in NUMBERS.items() for _ in some]
    rows = {
        "image": [
            {"path": None, "bytes": (tmp_path / f"images/{n}.png").read_bytes()} for n in numbers
        ],
        "caption": [f"number {n}" for n in numbers],
        "split": [label.str2int(word) for word in words],
    }
    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "split": label}
    )
    assert captions_of(datasets.Dataset.from_dict(rows, features)) == EXPECTED


def test_metadata_below_counts_for_its_own_folder(tmp_path):
    for split, numbers in NUMBERS.items():
        place = tmp_path / WORDS[split] / "some"
        for n in numbers:
            picture(place / f"{n}.png", (20 * n, 99, n))
        records = [{"file_name": f"{n}.png", "text": f"number {n}"} for n in numbers]
        write(place / "metadata.csv", records)
    assert captions_of(tmp_path) == EXPECTED


def test_coco_files_in_the_folders_of_their_splits(tmp_path):
    for split, numbers in NUMBERS.items():
        place = tmp_path / WORDS[split]
        for n in numbers:
            picture(place / f"{n}.png", (20 * n, 99, n))
        images = [{"id": n, "file_name": f"{n}.png"} for n in numbers]
        notes = [{"id": n, "image_id": n, "caption": f"number {n}"} for n in numbers]
        content = json.dumps({"images": images, "annotations": notes})
        (place / "_annotations.coco.json").write_text(content)
    assert captions_of(tmp_path) == EXPECTED


@pytest.mark.parametrize("nothing", ["nan", "None", "NULL", "N/A", ""])
def test_what_programs_write_for_nothing_is_no_caption(tmp_path, nothing):
    draw(tmp_path)
    records = [{"image": f"images/{n}.png", "caption": f"number {n}"} for n in range(6)]
    write(tmp_path / "all.csv", [*records, {"image": "images/7.png", "caption": nothing}])
    with pytest.raises(ValueError, match=r"(?i)caption"):
        load_pairs(tmp_path / "all.csv")
    again = [*records, {"image": "images/0.png", "caption": nothing}]
    write(tmp_path / "all.csv", again)  # another row has the captions of picture 0
    found = captions_of(tmp_path / "all.csv")
    assert set().union(*found.values()) == {f"number {n}" for n in range(6)}


def test_tables_are_no_splits_beside_pictures_that_have_their_captions(tmp_path):
    draw(tmp_path)
    for n in range(11):
        (tmp_path / f"images/{n}.txt").write_text(f"from its file, {n}")
    write(tmp_path / "train.csv", [{"image": "images/0.png", "caption": "from a table"}])
    assert all(
        "from its file" in text for texts in captions_of(tmp_path).values() for text in texts
    )

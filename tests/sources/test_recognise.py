"""What a source is decides how it is read; a stray file changes nothing."""

import datasets
import pandas as pd
import pytest
from samples import folder_of, picture

from distilclip import load_pairs
from distilclip.sources.splits import SPLIT_WORDS


def sizes(source, **options):
    return {split: len(rows) for split, rows in load_pairs(source, **options).items()}


def split_folder(folder, word, first, count=4):
    for number in range(first, first + count):
        picture(folder / word / f"{number}.png", (number, 0, 0))
        (folder / word / f"{number}.txt").write_text(f"number {number}")


STRAY = {
    "sub/cache.parquet": b"PAR1",
    "features.parquet": None,
    ".cache/metadata.csv": b"file_name,text\nx.png,y\n",
    ".hidden/train/metadata.jsonl": b"{}",
    "stats.json": b"{}",
    "sub/dataset_info.json": b"{}",
    "sub/metadata.csv": b"a,b\n1,2\n",
    "README.md": b"# Pictures",
}


@pytest.mark.parametrize("name", STRAY)
def test_a_stray_file_changes_nothing(name, tmp_path):
    before = load_pairs(folder_of(tmp_path))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    if STRAY[name] is None:
        pd.DataFrame({"vector": [0.5]}).to_parquet(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(STRAY[name])
    after = load_pairs(tmp_path)
    assert {s: r["image_id"][:] for s, r in before.items()} == {
        s: r["image_id"][:] for s, r in after.items()
    }


@pytest.mark.parametrize("word", [w for w, s in SPLIT_WORDS.items() if s == "validation"])
@pytest.mark.parametrize("change", [str, str.title, str.upper])
def test_every_word_for_a_split_is_understood(word, change, tmp_path):
    for split, first in (("train", 0), (change(word), 4), ("test", 8)):
        split_folder(tmp_path, split, first)
    assert sizes(tmp_path) == {"train": 4, "validation": 4, "test": 4}
    rows = [
        {"image": (tmp_path / split / f"{n}.png").read_bytes(), "caption": f"{n}", "split": split}
        for split, first in (("train", 0), (change(word), 4), ("test", 8))
        for n in range(first, first + 4)
    ]
    assert sizes(pd.DataFrame(rows)) == {"train": 4, "validation": 4, "test": 4}
    for split, some in pd.DataFrame(rows).drop(columns="split").groupby([r["split"] for r in rows]):
        (tmp_path / "p" / "data").mkdir(exist_ok=True, parents=True)
        some.to_parquet(tmp_path / "p" / "data" / f"{split}-00000-of-00001.parquet")
    assert sizes(tmp_path / "p") == {"train": 4, "validation": 4, "test": 4}


@pytest.mark.parametrize("names", [("train2017", "val2017"), ("train_images", "val_images")])
def test_words_for_splits_in_names_of_folders(names, tmp_path):
    for name, first in zip(names, (0, 8), strict=True):
        split_folder(tmp_path / "images", name, first, 8)
    found = sizes(tmp_path)
    assert found["validation"] == 8 and found["train"] + found["test"] == 8


@pytest.mark.parametrize("odd", ["extra", "train_small", "val-b"])
def test_a_folder_beside_the_splits_is_refused_by_name(odd, tmp_path):
    for number, name in enumerate(("train", "test", odd)):
        split_folder(tmp_path, name, 4 * number)
    with pytest.raises(ValueError, match=rf"{odd} looks like a split"):
        load_pairs(tmp_path)
    with pytest.raises(ValueError, match="beside the folders train, test"):
        (tmp_path / odd).rename(tmp_path / ".away")
        split_folder(tmp_path, ".", 30, 1)
        load_pairs(tmp_path)


def test_splits_alone_that_are_not_understood_are_refused(tmp_path):
    split_folder(tmp_path, "train_small", 0)
    split_folder(tmp_path, "test_small", 4)
    with pytest.raises(ValueError, match="test_small looks like a split"):
        load_pairs(tmp_path)


def test_what_has_no_train_is_there_as_it_is(tmp_path):
    split_folder(tmp_path, "test", 0)
    assert sizes(tmp_path) == {"test": 4}
    split_folder(tmp_path, "dev", 4)
    assert sizes(tmp_path) == {"validation": 4, "test": 4}


def test_a_column_of_splits_is_heeded_by_a_data_set_of_one_split():
    """As nlphuji/flickr30k has it: all rows in `test`, and a column that says train."""
    words = ["train"] * 6 + ["val"] * 2 + ["test"] * 3 + ["restval"]
    rows = {
        "image": [picture_of(n) for n in range(12)],
        "caption": [[f"{n}", f"again {n}"] for n in range(12)],
        "split": words,
        "filename": [f"{n}.jpg" for n in range(12)],
    }
    pairs = datasets.DatasetDict(test=datasets.Dataset.from_dict(rows))
    assert sizes(pairs) == {"train": 7, "validation": 2, "test": 3}


def picture_of(number):
    from PIL import Image

    return Image.new("RGB", (6, 6), (number, 0, 0))


def test_other_names_of_splits_stay():
    parts = {
        name: datasets.Dataset.from_dict(
            {"image": [picture_of(10 * place + n) for n in range(3)], "text": list("abc")}
        )
        for place, name in enumerate(("train", "test", "test_concepts"))
    }
    assert sizes(datasets.DatasetDict(parts))["test_concepts"] == 3


def test_parquet_files_whose_names_do_not_say_their_split_are_refused(tmp_path):
    for place, name in enumerate(("train", "extra")):
        rows = {"image": [picture_of(10 * place + n) for n in range(3)], "text": list("abc")}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"extra\.parquet"):
        load_pairs(tmp_path)


def test_kinds_that_are_not_read_are_counted_in_one_line(tmp_path, caplog):
    folder_of(tmp_path)
    for name in ("a.mp4", "b.mp4", "c.svg"):
        (tmp_path / name).touch()
    load_pairs(tmp_path)
    (line,) = [r.getMessage() for r in caplog.records]
    assert "2 .mp4, 1 .svg" in line and "\n" not in line


def test_a_name_that_is_nothing_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder and no file .* Hub gave none"):
        load_pairs("data/flicker8k")
    with pytest.raises(ValueError, match="Cannot read pairs from list"):
        load_pairs([1, 2])
    with pytest.raises(ValueError, match="names its own columns"):
        load_pairs("emoji", image_column="x")

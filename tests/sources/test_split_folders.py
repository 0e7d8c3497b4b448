"""What lies in a folder of a split belongs to it, whatever names the pictures."""

import io
import json
import tarfile

import datasets
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shards import encoded

from distilclip.data import load_pairs
from distilclip.sources.entries import Entry
from distilclip.sources.split_folders import with_folders

PLACES = {f"{n}.png": "train" if n < 6 else "test" for n in range(10)}
WORDS = [f"a thing of kind {n}" for n in range(10)]


@pytest.fixture
def pictures(tmp_path):
    for number, (name, split) in enumerate(PLACES.items()):
        place = tmp_path / "source" / split
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (20 * number, 90, 30)).save(place / name)
    return tmp_path / "source"


def in_a_table(source):
    lines = [f"{split}/{name},{w}" for (name, split), w in zip(PLACES.items(), WORDS, strict=True)]
    (source / "list.csv").write_text("\n".join(["image,caption", *lines]))
    return source / "list.csv"


def in_kaggle_s_table(source):
    lines = [f"{name},{words}" for name, words in zip(PLACES, WORDS, strict=True)]
    (source / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    images = source / "Images"
    images.mkdir()
    for split in ("train", "test"):
        (source / split).rename(images / split)
    return source


def in_json_lines(source):
    pairs = zip(PLACES.items(), WORDS, strict=True)
    records = [{"image": f"{split}/{name}", "text": words} for (name, split), words in pairs]
    (source / "list.jsonl").write_text("\n".join(map(json.dumps, records)))
    return source / "list.jsonl"


def in_coco_s(source):
    pairs = list(enumerate(zip(PLACES.items(), WORDS, strict=True)))
    images = [{"id": n, "file_name": f"{split}/{name}"} for n, ((name, split), _) in pairs]
    annotations = [{"id": n, "image_id": n, "caption": words} for n, (_, words) in pairs]
    content = {"images": images, "annotations": annotations}
    (source / "captions.json").write_text(json.dumps(content))
    return source


def in_a_parquet_file(source):
    paths = [f"{split}/{name}" for name, split in PLACES.items()]
    pandas.DataFrame({"image": paths, "text": WORDS}).to_parquet(source / "list.parquet")
    return source / "list.parquet"


def in_a_frame(source):
    paths = [str(source / split / name) for name, split in PLACES.items()]
    return pandas.DataFrame({"image": paths, "text": WORDS})


def in_a_tar(source):
    for (name, split), words in zip(PLACES.items(), WORDS, strict=True):
        (source / split / name).with_suffix(".txt").write_text(words)
    with tarfile.open(source / "all.tar", "w") as tar:
        for split in ("train", "test"):
            tar.add(source / split, split)
    return source / "all.tar"


LAYOUTS = [in_a_table, in_kaggle_s_table, in_json_lines, in_coco_s]
LAYOUTS += [in_a_parquet_file, in_a_frame, in_a_tar]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_test_is_never_trained_on(layout, pictures):
    pairs = load_pairs(layout(pictures))
    tested = {text for texts in pairs["test"]["captions"] for text in texts}
    assert tested == set(WORDS[6:])
    assert sum(map(len, pairs.values())) == 10


def test_a_stream_refuses_a_shard_that_holds_two_splits(pictures):
    from distilclip.sources.entries import Asked
    from distilclip.sources.streams import held_out_of, open_stream

    tar = in_a_tar(pictures)
    stream = open_stream(tar, Asked())
    with pytest.raises(ValueError, match="belongs to the split test"):
        held_out_of(stream, Asked())


NAMES = {
    "train": ["train", "Training", "train_images", "train2017"],
    "test": ["test", "TEST", "test-set"],
    "": ["cats", "2017", "steam train", "images"],
}


def entries(folders):
    return [Entry(b"", ["words"], f"{folder}/{n}.png", "") for n, folder in enumerate(folders)]


@given(st.lists(st.sampled_from([(s, f) for s in ("train", "test") for f in NAMES[s]]), min_size=1))
@settings(max_examples=60, deadline=None)
def test_any_words_in_any_depth(chosen):
    deep = [
        f"{NAMES[''][n % 4]}/{folder}" * (n % 2) or folder for n, (_, folder) in enumerate(chosen)
    ]
    found = [entry.split for entry in with_folders(entries(deep), "source")]
    assert found == [split for split, _ in chosen]


@pytest.mark.parametrize("folders", [["cats", "dogs"], ["steam train", "cats"], ["2017"]])
def test_other_folders_mean_nothing(folders):
    assert not any(entry.split for entry in with_folders(entries(folders), "source"))


@pytest.mark.parametrize("folders", [["train", "cats"], ["train/test"], ["test", "."]])
def test_what_is_unclear_is_refused(folders):
    with pytest.raises(ValueError, match="split"):
        list(with_folders(entries(folders), "source"))


def test_the_folders_above_all_pictures_mean_nothing():
    paths = [f"/home/ada/test/{n}.png" for n in range(3)]
    given_ = [Entry(path, ["words"], path, "") for path in paths]
    assert not any(entry.split for entry in with_folders(given_, "elsewhere.csv"))


# What else says a split, and what is missing


def frame_of(count=12, **columns):
    rows = [{"bytes": encoded(n), "path": None} for n in range(count)]
    return pandas.DataFrame({"image": rows, "text": [f"thing {n}" for n in range(count)]} | columns)


@pytest.mark.parametrize(
    ("column", "cells", "tested"),
    [
        ("set", ["test"] * 12, 12),
        ("subset", ["trn"] * 8 + ["tst"] * 4, 4),
        ("anything", ["train2017"] * 8 + ["Test Set"] * 4, 4),
        ("split", ["['train']"] * 8 + ["['test']"] * 4, 4),
    ],
)
def test_words_in_a_column_are_splits(column, cells, tested, tmp_path):
    frame_of(**{column: cells}).to_parquet(tmp_path / "x.parquet")
    for source in (tmp_path, frame_of(**{column: cells})):
        assert len(load_pairs(source)["test"]) == tested


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("is_test", [False] * 8 + [True] * 4),
        ("fold", list(range(12))),
        ("Usage", ["Training"] * 8 + ["PublicTest"] * 4),
        ("set", ["train"] * 8 + [None] * 4),
    ],
)
def test_a_column_that_may_say_splits_is_named(column, cells, caplog):
    load_pairs(frame_of(**{column: cells}))
    assert f"the column {column!r} is not heeded" in caplog.text


def test_a_split_in_memory_is_used_as_it_is_called():
    rows = datasets.Dataset.from_pandas(frame_of())
    rows.info.splits = None
    for said, split in (("test[:50%]", "test"), ("validation", "validation")):
        named = datasets.Dataset(rows.data, info=rows.info, split=datasets.NamedSplit(said))
        assert load_pairs(named).keys() == {split}
    named = datasets.Dataset(rows.data, info=rows.info, split=datasets.NamedSplit("testA"))
    with pytest.raises(ValueError, match="'testA', which does not say what it is for"):
        load_pairs(named)


def test_a_missing_shard_is_said(tmp_path, caplog):
    for number in (0, 2):
        frame_of(6).iloc[number : number + 3].to_parquet(
            tmp_path / f"train-0000{number}-of-00003.parquet"
        )
    load_pairs(tmp_path)
    assert "1 of the 3 parts of train is missing" in caplog.text


def test_a_split_beside_a_picture_in_a_shard_is_heeded(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(9):
            word = "test" if number > 5 else "train"
            said = json.dumps({"caption": f"thing {number}", "split": word}).encode()
            for name, content in ((f"{number}.png", encoded(number)), (f"{number}.json", said)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    assert len(load_pairs(tmp_path)["test"]) == 3


def test_files_that_may_say_splits_are_named(pictures, caplog):
    source = in_kaggle_s_table(pictures)
    (source / "train_test_split.txt").write_text("1 0\n")
    (source / "splits.csv").write_text("image,split\n0.png,train\n")
    load_pairs(source)
    for name in ("train_test_split.txt", "splits.csv"):
        assert f"{name} is not read" in caplog.text


def test_a_folder_that_no_file_of_captions_names_is_said(pictures, caplog):
    (pictures / "train").rename(pictures / "train2017")
    (pictures / "test").rename(pictures / "test2017")
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(6)]
    annotations = [{"id": n, "image_id": n, "caption": WORDS[n]} for n in range(6)]
    content = json.dumps({"images": images, "annotations": annotations})
    (pictures / "captions_train2017.json").write_text(content)
    load_pairs(pictures)
    assert "Left out 4 pictures" in caplog.text and "test2017, which no file" in caplog.text


def test_hidden_folders_and_later_keys_change_nothing(pictures):
    for number, (name, split) in enumerate(PLACES.items()):
        (pictures / split / name).with_suffix(".txt").write_text(WORDS[number])
    (pictures / ".eval").mkdir()
    assert len(load_pairs(pictures)["test"]) == 4
    records = [
        {"image": f"{split}/{name}", "text": words} | ({"set": split} if n else {})
        for n, ((name, split), words) in enumerate(zip(PLACES.items(), WORDS, strict=True))
    ]
    records[0]["set"] = ""
    (pictures / "l.jsonl").write_text("\n".join(map(json.dumps, records[1:])))
    assert len(load_pairs(pictures / "l.jsonl")["test"]) == 4


def test_a_stream_refuses_a_column_of_splits_whatever_its_first_rows_say(tmp_path):
    from distilclip.sources.entries import Asked
    from distilclip.sources.streams import open_stream

    frame_of(20, set=["train"] * 12 + ["test"] * 8).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"says in a column \(set\)"):
        open_stream(tmp_path, Asked())

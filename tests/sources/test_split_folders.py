"""What lies in a folder of a split belongs to it, whatever names the pictures."""

import json
import tarfile

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

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

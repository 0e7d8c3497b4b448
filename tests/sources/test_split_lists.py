"""Lists of the pictures of each split are heeded, whatever the layout beside them."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import picture

from distilclip import load_pairs

COUNT = 9
STYLES = {
    "names": lambda name: name,
    "stems": lambda name: name.removesuffix(".png"),
    "paths": lambda name: f"./pictures/{name}",
    "paths without suffixes": lambda name: f"pictures/{name.removesuffix('.png')}",
    "other machines' paths": lambda name: f"C:\\data\\flickr\\pictures\\{name}",
    "with a class": lambda name: f"{name} 3",
}


def beside(folder, names):
    for name in names:
        (folder / "pictures" / name).with_suffix(".txt").write_text(f"a picture {name}")


def metadata(folder, names):
    lines = [json.dumps({"file_name": f"pictures/{n}", "text": f"a picture {n}"}) for n in names]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def kaggle(folder, names):
    with open(folder / "captions.txt", "w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], *([n, f"a picture {n}"] for n in names)])


LAYOUTS = {"beside": beside, "metadata": metadata, "kaggle": kaggle}


def make(folder, layout, lists, style="names"):
    """Pictures with captions, and a list for each file in `lists`, by their numbers."""
    names = [f"picture {number}.png".replace(" ", "-") for number in range(COUNT)]
    for number, name in enumerate(names):
        picture(
            folder / ("Images" if layout == "kaggle" else "pictures") / name, (20 * number, 9, 9)
        )
    LAYOUTS[layout](folder, names)
    for file, numbers in lists.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        lines = [STYLES[style](names[number]) for number in numbers]
        (folder / file).write_text("\n".join(lines) + "\n")
    return folder


def splits_of(pairs):
    """The numbers in each split, by what the captions say."""
    return {
        split: sorted(int(caption[-5]) for (caption,) in rows["captions"])
        for split, rows in pairs.items()
    }


WHOLE = {"train.txt": [1, 2, 3, 4, 5], "val.txt": [0, 7], "test.txt": [6, 8]}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("style", STYLES)
def test_lists_say_the_splits(layout, style, tmp_path, caplog):
    found = splits_of(load_pairs(make(tmp_path, layout, WHOLE, style)))
    assert found == {"train": [1, 2, 3, 4, 5], "validation": [0, 7], "test": [6, 8]}
    assert "not read" not in caplog.text and "Left out" not in caplog.text


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(["train", "val", "test"]), min_size=COUNT, max_size=COUNT))
def test_any_partition_is_kept(tmp_path_factory, words):
    wanted = {}
    for number, word in enumerate(words):
        wanted.setdefault(word, []).append(number)
    lists = {f"{word}.txt": numbers for word, numbers in wanted.items()}
    folder = make(tmp_path_factory.mktemp("lists"), "metadata", lists)
    try:
        found = splits_of(load_pairs(folder))
    except ValueError as error:  # too few pictures to draw what is missing
        assert "needed to set some aside" in str(error)
        return
    for word, split in (("val", "validation"), ("test", "test")):
        if word in wanted:
            assert found[split] == wanted[word]
    if "train" in wanted and len(wanted) == 3:
        assert found["train"] == wanted["train"]


def test_what_no_list_names_is_trained_on_or_left_out(tmp_path, caplog):
    held_out = {"test.txt": [0, 1], "splits/dev.lst": [2]}
    pairs = load_pairs(make(tmp_path / "a", "beside", held_out))
    assert splits_of(pairs) == {"train": [3, 4, 5, 6, 7, 8], "validation": [2], "test": [0, 1]}
    some = {"train.txt": [3, 4, 5], **held_out}
    pairs = load_pairs(make(tmp_path / "b", "beside", some))
    assert splits_of(pairs) == {"train": [3, 4, 5], "validation": [2], "test": [0, 1]}
    assert "Left out 3 pictures, which no list of a split" in caplog.text


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train.txt": [0, 1, 2], "test.txt": [2, 3]}, "a picture lies in one split"),
        ({"train.txt": [0, 1, 2], "lists/test_list.txt": [1]}, "a picture lies in one split"),
    ],
)
def test_a_picture_in_two_lists_is_refused(lists, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_pairs(make(tmp_path, "beside", lists))


def test_a_name_that_is_not_there_is_refused_or_skipped(tmp_path, caplog):
    folder = make(tmp_path, "beside", WHOLE)
    with open(folder / "test.txt", "a") as file:
        file.write("picture-99.png\n")
    with pytest.raises(ValueError, match=r"picture-99.png.* in .*test.txt is no captioned picture"):
        load_pairs(folder)
    assert splits_of(load_pairs(folder, skip_broken=True))["test"] == [6, 8]
    assert "picture-99.png" in caplog.text


def test_a_list_against_folders_is_refused(tmp_path):
    for split in ("train", "test"):
        for number in range(4):
            file = tmp_path / split / f"{split}{number}.png"
            picture(file, (20 * number, 90 * (split == "test"), 9))
            file.with_suffix(".txt").write_text("a picture")
    (tmp_path / "test.txt").write_text("train1.png\n")
    with pytest.raises(ValueError, match="is in train, and in the list of test"):
        load_pairs(tmp_path)


@pytest.mark.parametrize("content", ["", "a photograph of a test\n", "notes on how to train\n"])
def test_what_names_no_picture_is_said_and_says_no_split(content, tmp_path, caplog):
    folder = make(tmp_path, "beside", {})
    (folder / "train.txt").write_text(content)
    assert set(load_pairs(folder)) == {"train", "validation", "test"}
    assert "train.txt names no pictures, so it says no split" in caplog.text


def test_the_caption_of_a_picture_called_test_is_no_list(tmp_path, caplog):
    folder = make(tmp_path, "beside", {})
    picture(folder / "test.png", (7, 7, 7))
    (folder / "test.txt").write_text("picture-1.png\n")
    assert sum(map(len, load_pairs(folder).values())) == COUNT + 1
    assert "says no split" not in caplog.text

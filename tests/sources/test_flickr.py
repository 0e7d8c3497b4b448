"""Flickr8k and Flickr30k, as Kaggle and as their authors hand them on, are read right."""

import csv
import io
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import folder_of, picture

from distilclip.sources import flickr
from distilclip.sources.entries import Asked
from distilclip.sources.flickr import columns_in, split_line

OWN_READERS = (
    (flickr.recognises_tokens, flickr.read_tokens),
    (flickr.recognises_table, flickr.read_table),
)
BARS = "image_name| comment_number| comment\n"


def read(path, **asked):
    """The captions and the split of each picture, by the one reader that takes the source."""
    readers = [reader for recognises, reader in OWN_READERS if recognises(path)]
    assert len(readers) == 1
    return {e.image_id: (e.captions, e.split) for e in readers[0](path, Asked(**asked))}


def captions_in(path, **asked):
    return {name: captions for name, (captions, _) in read(path, **asked).items()}


def images(path, count=4, folder="Images", suffix=".jpg"):
    for number in range(count):
        picture(path / folder / f"{number}{suffix}", (20 * number, 0, 0))
    return path


def lines_of_captions(count=4, each=5):
    return [(f"{n}.jpg", k, f"caption {k} of {n}") for n in range(count) for k in range(each)]


EXPECTED = {f"{n}.jpg": [f"caption {k} of {n}" for k in range(5)] for n in range(4)}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("header", ["image,caption", '"image","caption"', ""])
def test_kaggles_flickr8k(tmp_path, ends, start, header):
    lines = [header] if header else []
    lines += [f"{name},{caption}" for name, _, caption in lines_of_captions()]
    text = start + "".join(line + ends for line in lines)
    (images(tmp_path) / "captions.txt").write_bytes(text.encode())
    assert captions_in(tmp_path) == EXPECTED
    assert captions_in(tmp_path / "captions.txt") == EXPECTED


@pytest.mark.parametrize(
    ("table", "folder"),
    [
        ("results.csv", "flickr30k_images"),
        ("flickr30k_images/results.csv", "flickr30k_images/flickr30k_images"),
        ("results.csv", "images"),
        ("results.csv", "."),
    ],
)
def test_kaggles_flickr30k(tmp_path, table, folder):
    images(tmp_path, folder=folder)
    lines = "".join(f"{name}| {k}| {caption}\n" for name, k, caption in lines_of_captions())
    (tmp_path / table).write_text(BARS + lines)
    assert captions_in(tmp_path) == EXPECTED


def test_the_line_of_flickr30k_without_its_second_bar(tmp_path):
    lines = "0.jpg| 3| One | two .\n0.jpg| 4   A dog runs across the grass .\n"
    (images(tmp_path, 1) / "results.csv").write_text(BARS + lines)
    assert captions_in(tmp_path) == {"0.jpg": ["One | two .", "A dog runs across the grass ."]}


def test_numbers_between_commas(tmp_path):
    lines = 'image_name,comment_number,comment\n0.jpg,0,a dog\n0.jpg,1,"a dog, a cat"\n'
    (images(tmp_path, 1) / "captions.txt").write_text(lines)
    assert captions_in(tmp_path) == {"0.jpg": ["a dog", "a dog, a cat"]}


CAPTIONS = {
    '"a dog, running"': "a dog, running",
    '"a ""fast"" dog, running"': 'a "fast" dog, running',
    "a dog, running, fast": "a dog, running, fast",
    'a sign says "stop", in red': 'a sign says "stop", in red',
    '"Stop", says the sign': '"Stop", says the sign',
    '"an inch is 2.54 cm': '"an inch is 2.54 cm',
    'a 5" doll': 'a 5" doll',
    '"two\nlines"': "two lines",
    '"two\n\nlines, more"': "two lines, more",
}


@pytest.mark.parametrize("written", CAPTIONS)
def test_a_caption_with_commas_and_quotation_marks(tmp_path, written):
    lines = f"image,caption\n0.jpg,{written}\n1.jpg,another\n"
    (images(tmp_path, 2) / "captions.txt").write_text(lines)
    assert captions_in(tmp_path) == {"0.jpg": [CAPTIONS[written]], "1.jpg": ["another"]}


CELL = st.text(st.sampled_from('ab ",|\n'), min_size=1)


@settings(max_examples=200, deadline=None)
@given(st.lists(CELL, min_size=3, max_size=3), st.sampled_from(",|"))
def test_what_the_module_csv_writes_is_split_as_it_reads(cells, delimiter):
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="").writerow(cells)
    assert split_line(line.getvalue(), delimiter, 3) == cells


FAULTS = {
    'image,caption\n0.jpg,"one","two"\n': "Line 2 .* has more cells for 2 columns",
    "image,caption\n0.jpg,one\n0.jpg\n": "Line 3 .* names no picture|has 1 cells",
    "image,caption\n0.jpg,one\nand more\n": "Line 3 .* names no picture: 'and more'",
    "image,caption,split\n0.jpg,a dog, a cat,train\n": "has more cells for 3 columns",
    "image,caption\n9.jpg,one\n": r"'9\.jpg' in line 2 .* does not exist; looked in",
    "image,caption\n0.jpg,\n": "Empty caption: line 2",
    "image,caption,split\n0.jpg,a,train\n0.jpg,b,test\n": "a picture lies in one",
    "image,caption,text\n0.jpg,one,two\n": "--caption-column",
    "image_name| comment_number| comment\n0.jpg| 4\n": "has 2 cells for 3 columns",
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_line_at_fault_is_named_or_skipped(tmp_path, text):
    (images(tmp_path, 2) / "captions.txt").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=FAULTS[text]):
        read(tmp_path)
    if "--" not in FAULTS[text]:
        skipped = []
        good = {"1.jpg": ["good"]}
        with open(tmp_path / "captions.txt", "a") as file:
            file.write({3: "1.jpg,good,train\n"}.get(text.split("\n")[0].count(",") + 1, ""))
            file.write("1.jpg,good\n" if text.startswith("image,caption\n") else "")
            file.write("1.jpg| 0| good\n" if text.startswith("image_name") else "")
        assert captions_in(tmp_path, skipped=skipped).items() >= good.items()
        assert len(skipped) == 1


def test_text_that_is_not_utf8_is_named(tmp_path):
    text = "image,caption\n0.jpg,café\n".encode("latin-1")
    (images(tmp_path, 1) / "captions.txt").write_bytes(text)
    with pytest.raises(ValueError, match="is not UTF-8"):
        read(tmp_path)


def test_columns_that_the_user_names(tmp_path):
    text = "image;caption;text;part\n0.jpg;one;two;val\n"
    (images(tmp_path, 1) / "captions.txt").write_text(text)
    asked = {"caption_columns": ("caption", "text"), "split_column": "part"}
    assert read(tmp_path, **asked) == {"0.jpg": (["one", "two"], "val")}
    with pytest.raises(ValueError, match="';' between columns, not ','"):
        read(tmp_path, delimiter=",")


def test_sub_folders_and_upper_case(tmp_path):
    picture(tmp_path / "images" / "a" / "1.JPG")
    (tmp_path / "Captions.txt").write_text("Image,Caption\na/1.JPG,one\n")
    assert captions_in(tmp_path) == {"a/1.JPG": ["one"]}


def test_pictures_without_a_line_are_counted(tmp_path, caplog):
    (images(tmp_path) / "captions.txt").write_text("image,caption\n0.jpg,one\n")
    assert len(read(tmp_path)) == 1
    assert "Left out 3 pictures, not listed in" in caplog.text


def tokens(path, count=4, folder="Flicker8k_Dataset"):
    images(path, count, folder)
    lines = [f"{name}#{k}\t{caption} .\n" for name, k, caption in lines_of_captions(count)]
    (path / "Flickr8k.token.txt").write_text("".join(lines))
    return path


@pytest.mark.parametrize("place", [".", "Flickr8k_text"])
def test_the_original_lists_of_flickr8k(tmp_path, place, caplog):
    tokens(tmp_path, 5)
    for number, split in enumerate(("train", "dev", "test")):
        names = f"{number}.jpg\r\n" + ("3.jpg \r\n" if split == "train" else "")
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text(names)
    if place != ".":
        (tmp_path / place).mkdir()
        for file in tmp_path.glob("*.txt"):
            file.rename(tmp_path / place / file.name)
    found = read(tmp_path)
    splits = {name: split for name, (_, split) in found.items()}
    assert splits == {"0.jpg": "train", "1.jpg": "dev", "2.jpg": "test", "3.jpg": "train"}
    assert found["1.jpg"][0] == [f"caption {k} of 1 ." for k in range(5)]
    assert "Left out 1 picture, which no list of a split" in caplog.text
    assert "4.jpg" in caplog.text


def test_the_original_lists_without_splits(tmp_path, caplog):
    with open(tokens(tmp_path) / "Flickr8k.token.txt", "a") as file:
        file.write("77_ab.jpg.1#0\tA picture that is not there .\n\n")
    caplog.set_level(logging.WARNING)
    found = read(tmp_path)
    assert found.keys() == EXPECTED.keys() and {s for _, s in found.values()} == {""}
    assert "77_ab.jpg.1" in caplog.text


def test_a_name_with_a_hash_and_numbers_in_any_order(tmp_path):
    picture(tmp_path / "Images" / "a#1.jpg")
    lines = "a#1.jpg#4\tlast # 1\na#1.jpg#0\tfirst\n"
    (tmp_path / "Flickr8k.token.txt").write_text("\ufeff" + lines)
    assert captions_in(tmp_path) == {"a#1.jpg": ["last # 1", "first"]}


def test_lines_of_the_original_kind_under_kaggles_name(tmp_path):
    (tokens(tmp_path) / "Flickr8k.token.txt").rename(tmp_path / "captions.txt")
    assert read(tmp_path).keys() == EXPECTED.keys()


BAD_LISTS = {
    "two splits": ({"train": "0.jpg\n", "test": "0.jpg\n"}, "one split"),
    "no caption": ({"train": "0.jpg\nx.jpg\n"}, r"'x\.jpg' in .* has no caption"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_lists_at_fault_are_named(tmp_path, case):
    lists, message = BAD_LISTS[case]
    tokens(tmp_path)
    for split, text in lists.items():
        (tmp_path / f"Flickr_8k.{split}Images.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_line_without_a_number_is_named(tmp_path):
    (tokens(tmp_path) / "Flickr8k.token.txt").write_text("0.jpg\tno number\n")
    with pytest.raises(ValueError, match=r"Line 1 of .* is not `name"):
        read(tmp_path)


def test_a_table_for_each_folder_of_a_split(tmp_path):
    for split in ("train", "Val", "test2017"):
        (images(tmp_path / split, 1) / "captions.txt").write_text(f"image,caption\n0.jpg,{split}\n")
    found = read(tmp_path)
    assert found["Val/0.jpg"] == (["Val"], "Val") and len(found) == 3
    (tmp_path / "test2017").rename(tmp_path / "holdout")
    with pytest.raises(ValueError, match="holdout looks like a split"):
        read(tmp_path)
    (tmp_path / "holdout").rename(tmp_path / "test")
    (tmp_path / "Val" / "captions.txt").unlink()
    with pytest.raises(ValueError, match=r"Val has no captions\.txt"):
        read(tmp_path)


def test_a_source_in_a_folder_of_its_own(tmp_path):
    (images(tmp_path / "archive" / "flickr8k") / "captions.txt").write_text(
        "image,caption\n0.jpg,a\n"
    )
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "archive" / "__MACOSX").mkdir()
    assert captions_in(tmp_path) == {"0.jpg": ["a"]}


def test_options_for_tables_are_refused_elsewhere(tmp_path):
    with pytest.raises(ValueError, match="names its own columns"):
        read(tokens(tmp_path), caption_columns=("title",))


def test_several_lists_are_not_chosen_from(tmp_path):
    for name in ("captions.txt", "results.csv"):
        (images(tmp_path) / name).write_text("image,caption\n0.jpg,one\n")
    with pytest.raises(ValueError, match="several lists of captions"):
        read(tmp_path)
    assert len(read(tmp_path / "captions.txt")) == 1


def test_other_layouts_are_not_recognised(tmp_path):
    folder_of(tmp_path / "texts")
    (tmp_path / "texts" / "captions.txt").write_text("a picture called captions\n")
    picture(tmp_path / "texts" / "captions.png")
    below = images(tmp_path / "below" / "deep" / "deeper")
    (below / "captions.txt").write_text("image,caption\n0.jpg,one\n")
    (tmp_path / "below" / "README").write_text("one more")
    (tmp_path / "empty").mkdir()
    (tmp_path / "results.csv").write_text("run,score\n1,2\n")
    for name in ("texts", "below", "empty", ".", "results.csv", "absent"):
        assert not any(recognises(tmp_path / name) for recognises, _ in OWN_READERS)


@pytest.mark.parametrize("line", ["", "a sentence, and another", "1.5,2", "file: 1.jpg"])
def test_a_sentence_is_no_header(line):
    assert columns_in(line) is None

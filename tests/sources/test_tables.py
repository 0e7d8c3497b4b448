"""Tables as people have them are read whole, or refused with what was found."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from samples import picture

from distilclip import load_pairs
from distilclip.sources.captions import captions_of_cells
from distilclip.sources.columns import CAPTION_COLUMNS, IMAGE_COLUMNS, choose_columns
from distilclip.sources.entries import Asked


def pictures_of(folder, count=4):
    for number in range(count):
        picture(folder / f"{number}.png", (number, 0, 0))
    return folder


def write(file, rows, **form):
    with open(file, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, **form).writerows(rows)
    return file


def read(source, **options):
    pairs = load_pairs(source, **options)
    return {row["image_id"]: row["captions"] for rows in pairs.values() for row in rows}


ROWS = [[f"{n}.png", f"a, b; c | {n}\tand more"] for n in range(4)]
WANTED = {f"{n}.png": [f"a, b; c | {n} and more"] for n in range(4)}


@pytest.mark.parametrize("name", ["metadata.csv", "table.csv", "table.tsv", "t.CSV"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("head", [["file_name", "caption"], ["Image", "TEXT"], ["path", "title"]])
def test_any_delimiter_and_any_known_names(name, delimiter, head, tmp_path):
    file = write(pictures_of(tmp_path) / name, [head, *ROWS], delimiter=delimiter)
    assert read(tmp_path if name == "metadata.csv" else file) == WANTED


def test_columns_and_delimiter_may_be_named(tmp_path):
    rows = [["id", "Where", "one", "two", "three"]]
    rows += [[n, f"{n}.png", f"one {n}", f"two {n}", "no"] for n in range(4)]
    file = write(pictures_of(tmp_path) / "x.csv", rows, delimiter="~")
    wanted = {f"{n}.png": [f"two {n}", f"one {n}"] for n in range(4)}
    for captions in ("two,one", ["two", "ONE"]):
        options = {"image_column": "where", "caption_column": captions, "delimiter": "~"}
        assert read(file, **options) == wanted
    with pytest.raises(ValueError, match=r"no column 'four' in .*found id, Where, one"):
        load_pairs(file, image_column="Where", caption_column="four", delimiter="~")
    with pytest.raises(ValueError, match="--delimiter"):
        load_pairs(file, image_column="where", caption_column="one")


KNOWN = [name for rank in (*IMAGE_COLUMNS, *CAPTION_COLUMNS) for name in rank]
OTHERS = ["caption_number", "caption_id", "captioner", "id", "split_id", "caption_", "x_caption"]


@given(st.permutations(OTHERS), st.sampled_from(["file_name", "Image", "filepath"]))
def test_only_digits_make_a_numbered_caption(others, image):
    names = [*others[:4], "caption", *others[4:], image]
    assert choose_columns(names, Asked(), "x") == (image, ("caption",), "")
    names = [*others, "caption_10", "caption_9", "Caption_0", image, "SPLIT"]
    numbered = ("Caption_0", "caption_9", "caption_10")
    assert choose_columns(names, Asked(), "x") == (image, numbered, "SPLIT")


@pytest.mark.parametrize(
    "names",
    [
        ["image", "path", "caption"],
        ["file_name", "caption", "text"],
        ["file_name", "title", "description"],
        ["file_name", "caption", "caption_0", "caption_1"],
        ["file_name", "caption_1", "caption1"],
        ["file_name", "caption", "split", "Split"],
    ],
)
def test_two_columns_of_equal_claim_are_asked_about(names):
    with pytest.raises(ValueError, match=r"Several columns .* Choose with --\w+-column"):
        choose_columns(names, Asked(), "the table")


def test_a_clear_name_comes_before_a_vague_one():
    names = ["image", "file_name", "title", "caption", "comment"]
    assert choose_columns(names, Asked(), "x")[:2] == ("file_name", ("caption",))


TEXTS = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "P", "N", "Zs")), min_size=1).filter(
        lambda text: any(c.isalnum() for c in text)
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda text: " ".join(text.split()),
)


@given(TEXTS)
@example(["it's", 'say "hi"', "a, b"])
@example(["[a]", "(b)"])
def test_a_list_written_as_text_is_the_list(texts):
    wanted = captions_of_cells([texts], "here")
    for form in (str, repr, json.dumps, lambda t: json.dumps(t, ensure_ascii=False)):
        assert captions_of_cells([form(texts)], "here") == wanted
    assert captions_of_cells([tuple(texts)], "here") == wanted
    assert captions_of_cells([str(tuple(texts))], "here") == wanted
    array = np.array(texts, dtype=object)
    for form in (array, str(array), repr(array), str(np.array(texts)), repr(np.array(texts))):
        assert captions_of_cells([form], "here") == wanted


@pytest.mark.parametrize(
    "cell",
    [
        "[a cat, a dog]",
        "['a cat' 'a dog', 'a bird']",
        "['a cat', ... 'a dog']",
        "('a cat' 'a dog')",
        "['a cat', 3]",
        "[['a cat'], ['a dog']]",
        '{"en": "a cat"}',
        "['a cat', 'a dog\"]",
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(cell):
    with pytest.raises(ValueError, match=r"list written as text|not text"):
        captions_of_cells([cell], "here")


@pytest.mark.parametrize("cell", ["[a cat]", "(a cat) on a mat", "a cat", "array of cats", "[1] a"])
def test_brackets_alone_make_no_list(cell):
    assert captions_of_cells([cell], "here") == [cell]


@pytest.mark.parametrize("blank", [None, "", " ", float("nan"), "\u200b", "\t"])
def test_blank_cells_beside_good_ones_are_left_out(blank):
    assert captions_of_cells(["a", blank, "b", "a"], "here") == ["a", "b"]
    with pytest.raises(ValueError, match="Empty caption: here"):
        captions_of_cells([blank, [blank]], "here")


@pytest.mark.parametrize("cells", [["1.png", "a cat", " and a dog"], ["1.png"]])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_row_of_another_length_is_refused_with_its_line(cells, delimiter, tmp_path, caplog):
    rows = [["file_name", "caption"], *ROWS[:1], [], cells, *ROWS[2:]]
    write(pictures_of(tmp_path) / "metadata.csv", rows, delimiter=delimiter)
    with pytest.raises(ValueError, match=rf"Line 4 of .* has {len(cells)} cells.*caption"):
        load_pairs(tmp_path)
    assert set(read(tmp_path, skip_broken=True)) == {"0.png", "2.png", "3.png"}
    assert "Skipped 1 of" in caplog.text


def test_a_quotation_mark_that_is_not_closed_swallows_no_rows(tmp_path):
    lines = ["file_name,caption", '0.png,"a', "1.png,b", "2.png,c", '3.png,d"', ""]
    (pictures_of(tmp_path) / "metadata.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"line 2 of .*quotation mark"):
        load_pairs(tmp_path)


def test_quotation_marks_in_tables_with_tabs_are_text(tmp_path):
    lines = ["file_name\tcaption", '0.png\t"Go" he said', "1.png\tb", '2.png\t5" disk', "3.png\td"]
    (pictures_of(tmp_path) / "metadata.csv").write_text("\n".join(lines))
    assert read(tmp_path)["0.png"] == ['"Go" he said']


def test_a_header_that_says_nothing_is_shown(tmp_path):
    write(pictures_of(tmp_path) / "metadata.csv", ROWS)
    with pytest.raises(ValueError, match=r"No file_name in .*comma.*0\.png.*--image-column"):
        load_pairs(tmp_path)


def test_the_index_that_pandas_writes_is_no_column(tmp_path):
    frame = pd.DataFrame({"image": [f"{n}.png" for n in range(4)], "caption": list("abcd")})
    frame.to_csv(pictures_of(tmp_path) / "x.csv")
    assert read(tmp_path / "x.csv") == {f"{n}.png": ["abcd"[n]] for n in range(4)}


def test_only_a_table_that_is_named_leads_outside(tmp_path):
    outside = pictures_of(tmp_path / "outside")
    names = [str(outside / f"{n}.png") for n in range(2)] + [f"../outside/{n}.png" for n in (2, 3)]
    (tmp_path / "lists").mkdir()
    rows = [["file_name", "text"], *([name, "x"] for name in names)]
    file = write(tmp_path / "lists" / "table.csv", rows)
    assert set(read(file)) == {str(outside / f"{n}.png") for n in range(4)}
    file.rename(file.with_name("metadata.csv"))
    with pytest.raises(ValueError, match="lies outside"):
        load_pairs(file.parent)


def test_addresses_and_special_files_are_refused(tmp_path):
    for name, message in (("https://a.org/1.png", "is an address"), ("/dev/zero", "no plain file")):
        rows = [["file_name", "text"], [name, "x"]]
        file = write(pictures_of(tmp_path) / "t.csv", rows)
        with pytest.raises(ValueError, match=message):
            load_pairs(file)


def test_windows_writes_paths_its_own_way(tmp_path):
    pictures_of(tmp_path / "images")
    rows = [["file_name", "text"], *([rf"images\{n}.png", f"x {n}"] for n in range(4))]
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + buffer.getvalue().encode())
    assert set(read(tmp_path)) == {f"images/{n}.png" for n in range(4)}

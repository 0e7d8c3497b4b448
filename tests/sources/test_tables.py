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
from distilclip.sources.captions import captions_of_cells, is_blank_text
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
    with pytest.raises(ValueError, match=r"no column 'four' .*found id, Where, one"):
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
        lambda text: any(c.isalnum() for c in text) and not is_blank_text(text.strip())
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
    with pytest.raises(
        ValueError, match=r"list written as text|not text|an object with the keys en:"
    ):
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


@pytest.mark.parametrize("header", ["caption,image", "image,caption", "id,caption,image,set"])
@pytest.mark.parametrize("suffix", [".png", ""])
@pytest.mark.parametrize(("first", "last"), [(0, 1), (1, 4), (2, 5)])
def test_rows_between_stray_quotation_marks_are_not_lost(header, suffix, first, last, tmp_path):
    names, lines = header.split(","), [header]
    for number in range(6):
        picture(tmp_path / f"{number}.png", (number, 0, 0)).rename(tmp_path / f"{number}{suffix}")
        text = f"bear {number}"
        text = f'"{text}' if number == first else f'{text}"' if number == last else text
        cells = {"image": f"{number}{suffix}", "caption": text, "id": "7", "set": "x"}
        lines.append(",".join(cells[name] for name in names))
    file = tmp_path / "list.csv"
    file.write_text("\n".join(lines) + "\n")
    if names[-1] == "caption":  # the mark opens in the last cell, and closes a row
        message = f"begins at line {first + 2} of .*list.csv seems to hold other rows"
    else:
        message = rf"line {first + 2} .* up to line {last + 2}: close its quotation mark"
    with pytest.raises(ValueError, match=message):
        load_pairs(file)


@pytest.mark.parametrize("header", ["caption,image", "image,caption", "id,caption,image,set"])
def test_a_caption_of_several_lines_is_one_caption(header, tmp_path):
    pictures_of(tmp_path)
    names, rows = header.split(","), []
    for number in range(4):
        text = f"bears, {number}\nof, many, lines,\nand, last"
        cells = {"image": f"{number}.png", "caption": text, "id": "7", "set": "x"}
        rows.append([cells[name] for name in names])
    found = read(write(tmp_path / "list.csv", [names, *rows]))
    assert found["3.png"] == ["bears, 3 of, many, lines, and, last"]
    assert len(found) == 4


def test_columns_that_pandas_has_numbered_are_all_captions(tmp_path):
    rows = [["image", "caption", "caption.1", "caption.2", "other.1"]]
    rows += [[f"{n}.png", f"one {n}", f"two {n}", f"three {n}", "no"] for n in range(4)]
    found = read(write(pictures_of(tmp_path) / "x.csv", rows))
    assert found["2.png"] == ["one 2", "two 2", "three 2"]
    assert read(tmp_path / "x.csv", caption_column="caption")["2.png"] == ["one 2"]


@pytest.mark.parametrize("other", ["description", "caption_short", "Alt Text"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "frame"])
def test_texts_that_are_not_read_are_named_once(other, kind, tmp_path, caplog):
    caplog.set_level("INFO")
    pictures_of(tmp_path)
    rows = [
        {"image": str(tmp_path / f"{n}.png"), "caption": f"c {n}", other: "x"} for n in range(4)
    ]
    source = pd.DataFrame(rows)
    if kind == "csv":
        source.to_csv(tmp_path / "x.csv", index=False)
    else:
        source.to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    source = source if kind == "frame" else tmp_path / f"x.{kind}"
    load_pairs(source)
    said = [r.getMessage() for r in caplog.records if "not read" in r.getMessage()]
    assert len(said) == 1
    assert f"the column caption; not read: {other}. Choose with --caption-column" in said[0]
    caplog.clear()
    load_pairs(source, caption_column="caption")
    assert "not read" not in caplog.text


def test_a_cell_may_be_as_long_as_it_is(tmp_path):
    rows = [["image", "caption", "thumbnail"]]
    rows += [[f"{n}.png", f"c {n}", "x" * 140_000] for n in range(4)]
    assert read(write(pictures_of(tmp_path) / "x.csv", rows))["1.png"] == ["c 1"]

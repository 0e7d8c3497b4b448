"""Data that are nearly as a reader wants them: read, where it is certain what is meant; else
the sentence says what was found and what to do."""

import base64
import io
import json
import unicodedata
from urllib.parse import quote

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from samples import picture

from distilclip import load_pairs
from distilclip.sources.places import likenesses

NAMES = [f"p{n}.png" for n in range(6)]


def laid_out(folder, names=NAMES, below="."):
    for number, name in enumerate(names):
        picture(folder / below / name, (number, 0, 0))
    return folder


def table(folder, names, header="file_name,caption", name="t.csv"):
    lines = [header, *(f"{each},a thing called {n}" for n, each in enumerate(names))]
    (folder / name).write_text("\n".join(filter(None, lines)), encoding="utf-8")
    return folder / name


def captions_of(source, **options):
    pairs = load_pairs(source, **options)
    return sorted(c for rows in pairs.values() for row in rows["captions"] for c in row)


WANTED = [f"a thing called {n}" for n in range(6)]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_letter_and_its_accent_are_the_same_apart_and_together(tmp_path, forms):
    """What macOS and its archives write is not byte for byte what a table says."""
    there, said = (
        [unicodedata.normalize(form, f"é ü Å/ǘ{n}.png") for n in range(6)] for form in forms
    )
    assert there != said
    tmp_path = tmp_path / unicodedata.normalize(forms[0], "naïve")  # stays as it is
    file = table(laid_out(tmp_path, there), said)
    assert captions_of(file) == WANTED
    file.rename(tmp_path / "metadata.csv")
    assert captions_of(tmp_path) == WANTED


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson"])
@pytest.mark.parametrize("form", ["lines", "list", "object"])
def test_json_is_what_it_holds_whatever_it_is_called(tmp_path, suffix, form):
    laid_out(tmp_path)
    records = [{"file_name": n, "caption": c} for n, c in zip(NAMES, WANTED, strict=True)]
    text = "\n".join(map(json.dumps, records))
    if form == "list":
        text = json.dumps(records, indent=1)
    if form == "object":
        text = json.dumps(dict(zip(NAMES, WANTED, strict=True)), indent=1)
    file = tmp_path / f"t{suffix}"
    file.write_text(text)
    if form == "object" and suffix != ".json":
        with pytest.raises(ValueError, match="not JSON"):
            load_pairs(file)
    else:
        assert captions_of(file) == WANTED


SPELLINGS = {
    "capitals": str.upper,
    "as in an address": quote,
    "another ending": lambda name: name.replace(".png", ".jpeg"),
    "no ending": lambda name: name.removesuffix(".png"),
    "fewer zeros": lambda name: name.lstrip("0"),
    "more zeros": lambda name: f"00{name}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_name_that_is_nearly_right_is_told_which_file_there_is(tmp_path, spelling):
    names = [f"00{n} a cat.png" for n in range(1, 7)]
    file = table(laid_out(tmp_path, names), map(SPELLINGS[spelling], names))
    with pytest.raises(FileNotFoundError, match=f"there is '{names[0]}'"):
        load_pairs(file)


@given(st.text(st.characters(categories=("L", "N")), min_size=1, max_size=20))
def test_a_name_is_like_itself_in_every_spelling(name):
    name = f"{name}.png"
    assert likenesses(name)[0] == likenesses(name.lower())[0]
    assert likenesses(quote(name))[1] == likenesses(name)[1] or "%" in name
    assert likenesses(name)[2] == likenesses(name.removesuffix(".png") + ".jpg")[2]


@pytest.mark.parametrize("start", ["/home/me/images/", "C:\\data\\", "\\\\server\\x\\"])
def test_absolute_names_of_another_machine_are_told_where_the_pictures_are(tmp_path, start):
    laid_out(tmp_path, below="images")
    file = table(tmp_path, [start + name for name in NAMES])
    with pytest.raises(FileNotFoundError, match=r"There is 'images/p0\.png': write"):
        load_pairs(file)


FIRST_LINES = {
    "": r"found the columns p0\.png.*first line seems to be data",
    "# written by hand\nfile_name,caption": "first line seems to be a remark",
    "file_name,caption,caption": "are called caption: give each a name of its own",
    "name_of_it,caption": "No file_name.*found the columns name_of_it, caption; expected",
}


@pytest.mark.parametrize("header", FIRST_LINES)
def test_the_first_line_of_a_table_that_names_no_columns(tmp_path, header):
    laid_out(tmp_path)
    file = table(tmp_path, NAMES, header)
    if header.count("caption") == 2 and "#" not in header:
        file.write_text(file.read_text().replace("thing", "thing,b"))
    with pytest.raises(ValueError, match=FIRST_LINES[header]):
        load_pairs(file)


def test_the_column_of_pictures_is_not_that_of_captions(tmp_path):
    file = table(laid_out(tmp_path), NAMES)
    with pytest.raises(ValueError, match="of which file_name is taken already"):
        load_pairs(file, caption_column="file_name")


@pytest.mark.parametrize("option", ["image", "caption", "split"])
def test_a_column_that_is_not_there_is_named_with_its_option(tmp_path, option):
    file = table(laid_out(tmp_path), NAMES)
    with pytest.raises(ValueError, match=rf"no column 'x' \(--{option}-column, in Python"):
        load_pairs(file, **{f"{option}_column": "x"})


def encoded_pictures(start=""):
    for number in range(6):
        content = io.BytesIO()
        noise = bytes((number + 7 * n) % 251 for n in range(3 * 16 * 16))
        Image.frombytes("RGB", (16, 16), noise).save(content, "PNG")
        yield start + base64.b64encode(content.getvalue()).decode()


@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_pictures_that_were_written_as_text_are_no_missing_files(tmp_path, kind, start):
    frame = pd.DataFrame({"image": encoded_pictures(start), "caption": WANTED})
    source = tmp_path / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(source, index=False)
    if kind == "parquet":
        frame.to_parquet(source)
    with pytest.raises(ValueError, match=r"written as text \(base64\): decode it"):
        load_pairs(frame if kind == "frame" else source)


def test_captions_that_lie_elsewhere_are_said(tmp_path):
    laid_out(tmp_path, below="images")
    with pytest.raises(ValueError, match=r"has no captions[^;]*metadata.jsonl in \S+$"):
        load_pairs(tmp_path)
    (tmp_path / "list.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"; \.xlsx files are not read"):
        load_pairs(tmp_path)
    (tmp_path / "captions").mkdir()
    for name in NAMES:
        (tmp_path / "captions" / name).with_suffix(".txt").write_text("a cat")
    with pytest.raises(ValueError, match="captions/ has 6 texts: put each beside"):
        load_pairs(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [(b"x", "bytes"), (5, "int"), (None, "None"), ([], "list"), ({}, "dict")],
)
def test_what_is_no_source_is_called_by_its_name(given, said):
    with pytest.raises(ValueError, match=f"Cannot read pairs from {said}: give a name"):
        load_pairs(given)

"""What was written into a cell as text is what it was, or is refused in a sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import picture

from distilclip import load_pairs
from distilclip.sources.captions import captions_of_cells
from distilclip.sources.written import cells_of_text

WORDS = st.text(st.characters(codec="utf-8", categories=("L", "P", "Zs")), min_size=1).map(
    lambda text: f"a {text} b"
)
KEYS = st.sampled_from(["raw", "caption", "text", "sentence"])
OTHERS = st.dictionaries(st.sampled_from(["id", "tokens", "lang"]), st.none() | st.integers())
FORMS = (str, json.dumps, lambda value: json.dumps(value, indent=2, ensure_ascii=False))


@given(WORDS, KEYS, OTHERS)
def test_an_object_written_as_text_is_the_caption_in_it(text, key, others):
    wanted = captions_of_cells([text], "here")
    for value in ({key: text, **others}, {**others, key: text}):
        for form in FORMS:
            assert captions_of_cells([form(value)], "here") == wanted
            assert captions_of_cells([form([value, value])], "here") == wanted
            assert captions_of_cells(cells_of_text(form(value)), "here") == wanted


@given(WORDS)
def test_bytes_are_their_text(text):
    wanted = captions_of_cells([text], "here")
    for form in (text.encode(), str(text.encode()), repr(text.encode("utf-8-sig"))):
        assert captions_of_cells([form], "here") == wanted


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('{"en": "a bear", "de": null}', "with the keys en, de: here. Expected raw, caption"),
        ({"en": "a bear"}, "with the keys en: here.*--caption-column"),
        ("{'caption': 'a bear'", r"an object written as text, which cannot be read.*here"),
        (b"\xff\xfe", "bytes that are not UTF-8: here"),
        (r"b'\xff'", "bytes that are not UTF-8: here"),
    ],
)
def test_what_cannot_be_told_is_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        captions_of_cells([cell], "here")


@pytest.mark.parametrize("cell", ["b is 'one'", "{a bear}", "{a}: 'b'", "b' and b", "{ 'a', b"])
def test_braces_and_quotes_alone_make_no_object(cell):
    assert captions_of_cells([cell], "here") == [cell]


@pytest.mark.parametrize(
    "text",
    [
        '{\n  "caption": "a bear"\n}\n',
        '{"caption": "a bear", "id": 3}',
        '[\n  {"raw": "a bear"}\n]',
        '{"caption": "a bear"}\n{"caption": "a bear"}\n',
    ],
)
def test_a_text_beside_a_picture_may_hold_json(text, tmp_path):
    for number in range(3):
        picture(tmp_path / f"{number}.png", (number, 0, 0))
        (tmp_path / f"{number}.txt").write_text(text.replace("bear", f"bear {number}"))
    rows = [row for rows in load_pairs(tmp_path).values() for row in rows]
    assert sorted(row["captions"] for row in rows) == [[f"a bear {n}"] for n in range(3)]

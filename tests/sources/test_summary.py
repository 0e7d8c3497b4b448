"""What looks like no caption is named in a warning, whichever reader read it; the rest is not."""

import csv
import io
import json
import logging

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distilclip import load_pairs
from distilclip.sources.summary import report_odd_captions

COUNT = 12
ODD = {
    "are numbers": lambda n: f"{n}.{n}",
    "are addresses": lambda n: f"https://pictures.org/{n}",
    "are names of files": lambda n: f"image {n}.JPG".replace(" ", "_") + f"#{n}",
    "are identifiers": lambda n: f"{n:030x}ab",
    "hold HTML": lambda n: f"a dog &amp; <i>a cat</i>; {n}",
    "hold '|'": lambda n: f"a dog {n} | a cat",
    "hold ';'": lambda n: f"a dog; a cat {n}",
    "hold a mark": lambda n: f"a dog {n}<sep>a cat",
}


def content(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (20 * number, 0, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def beside(folder, captions):
    for number, caption in enumerate(captions):
        (folder / f"{number}.txt").write_text(caption)


def in_csv(folder, captions):
    with open(folder / "metadata.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "caption"])
        rows.writerows([f"{n}.png", caption] for n, caption in enumerate(captions))


def in_json(folder, captions):
    lines = [json.dumps({"file_name": f"{n}.png", "text": c}) for n, c in enumerate(captions)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


def source(kind, folder, captions):
    """Pictures with captions, in a folder or in memory."""
    contents = [content(number) for number in range(len(captions))]
    if kind == "memory":
        return pd.DataFrame({"image": contents, "caption": captions})
    for number, picture in enumerate(contents):
        (folder / f"{number}.png").write_bytes(picture)
    {"beside": beside, "csv": in_csv, "jsonl": in_json}[kind](folder, captions)
    return folder


@pytest.mark.parametrize("kind", ["beside", "csv", "jsonl", "memory"])
@pytest.mark.parametrize("what", ODD)
def test_what_looks_like_no_caption_is_named(what, kind, tmp_path, caplog):
    captions = [ODD[what](number) for number in range(COUNT)]
    pairs = load_pairs(source(kind, tmp_path, captions))
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert f"{COUNT} of {COUNT} captions {what}" in warning
    assert any(repr(caption) in warning for caption in captions)
    read = [text for rows in pairs.values() for texts in rows["captions"] for text in texts]
    assert sorted(read) == sorted(captions)  # it is a warning, no more


WORDS = st.text(st.characters(categories=("L", "M", "N")), min_size=1, max_size=9)
SENTENCE = st.tuples(WORDS.filter(str.isalpha), st.lists(WORDS, max_size=6)).map(
    lambda words: " ".join(["a", words[0], *words[1]])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SENTENCE, min_size=1, max_size=9), st.sampled_from(sorted(ODD)))
def test_sentences_are_no_matter_even_beside_as_many_odd_ones(sentences, what):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    log = logging.getLogger("distilclip.sources")
    log.addHandler(handler)
    try:
        odd = [ODD[what](number) for number in range(len(sentences))]
        report_odd_captions(pa.chunked_array([[*sentences, *odd], []], pa.string()), "x")
        assert not records or what == "hold HTML"  # that is odd in a few, too
        records.clear()
        report_odd_captions(pa.chunked_array([sentences, [*odd, odd[0]]], pa.string()), "x")
        assert len(records) == 1
    finally:
        log.removeHandler(handler)


@pytest.mark.parametrize("caption", ["", "3", "dog", "a dog.", "a dog at 3:45", "dog, cat", "U.S."])
def test_short_and_plain_captions_are_no_matter(caption, caplog):
    captions = [caption, "a dog", "a cat"]
    report_odd_captions(pa.chunked_array([captions], pa.string()), "x")
    assert not caplog.records


def test_html_in_a_few_captions_is_named(caplog):
    captions = ["a dog"] * 95 + ["a dog &amp; a cat", "&#39;a dog&#39;", "a <b>big</b> dog"]
    report_odd_captions(pa.chunked_array([captions], pa.string()), "x")
    assert "3 of 98 captions hold HTML" in caplog.text
    caplog.clear()
    for text in ("Q&A; a dog", "a < b > c", "5 <3 dogs", "R&D; b", "a dog & a cat"):
        report_odd_captions(pa.chunked_array([["a dog", "a cat", text]], pa.string()), "x")
    assert not caplog.records


def test_captions_of_chosen_rows_are_looked_through_together(monkeypatch):
    """Each is a chunk of its own there, and a pattern is compiled anew for every chunk."""
    chunks, match = [], pa.compute.match_substring_regex

    def counting(captions, pattern):
        chunks.append(captions.num_chunks)
        return match(captions, pattern)

    monkeypatch.setattr("distilclip.sources.summary.pc.match_substring_regex", counting)
    load_pairs("emoji")
    report_odd_captions(pa.chunked_array([[f"a dog, {n}"] for n in range(99)], pa.string()), "x")
    report_odd_captions(pa.chunked_array([], pa.string()), "x")
    assert len(chunks) >= 8 and max(chunks) == 1

"""Emoji are said by their names; what a tokenizer cannot read is counted once."""

import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilclip import load_pairs
from distilclip.storage import words
from distilclip.storage.words import (
    TOLD,
    emoji_names,
    name_emoji,
    name_of_emoji,
    warn_of_unread,
    with_known_words,
)

TONES = [chr(code) for code in range(0x1F3FB, 0x1F400)]


def test_every_emoji_of_the_data_set_is_said_by_its_label():
    for split in load_pairs("emoji").values():
        for emoji, label in zip(split["emoji"], split["label"], strict=True):
            assert name_emoji(emoji) == f" {label} "
            assert name_emoji(emoji.replace("\ufe0f", "")) == f" {label} "  # a bare one, too


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="ascii", exclude_characters="#*0123456789")),
            st.sampled_from(sorted(emoji_names())),
        )
    )
)
def test_emoji_are_named_wherever_they_stand_and_the_rest_stays(parts):
    apart = [(f"{text} ", emoji) for text, emoji in parts]  # two flags in a row are another
    text = "".join(piece for pair in apart for piece in pair)
    expected = "".join(f"{text} {emoji_names()[emoji]} " for text, emoji in apart)
    assert name_emoji(text) == expected


@given(st.text(st.characters(codec="ascii")))
def test_plain_text_stays_as_it_is(text):
    assert name_emoji(text) is text


@given(st.text(st.characters(categories=("L", "N", "P", "Sc", "Sm"), max_codepoint=0xFFFF)))
def test_letters_of_any_script_stay(text):
    text = re.sub("[\u203c\u2049\u2139\u2194\u25fd\u25fe\u3030\u303d]", "", text)  # emoji, too
    assert name_emoji(text) == text


def test_tones_selectors_and_parts_are_said():
    assert name_of_emoji("\U0001f44b\U0001f3fd") == "waving hand: medium skin tone"
    fire = "\U0001f469\U0001f3ff\u200d\U0001f692"
    assert name_of_emoji(fire) == "woman firefighter: dark skin tone"
    assert name_of_emoji("\u2764\ufe0f") == name_of_emoji("\u2764") == "red heart"
    assert name_of_emoji("\U0001f1eb\U0001f1f7") == "flag: France"
    assert name_of_emoji("1\ufe0f\u20e3") == "keycap: 1"
    # A man and an apple are not yet one emoji
    assert name_of_emoji("\U0001f468\u200d\U0001f34e") == "man, red apple"
    assert name_of_emoji("\U0001f394") == "heart with tip on the left"  # a pictograph, no emoji
    assert name_emoji("Take 5 of #1 * 3 \u00a9") == "Take 5 of #1 * 3  copyright "
    for tone in TONES:
        assert emoji_names()[tone] in name_of_emoji("\U0001f44d" + tone)


def test_what_the_vocabulary_has_stays(tokenizer):
    club, trade_mark = "\u2663", "\u2122"
    texts = [f"a {club} and {trade_mark}", "a \U0001f34e", "\u00e9t\u00e9"]
    kept, named, accents = with_known_words(texts, tokenizer)
    assert (kept, accents) == (texts[0], texts[2]) and named.split() == ["a", "red", "apple"]


@pytest.mark.parametrize("length", [4, 64])
def test_what_cannot_be_read_is_counted_once(tokenizer, caplog, length):
    caplog.set_level(logging.WARNING)
    strange = [f"{chr(0x1200 + n)}\u1230 {chr(0x1220 + length)}" for n in range(3)]  # Ethiopic
    texts = [*strange, *strange, "a cat", "many words " * 99]

    def read():
        tokens = tokenizer(
            texts, padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        warn_of_unread(texts, tokens, tokenizer)

    TOLD.pop(tokenizer, None)
    read()
    unknown, cut = (record.getMessage() for record in caplog.records)
    assert "knows no word of 3 texts" in unknown and "and 2 more" in unknown
    assert f"reads {length} tokens, which is not the whole of 1 text" in cut
    read()
    assert len(caplog.records) == 2


def test_texts_without_end_are_not_kept_without_end(tokenizer, caplog, monkeypatch):
    monkeypatch.setattr(words, "MOST_TOLD", 5)
    TOLD.pop(tokenizer, None)
    for number in range(20):
        texts = [chr(0x1200 + 3 * number + n) + "\u1230" for n in range(3)]
        warn_of_unread(texts, tokenizer(texts, return_tensors="pt"), tokenizer)
    assert len(TOLD.pop(tokenizer)) <= 5 + 3 and len(caplog.records) <= 2


PARTS = st.sampled_from(
    [*sorted(emoji_names()), *TONES[:5], "\u200d", "\ufe0f", "\u20e3", "7", "a "]
)


@given(st.lists(PARTS, max_size=9).map("".join))
def test_any_sequence_is_named_and_stays_so(text):
    named = name_emoji(text)
    assert not set(named) & {char for name in emoji_names() for char in name if ord(char) > 0x1F000}
    assert name_emoji(named) == named

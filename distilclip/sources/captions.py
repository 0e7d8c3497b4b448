"""Captions as their sources have them, made clean or refused in a sentence."""

import unicodedata
from collections.abc import Iterable
from typing import Any

from distilclip.sources.columns import listed
from distilclip.sources.written import read_written, text_of_bytes

# What programs write into a cell that has nothing in it: in any case, and as it is
NO_VALUE = {"none", "null", "undefined", "n/a", "#n/a", "<na>"}
EXACTLY_NO_VALUE = {"NA", "nan", "NaN", "NAN", "NaT"}  # Na is sodium, Nan a name
PLACEHOLDERS = "-–—._… "  # of a cell with nothing else
TEXT_KEYS = ("raw", "caption", "text", "sentence")  # of a caption with its number


class NoCaptionError(ValueError):
    """There is a picture, and where its captions should be there is nothing."""


def clean_captions(captions: Iterable[Any], where: str) -> list[str]:
    """Captions, each once, without control characters and needless space.

    Blank ones beside good ones are left out, and of an object with the caption's
    number and the like only the text is taken. Raises ValueError where there is no
    good one (NoCaptionError), or where one is no text, or no valid Unicode.
    """
    cleaned: dict[str, None] = {}
    blank = ""
    for caption in captions:
        text = clean_text(text_of(caption, where), where)
        if is_blank_text(text):
            blank = blank or text
        else:
            cleaned[text] = None
    if not cleaned:
        held = f" ({blank[:40]!r})" if is_visible(blank) else ""
        raise NoCaptionError(
            f"Empty caption{held}: {where}. Write one, or take the picture out."
        )
    return list(cleaned)


def text_of(caption: Any, where: str) -> str:
    """The text of a caption as a source has it, "" where there is none.

    Raises ValueError for what is no text, and for an object without one.
    """
    if isinstance(caption, dict):
        keys = [key for key in TEXT_KEYS if key in caption]
        if not keys:
            raise ValueError(
                f"A caption is an object with the keys {listed(caption)}: {where}. "
                f"Expected {', '.join(TEXT_KEYS)} among them; make a column of the "
                "key that is meant, and name it with --caption-column, in Python "
                "caption_column."
            )
        caption = caption[keys[0]]
    if isinstance(caption, bytes):
        return text_of_bytes(caption, where)
    if caption is None or caption != caption:  # not a number, not a time
        return ""
    if not isinstance(caption, str):
        kind = type(caption).__name__
        article = "an" if kind[0] in "aeiou" else "a"
        raise ValueError(f"A caption is {article} {kind}, not text: {where}.")
    return caption


def clean_text(caption: str, where: str) -> str:
    """A caption without control characters and needless space."""
    text = " ".join(caption.split())
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
        text = " ".join(text.split())
        if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise ValueError(
                f"A caption holds half a character (a lone surrogate): {where}."
            )
    return text


def is_blank_text(text: str) -> bool:
    """Whether a cell says that there is nothing: nan, NULL, n/a, a lone hyphen."""
    if text in EXACTLY_NO_VALUE or text.lower() in NO_VALUE:
        return True
    if text[:1].isalnum():  # most captions: no more work
        return False
    return not text.strip(PLACEHOLDERS) or not is_visible(text)


def is_visible(text: str) -> bool:
    """Whether there is more to `text` than spaces and marks without a shape."""
    return any(
        unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Zs") for c in text
    )


def captions_of_cells(cells: Iterable[Any], where: str) -> list[str]:
    """The captions in some cells of a row: texts, lists, or lists written as text.

    Raises ValueError as `clean_captions` and `read_written` do.
    """
    captions: list[Any] = []
    for cell in cells:
        if hasattr(cell, "tolist"):  # NumPy's, from a table of pandas
            cell = cell.tolist()
        if isinstance(cell, bytes):
            cell = text_of_bytes(cell, where)
        if isinstance(cell, str):
            captions += read_written(cell, where)
        elif isinstance(cell, list | tuple):
            captions += cell
        else:
            captions.append(cell)
    return clean_captions(captions, where)


def captions_or_blank(cells: Iterable[Any], where: str) -> tuple[list[str], str]:
    """`captions_of_cells`, and "": or no captions, and the sentence that says so.

    For sources in which another row may have the picture's captions.
    """
    try:
        return captions_of_cells(cells, where), ""
    except NoCaptionError as error:
        return [], str(error)

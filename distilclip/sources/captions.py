"""Captions as their sources have them, made clean or refused in a sentence."""

import ast
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
NO_TEXT = re.compile(r"(?:None|null|nan|NaN)\b")
# What programs write into a cell that has nothing in it
NO_VALUE = {"None", "null", "NULL", "nan", "NaN", "<NA>", "N/A", "n/a", "#N/A"}
TEXT_KEYS = ("raw", "caption", "text")  # of a caption with its number and the like


class NoCaptionError(ValueError):
    """There is a picture, and where its captions should be there is nothing."""


BETWEEN = re.compile(r"\s*,\s*|\s+")
ARRAY = re.compile(r"array\((\[.*\])(?:,\s*dtype=[^()]*)?\)", re.DOTALL)


def clean_captions(captions: Iterable[Any], where: str) -> list[str]:
    """Captions, each once, without control characters and needless space.

    Blank ones beside good ones are left out, and of an object with the caption's
    number and the like only the text is taken. Raises ValueError where there is no
    good one (NoCaptionError), or where one is no text, or no valid Unicode.
    """
    cleaned: dict[str, None] = {}
    for caption in captions:
        if isinstance(caption, dict):
            texts = (caption[key] for key in TEXT_KEYS if key in caption)
            caption = next(texts, caption)
        if caption is None or caption != caption:  # not a number: a blank of pandas
            continue
        if not isinstance(caption, str):
            kind = type(caption).__name__
            article = "an" if kind[0] in "aeiou" else "a"
            raise ValueError(f"A caption is {article} {kind}, not text: {where}.")
        text = " ".join(caption.split())
        if not text.isprintable():
            text = "".join(
                " " if unicodedata.category(c) == "Cc" else c for c in text
            )
            text = " ".join(text.split())
            if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
                raise ValueError(
                    f"A caption holds half a character (a lone surrogate): {where}."
                )
            if not is_visible(text):
                continue
        if text and text not in NO_VALUE:
            cleaned[text] = None
    if not cleaned:
        raise NoCaptionError(
            f"Empty caption: {where}. Write one, or take the picture out."
        )
    return list(cleaned)


def is_visible(text: str) -> bool:
    """Whether there is more to `text` than spaces and marks without a shape."""
    return any(
        unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Zs") for c in text
    )


def captions_of_cells(cells: Iterable[Any], where: str) -> list[str]:
    """The captions in some cells of a row: texts, lists, or lists written as text.

    Raises ValueError as `clean_captions` does, and for what looks like a list
    written as text but could be read in two ways.
    """
    captions: list[Any] = []
    for cell in cells:
        if hasattr(cell, "tolist"):  # NumPy's, from a table of pandas
            cell = cell.tolist()
        if isinstance(cell, str) and looks_like_list(cell):
            captions += read_list(cell, where)
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


def looks_like_list(text: str) -> bool:
    """Whether a cell is a list that was written as text, in whichever notation."""
    if text[:1] not in (
        "[",
        "(",
        "{",
        "a",
        " ",
        "\n",
    ):  # most captions: no more work
        return False
    text = text.strip()
    if ARRAY.fullmatch(text):
        return True
    if text[:1] == "[" and text[-1:] == "]":
        inner = text[1:-1].strip()
        return not inner or inner[0] in "'\"[{" or "," in inner
    if text[:1] + text[-1:] in ("()", "{}"):
        inner = text[1:-1].strip()
        return inner[:1] in ("'", '"') and inner[-1:] in ("'", '"', ",")
    return False


def read_list(text: str, where: str) -> list[Any]:
    """The texts in a list that was written as text.

    As JSON writes it, Python, or NumPy (without commas). Raises ValueError for any
    other: a list without quotation marks, one that NumPy has shortened, a mixture.
    """
    text = text.strip()
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if isinstance(items, list) and all(
        x is None or isinstance(x, str | dict) for x in items
    ):
        return items
    array = ARRAY.fullmatch(text)
    body = (array.group(1) if array else text)[1:-1].strip()
    found: list[str | None] = []
    marks, place = set(), 0
    while place < len(body):
        item = QUOTED.match(body, place) or NO_TEXT.match(body, place)
        if item is None:
            break
        token = item.group()
        try:
            found.append(ast.literal_eval(token) if token[0] in "'\"" else None)
        except (ValueError, SyntaxError):  # an unknown escape, or a line break
            break
        place = item.end()
        between = BETWEEN.match(body, place)
        if between is None:
            break
        place = between.end()
        if place < len(body):
            marks.add("," in between.group())
    one_mark = len(marks) < 2 and not (
        False in marks and text[0] != "[" and not array
    )
    if place < len(body) or not one_mark:
        raise ValueError(
            "A caption looks like a list written as text, which can be read in "
            f"more than one way ({text[:40]!a}): {where}. Save lists as JSON, or "
            "give a row to each caption."
        )
    return found

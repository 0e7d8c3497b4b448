"""Lists, objects and bytes that were written into a cell as text.

JSON's notation goes in, and Python's, and NumPy's; what it stood for comes out, or
a sentence that says why it cannot be told. A caption that is only text stays text.
"""

import ast
import json
import re
from typing import Any

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
NO_TEXT = re.compile(r"(?:None|null|nan|NaN)\b")
BETWEEN = re.compile(r"\s*,\s*|\s+")
ARRAY = re.compile(r"array\((\[.*\])(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
OBJECT = re.compile(r"""\s*\{\s*(?:"[^"\n]*"|'[^'\n]*')\s*:""")
FIRST = ("[", "(", "{", "a", "b", " ", "\n")  # of what may be more than text
BYTES = re.compile(r"""b(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)


def read_written(cell: str, where: str) -> list[Any]:
    """The captions that a cell of text stands for: one, itself, or several.

    Raises ValueError for what looks like a list, an object or bytes, but cannot be
    read, or in more than one way.
    """
    if cell[:1] not in FIRST:  # most captions: no more work
        return [cell]
    if OBJECT.match(cell):
        return [read_object(cell, where)]
    if looks_like_list(cell):
        return read_list(cell, where)
    if BYTES.fullmatch(cell.strip()):
        return [read_bytes(cell.strip(), where)]
    return [cell]


def cells_of_text(content: str) -> list[str]:
    """What each stands for itself in a text beside a picture: its lines, or all.

    All of it where it is one list or one object, on however many lines.
    """
    lines = content.splitlines()
    full = [line for line in lines if line.strip()]
    if full[1:] and all(map(OBJECT.match, full)):
        return lines
    is_one = OBJECT.match(content) or looks_like_list(content)
    return [content] if is_one else lines


def read_object(text: str, where: str) -> dict:
    """An object that was written as text, as JSON writes it or Python."""
    value: Any = None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    if not isinstance(value, dict):
        raise ValueError(
            "A caption looks like an object written as text, which cannot be read "
            f"({text.strip()[:40]!a}): {where}. Save it as JSON, or give its text "
            "a column of its own."
        )
    return value


def read_bytes(text: str, where: str) -> str:
    """The text in bytes as Python writes them: b'a cat'."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text_of_bytes(value, where)


def text_of_bytes(content: bytes, where: str) -> str:
    """Bytes as the text that they are in UTF-8; ValueError where they are none."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(
            f"A caption is bytes that are not UTF-8: {where}. Save it as text."
        ) from None


def looks_like_list(text: str) -> bool:
    """Whether a cell is a list that was written as text, in whichever notation."""
    if text[:1] not in FIRST:
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
    if objects := python_objects(text):
        return objects
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


def python_objects(text: str) -> list[dict]:
    """The objects in a list of nothing else, as Python writes it; [] for others."""
    if "{" not in text[:20]:
        return []
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    is_list = isinstance(items, list | tuple)
    return (
        list(items) if is_list and all(isinstance(x, dict) for x in items) else []
    )

"""Which columns of a table hold the picture, its captions and its split.

A column goes by its name, whatever its case, or is named by the user. Where two
have an equal claim, the user is asked.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from distilclip.sources.entries import Asked

# In each list a name of an earlier line comes before one of a later line; names of
# one line have an equal claim.
IMAGE_COLUMNS = (
    ("file_name",),
    (
        *("image", "filename", "filepath", "file", "path", "image_path"),
        *("image_name", "img", "picture"),
    ),
)
CAPTION_COLUMNS = (
    ("captions", "caption", "text", "sentences", "sentence"),
    ("title", "description", "comment"),
)
NUMBERED = re.compile(r"caption_?(\d+)", re.IGNORECASE)


class Columns(NamedTuple):
    """The columns of a table: "" and () for what it does not have."""

    image: str
    captions: tuple[str, ...]
    split: str


def choose_columns(names: Iterable[str], asked: Asked, where: str) -> Columns:
    """The columns of picture, captions and split, as asked for or by their names.

    Raises ValueError where a column that is asked for is missing, or where two have
    an equal claim.
    """
    names = [name for name in names if isinstance(name, str) and name.strip()]
    captions = [find_column(n, names, where) for n in asked.caption_columns]
    image = asked.image_column and find_column(asked.image_column, names, where)
    split = asked.split_column and find_column(asked.split_column, names, where)
    free = [name for name in names if name not in (*captions, image, split)]
    if not captions:
        captions = caption_columns(free, where)
    if not image:
        best = best_named(free, IMAGE_COLUMNS)
        image = the_only(best, "the picture", "image", where)
    if not split:
        best = [name for name in free if name.strip().lower() == "split"]
        split = the_only(best, "the split", "split", where)
    return Columns(image, tuple(captions), split)


def caption_columns(names: Sequence[str], where: str) -> list[str]:
    """caption_0, caption_1, ... in the order of their numbers, or one name."""
    matches = [(name, NUMBERED.fullmatch(name.strip())) for name in names]
    by_number = sorted((int(match[1]), name) for name, match in matches if match)
    known = best_named(names, CAPTION_COLUMNS)
    if by_number:
        numbered = [name for _, name in by_number]
        strong = [n for n in known if n.strip().lower() in CAPTION_COLUMNS[0]]
        if strong or len({number for number, _ in by_number}) < len(numbered):
            the_only([*strong, *numbered], "captions", "caption", where)
        return numbered
    only = the_only(known, "captions", "caption", where)
    return [only] if only else []


def best_named(names: Sequence[str], ranks: Sequence[Sequence[str]]) -> list[str]:
    """The names that are in the first of `ranks` that has any of them."""
    for rank in ranks:
        best = [name for name in names if name.strip().lower() in rank]
        if best:
            return best
    return []


def the_only(names: Sequence[str], what: str, option: str, where: str) -> str:
    """The one name, "" where there is none; ValueError where there are several."""
    if len(names) > 1:
        raise ValueError(
            f"Several columns of {where} may hold {what}: {listed(names)}. Choose "
            f"with --{option}-column, in Python {option}_column."
        )
    return names[0] if names else ""


def find_column(name: str, names: Sequence[str], where: str) -> str:
    """The column that a user named: as written, or else whatever its case."""
    found = [each for each in names if each == name]
    found = found or [n for n in names if n.strip().lower() == name.strip().lower()]
    if len(found) != 1:
        kind = "no column" if not found else "several columns"
        hint = " Or say what stands between columns, with --delimiter."
        raise ValueError(
            f"There is {kind} {name!r} in {where}; found {listed(names)}."
            f"{hint if len(names) == 1 else ''}"
        )
    return found[0]


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names for a sentence, not more than fit into it."""
    shown = [
        name if len(name) <= 30 else f"{name[:30]}…" for name in map(str, names)
    ]
    shown = [" ".join(name.split()) for name in shown]
    more = [f"and {len(shown) - most} more"] if len(shown) > most else []
    return ", ".join([*shown[:most], *more]) or "none"


def names_in(columns: str | Sequence[str]) -> tuple[str, ...]:
    """Names of columns: as they are in a list, or with commas between them."""
    names = columns.split(",") if isinstance(columns, str) else columns
    return tuple(name.strip() for name in names if name.strip())

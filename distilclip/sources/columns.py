"""Which columns of a table hold the picture, its captions and its split.

A column goes by its name, whatever its case, or is named by the user. Where two
have an equal claim, the user is asked.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distilclip.sources.entries import Asked
from distilclip.sources.skipping import LOG
from distilclip.sources.splits import SPLITS, looks_like_split, split_name
from distilclip.storage.terminal import shown

# In each list a name of an earlier line comes before one of a later line; names of
# one line have an equal claim. A blank, a hyphen or a capital in the middle counts
# as an underscore: "File Name", "file-name" and "fileName" are file_name.
IMAGE_COLUMNS = (
    ("file_name",),
    (
        *("image", "filename", "filepath", "file", "path", "image_path"),
        *("image_name", "img", "picture"),
    ),
    (
        *("images", "image_file", "image_filename", "image_file_name", "file_path"),
        *("img_path", "img_name", "img_file", "imagename", "photo", "jpg", "png"),
    ),
    ("image_id",),
)
CAPTION_COLUMNS = (
    ("captions", "caption", "text", "sentences", "sentence"),
    ("title", "description", "comment"),
    (
        *("texts", "caption_text", "image_caption", "raw_caption", "alt_text"),
        *("prompt", "raw", "txt"),
    ),
)
# What people call a column that says the split, besides split
SPLIT_COLUMNS = {
    "set",
    "subset",
    "partition",
    "part",
    "usage",
    "phase",
    "fold",
    "folds",
}
SPLIT_COLUMNS |= {"split_name", "data_split", "dataset_split", "split_set", "mode"}
# Words in the names of columns of texts, and in those of what is about texts
TEXT_WORDS = {"caption", "captions", "text", "texts", "sentence", "sentences"}
TEXT_WORDS |= {"title", "description", "comment", "prompt", "alt"}
NO_TEXT_WORDS = {"number", "id", "ids", "index", "count", "score", "length", "url"}
REPEATED = re.compile(r"(.+)\.\d+")
MARKS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "bar": "|"}
MARKS |= {"pipe": "|", "space": " "}
NUMBERED = re.compile(r"(caption|text|sentence|description)_?(\d+)")


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

    def found(name: str, option: str) -> str:
        return name and find_column(name, names, where, option)

    captions = [found(name, "caption") for name in asked.caption_columns]
    image = found(asked.image_column, "image")
    split = found(asked.split_column, "split")
    free = [name for name in names if name not in (*captions, image, split)]
    if not captions:
        captions = caption_columns(free, where)
    if not image:
        best = best_named(free, IMAGE_COLUMNS)
        image = the_only(best, "the picture", "image", where)
    if not split:
        best = [name for name in free if plain(name) == "split"]
        split = the_only(best, "the split", "split", where)
    return Columns(image, tuple(captions), split)


def plain(name: str) -> str:
    """A column's name as it is compared: "fileName", "File Name" are file_name."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s_-]+", "_", name).lower()


def caption_columns(names: Sequence[str], where: str) -> list[str]:
    """caption_0, caption_1, ... in the order of their numbers, or one name."""
    again = {name for name in names if base_of(name) in names}
    every, names = names, [name for name in names if name not in again]
    known = best_named(names, CAPTION_COLUMNS)
    strong = [name for name in known if plain(name) in CAPTION_COLUMNS[0]]
    families: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if match := NUMBERED.fullmatch(plain(name)):
            families.setdefault(match[1], []).append((int(match[2]), name))
    if families:
        numbered = next(iter(families.values()))
        columns = [name for _, name in sorted(numbered)]
        is_twice = len({number for number, _ in numbered}) < len(numbered)
        if strong or is_twice or len(families) > 1:
            rest = [name for some in families.values() for _, name in some]
            the_only([*strong, *rest], "captions", "caption", where)
        return columns
    only = the_only(known, "captions", "caption", where)
    same = [name for name in every if name in again and base_of(name) == only]
    return [only, *same] if only else []


def base_of(name: str) -> str:
    """What pandas made `caption.1` of, where a header has `caption` twice; ""."""
    match = REPEATED.fullmatch(name)
    return match[1] if match else ""


def report_left_texts(
    columns: Columns, names: Iterable[str], asked: Asked, where: str | Path
) -> None:
    """Say which column was taken, where others may hold captions, too."""
    if asked.caption_columns or not columns.captions:
        return
    others = {*names} - {*columns.captions, columns.image, columns.split}
    left = [
        name
        for name in names
        if name in others
        and not TEXT_WORDS.isdisjoint(words := plain(name).split("_"))
        and NO_TEXT_WORDS.isdisjoint(words)
    ]
    if left:
        LOG.info(
            "%s: the captions are those of the column %s; not read: %s. Choose "
            "with --caption-column, in Python caption_column.",
            *(where, listed(columns.captions), listed(left)),
        )


def best_named(names: Sequence[str], ranks: Sequence[Sequence[str]]) -> list[str]:
    """The names that are in the first of `ranks` that has any of them."""
    for rank in ranks:
        best = [name for name in names if plain(name) in rank]
        if best:
            return best
    return []


def split_by_cells(
    names: Sequence[str],
    taken: Iterable[str],
    rows: Callable[[], Iterable[Sequence[object]]],
    where: str | Path,
) -> str:
    """The column whose cells are words for several splits, whatever its name; "".

    `rows` gives the cells of each row, a cell for each of `names`, from the start.
    Only columns that are not `taken` count. Says which one it is.
    """
    taken = set(taken)
    places = [
        place
        for place, (name, cell) in enumerate(
            zip(names, first_cells(rows), strict=False)
        )
        if name not in taken and known_split(cell)
    ]
    if not places:
        report_unheeded([name for name in names if name not in taken], where)
        return ""
    counts: dict[int, Counter[str]] = {place: Counter() for place in places}
    for cells in rows():
        for place in places:
            counts[place][known_split(cells[place])] += 1
    several, mostly = set(), set()
    for place, found in counts.items():
        name, known = names[place], found.total() - found[""]
        if not found[""] and (len(found) > 1 or plain(name) in SPLIT_COLUMNS):
            several.add(name)
        if 2 * known > found.total() and len(found) > 1:
            mostly.add(name)
    split = the_only(sorted(several), "the split", "split", str(where))
    if split:
        LOG.info("%s: the column %r says the split of each row.", where, split)
        return split
    report_unheeded([n for n in names if n not in taken], where, mostly)
    return ""


def first_cells(rows: Callable[[], Iterable[Sequence[object]]]) -> list[object]:
    """Each column's first cell that is not blank, near the start of a table."""
    found: list[object] = []
    for cells in itertools.islice(rows(), 100):
        found = found or [None] * len(cells)
        found = [
            cell if old is None or old == "" else old
            for old, cell in zip(found, cells, strict=False)
        ]
    return found


def report_unheeded(
    names: Iterable[str], where: str | Path, certain: Container[str] = ()
) -> None:
    """Warn of columns that may say the split, and are not heeded."""
    for name in names:
        is_like = plain(name) in SPLIT_COLUMNS or looks_like_split(plain(name))
        if name in certain or is_like:
            LOG.warning(
                "%s: the column %r is not heeded. If its cells are the names of "
                "splits, give it as --split-column, in Python split_column.",
                *(where, name),
            )


def known_split(cell: object) -> str:
    """The split that a cell means, "" where it is no word for one."""
    if not isinstance(cell, str) or len(cell) > 40:
        return ""
    name = split_name(cell)
    return name if name in SPLITS else ""


def the_only(names: Sequence[str], what: str, option: str, where: str) -> str:
    """The one name, "" where there is none; ValueError where there are several."""
    if len(names) > len(set(names)):
        raise ValueError(
            f"Several columns of {where} are called {listed(sorted(set(names)))}: "
            "give each a name of its own, such as caption_0, caption_1."
        )
    if len(names) > 1:
        raise ValueError(
            f"Several columns of {where} may hold {what}: {listed(names)}. Choose "
            f"with --{option}-column, in Python {option}_column."
        )
    return names[0] if names else ""


def find_column(name: str, names: Sequence[str], where: str, option: str) -> str:
    """The column that a user named: as written, or else whatever its case."""
    found = [each for each in names if each == name]
    found = found or [n for n in names if plain(n) == plain(name)]
    if len(found) != 1:
        kind = "is no column" if not found else "are several columns"
        hint = " Or say what stands between columns, with --delimiter."
        raise ValueError(
            f"There {kind} {name!r} (--{option}-column, in Python "
            f"{option}_column) in {where}; found {listed(names)}."
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


def asked_for(
    image_column: str | None,
    caption_column: str | Sequence[str] | None,
    split_column: str | None,
    delimiter: str | None,
    skipped: list[str] | None,
) -> Asked:
    """What a user asks of a reader; None and "" are as if not given.

    Raises ValueError for what is no text.
    """
    return Asked(
        name_in(image_column, "image_column"),
        names_in(caption_column),
        name_in(split_column, "split_column"),
        delimiter_in(delimiter),
        skipped,
    )


def delimiter_in(given: Any) -> str:
    """What stands between columns: a mark, or its name such as "tab"; "" for None.

    Raises ValueError for what is no one character.
    """
    if given is None or given == "":
        return ""
    mark = MARKS.get(given.lower(), given) if isinstance(given, str) else ""
    if len(mark) != 1 or mark in '"\r\n':
        raise ValueError(
            f"The delimiter must be one character, or {', '.join(MARKS)}; got "
            f"{shown(given)}."
        )
    return mark


def names_in(columns: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of columns: as they are in a list, or with commas between them.

    Raises ValueError for what is no name.
    """
    if columns is None:
        return ()
    is_list = isinstance(columns, Sequence) and not isinstance(columns, str | bytes)
    names = columns.split(",") if isinstance(columns, str) else columns
    names = list(names) if is_list or isinstance(columns, str) else [names]
    return tuple(
        name for each in names if (name := name_in(each, "caption_column"))
    )


def name_in(given: Any, option: str) -> str:
    """What was given as an option's name, "" for None; ValueError for no text."""
    if given is None:
        return ""
    if not isinstance(given, str):
        raise ValueError(
            f"{option} must be a text, the name of a column, got {shown(given)}."
        )
    return given.strip()

"""Tables of pictures and captions as text: .csv, .tsv, .jsonl and .json files.

The header of a table says what stands between its columns. A row is read whole or
refused with the number of its line.
"""

import csv
import functools
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet

from distilclip.sources.captions import captions_or_blank, is_blank_text
from distilclip.sources.columns import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    NUMBERED,
    Columns,
    choose_columns,
    delimiter_in,
    listed,
    plain,
    report_left_texts,
    split_by_cells,
)
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.places import Place
from distilclip.sources.skipping import LOG, SKIP, refuse_or_skip
from distilclip.storage.files import read_utf8
from distilclip.storage.pictures import IMAGE_SUFFIXES

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
JSON_TABLES = (".jsonl", ".ndjson", ".json")
csv.field_size_limit(2**31 - 1)  # a cell may hold a thumbnail; else 131,072
TEXT_TABLES = (".csv", ".tsv", *JSON_TABLES)
ENDING = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))


def read_table(file: Path, place: Place, asked: Asked) -> Iterator[Entry]:
    """The entries of a table, whose pictures lie in `place`.

    Raises ValueError where the table cannot be read or lacks a column, and for a
    row at fault what `Place.find` and `captions_of_cells` raise.
    """
    if file.suffix.lower() in JSON_TABLES:
        records = functools.partial(json_records, file)
        yield from read_records(records, place, asked, file)
        return
    text = text_of_table(file)
    if not text.strip():
        return
    names, delimiter = header_of(text, asked, file)
    about = f"{file} ({DELIMITERS.get(delimiter, repr(delimiter))} between columns)"
    columns = choose_columns(names, asked, about)
    check_columns(columns, names, about)
    report_left_texts(columns, names, asked, file)

    def rows() -> Iterator[list[str]]:
        quiet = replace(asked, skipped=[])
        return (c for _, c in csv_rows(text, delimiter, names, place, file, quiet))

    taken = [columns.image, *columns.captions]
    by_name = columns.split or split_by_cells(names, taken, rows, file)
    places = [names.index(name) for name in taken]
    split = names.index(by_name) if by_name else None
    for where, cells in csv_rows(text, delimiter, names, place, file, asked):
        try:
            found = place.find(
                cell_of_picture(cells[places[0]], where), f"in {where}"
            )
            texts = [cells[place] for place in places[1:]]
            captions, blank = captions_or_blank(texts, where)
        except (ValueError, OSError) as error:
            refuse_or_skip(error, asked.skipped)
        else:
            word = word_of_split(cells[split]) if split is not None else ""
            yield Entry(found[0], captions, found[1], word, blank)


def text_of_table(file: Path) -> str:
    """The text of a table; Excel's line `sep=;` before the header becomes blank."""
    return re.sub(r"\A\"?sep=.\"?(?=[\r\n])", "", read_utf8(file))


def first_line(text: str) -> str:
    """The first line of a text that is not empty."""
    return re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]


def header_of(text: str, asked: Asked, file: Path) -> tuple[list[str], str]:
    """The names of a table's columns, and what stands between them."""
    header = first_line(text)
    delimiter = find_delimiter(header, asked, file)
    return [name.strip() for name in split_line(header, delimiter)], delimiter


def names_pictures(file: Path, asked: Asked) -> bool:
    """Whether a table has columns of pictures and of captions, by its start."""
    try:
        if file.suffix.lower() == ".parquet":
            names = pyarrow.parquet.read_schema(file).names
        elif file.suffix.lower() in JSON_TABLES:
            _, record = next(json_records(file), ("", None))
            names = list(record) if isinstance(record, dict) else []
        else:
            names = header_of(text_of_table(file), asked, file)[0]
        columns = choose_columns(names, asked, str(file))
    except (ValueError, OSError) as error:
        LOG.debug("%s is no table of pictures: %s", file, error)
        return False
    return bool(columns.image and columns.captions)


def read_records(
    records: Callable[[], Iterable[tuple[str, Any]]],
    place: Place,
    asked: Asked,
    file: Path,
) -> Iterator[Entry]:
    """The entries of records, which may differ in their keys.

    `records` gives them from the start.
    """
    known: dict[tuple, Columns] = {}
    split = split_of_records(records, asked, file)
    for where, record in records():
        try:
            keys = tuple(record) if isinstance(record, dict) else ()
            if keys not in known:
                known[keys] = choose_columns(keys, lenient(asked, keys), str(file))
                if len(known) == 1:
                    report_left_texts(known[keys], keys, asked, file)
            columns = known[keys]
            if not columns.image:
                wanted = asked.image_column or "file_name"
                raise ValueError(
                    f"No {wanted} in {where}; found {listed(keys)}. Name the "
                    "column with --image-column, in Python image_column."
                )
            name = cell_of_picture(record[columns.image], where)
            if not columns.captions:
                raise ValueError(
                    f"No caption in {where}; found {listed(keys)}. Name the "
                    "columns with --caption-column, in Python caption_column."
                )
            found = place.find(name, f"in {where}")
            cells = [record[column] for column in columns.captions]
            captions, blank = captions_or_blank(cells, where)
            word = record[columns.split] if columns.split else record.get(split)
        except (ValueError, OSError) as error:
            refuse_or_skip(error, asked.skipped)
        else:
            yield Entry(found[0], captions, found[1], word_of_split(word), blank)


def split_of_records(
    records: Callable[[], Iterable[tuple[str, Any]]], asked: Asked, file: Path
) -> str:
    """The key, whatever its name, whose values are words for splits; or ""."""
    first = next((r for _, r in records() if isinstance(r, dict)), None)
    if not first or asked.split_column:
        return ""
    try:
        columns = choose_columns(first, lenient(asked, first), str(file))
    except ValueError:  # which its turn will raise
        return ""
    if columns.split:
        return ""
    names = list(
        dict.fromkeys(k for _, r in records() if isinstance(r, dict) for k in r)
    )

    def rows() -> Iterator[list[object]]:
        return (
            [r.get(n) for n in names] for _, r in records() if isinstance(r, dict)
        )

    return split_by_cells(names, [columns.image, *columns.captions], rows, file)


def lenient(asked: Asked, keys: Iterable[str]) -> Asked:
    """What is asked of a record that may lack some of the captions' keys."""
    keys = set(keys)
    captions = tuple(name for name in asked.caption_columns if name in keys)
    image = asked.image_column if asked.image_column in keys else ""
    split = asked.split_column if asked.split_column in keys else ""
    missing = asked.image_column != image or (
        asked.caption_columns and not captions
    )
    if missing:
        return asked  # `choose_columns` will say what
    return Asked(image, captions, split)


def word_of_split(word: object) -> str:
    """A cell's word for the split, "" where it is blank."""
    text = "" if word is None else str(word).strip()
    return "" if is_blank_text(text) else text


def cell_of_picture(cell: Any, where: str) -> str:
    """The name of a file in a cell; ValueError where there is none."""
    if not isinstance(cell, str) or not cell.strip():
        raise ValueError(
            f"No file_name in {where}: its cell holds {cell!a:.40}. "
            f"Name one, or {SKIP}."
        )
    return cell.strip()


def check_columns(columns: Columns, names: Iterable[str], about: str) -> None:
    """Raise ValueError where a table has no column of pictures or of captions."""
    missing = [
        (what, options, known)
        for has, what, options, known in (
            (columns.image, "file_name", "image", IMAGE_COLUMNS),
            (columns.captions, "caption", "caption", CAPTION_COLUMNS),
        )
        if not has
    ]
    if missing:
        what, option, known = missing[0]
        usual = ", ".join(sum(known[:2], ()))
        names = list(names)
        taken = {columns.image, *columns.captions, columns.split}
        asked = [n for n in names if n in taken and plain(n) in sum(known, ())]
        besides = f" (of which {listed(asked)} is taken already)" if asked else ""
        raise ValueError(
            f"No {what} in {about}: found the columns {listed(names)}{besides}; "
            f"expected one of {usual}. {about_header(names)}Name it with "
            f"--{option}-column (in Python {option}_column), or say what stands "
            "between the columns with --delimiter."
        )


def about_header(names: Sequence[str]) -> str:
    """What to say of a first line that seems to be something else than names."""
    if names and names[0].startswith("#"):
        return "Its first line seems to be a remark: take that out. "
    if any(re.search(rf"(?:{ENDING})$", name, re.I) for name in names):
        return (
            "Its first line seems to be data: put a line with the names of the "
            "columns above it. "
        )
    return ""


def find_delimiter(header: str, asked: Asked, file: Path) -> str:
    """What stands between the columns: as asked, or as the header line shows it."""
    if asked.delimiter:
        return delimiter_in(asked.delimiter)
    known = {*sum(IMAGE_COLUMNS, ()), *sum(CAPTION_COLUMNS, ()), "split"}
    known |= {plain(asked.image_column), plain(asked.split_column)}
    known |= {plain(name) for name in asked.caption_columns}

    def score(delimiter: str) -> tuple[int, int]:
        names = [plain(name) for name in split_line(header, delimiter)]
        right = sum(
            bool(name) and (name in known or NUMBERED.fullmatch(name) is not None)
            for name in names
        )
        return right, len(names)

    scores = {delimiter: score(delimiter) for delimiter in DELIMITERS}
    best = max(scores.values())
    found = [delimiter for delimiter, value in scores.items() if value == best]
    if len(found) > 1 and best[0] > 0 and best[1] > 1:
        marks = " or ".join(DELIMITERS[delimiter] for delimiter in found)
        raise ValueError(
            f"{marks.capitalize()} may stand between the columns of {file}, whose "
            f"first line is {header[:80]!r}: choose with --delimiter."
        )
    return "\t" if len(found) > 1 and file.suffix.lower() == ".tsv" else found[0]


def split_line(line: str, delimiter: str) -> list[str]:
    """The cells of one line."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return [line]


def csv_rows(
    text: str,
    delimiter: str,
    names: list[str],
    place: Place,
    file: Path,
    asked: Asked,
) -> Iterator[tuple[str, list[str]]]:
    """Where each row of a table stands, and its cells, one for each column.

    A blank behind each mark, as in `a, "b"`, counts where the header has it.
    """
    form: dict[str, Any] = {"delimiter": delimiter, "strict": True}
    form["skipinitialspace"] = f"{delimiter} " in first_line(text)
    quoting = quoting_of(text, form, file)
    source, lines = io.StringIO(text, newline=""), []
    reader = csv.reader(noted(source, lines), quoting=quoting, **form)
    number, line, header = 0, 0, True
    for cells in whole_rows(reader, file):
        start, line = line + 1, reader.line_num
        written, lines[:] = lines[:], []
        if not cells or (len(cells) == 1 and not cells[0].strip()):
            continue
        if header:
            header = False
            continue
        number += 1
        where = f"entry {number} of {file}"
        extra = cells[len(names) :]
        try:
            if len(cells) < len(names) or any(cell.strip() for cell in extra):
                raise ValueError(
                    f"Line {start} of {file} has {len(cells)} cells, but its first "
                    f"line names {len(names)} columns ({listed(names)}), with "
                    f"{DELIMITERS.get(delimiter, repr(delimiter))} between them: "
                    "put a cell that holds this mark into quotation marks."
                )
            if line > start and swallows_rows(written, delimiter, names, place):
                raise ValueError(
                    f"The row that begins at line {start} of {file} seems to hold "
                    f"other rows, up to line {line}: close its quotation mark, or "
                    "take it out."
                )
        except ValueError as error:
            refuse_or_skip(error, asked.skipped)
        else:
            yield where, cells


def whole_rows(reader, file: Path) -> Iterator[list[str]]:
    """What a reader of the module csv gives, with its errors in a sentence."""
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(
            f"{file} cannot be read as a table: {error} (line {reader.line_num}). "
            'Write a quotation mark inside a cell twice, and others around it: "".'
        ) from None


def quoting_of(text: str, form: dict[str, Any], file: Path) -> Literal[0, 3]:
    """Whether quotation marks hold cells together, or are a part of their texts.

    Tables with tabs or bars are written either way: where marks stand as no table
    with marks can have them, they are text. Raises ValueError for other tables.
    """
    if '"' not in text:
        return csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), **form)
    try:
        for _ in whole_rows(reader, file):
            pass
    except ValueError:
        if form["delimiter"] in "\t|":
            return csv.QUOTE_NONE
        raise
    return csv.QUOTE_MINIMAL


def noted(source: Iterable[str], lines: list[str]) -> Iterator[str]:
    """The lines of `source`, each added to `lines` as it is read."""
    for line in source:
        lines.append(line)
        yield line


def swallows_rows(
    lines: Iterable[str], delimiter: str, names: Sequence[str], place: Place
) -> bool:
    """Whether the lines of one row look like rows: with all cells, and a picture.

    A caption of several lines has such a cell in its first line or in its last.
    """
    count = 0
    for line in lines:
        cells = [cell.strip().strip('"').strip() for cell in line.split(delimiter)]
        if len(cells) >= len(names):
            count += any(may_be_picture(cell, place) for cell in cells)
    return count > 1


def may_be_picture(cell: str, place: Place) -> bool:
    """Whether a cell ends as a picture's name does, or is the name of a file."""
    if re.search(rf"(?:{ENDING})$", cell, re.I):
        return True
    is_name = 0 < len(cell) < 200 and "\0" not in cell
    return is_name and os.path.isfile(os.path.join(place.root, place.base, cell))


def json_records(file: Path) -> Iterator[tuple[str, Any]]:
    """Where each record of a file of JSON stands, and what it holds.

    Whatever the file is called, it has a record a line, or is a list of records, or
    an object that gives the captions of each picture's name. Raises ValueError for
    what is none of these.
    """
    text = read_utf8(file)
    if not has_record_a_line(text, file):
        for number, record in enumerate(records_in(text, file), start=1):
            yield f"entry {number} of {file}", record
        return
    number = 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        number += 1
        try:
            yield f"entry {number} of {file}", json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{file} has a line that is not JSON: {error}."
            ) from None


def has_record_a_line(text: str, file: Path) -> bool:
    """Whether a text is JSON lines: by its first line, then by its file's name."""
    text = text.strip()
    first, _, rest = text.partition("\n")
    if text.startswith("["):
        return False
    try:
        is_record = isinstance(json.loads(first), dict)
    except (json.JSONDecodeError, RecursionError):
        is_record = False
    return (is_record and bool(rest)) or file.suffix.lower() != ".json"


def records_in(text: str, file: Path) -> list[Any]:
    """The records of a text of JSON that is one list, or one object of names."""
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged, it is not valid JSON: {error}."
        ) from None
    if isinstance(content, list):
        return content
    if isinstance(content, dict) and content:
        name = next(iter(content))
        if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
            return [
                {"file_name": name, "captions": captions}
                for name, captions in content.items()
            ]
    keys = listed(content) if isinstance(content, dict) else type(content).__name__
    raise ValueError(
        f"{file} is no table: expected a list of objects, such as "
        '[{"file_name": "1.jpg", "caption": "a cat"}], or the captions of each '
        f'picture, as in {{"1.jpg": ["a cat"]}}; found {keys}.'
    )

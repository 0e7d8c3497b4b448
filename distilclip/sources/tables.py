"""Tables of pictures and captions as text: .csv, .tsv and .jsonl files.

The header of a table says what stands between its columns. A row is read whole or
refused with the number of its line.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from distilclip.sources.captions import captions_of_cells
from distilclip.sources.columns import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    NUMBERED,
    Columns,
    choose_columns,
    listed,
)
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.places import Place
from distilclip.sources.skipping import refuse_or_skip
from distilclip.storage.files import read_utf8
from distilclip.storage.pictures import IMAGE_SUFFIXES

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
TEXT_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
ENDING = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))


def read_table(file: Path, place: Place, asked: Asked) -> Iterator[Entry]:
    """The entries of a table, whose pictures lie in `place`.

    Raises ValueError where the table cannot be read or lacks a column, and for a
    row at fault what `Place.find` and `captions_of_cells` raise.
    """
    is_json = file.suffix.lower() in (".jsonl", ".ndjson")
    if is_json:
        yield from read_records(json_records(file, asked), place, asked, file)
        return
    text = read_utf8(file)
    if not text.strip():
        return
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    delimiter = find_delimiter(header, asked, file)
    names = [name.strip() for name in split_line(header, delimiter)]
    about = f"{file} ({DELIMITERS.get(delimiter, repr(delimiter))} between columns)"
    columns = choose_columns(names, asked, about)
    check_columns(columns, names, about)
    places = [names.index(name) for name in (columns.image, *columns.captions)]
    split = names.index(columns.split) if columns.split else None
    for where, cells in csv_rows(text, delimiter, names, file, asked):
        try:
            found = place.find(
                cell_of_picture(cells[places[0]], where), f"in {where}"
            )
            captions = captions_of_cells((cells[n] for n in places[1:]), where)
        except (ValueError, OSError) as error:
            refuse_or_skip(error, asked.skipped)
        else:
            word = cells[split].strip() if split is not None else ""
            yield Entry(found[0], captions, found[1], word)


def read_records(
    records: Iterable[tuple[str, Any]], place: Place, asked: Asked, file: Path
) -> Iterator[Entry]:
    """The entries of records, which may differ in their keys."""
    known: dict[tuple, Columns] = {}
    for where, record in records:
        try:
            keys = tuple(record) if isinstance(record, dict) else ()
            if keys not in known:
                known[keys] = choose_columns(keys, lenient(asked, keys), str(file))
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
            captions = captions_of_cells(cells, where)
            word = record[columns.split] if columns.split else None
        except (ValueError, OSError) as error:
            refuse_or_skip(error, asked.skipped)
        else:
            yield Entry(found[0], captions, found[1], word_of_split(word))


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
    return "" if word is None or word != word else str(word).strip()


def cell_of_picture(cell: Any, where: str) -> str:
    """The name of a file in a cell; ValueError where there is none."""
    if not isinstance(cell, str) or not cell.strip():
        raise ValueError(f"No file_name in {where}: its cell holds {cell!a:.40}.")
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
        usual = ", ".join(sum(known, ()))
        raise ValueError(
            f"No {what} in {about}: found the columns {listed(names)}; expected "
            f"one of {usual}. Name it with --{option}-column (in Python "
            f"{option}_column), or what stands between the columns with "
            "--delimiter."
        )


def find_delimiter(header: str, asked: Asked, file: Path) -> str:
    """What stands between the columns: as asked, or as the header line shows it."""
    if asked.delimiter:
        given = {"tab": "\t", "\\t": "\t"}.get(asked.delimiter, asked.delimiter)
        if len(given) != 1 or given in '"\r\n':
            raise ValueError(
                f"The delimiter must be one character, got {asked.delimiter!r}."
            )
        return given
    known = {*sum(IMAGE_COLUMNS, ()), *sum(CAPTION_COLUMNS, ()), "split"}
    known |= {asked.image_column.lower(), asked.split_column.lower()}
    known |= {name.lower() for name in asked.caption_columns}

    def score(delimiter: str) -> tuple[int, int]:
        names = [name.strip().lower() for name in split_line(header, delimiter)]
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
    text: str, delimiter: str, names: list[str], file: Path, asked: Asked
) -> Iterator[tuple[str, list[str]]]:
    """Where each row of a table stands, and its cells, one for each column."""
    quoting = quoting_of(text, delimiter, file)
    source = io.StringIO(text, newline="")
    reader = csv.reader(source, delimiter=delimiter, quoting=quoting, strict=True)
    number, line, header = 0, 0, True
    for cells in whole_rows(reader, file):
        start, line = line + 1, reader.line_num
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
            if line > start and swallows_rows(cells, delimiter):
                raise ValueError(
                    f"A cell that begins at line {start} of {file} seems to hold "
                    "other rows: close its quotation mark."
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


def quoting_of(text: str, delimiter: str, file: Path) -> Literal[0, 3]:
    """Whether quotation marks hold cells together, or are a part of their texts.

    Tables with tabs or bars are written either way: where marks stand as no table
    with marks can have them, they are text. Raises ValueError for other tables.
    """
    if '"' not in text:
        return csv.QUOTE_NONE
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True
    )
    try:
        for _ in whole_rows(reader, file):
            pass
    except ValueError:
        if delimiter in "\t|":
            return csv.QUOTE_NONE
        raise
    return csv.QUOTE_MINIMAL


def swallows_rows(cells: Iterable[str], delimiter: str) -> bool:
    """Whether a line in a cell looks like a row: a picture, then a delimiter."""
    row = re.compile(rf"\n[^\n]*(?:{ENDING})\"?\s*{re.escape(delimiter)}", re.I)
    return any("\n" in cell and row.search(cell) for cell in cells)


def json_records(file: Path, asked: Asked) -> Iterator[tuple[str, Any]]:
    """Where each record of a file of JSON lines stands, and what it holds."""
    number = 0
    for line in read_utf8(file).split("\n"):
        if not line.strip():
            continue
        number += 1
        try:
            yield f"entry {number} of {file}", json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"{file} has a line that is not JSON: {error}."
            ) from None

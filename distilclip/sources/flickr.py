"""Flickr8k and Flickr30k as they are handed on: a list of captions beside pictures.

Kaggle's tables have a line a caption (`captions.txt` with `image,caption`,
`results.csv` with `image_name| comment_number| comment`), the original lists
(`Flickr8k.token.txt`) lines like `name.jpg#0<TAB>caption` and files that name the
pictures of each split. All lines of a picture become one entry.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from distilclip.sources.captions import captions_of_cells
from distilclip.sources.columns import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    best_named,
    choose_columns,
    split_by_cells,
)
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.listed import (
    ListedPictures,
    children_of,
    folders_called,
    inner,
    is_picture_name,
    refuse_columns,
    report_left_out,
    report_unlisted,
)
from distilclip.sources.skipping import refuse_or_skip
from distilclip.sources.splits import split_of_folder, unclear_split
from distilclip.storage.files import is_file, is_folder, read_utf8

TABLES = ("captions.txt", "captions.csv", "captions.tsv", "results.csv")
TABLE_FOLDERS = (".", "flickr30k_images")
TOKENS = ("Flickr8k.token.txt", "results_20130124.token", "Flickr30k.token.txt")
TOKEN_FOLDERS = (
    *(".", "Flickr8k_text", "Flickr8k_text/Flickr8k_text"),
    *("Flickr_TextData", "Flickr_Data/Flickr_TextData"),
)
TOKEN = re.compile(r"([^\t]+?)#\s*\d+(?:\s+|$)(.*)")
SPLIT_LIST = re.compile(r"Flickr_?(?:8|30)k\.([a-z]+)Images\.txt", re.IGNORECASE)
IMAGE_FOLDERS = (
    *("Images", "flickr30k_images", "flickr30k-images"),
    *("flickr30k_images/flickr30k_images", "flickr30k_images/images"),
    *("Flicker8k_Dataset", "Flickr8k_Dataset"),
    *("Flicker8k_Dataset/Flicker8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset"),
    *("Flickr8k_Dataset/Flickr8k_Dataset", "Flickr_Data/Images", "."),
)
DELIMITERS = "|\t;,"  # the comma last: a header holds no other in its names
QUOTED = re.compile(r'"((?:[^"]|"")*)"')


# The original lists


def recognises_tokens(path: Path) -> bool:
    """Whether there is a list of the original kind, by its name or first line."""
    return bool(find_tokens(inner(path)))


def find_tokens(path: Path) -> list[Path]:
    """The original lists of captions at `path`, which may be one itself."""
    found = find_files(path, TOKEN_FOLDERS, TOKENS)
    for file in find_files(path, TABLE_FOLDERS, TABLES):
        match = TOKEN.match(first_line(file))
        if match and is_picture_name(match[1].strip()):
            found.append(file)
    return found


def read_tokens(path: Path, asked: Asked) -> Iterator[Entry]:
    """An entry a picture, from lines `name.jpg#0<TAB>caption` and split lists."""
    refuse_columns(asked, path)
    path = inner(path)
    file = only_one(find_tokens(path), path)
    lines_of_pictures: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(read_utf8(file).split("\n"), start=1):
        if not line.strip():
            continue
        match = TOKEN.match(line)
        if match is None:
            refuse_or_skip(
                ValueError(
                    f"Line {number} of {file} is not `name.jpg#0<TAB>caption`: "
                    f"{line[:60]!r}."
                ),
                asked.skipped,
            )
            continue
        name, caption = match.groups()
        lines_of_pictures.setdefault(name.strip(), []).append((number, caption))

    folder = path.parent if path.is_file() else path
    splits = read_split_lists(file, folder, lines_of_pictures, asked)
    pictures = ListedPictures(folder, folders_called(folder, IMAGE_FOLDERS))
    if splits:
        no_split = [name for name in lines_of_pictures if name not in splits]
        report_left_out(no_split, f"which no list of a split beside {file} names")
        chosen = [name for name in lines_of_pictures if name in splits]
    else:
        chosen = list(lines_of_pictures)
        # The list of Flickr8k holds one picture under the name of a copy, 1.jpg.1,
        # which its folder of pictures lacks.
        copies = [name for name in chosen if re.search(r"\.jpe?g\.\d+$", name)]
        report_left_out(copies, f"of which {file} has only the name of a copy")
        chosen = [name for name in chosen if name not in copies]
    yield from entries_of(
        {name: lines_of_pictures[name] for name in chosen},
        splits,
        file,
        pictures,
        asked,
    )
    if not splits:
        report_unlisted([pictures], str(file))


def read_split_lists(
    file: Path, folder: Path, captioned: Iterable[str], asked: Asked
) -> dict[str, str]:
    """Picture names to splits, from the lists beside `file` or in `folder`."""
    splits: dict[str, str] = {}
    captioned = set(captioned)
    beside = {
        path: None for place in (file.parent, folder) for path in children_of(place)
    }
    for path in sorted(beside):
        match = SPLIT_LIST.fullmatch(path.name)
        if match is None or not is_file(path):
            continue
        split = match[1].lower()
        for line in read_utf8(path).split("\n"):
            name = line.strip()
            if not name:
                continue
            if splits.get(name, split) != split:
                raise ValueError(
                    f"{name!r} is named for {splits[name]} and, in {path}, for "
                    f"{split}: a picture lies in one split."
                )
            if name not in captioned:
                error = ValueError(f"{name!r} in {path} has no caption in {file}.")
                refuse_or_skip(error, asked.skipped)
                continue
            splits[name] = split
    return splits


# Kaggle's tables


def recognises_table(path: Path) -> bool:
    """Whether there is a table of captions by its name and its first line."""
    path = inner(path)
    return bool(find_tables(path) or tables_of_splits(path))


def find_tables(path: Path) -> list[Path]:
    """Kaggle's tables of captions at `path`, which may be one itself."""
    files = find_files(path, TABLE_FOLDERS, TABLES)
    found = {file: columns_in(first_line(file)) for file in files}
    if path.is_file() and path.suffix.lower() == ".csv":  # else a table like others
        return [
            file for file, columns in found.items() if columns and columns[1] == "|"
        ]
    return [file for file, columns in found.items() if columns]


def first_line(file: Path) -> str:
    """The first line that is not blank, "" where there is none."""
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        return next((line for line in lines if line.strip()), "")[:10_000]


def columns_in(line: str, delimiter: str = "") -> tuple[list[str], str] | None:
    """A table's columns and its delimiter by its first line.

    None where that is neither a header with pictures and captions nor a row that
    begins with a picture's name; such a row has the columns `image` and `caption`,
    with `comment_number` between them where there is a number.
    """
    for mark in [delimiter] if delimiter else DELIMITERS:
        names = [name.strip(' "\n') for name in line.split(mark)]
        if best_named(names, IMAGE_COLUMNS) and best_named(names, CAPTION_COLUMNS):
            return names, mark
    any_mark = re.escape(delimiter) if delimiter else f"[{DELIMITERS}]"
    match = re.match(
        rf'"?([^"{DELIMITERS}]+\.\w+)"?\s*({any_mark})(\s*\d+\s*\2)?', line
    )
    if match and is_picture_name(match[1]):
        number = ["comment_number"] if match[3] else []
        return ["image", *number, "caption"], match[2]
    return None


def tables_of_splits(path: Path) -> dict[Path, list[Path]]:
    """The tables in each of the folders that are called by splits."""
    if not path.is_dir():
        return {}
    folders = [p for p in children_of(path) if is_folder(p)]
    named = [folder for folder in folders if split_of_folder(folder.name)]
    tables = {folder: find_tables(folder) for folder in named}
    return tables if any(tables.values()) else {}


def read_table(path: Path, asked: Asked) -> Iterator[Entry]:
    """An entry a picture, from a table with a line a caption, or one a split."""
    path = inner(path)
    if find_tables(path):
        file = only_one(find_tables(path), path)
        yield from read_one_table(
            file, path.parent if path.is_file() else path, asked
        )
        return
    splits = tables_of_splits(path)
    for folder in children_of(path):
        if is_folder(folder) and folder not in splits and find_tables(folder):
            raise ValueError(unclear_split(folder))
    for folder, tables in splits.items():
        if not tables:
            names = " or ".join(TABLES)
            raise ValueError(
                f"{folder} has no {names}, unlike the folders beside it."
            )
        for entry in read_one_table(only_one(tables, folder), folder, asked):
            image_id = f"{folder.name}/{entry.image_id}"
            yield entry._replace(
                image_id=image_id, split=entry.split or folder.name
            )


def read_one_table(file: Path, folder: Path, asked: Asked) -> Iterator[Entry]:
    """The entries of one table, whose pictures lie in `folder`."""
    found = columns_in(first_line(file), asked.delimiter)
    columns, delimiter = found or columns_in(first_line(file)) or ([], "")
    if found is None:
        raise ValueError(
            f"{file} has {delimiter!r} between columns, not {asked.delimiter!r}."
        )
    chosen = choose_columns(columns, asked, str(file))
    if not chosen.image or not chosen.captions:
        raise ValueError(
            f"{file} has no column of pictures or none of captions among "
            f"{', '.join(columns)}: name them with --image-column and "
            "--caption-column."
        )
    image_at = columns.index(chosen.image)
    captions_at = [columns.index(name) for name in chosen.captions]
    rows = list(records_of(file, columns, delimiter, image_at, asked))
    split = chosen.split or split_by_cells(
        columns,
        [chosen.image, *chosen.captions],
        lambda: (cells for _, cells in rows),
        file,
    )
    split_at = columns.index(split) if split else None

    lines_of_pictures: dict[str, list[tuple[int, str]]] = {}
    splits: dict[str, str] = {}
    for number, cells in rows:
        name = cells[image_at].strip()
        captions = [(number, cells[place]) for place in captions_at]
        split = "" if split_at is None else cells[split_at].strip()
        if splits.setdefault(name, split) != split:
            error = ValueError(
                f"{name!r} is in the splits {splits[name]!r} and {split!r} of "
                f"{file}: a picture lies in one."
            )
            refuse_or_skip(error, asked.skipped)
            continue
        lines_of_pictures.setdefault(name, []).extend(captions)
    pictures = ListedPictures(folder, folders_called(folder, IMAGE_FOLDERS))
    yield from entries_of(lines_of_pictures, splits, file, pictures, asked)
    report_unlisted([pictures], str(file))


def records_of(
    file: Path, columns: list[str], delimiter: str, image_at: int, asked: Asked
) -> Iterator[tuple[int, list[str]]]:
    """The number of its first line and the cells of each row but the header.

    A row begins where the column of pictures holds a picture's name. A line that
    does not begin one goes on with a quoted cell, or is at fault.
    """
    lines = read_utf8(file).split("\n")
    is_header = True
    pending: tuple[int, str] | None = None
    for number, line in enumerate([*lines, ""], start=1):
        is_last = number > len(lines)
        starts = is_last or begins_row(line, delimiter, image_at)
        if pending is not None:
            if not starts and is_open(pending[1], delimiter):
                pending = pending[0], f"{pending[1]}\n{line}"
                continue
            where = f"Line {pending[0]} of {file}"
            try:
                cells = cells_of(pending[1], columns, delimiter, where)
            except ValueError as error:
                refuse_or_skip(error, asked.skipped)
            else:
                yield pending[0], cells
            pending = None
        if starts and not is_last:
            pending, is_header = (number, line), False
        elif line.strip() and is_header:
            is_header = False
        elif line.strip():
            error = ValueError(
                f"Line {number} of {file} names no picture: {line[:60]!r}."
            )
            refuse_or_skip(error, asked.skipped)


def begins_row(line: str, delimiter: str, image_at: int) -> bool:
    """Whether the cell of the picture in this line holds a picture's name."""
    cells = split_line(line, delimiter, image_at + 2)
    return len(cells) > image_at and is_picture_name(cells[image_at].strip())


def is_open(row: str, delimiter: str) -> bool:
    """Whether a row ends inside a quoted cell."""
    rest = QUOTED.sub("", row)
    return bool(re.search(rf'(?:^|{re.escape(delimiter)})"[^"]*$', rest))


def split_line(line: str, delimiter: str, count: int) -> list[str]:
    """At most `count` cells; the last one holds all that is left of the line."""
    cells = []
    rest = line
    while len(cells) < count - 1:
        match = QUOTED.match(rest)
        if match and rest[match.end() : match.end() + 1] == delimiter:
            cells.append(match[1].replace('""', '"'))
            rest = rest[match.end() + 1 :]
            continue
        cell, mark, after = rest.partition(delimiter)
        if not mark:
            break
        cells.append(cell)
        rest = after
    match = QUOTED.fullmatch(rest.rstrip())
    return [*cells, match[1].replace('""', '"') if match else rest]


def cells_of(row: str, columns: list[str], delimiter: str, where: str) -> list[str]:
    """The cells of the row at `where`, one a column.

    The caption, where it is the last column, may hold the delimiter without being
    quoted. In one line of Flickr30k the number and the comment are not divided.
    """
    cells = split_line(row, delimiter, len(columns))
    several = re.compile(
        rf"{QUOTED.pattern}(?:{re.escape(delimiter)}{QUOTED.pattern})+"
    )
    too_many = delimiter in cells[-1] and (
        not best_named(columns[-1:], CAPTION_COLUMNS)
        or several.fullmatch(cells[-1].strip())
    )
    if len(cells) == len(columns) - 1 and columns[-2].lower().endswith("_number"):
        match = re.fullmatch(r"\s*(\d+)\s+(\S.*)", cells[-1], re.DOTALL)
        if match:
            cells[-1:] = match.groups()
    if too_many or len(cells) != len(columns):
        found = "more" if too_many else f"{len(cells)}"
        raise ValueError(
            f"{where} has {found} cells for {len(columns)} columns "
            f"({', '.join(columns)}), divided by {delimiter!r}: {row[:60]!r}."
        )
    return cells


# Both


def find_files(
    path: Path, folders: Iterable[str], names: Iterable[str]
) -> list[Path]:
    """Files with these names, in any case, in these folders of `path`."""
    lowered = [name.lower() for name in names]
    if path.is_file():
        return [path] if path.name.lower() in lowered else []
    if not path.is_dir():
        return []
    return [
        file
        for folder in folders_called(path, folders)
        for file in children_of(folder)
        if file.name.lower() in lowered and is_file(file)
    ]


def only_one(files: list[Path], path: Path) -> Path:
    """The one list of captions; ValueError where there are several."""
    if len(files) > 1:
        raise ValueError(
            f"{path} has several lists of captions, {', '.join(map(str, files))}: "
            "name the one to be read as the source, or take the others out."
        )
    return files[0]


def entries_of(
    lines_of_pictures: dict[str, list[tuple[int, str]]],
    splits: dict[str, str],
    file: Path,
    pictures: ListedPictures,
    asked: Asked,
) -> Iterator[Entry]:
    """An entry a picture, from its numbered captions in `file`."""
    for name, lines in lines_of_pictures.items():
        where = f"line {lines[0][0]} of {file}"
        try:
            captions = captions_of_cells([caption for _, caption in lines], where)
            path, _ = pictures.find(name, f"in {where}")
        except (ValueError, OSError) as error:
            refuse_or_skip(error, asked.skipped)
            continue
        yield Entry(path, captions, name, splits.get(name, ""))

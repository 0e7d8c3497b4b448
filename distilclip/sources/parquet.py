"""Parquet files: one that is named, or a folder of them, as the Hub has them."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet

from distilclip.sources.columns import IMAGE_COLUMNS, best_named, listed
from distilclip.sources.entries import Asked
from distilclip.sources.hub import UNREADABLE, pairs_of_rows, unreadable
from distilclip.sources.places import Place
from distilclip.sources.skipping import LOG
from distilclip.sources.splits import SPLIT_WORDS, split_of_folder
from distilclip.storage.files import is_folder
from distilclip.storage.pictures import find_pictures

SHARD = re.compile(r"(.+?)-\d+-of-\d+")
NUMBERED_SHARD = re.compile(r"(.+?)-(\d+)-of-(\d+)")
NUMBER = re.compile(r"[-_.]?\d+$")


def recognises(path: Path) -> bool:
    """Whether a folder is a data set in parquet files.

    That is, there are some with a column of pictures, at its top, in `data/` or in
    folders named after splits; or there are parquet files and no pictures at all.
    """
    if not path.is_dir():
        return False
    if any(map(holds_pictures, files_at_top(path))):
        return True
    return bool(all_files(path)) and not find_pictures(path)[0]


def files_at_top(folder: Path) -> list[Path]:
    """The parquet files where a data set has them."""
    places = [folder, folder / "data"]
    places += [
        p
        for p in (*folder.iterdir(), *iter_folder(folder / "data"))
        if is_folder(p) and split_of_folder(p.name)
    ]
    return [
        file
        for place in places
        for file in iter_folder(place)
        if file.suffix.lower() == ".parquet"
        and not file.name.startswith((".", "_", "metadata."))
    ]


def iter_folder(folder: Path) -> list[Path]:
    """What is in a folder, in order; [] where there is none."""
    return sorted(folder.iterdir()) if folder.is_dir() else []


def all_files(folder: Path) -> list[Path]:
    """Every parquet file below a folder, hidden ones left out."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name)
            for name in sorted(files)
            if name.lower().endswith(".parquet") and not name.startswith((".", "_"))
        ]
    return found


def holds_pictures(file: Path) -> bool:
    """Whether a parquet file has a column that holds pictures."""
    try:
        schema = pyarrow.parquet.read_schema(file)
    except (OSError, pa.ArrowException):
        return False
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return True
        is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        if is_bytes and best_named([field.name], IMAGE_COLUMNS):
            return True
    return False


def load(folder: Path, asked: Asked) -> datasets.DatasetDict:
    """The pairs of a folder of parquet files."""
    files = picture_files(folder)
    rows = read_files(files_by_split(files, folder), folder)
    return pairs_of_rows(rows, folder, asked, Place(folder))


def picture_files(folder: Path) -> list[Path]:
    """The parquet files of a data set: those with pictures, or else all.

    Raises ValueError for one that cannot be read beside others that can.
    """
    candidates = files_at_top(folder)
    files = list(filter(holds_pictures, candidates))
    for file in candidates if files else ():
        try:
            pyarrow.parquet.read_schema(file)
        except UNREADABLE as error:
            raise unreadable(file, error) from None
    return files or all_files(folder)


def load_file(file: Path, asked: Asked) -> datasets.DatasetDict:
    """The pairs of one parquet file, which the user has named."""
    rows = read_files({split_of_file(file) or "": [file]}, file)
    return pairs_of_rows(rows, file, asked, Place(file.parent, anywhere=True))


def read_files(
    files: Mapping[str, list[Path]], name: str | Path
) -> dict[str, datasets.Dataset]:
    """The rows of each split's files, mapped into memory from `datasets`' cache."""
    try:
        return {
            split: datasets.Dataset.from_parquet(list(map(str, with_rows(some))))
            for split, some in files.items()
        }
    except UNREADABLE as error:
        raise unreadable(name, error) from None


def with_rows(files: list[Path]) -> list[Path]:
    """The files that have any rows, or all: `datasets` trips over an empty one."""
    return [f for f in files if pyarrow.parquet.read_metadata(f).num_rows] or files


def files_by_split(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """The files of each split, by their own names or those of their folders.

    Raises ValueError where some files have a split and others have none.
    """
    found: dict[str, list[Path]] = {}
    for file in files:
        split = split_of_file(file)
        for parent in file.relative_to(folder).parts[-2::-1]:
            split = split or (parent if split_of_folder(parent) else "")
        found.setdefault(split, []).append(file)
    report_missing_shards(files, folder)
    if "" in found and len(found) > 1:
        names = listed(file.relative_to(folder).as_posix() for file in found[""])
        raise ValueError(
            f"{folder} has parquet files that name their split, and others: "
            f"{names}. Rename these, or move them elsewhere."
        )
    return found


def report_missing_shards(files: Iterable[Path], folder: Path) -> None:
    """Say which shards are not there, by the number that the others' names give."""
    there: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if match := NUMBERED_SHARD.fullmatch(file.stem):
            of = (file.parent, match[1], int(match[3]))
            there.setdefault(of, set()).add(int(match[2]))
    for (place, name, count), numbers in there.items():
        if missing := count - len(numbers):
            LOG.warning(
                "%s: by the names of the others, %d of the %d parts of %s missing.",
                *(
                    place,
                    missing,
                    count,
                    f"{name} {'is' if missing == 1 else 'are'}",
                ),
            )


def split_of_file(file: Path) -> str:
    """The word for a split in a file's name, as in train-00000-of-00001, else "".

    Raises ValueError for a name with the words of two splits.
    """
    stem = file.stem
    shard = SHARD.fullmatch(stem)
    if shard:
        return shard[1]
    stem = NUMBER.sub("", stem)
    if stem.lower() in SPLIT_WORDS:
        return stem
    words = [
        word
        for word in re.split(r"[^a-zA-Z]+", stem)
        if word.lower() in SPLIT_WORDS
    ]
    if len({SPLIT_WORDS[word.lower()] for word in words}) > 1:
        raise ValueError(
            f"{file} has the names of several splits in its own: rename it."
        )
    return words[0] if words else ""

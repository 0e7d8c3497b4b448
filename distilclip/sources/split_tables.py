"""A table for each split, `train.csv`, `val.csv`, `test.csv`, beside the pictures.

The name of a table says its split. Its pictures are named from where it lies, or by
names alone, to be found in the folders below the source.
"""

from collections.abc import Iterator
from pathlib import Path

from distilclip.sources.entries import Asked, Entry
from distilclip.sources.folder import METADATA_NAME, read_metadata
from distilclip.sources.listed import (
    children_of,
    folders_called,
    holds_captioned_pictures,
    inner,
    report_left_out,
    split_word_in,
)
from distilclip.sources.parquet import holds_pictures
from distilclip.sources.places import Place
from distilclip.sources.skipping import LOG
from distilclip.sources.splits import SPLIT_WORDS, split_name
from distilclip.sources.tables import TEXT_TABLES, names_pictures
from distilclip.storage.files import is_file
from distilclip.storage.pictures import find_pictures

PLACES = (".", "annotations", "captions", "labels", "metadata", "splits")


def recognises(path: Path) -> bool:
    """Whether a folder has tables of pictures that are named after splits.

    Not one whose pictures have their captions beside them.
    """
    path = inner(path)
    return bool(find_tables(path, Asked())) and not holds_captioned_pictures(path)


def find_tables(path: Path, asked: Asked) -> dict[Path, str]:
    """The tables that a split has, by the word for it in their names."""
    if not path.is_dir():
        return {}
    return {
        file: word
        for file in tables_in(path)
        if (word := split_word_in(file.stem)) and names_pictures(file, asked)
    }


def tables_in(path: Path) -> list[Path]:
    """All tables at the places where those of splits are."""
    return [
        file
        for place in folders_called(path, PLACES)
        for file in children_of(place)
        if file.suffix.lower() in (*TEXT_TABLES, ".parquet")
        and file.name[0] != "."
        and not METADATA_NAME.fullmatch(file.name)
        and is_file(file)
        and not (file.suffix.lower() == ".parquet" and holds_pictures(file))
    ]


def read(path: Path, asked: Asked) -> Iterator[Entry]:
    """The entries of every split's table, in the order of their names."""
    path = inner(path)
    tables = find_tables(path, asked) or find_tables(path, Asked())
    named: set[str] = set()
    for file, word in tables.items():
        split = split_name(word)
        alike = [each for each, other in SPLIT_WORDS.items() if other == split]
        place = Place(path, first=[*alike, file.stem], base=file.parent)
        for entry in read_metadata(file, place, asked):
            named.add(entry.image_id)
            yield entry._replace(split=entry.split or word)
    for file in tables_in(path):
        if file not in tables and names_pictures(file, asked):
            LOG.warning("Left out %s: its name says no split.", file)
    pictures = find_pictures(path).pictures
    left = [name for name in pictures if name not in named]
    report_left_out(left, f"in no table of {path}")

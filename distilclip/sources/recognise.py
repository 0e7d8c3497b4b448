"""Which reader a source is for, by the names of files that each reader knows."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import datasets

from distilclip.sources import (
    coco,
    flickr,
    folder,
    hub,
    parquet,
    split_tables,
    tars,
)
from distilclip.sources.emoji import load_emoji
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.joining import pairs_of
from distilclip.sources.listed import split_word_in
from distilclip.sources.places import Place, check_containers
from distilclip.sources.scenes import load_scenes
from distilclip.sources.split_lists import warn_of_unread, with_lists
from distilclip.sources.summary import report
from distilclip.sources.tables import TEXT_TABLES, read_table

if TYPE_CHECKING:
    import pandas

Source: TypeAlias = (
    "str | Path | datasets.Dataset | datasets.DatasetDict | pandas.DataFrame"
)
Recognise = Callable[[Path], bool]
OWN_SOURCES = {"emoji": load_emoji, "scenes": load_scenes}


def load_own(name: str, asked: Asked) -> datasets.DatasetDict:
    """The pairs of a source inside this package, one of `OWN_SOURCES`."""
    if asked.names_columns():
        raise ValueError(
            f"{name} names its own columns: the options for columns and delimiters "
            "are for sources of one's own."
        )
    pairs = OWN_SOURCES[name]()
    report(pairs, name)
    return pairs


def load_path(path: Path, asked: Asked) -> datasets.DatasetDict:
    """The pairs of a folder or a file, by the first reader that recognises it.

    Raises ValueError for a file of a kind that is not read, and for what
    `check_containers` refuses.
    """
    check_containers(path)
    for recognises, load in LOADERS:
        if recognises(path):
            return load(path, asked)
    for recognises, read in READERS:
        if recognises(path):
            entries = with_lists(read(path, asked), path, asked)
            if read in (flickr.read_tokens, flickr.read_table):
                warn_of_unread(path)
            return pairs_of(entries, path, asked)
    raise ValueError(
        f"{path} is a file of a kind that is not read: give a folder, or a table "
        f"({', '.join(TEXT_TABLES)}, .parquet); unpack archives first."
    )


def is_parquet_file(path: Path) -> bool:
    """Whether a source is one parquet file."""
    return path.suffix.lower() == ".parquet" and path.is_file()


def is_parquet_folder(path: Path) -> bool:
    """Whether a source is a folder of parquet files, and no layout more special."""
    others = (recognises for recognises, _ in READERS[:-1])
    is_other = any(recognises(path) for recognises in others)
    return not is_other and parquet.recognises(path)


def is_table(path: Path) -> bool:
    """Whether a source is one table of text."""
    return path.suffix.lower() in TEXT_TABLES and path.is_file()


def read_named_table(file: Path, asked: Asked) -> Iterable[Entry]:
    """The entries of a table that the user has named, `test.csv` being a split."""
    word = split_word_in(file.stem)
    for entry in read_table(file, Place(file.parent, anywhere=True), asked):
        yield entry._replace(split=entry.split or word)


def has_metadata(path: Path) -> bool:
    """Whether a folder's captions are in a table of metadata at its top."""
    return path.is_dir() and folder.find_metadata(path) is not None


# What stays in Arrow's tables
LOADERS: tuple[
    tuple[Recognise, Callable[[Path, Asked], datasets.DatasetDict]], ...
] = (
    (is_parquet_file, parquet.load_file),
    (hub.is_saved, hub.load_saved),
    (is_parquet_folder, parquet.load),
)
# What is read entry by entry
READERS: tuple[tuple[Recognise, Callable[[Path, Asked], Iterable[Entry]]], ...] = (
    (has_metadata, folder.read),
    (flickr.recognises_tokens, flickr.read_tokens),
    (flickr.recognises_table, flickr.read_table),
    (coco.recognises_karpathy, coco.read_karpathy),
    (coco.recognises_coco, coco.read_coco),
    (tars.recognises_tars, tars.read_tars),
    (tars.recognises_img2dataset, tars.read_img2dataset),
    (split_tables.recognises, split_tables.read),
    (is_table, read_named_table),
    (folder.recognises, folder.read),
)

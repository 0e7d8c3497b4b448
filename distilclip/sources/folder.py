"""Pictures of one's own in a folder, with their captions in files beside them."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow.parquet

from distilclip.sources.captions import clean_captions
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.places import Place, check_name
from distilclip.sources.skipping import refuse_or_skip, report_skipped
from distilclip.sources.splits import (
    SPLITS,
    looks_like_split,
    split_of_folder,
)
from distilclip.sources.tables import TEXT_TABLES, read_records, read_table
from distilclip.storage.files import read_utf8
from distilclip.storage.pictures import describe_others, find_pictures

LOG = logging.getLogger("distilclip.sources")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def recognises(path: Path) -> bool:
    """Any folder: its pictures' captions are in a table or in .txt files beside."""
    return path.is_dir()


def read(folder: Path, asked: Asked) -> Iterator[Entry]:
    """One's own pictures, in folders named after the splits or in one heap.

    Captions come from a `metadata.csv`, `.jsonl` or `.parquet` in the folder, or in
    that of a split, else from a `.txt` beside each picture.
    """
    pictures, closed, others = find_pictures(folder)
    plan = Plan(folder, list(pictures))
    tables = {}
    for place in plan.places():
        table = find_metadata(place)
        if table:
            tables[place] = table
    for error in () if folder in tables else closed:
        refuse_or_skip(error, asked.skipped)
    if asked.names_columns() and not tables:
        raise ValueError(
            f"There is no {' or '.join(METADATA)} in {folder}, so no columns to "
            "choose: name the table itself as the source, or leave the options out."
        )
    parts: Counter[str] = Counter()
    for place, table in tables.items():
        prefix = (
            "" if place == folder else f"{place.relative_to(folder).as_posix()}/"
        )
        named = set()
        for entry in read_metadata(table, Place(place), asked):
            name = prefix + entry.image_id
            named.add(name)
            parts[plan.top_of(name)] += 1
            yield entry._replace(
                image_id=name, split=entry.split or plan.split_of(name)
            )
        left = sum(
            name.startswith(prefix) and name not in named for name in pictures
        )
        if left:
            LOG.warning("%s names no caption for %d of the pictures.", table, left)
    governed = tuple(
        "" if place == folder else f"{place.relative_to(folder).as_posix()}/"
        for place in tables
    )
    for name in pictures:
        if not (governed and name.startswith(governed)):
            for entry in read_text_file(folder, name, plan, asked):
                parts[plan.top_of(name)] += 1
                yield entry
    report_unread(folder, others, pictures, tables.values())
    listed = plan.splits and tables.keys() & {folder, plan.base}
    for part in () if listed else plan.splits or ("",):
        if not parts[part]:
            report_skipped(asked.skipped, folder)
            raise ValueError(
                f"No captioned pictures in {plan.base / part}: expected pictures "
                f"with a .txt beside each, or a {' or '.join(METADATA[:2])}"
                f"{other_tables(folder)}. {describe_others(others)}."
            )


class Plan:
    """Which folders of a source are its splits.

    They lie in the folder itself, or in the one folder that holds all its pictures.
    """

    def __init__(self, folder: Path, pictures: list[str]):
        self.folder, self.base, self.depth = folder, folder, 0
        while True:
            tops = {
                tuple(name.split("/")[self.depth : -1][:1]) for name in pictures
            }
            only = next(iter(tops)) if len(tops) == 1 else ()
            if not only or looks_like_split(only[0]):
                break
            self.base, self.depth = self.base / only[0], self.depth + 1
        holding = set(map(self.part_of, pictures))
        splits = self.splits_of(self.base)
        self.splits = splits if holding.intersection(splits) else {}

    @staticmethod
    def splits_of(base: Path) -> dict[str, str]:
        """The folders in `base` that are named after splits, train first."""
        names = sorted(path.name for path in base.iterdir() if path.is_dir())
        found = {name: split_of_folder(name) for name in names}
        return {n: s for split in SPLITS for n, s in found.items() if s == split}

    def part_of(self, name: str) -> str:
        """The folder in `base` that holds the picture `name`, "" for none."""
        parts = name.split("/")[self.depth : -1]
        return parts[0] if parts else ""

    def top_of(self, name: str) -> str:
        """The split's folder that holds the picture `name`, "" without splits."""
        return self.part_of(name) if self.splits else ""

    def split_of(self, name: str) -> str:
        """The split of a picture; ValueError where it lies beside the splits."""
        part = self.part_of(name)
        if part in self.splits:
            return self.splits[part]
        if not self.splits and not looks_like_split(part):
            return ""
        if part:
            raise ValueError(unclear_split(self.base / part))
        raise ValueError(
            f"{name} lies beside the folders {', '.join(self.splits)} of "
            f"{self.base}, which are splits: move it into one of them."
        )

    def places(self) -> list[Path]:
        """The folders that may hold metadata."""
        parts = [self.base / name for name in self.splits]
        return list(dict.fromkeys([self.folder, self.base, *parts]))


def unclear_split(folder: Path) -> str:
    """The sentence for a folder that could be a split, and is not named as one."""
    return (
        f"{folder} holds pictures, and looks like a split or lies beside some, but "
        "its name does not say which: call it train, validation or test, or move "
        "it."
    )


def find_metadata(folder: Path) -> Path | None:
    """The metadata in a folder; ValueError where there are two."""
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise ValueError(f"{folder} has {names}: keep one of them.")
    return found[0] if found else None


def read_metadata(file: Path, place: Place, asked: Asked) -> Iterator[Entry]:
    """The entries of a table that lies among its pictures."""
    if file.suffix == ".parquet":
        yield from read_records(parquet_records(file), place, asked, file)
    else:
        yield from read_table(file, place, asked)


def parquet_records(file: Path) -> Iterator[tuple[str, dict]]:
    """Where each row of a parquet file stands, and what it holds."""
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(1000):
            for record in batch.to_pylist():
                number += 1
                yield f"entry {number} of {file}", record
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        cause = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"Cannot read {file}: {cause[:200]}.") from None


def read_text_file(
    folder: Path, name: str, plan: Plan, asked: Asked
) -> Iterator[Entry]:
    """The entry of a picture with a `.txt` beside it, a caption a line."""
    path = folder / name
    text = path.with_suffix(".txt")
    split = plan.split_of(name) if plan.part_of(name) or text.is_file() else ""
    if plan.splits and not split:  # a loose picture without captions
        return
    try:
        check_name(path.name, f"in {path.parent}")
        if not text.is_file():
            raise ValueError(
                f"{path} has no captions: expected {text.name} beside it, or a "
                f"{' or '.join(METADATA[:2])} in {folder}{other_tables(folder)}."
            )
        captions = clean_captions(read_utf8(text).splitlines(), str(text))
    except ValueError as error:
        refuse_or_skip(error, asked.skipped)
    else:
        yield Entry(str(path), captions, name, split)


def other_tables(folder: Path) -> str:
    """What to say of tables that lie in a folder under names of their own."""
    suffixes = (*TEXT_TABLES, ".parquet")
    found = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes
        and path.name not in METADATA
        and path.name[:1] != "."
        and path.is_file()
    )
    return f"; or name {found[0]} itself as the source" if found else ""


def report_unread(
    folder: Path,
    others: Mapping[str, int],
    pictures: Iterable[str],
    tables: Iterable[Path],
) -> None:
    """Say in one line how many files of which kinds were not read."""
    read = Counter(table.suffix.lower() for table in tables)
    texts = {os.path.splitext(name)[0] for name in pictures}
    read[".txt"] += sum((folder / f"{stem}.txt").is_file() for stem in texts)
    read[".md"] += others.get(".md", 0)  # what people write about their pictures
    left = {kind: count - read[kind] for kind, count in others.items()}
    left = {kind: count for kind, count in left.items() if count > 0}
    if left:
        LOG.warning("%s: %s.", folder, describe_others(left))

"""Pictures of one's own in a folder, with their captions in files beside them."""

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow.parquet

from distilclip.sources.captions import captions_or_blank
from distilclip.sources.columns import listed
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.listed import children_of, is_picture_name
from distilclip.sources.places import Place, check_name
from distilclip.sources.skipping import LOG, refuse_or_skip, report_skipped
from distilclip.sources.split_lists import find_lists
from distilclip.sources.splits import (
    SPLITS,
    looks_like_split,
    split_of_folder,
    unclear_split,
)
from distilclip.sources.tables import (
    TEXT_TABLES,
    names_pictures,
    read_records,
    read_table,
)
from distilclip.sources.written import cells_of_text
from distilclip.storage.files import is_file, is_folder, read_utf8
from distilclip.storage.pictures import describe_others, find_pictures

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
METADATA_NAME = re.compile(r"metadata\.(csv|tsv|jsonl|parquet)", re.IGNORECASE)
TEXT_ENDS = (".txt", ".caption")


def recognises(path: Path) -> bool:
    """Any folder: its pictures' captions are in a table or in .txt files beside."""
    return path.is_dir()


def read(folder: Path, asked: Asked) -> Iterator[Entry]:
    """One's own pictures, in folders named after the splits or in one heap.

    Captions come from a `metadata.csv`, `.jsonl` or `.parquet` in the folder or in
    any below it, else from a `.txt` beside each picture.
    """
    pictures, closed, others = find_pictures(folder)
    plan, texts = Plan(folder, list(pictures)), Texts(folder)
    tables = {
        place: table
        for place, table in find_metadata_below(folder).items()
        if plan.is_main(place) or names_pictures(table, asked)
    }
    for error in closed:  # of a picture in a table, the table's reader will say it
        path = Path(error.filename)
        if os.path.isdir(path) or not governing(
            path.relative_to(folder).as_posix(), folder, tables
        ):
            refuse_or_skip(error, asked.skipped)
    if asked.names_columns() and not tables:
        raise ValueError(
            f"There is no {' or '.join(METADATA)} in {folder}, so no columns to "
            "choose: name the table itself as the source, or leave the options out."
        )
    parts: Counter[str] = Counter()
    named: set[str] = set()
    for place, table in tables.items():
        prefix = prefix_of(place, folder)
        for entry in read_metadata(table, Place(place), asked):
            name = prefix + entry.image_id
            named.add(name)
            parts[plan.top_of(name)] += 1
            yield entry._replace(
                image_id=name, split=entry.split or plan.split_of(name)
            )
    besides = functools.cache(
        lambda: other_tables(folder) + other_texts(folder, others)
    )
    left: dict[Path, list[str]] = {}
    for name in pictures:
        table = governing(name, folder, tables)
        if table is None:
            for entry in read_text_file(name, plan, texts, besides, asked):
                parts[plan.top_of(name)] += 1
                yield entry
        elif name not in named:
            left.setdefault(table, []).append(name)
    for table, names in left.items():
        text = "%s names no caption for %d of the pictures: %s."
        LOG.warning(text, table, len(names), listed(names, 3))
    lists = find_lists(folder)
    others = without(others, [*tables.values(), *texts.used, *lists])
    if others:
        LOG.warning("%s: %s.", folder, describe_others(others))
    has_table = plan.splits and tables.keys() & {folder, plan.base}
    for part in () if has_table else plan.splits or ("",):
        if not parts[part]:
            report_skipped(asked.skipped, folder)
            raise ValueError(
                f"No captioned pictures in {plan.base / part}: expected pictures "
                f"with a .txt beside each, or a {' or '.join(METADATA[:2])}"
                f"{besides()}."
            )


def governing(name: str, folder: Path, tables: Mapping[Path, Path]) -> Path | None:
    """The nearest table above a picture, None where there is none."""
    parents = (folder / name).parents if tables else ()
    for place in parents:
        if place in tables:
            return tables[place]
        if place == folder:
            break
    return None


def without(others: Mapping[str, int], read: Iterable[Path]) -> dict[str, int]:
    """How many files of which kinds are left when those `read` are taken out."""
    counts = Counter(path.suffix.lower() for path in read)
    counts[".md"] += others.get(".md", 0)  # what people write about their pictures
    left = {kind: count - counts[kind] for kind, count in others.items()}
    return {kind: count for kind, count in left.items() if count > 0}


def prefix_of(place: Path, folder: Path) -> str:
    """What the names of pictures in `place` begin with, seen from `folder`."""
    return "" if place == folder else f"{place.relative_to(folder).as_posix()}/"


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
        self.is_deep = not self.splits and any(map(self.words_below, pictures))

    @staticmethod
    def splits_of(base: Path) -> dict[str, str]:
        """The folders in `base` that are named after splits, train first."""
        names = sorted(path.name for path in base.iterdir() if is_folder(path))
        found = {name: split_of_folder(name) for name in names}
        return {n: s for split in SPLITS for n, s in found.items() if s == split}

    def part_of(self, name: str) -> str:
        """The folder in `base` that holds the picture `name`, "" for none."""
        parts = name.split("/")[self.depth : -1]
        return parts[0] if parts else ""

    def top_of(self, name: str) -> str:
        """The split's folder that holds the picture `name`, "" without splits."""
        return self.part_of(name) if self.splits else ""

    def is_main(self, place: Path) -> bool:
        """Whether a folder is the source itself, or that of a split."""
        is_split = place.parent == self.base and place.name in self.splits
        return is_split or place in (self.folder, self.base)

    def words_below(self, name: str) -> set[str]:
        """The splits that the folders below the first one of a picture mean."""
        parts = name.split("/")[self.depth + 1 : -1]
        return {split for part in parts if (split := split_of_folder(part))}

    def split_of(self, name: str) -> str:
        """The split of a picture; ValueError where it lies beside the splits."""
        if self.is_deep:  # cats/train, cats/test, dogs/train, dogs/test
            words = self.words_below(name)
            if len(words) != 1:
                raise ValueError(unclear_split((self.folder / name).parent))
            return words.pop()
        part = self.part_of(name)
        if part in self.splits:
            if self.words_below(name) - {self.splits[part]}:
                raise ValueError(unclear_split((self.folder / name).parent))
            return self.splits[part]
        if not self.splits and not looks_like_split(part):
            return ""
        if part:
            raise ValueError(unclear_split(self.base / part))
        raise ValueError(
            f"{name} lies beside the folders {', '.join(self.splits)} of "
            f"{self.base}, which are splits: move it into one of them."
        )


class Texts:
    """The files of captions beside pictures, whatever the case of their endings."""

    def __init__(self, folder: Path):
        self.folder, self.place = folder, Place(folder)
        self.places: dict[str, dict[str, str]] = {}
        self.used: set[Path] = set()

    def find(self, name: str) -> Path | None:
        """The text of a picture: 1.txt, 1.caption or 1.jpg.txt for 1.jpg."""
        place, _, file = name.rpartition("/")
        if place not in self.places:
            names = os.listdir(self.folder / place)
            ends = (n for n in names if n.lower().endswith(TEXT_ENDS))
            self.places[place] = {lower_ending(n): n for n in sorted(ends)}
        stem = os.path.splitext(file)[0]
        wanted = [f"{start}{end}" for start in (stem, file) for end in TEXT_ENDS]
        for each in wanted:
            found = self.places[place].get(each)
            path = self.folder / place / (found or "")
            if found and is_file(path):
                self.used.add(path)
                return path
        return None


def lower_ending(name: str) -> str:
    """A file's name with its ending in lower case."""
    stem, end = os.path.splitext(name)
    return stem + end.lower()


def find_metadata(folder: Path) -> Path | None:
    """The metadata in a folder; ValueError where there are two."""
    found = [
        path
        for path in children_of(folder)
        if METADATA_NAME.fullmatch(path.name) and is_file(path)
    ]
    if len(found) > 1:
        shown = " and ".join(file.name for file in found)
        raise ValueError(f"{folder} has {shown}: keep one of them.")
    return found[0] if found else None


def find_metadata_below(folder: Path) -> dict[Path, Path]:
    """The metadata in a folder and in those below it, hidden ones left out."""
    found = {}
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if any(map(METADATA_NAME.fullmatch, names)):
            table = find_metadata(Path(place))
            if table:
                found[Path(place)] = table
    return found


def read_metadata(file: Path, place: Place, asked: Asked) -> Iterator[Entry]:
    """The entries of a table that lies among its pictures."""
    if file.suffix.lower() == ".parquet":
        records = functools.partial(parquet_records, file)
        yield from read_records(records, place, asked, file)
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
    name: str, plan: Plan, texts: Texts, besides: Callable[[], str], asked: Asked
) -> Iterator[Entry]:
    """The entry of a picture with a `.txt` beside it, a caption a line.

    `besides` says what the folder holds that may be captions, too.
    """
    folder = plan.folder
    path, text = folder / name, texts.find(name)
    split = plan.split_of(name) if plan.part_of(name) or text else ""
    if plan.splits and not split:  # a loose picture without captions
        return
    try:
        check_name(path.name, f"in {path.parent}")
        for file in filter(None, (path, text)):  # links are followed, but not out
            texts.place.find(file.relative_to(folder).as_posix(), "in the folder")
        if text is None:
            raise ValueError(
                f"{path} has no captions: expected {path.stem}.txt beside it, or a "
                f"{' or '.join(METADATA[:2])} in {folder}{besides()}."
            )
        content = read_utf8(text)
        captions, blank = captions_or_blank(cells_of_text(content), str(text))
    except (ValueError, OSError) as error:
        refuse_or_skip(error, asked.skipped)
    else:
        yield Entry(str(path), captions, name, split, blank)


def other_tables(folder: Path) -> str:
    """What to say of tables that lie in a folder under names of their own."""
    suffixes = (*TEXT_TABLES, ".parquet")
    found = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes
        and not METADATA_NAME.fullmatch(path.name)
        and path.name[:1] != "."
        and is_file(path)
    )
    return f"; or name {found[0]} itself as the source" if found else ""


def other_texts(folder: Path, others: Mapping[str, int]) -> str:
    """What to say of texts in folders without pictures, and of files not read."""
    parts = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        texts = sum(name.lower().endswith(TEXT_ENDS) for name in names)
        if texts and not any(map(is_picture_name, names)):
            parts.append(f"{os.path.relpath(place, folder)}/ has {texts} texts")
    kinds = {*others} - {*TEXT_ENDS, ".md", "", *TEXT_TABLES, ".parquet"}
    if parts:
        more = ", ..." if parts[1:] else ""
        return f"; {parts[0]}{more}: put each beside its picture, with its name"
    if kinds:
        return f"; {', '.join(sorted(kinds)[:5])} files are not read"
    return ""

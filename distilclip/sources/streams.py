"""Streams: sources that are read row by row, and never held as a whole.

Shards of WebDataset, parquet files, data sets of the Hub and iterable data sets of
`datasets` become rows with undecoded pictures. A shard can be opened where another
reader has stopped. In what order rows are met, and what a state holds: chapter 11.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from os.path import dirname
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet
from datasets.table import InMemoryTable

from distilclip.sources import parquet, tars
from distilclip.sources.arrays import UNDECODED, encode_picture
from distilclip.sources.captions import captions_of_cells
from distilclip.sources.columns import Columns, split_by_cells
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.hub import (
    UNREADABLE,
    columns_of_rows,
    may_say_split,
    split_of_data,
    unreadable,
)
from distilclip.sources.joining import digest, pairs_of
from distilclip.sources.listed import inner, is_picture_name
from distilclip.sources.places import check_containers
from distilclip.sources.recognise import (
    OWN_SOURCES,
    is_parquet_file,
    is_parquet_folder,
)
from distilclip.sources.skipping import LOG, SKIP, refuse_or_skip
from distilclip.sources.split_folders import split_within
from distilclip.sources.split_lists import find_lists
from distilclip.sources.splits import SPLITS, split_name
from distilclip.storage.hub import looks_like_hub_id, offline_without_network

ARCHIVES = ("zip://", "tar://", "gzip://")  # as `datasets` names what is in them
ENDS = 2**16  # bytes at each end of a file by which it is known again
READ_TOGETHER = 64  # rows of a parquet file
HELD_OUT = 1000  # pictures of a split that the source does not name, at most


class Row(NamedTuple):
    """A row of a stream: the undecoded picture, its captions, a name, a digest.

    Rows with the same `key` hold the same picture.
    """

    content: bytes
    captions: list[str]
    image_id: str
    key: bytes


@dataclass
class Stream:
    """A source that is read as it comes.

    - name: what the user calls it.
    - shards: for each split, functions that open its shards. What they give can be
      iterated over for `Row`s, and has `state_dict` and `load_state_dict`.
    - counts: how many rows a split has, where the source says so.
    - identity: what the source says about itself, to know it again.
    - look: counts the rows of a split where the source does not say; 0: it cannot.
    """

    name: str
    shards: dict[str, list[Callable[[], "Shard"]]]
    counts: dict[str, int]
    identity: str
    look: Callable[[str], int] = lambda split: 0


class Shard:
    """A shard that can be read from where another reader of it has stopped.

    `read` is given how many rows to leave out, and gives each row that is in order
    with the number of all rows up to it.
    """

    def __init__(self, read: Callable[[int], Iterator[tuple[int, Row]]], name: str):
        self.read, self.name = read, name
        self.done = 0

    def state_dict(self) -> dict:
        """Where the reader is, in what JSON can hold."""
        return {"rows": self.done}

    def load_state_dict(self, state: dict) -> None:
        """Go on behind where `state_dict` was asked for."""
        self.done = state["rows"]

    def __iter__(self) -> Iterator[Row]:
        for done, row in self.read(self.done):
            self.done = done
            yield row


class RowShard(Shard):
    """A shard of an iterable data set, which keeps its own state."""

    def __init__(
        self,
        rows: datasets.IterableDataset,
        to_row: Callable[[dict], Row | None],
        name: str,
    ):
        self.rows, self.to_row, self.name = rows, to_row, name

    def state_dict(self) -> dict:
        return self.rows.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.rows.load_state_dict(state)

    def __iter__(self) -> Iterator[Row]:
        values = iter(self.rows)
        while True:
            try:
                value = next(values, None)
            except UNREADABLE as error:
                raise broken_off(self.name, error) from error
            if value is None:
                return
            row = self.to_row(value)
            if row:
                yield row


def broken_off(name: str | Path, error: Exception) -> OSError:
    """The sentence for a stream that ends before its end."""
    cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
    cause = " ".join(cause.split()).rstrip(".")
    if isinstance(error, FileNotFoundError):
        cause = "No such file is there any more"
    return OSError(
        f"The stream {name} broke off: {cause[:300]}. Mend the cause; a run goes "
        "on from its last saved state with --resume."
    )


def row_of(content: bytes, captions: list[str], image_id: str = "") -> Row:
    """A row; one without a name is called after its picture's digest."""
    key = digest(content)
    return Row(content, captions, image_id or key.hex(), key)


# What can be streamed


def open_stream(source: Any, asked: Asked) -> Stream:
    """The stream of a folder or file of shards, of a Hub id, of iterable rows.

    Raises ValueError for what is no stream, FileNotFoundError where there is none.
    """
    if isinstance(source, datasets.IterableDataset):
        splits = {split_of_data(source, "the data given") or "train": source}
        return stream_of_rows(splits, "the data given", asked)
    if isinstance(source, datasets.IterableDatasetDict):
        return stream_of_rows(source, "the data given", asked)
    if not isinstance(source, str | Path):
        raise ValueError(
            f"A {type(source).__name__} is in memory already: leave out streaming."
        )
    name, path = str(source), Path(source).expanduser()
    if name in OWN_SOURCES:
        raise ValueError(f"{name} is small and comes whole: leave out --streaming.")
    if asked.delimiter:
        raise ValueError(f"{name} is no table of text: it has no delimiter.")
    if not path.exists():
        return stream_of_hub(name, asked)
    check_containers(path)
    if is_parquet_file(path):
        word = parquet.split_of_file(path)
        return stream_of_parquet({word: [path]}, path, asked)
    if is_parquet_folder(path):
        files = parquet.picture_files(path)
        return stream_of_parquet(parquet.files_by_split(files, path), path, asked)
    if tars.recognises_tars(path):
        return stream_of_tars(path, asked)
    raise ValueError(
        f"{path} cannot be streamed: only parquet files, WebDataset's .tar shards "
        "and data sets of the Hub can. Leave out --streaming."
    )


def by_split(parts: Mapping[Any, list]) -> dict[str, list]:
    """What belongs to a source's words for splits, by the splits' own names."""
    found: dict[str, list] = {}
    for word, some in parts.items():
        found.setdefault(split_name(word) if word else "train", []).extend(some)
    return found


# WebDataset's shards


def stream_of_tars(path: Path, asked: Asked) -> Stream:
    """The stream of a tar or of a folder of tars."""
    tars.check_options(asked, path)
    path = inner(path)
    root = path.resolve().parent if path.is_file() else path.resolve()
    if path.is_dir():
        tars.check_open(path, asked)
        tars.check_others(path)
    if lists := find_lists(path):
        raise ValueError(
            f"{next(iter(lists))} seems to list the pictures of a split, which no "
            "stream can look up: leave out --streaming, put each split into shards "
            "of its own, or take the list out."
        )
    files: dict[str, list[Path]] = {}
    for file, word in tars.shards_of(path):
        if file.suffix.lower() != ".tar":
            raise ValueError(
                f"{file} is compressed: uncompress it to a .tar, and keep that."
            )
        if not file.resolve().is_relative_to(root):
            raise ValueError(f"{file} is a link that leads out of {root}.")
        files.setdefault(word, []).append(file)
    if "" in files and len(files) > 1:
        raise ValueError(
            f"{path} has shards that name their split, and others, such as "
            f"{files[''][0].name}. Rename these, or move them elsewhere."
        )
    splits = by_split(files)
    shards = {
        split: [partial(open_tar, file, asked, split) for file in some]
        for split, some in splits.items()
    }
    return Stream(
        str(path),
        shards,
        {},
        identity_of(splits, root),
        lambda split: sum(map(pictures_in_tar, splits[split])),
    )


def open_tar(file: Path, asked: Asked, split: str) -> Shard:
    """A tar of WebDataset, to be read from any sample on.

    What it holds must not belong to another split than its own name says.
    """

    def read(start: int) -> Iterator[tuple[int, Row]]:
        tally = tars.Tally(file.parent)
        try:
            entries = enumerate(tars.read_shard(file, "", asked, tally), start=1)
            for done, entry in islice(entries, start, None):
                content = entry.image
                word = entry.split or split_within(dirname(entry.image_id), file)
                if word and split_name(word) != split:
                    raise ValueError(
                        f"{entry.image_id} in {file} belongs to the split {word}, "
                        f"and its shard to {split}: leave out --streaming, or "
                        "write each split to shards of its own."
                    )
                if isinstance(content, bytes):
                    name = f"{file.name}/{entry.image_id}"
                    yield done, row_of(content, entry.captions, name)
        except OSError as error:
            raise broken_off(file, error) from error

    return Shard(read, str(file))


def pictures_in_tar(file: Path) -> int:
    """How many pictures a tar has, by the names in it."""
    try:
        with tars.tarfile.open(file, "r:") as tar:
            return sum(is_picture_name(member.name) for member in tar)
    except tars.tarfile.TarError:
        return 0  # whoever reads it will say so


# Parquet files


def stream_of_parquet(
    files: Mapping[str, list[Path]], name: Path, asked: Asked
) -> Stream:
    """The stream of parquet files, by the source's words for splits."""
    splits, shards, columns = by_split(files), {}, None
    root = name if name.is_dir() else name.parent
    try:
        sizes = {f: rows_in_parquet(f) for some in splits.values() for f in some}
        heads = {
            split: datasets.Dataset(InMemoryTable(head_of_parquet(filled)))
            for split, some in splits.items()
            if (filled := next((file for file in some if sizes[file]), some[0]))
        }
    except UNREADABLE as error:
        raise unreadable(name, error) from None
    for split, some in splits.items():
        head = heads[split]
        columns = streamed_columns(head, name, asked)
        refuse_split_column(filled, head, columns, name)
        shards[split] = [partial(open_parquet, f, columns, asked) for f in some]
    counts = {split: sum(sizes[f] for f in some) for split, some in splits.items()}
    return Stream(str(name), shards, counts, identity_of(splits, root))


def rows_in_parquet(file: Path) -> int:
    """How many rows a parquet file has."""
    return pyarrow.parquet.read_metadata(file).num_rows


def head_of_parquet(file: Path) -> pa.Table:
    """The first rows of a parquet file."""
    with pyarrow.parquet.ParquetFile(file) as opened:
        some = list(islice(opened.iter_batches(batch_size=8), 1))
        return pa.Table.from_batches(some, schema=opened.schema_arrow)


def streamed_columns(
    head: datasets.Dataset, name: str | Path, asked: Asked
) -> Columns:
    """The columns of a stream by its first rows.

    Raises ValueError where they do not hold pictures, or say each row's split.
    """
    columns = columns_of_rows(head, name, asked)
    if columns.split:
        raise ValueError(says_split(columns.split, name))
    kind = head.features.arrow_schema.field(columns.image).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raise ValueError(
            f"The column {columns.image} of {name} holds the names of pictures, "
            "not their bytes, so it cannot be streamed: leave out --streaming."
        )
    return columns


def says_split(column: str, name: str | Path) -> str:
    """The sentence for a stream whose rows lie in several splits."""
    return (
        f"{name} says in a column ({column}) which split a row belongs to, which "
        "can only be heeded with all rows at hand: leave out --streaming, or write "
        "each split to shards of its own."
    )


def refuse_split_column(
    files: Iterable[Path],
    head: datasets.Dataset,
    columns: Columns,
    name: str | Path,
) -> None:
    """Raise ValueError where a column of parquet files says the splits of rows.

    All of its cells are looked at: the first rows may lie in one split.
    """
    taken = (columns.image, *columns.captions)
    names = [
        column
        for column in head.column_names
        if column not in taken and may_say_split(head, column)
    ]
    if not names:
        return

    def rows() -> Iterator[tuple[object, ...]]:
        for file in files:
            with pyarrow.parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(columns=names):
                    there = [batch[column].to_pylist() for column in names]
                    yield from zip(*there, strict=True)

    if column := split_by_cells(names, (), rows, name):
        raise ValueError(says_split(column, name))


def open_parquet(file: Path, columns: Columns, asked: Asked) -> Shard:
    """A parquet file, to be read from any row on."""
    wanted = list(dict.fromkeys([columns.image, *columns.captions]))

    def read(start: int) -> Iterator[tuple[int, Row]]:
        try:
            with pyarrow.parquet.ParquetFile(file) as opened:
                missing = set(wanted) - set(opened.schema_arrow.names)
                if missing:
                    raise ValueError(f"it has no column {min(missing)}")
                for done, value in rows_from(opened, wanted, start):
                    where = f"row {done - 1} of {file.name}"
                    row = row_of_value(value, columns, where, asked, where)
                    if row:
                        yield done, row
        except RowError:
            raise
        except UNREADABLE as error:
            raise broken_off(file, error) from error

    return Shard(read, str(file))


def rows_from(
    opened: pyarrow.parquet.ParquetFile, columns: list[str], start: int
) -> Iterator[tuple[int, dict]]:
    """The rows of a parquet file behind the first `start`, each with its number."""
    done = 0
    for group in range(opened.metadata.num_row_groups):
        size = opened.metadata.row_group(group).num_rows
        if done + size <= start:
            done += size
            continue
        for batch in opened.iter_batches(
            READ_TOGETHER, row_groups=[group], columns=columns
        ):
            skipped = min(max(start - done, 0), len(batch))
            done += skipped
            for value in batch.slice(skipped).to_pylist():
                done += 1
                yield done, value


class RowError(ValueError):
    """What is wrong with a row, in a sentence."""


def row_of_value(
    value: Mapping[str, Any],
    columns: Columns,
    where: str,
    asked: Asked,
    image_id: str = "",
    place: str | None = None,
) -> Row | None:
    """A row from the cells of a table; None where it is at fault and skipped.

    `place` is for `content_of`.
    """
    try:
        content = content_of(value[columns.image], where, place)
        cells = [value[column] for column in columns.captions]
        return row_of(content, captions_of_cells(cells, where), image_id)
    except ValueError as error:
        refuse_or_skip(RowError(str(error)), asked.skipped)
        return None


def content_of(cell: Any, where: str, place: str | None = None) -> bytes:
    """The undecoded bytes of a picture in a cell, whatever form it has there.

    A file that the cell only names is opened where its path begins with `place`, or
    leads through an archive there, and never where that is None.
    """
    if not isinstance(cell, bytes | dict):
        cell = encode_picture(cell, where)
    known = cell if isinstance(cell, dict) else {"bytes": cell}
    content: Any = known.get("bytes")
    path = str(known.get("path") or "")
    if content is None and path:
        *archives, outer = path.split("::")
        allowed = all(part.startswith(ARCHIVES) for part in archives)
        if place is None or not (allowed and outer.startswith(place)):
            raise ValueError(
                f"{where} has no picture, only the name of one: {path[:80]!r}. Put "
                f"its bytes there, or {SKIP}."
            )
        try:
            with fsspec.open(path, "rb") as file:
                content = file.read()  # type: ignore[union-attr]
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The picture in {where} cannot be read: {error}."
            ) from None
    if not content:
        raise ValueError(
            f"There is no picture in {where}, its cell is empty: put one there, "
            f"take the row out, or {SKIP}."
        )
    return content


def identity_of(splits: Mapping[str, Sequence[Path]], root: Path) -> str:
    """A hash of the names, the sizes and the ends of a source's files."""
    whole = hashlib.sha256()
    for split, files in sorted(splits.items()):
        for file in files:
            size = file.stat().st_size
            whole.update(repr((split, os.path.relpath(file, root), size)).encode())
            with open(file, "rb") as opened:
                whole.update(opened.read(ENDS))
                opened.seek(max(0, size - ENDS))
                whole.update(opened.read(ENDS))
    return whole.hexdigest()


# The Hub, and iterable data sets


def stream_of_hub(name: str, asked: Asked) -> Stream:
    """The stream of a data set of the Hub."""
    if name.count("/") != 1 or not looks_like_hub_id(name):
        raise ValueError(
            f"Unknown data source {name!r}: there is no folder and no file of that "
            "name here. Give a folder of shards, or a Hub id such as "
            "jxie/flickr8k."
        )
    try:
        with offline_without_network(name):
            loaded = datasets.load_dataset(name, streaming=True)
    except UNREADABLE as error:
        if isinstance(error, OSError):
            raise FileNotFoundError(
                f"Cannot stream the data set {name!r}: there is no folder and no "
                "file of that name here, and the Hugging Face Hub gave none "
                f"({type(error).__name__}). Check the name and the network."
            ) from None
        raise unreadable(name, error) from None
    return stream_of_rows(loaded, name, asked)


def stream_of_rows(
    splits: Mapping[Any, datasets.IterableDataset], name: str, asked: Asked
) -> Stream:
    """The stream of `datasets`' iterable data sets, by their words for splits."""
    shards: dict[str, list[Callable[[], Shard]]] = {}
    facts = []
    for word, rows in splits.items():
        split = split_name(word)
        if split not in SPLITS:
            LOG.warning("%s: the split %r is left out of the stream.", name, word)
        else:
            opened, count = shards_of_rows(rows, name, asked)
            shards.setdefault(split, []).extend(opened)
            facts.append((split, len(opened), count))
    if "train" not in shards:
        there = ", ".join(map(str, splits))
        raise ValueError(f"{name} has no split 'train', only {there}.")
    identity = hashlib.sha256(repr((name, facts)).encode()).hexdigest()
    counts = {split: 0 for split, _, _ in facts}
    for split, _, count in facts:
        counts[split] += count
    for split in {split for split, _, count in facts if not count}:
        del counts[split]
    return Stream(name, shards, counts, identity)


def shards_of_rows(
    rows: datasets.IterableDataset, name: str, asked: Asked
) -> tuple[list[Callable[[], Shard]], int]:
    """Functions that open the shards of iterable rows; how many rows, or 0."""
    rows = rows.with_format(None)
    for column, kind in (rows.features or {}).items():
        if isinstance(kind, datasets.Image):
            rows = rows.cast_column(column, UNDECODED)
    try:
        first = list(rows.take(8))
        head = datasets.Dataset.from_list(first, features=rows.features)
    except UNREADABLE as error:
        raise unreadable(name, error) from None
    if not first:
        raise ValueError(f"The stream {name} has no rows.")
    names = head.column_names
    if not asked.caption_columns and {"__key__", "txt"} <= set(names):
        asked = replace(asked, caption_columns=("txt",))  # as WebDataset calls it
    columns = streamed_columns(head, name, asked)
    wanted = [columns.image, *columns.captions]
    wanted += ["__key__"] if "__key__" in names else []
    rows = rows.select_columns(list(dict.fromkeys(wanted)))
    count, place = rows.num_shards, "hf://" if looks_like_hub_id(name) else ""

    def to_row(value: dict) -> Row | None:
        key = str(value.get("__key__") or "")
        where = f"{key or 'a row'} of {name}"
        return row_of_value(value, columns, where, asked, key, place)

    def open_shard(index: int) -> Shard:
        return RowShard(rows.shard(count, index), to_row, name)

    said = (rows.info.splits or {}).get(str(rows.split))
    number = said.num_examples if said else 0
    return [partial(open_shard, i) for i in range(count)], number or 0


# What is held out


def held_out_of(
    stream: Stream, asked: Asked
) -> tuple[datasets.DatasetDict, set[bytes]]:
    """The splits `validation` and `test` of a stream, and their pictures' keys.

    Those that the source names are read as named. What is missing are the first
    different pictures of `train`, shard by shard: a tenth of them each, at most
    `HELD_OUT`. Raises ValueError where nothing is left to train on.
    """
    if "train" not in stream.shards:
        there = ", ".join(stream.shards) or "nothing"
        raise ValueError(f"{stream.name} has no split 'train', only {there}.")
    entries: list[Entry] = []
    missing = [s for s in ("validation", "test") if s not in stream.shards]
    for split in ("validation", "test"):
        for row in rows_of_split(stream, split):
            entries.append(Entry(row.content, row.captions, row.image_id, split))
    keys = {digest(e.image) for e in entries if isinstance(e.image, bytes)}
    for split, rows in zip(
        missing, first_pictures(stream, len(missing), keys), strict=True
    ):
        for row in rows:
            entries.append(Entry(row.content, row.captions, row.image_id, split))
            keys.add(row.key)
    skipped = None if asked.skipped is None else []
    pairs = pairs_of(entries, stream.name, replace(asked, skipped=skipped))
    for split in ("validation", "test"):
        if split not in pairs:
            raise ValueError(
                f"The split {split!r} of {stream.name} is empty: no captioned "
                "picture in it that is not in another."
            )
    return pairs, keys


def rows_of_split(stream: Stream, split: str) -> Iterator[Row]:
    """The rows of a split, shard by shard; none where there is no such split."""
    for open_shard in stream.shards.get(split, []):
        yield from open_shard()


def first_pictures(
    stream: Stream, splits: int, taken: set[bytes]
) -> list[list[Row]]:
    """The first different pictures of `train` for `splits` splits, none in `taken`.

    A row that holds one of them again adds its captions, as far as is looked: in a
    source of many rows up to the next picture, in a small one, or one that does not
    say how many it has, ten times as far.
    """
    is_large = stream.counts.get("train", 0) >= 100 * HELD_OUT
    look = splits * HELD_OUT if is_large else 10 * HELD_OUT
    kept: dict[bytes, Row] = {}
    seen: set[bytes] = set()
    for row in rows_of_split(stream, "train") if splits else ():
        if row.key in taken:
            continue
        if row.key not in seen and len(seen) == look:
            break
        seen.add(row.key)
        if row.key in kept:
            kept[row.key] = joined(kept[row.key], row)
        elif len(kept) < splits * HELD_OUT:
            kept[row.key] = row
    if splits and len(seen) <= splits:
        noun = "picture" if len(seen) == 1 else "pictures"
        raise ValueError(
            f"{stream.name} has {len(seen)} captioned {noun} to train on; at least "
            f"{splits + 1} are needed to set some aside."
        )
    share = HELD_OUT if is_large else max(1, min(HELD_OUT, len(seen) // 10))
    rows = list(kept.values())
    return [rows[n * share : (n + 1) * share] for n in range(splits)]


def joined(first: Row, other: Row) -> Row:
    """The first of two rows with the same picture, with the captions of both."""
    captions = dict.fromkeys([*first.captions, *other.captions])
    return first._replace(captions=list(captions))


def join_block(rows: Iterable[Row], left_out: set[bytes]) -> list[Row]:
    """The rows of a block, one a picture, without those that are held out."""
    found: dict[bytes, Row] = {}
    for row in rows:
        if row.key not in left_out:
            before = found.get(row.key)
            found[row.key] = joined(before, row) if before else row
    return list(found.values())


def captions_of_alike(rows: Sequence[Row]) -> list[list[str]]:
    """The captions of each row, and of all the others that hold the same picture.

    What describes a picture describes its other copies: in a batch they are
    positives of each other.
    """
    captions: dict[bytes, list[str]] = {}
    for row in rows:
        known = captions.setdefault(row.key, [])
        known += [text for text in row.captions if text not in known]
    return [captions[row.key] for row in rows]


class Skips(list):
    """Sentences on what is left out of a stream, each once, over all passes."""

    def __init__(self):
        super().__init__()
        self.known: set[str] = set()

    def append(self, line: str) -> None:
        """Add a sentence that is not there yet."""
        if line not in self.known:
            self.known.add(line)
            super().append(line)

    def report(self, name: str) -> None:
        """Say how many rows were left out, and the first of them."""
        if self:
            text = "Skipped %d of the pictures in the stream %s:"
            LOG.warning(text, len(self), name)
            more = [f"and {len(self) - 10:,} more"] if len(self) > 10 else []
            for line in [*self[:10], *more]:
                LOG.warning("  %s", line)

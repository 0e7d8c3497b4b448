"""One picture is one row: what names the same one becomes a row with all captions.

Two files, or two rows, hold the same picture where it is the same file, links
followed, or where the undecoded bytes are the same. Sizes are compared first, then
the ends of the files, then all of them, so that little is read.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Container, Hashable, Iterable, Sequence
from pathlib import Path

import datasets

from distilclip.sources.entries import Asked, Entry, rows_of
from distilclip.sources.skipping import LOG, refuse_or_skip, report_skipped
from distilclip.sources.split_folders import with_folders
from distilclip.sources.splits import (
    SPLITS,
    split_name,
    split_order,
    with_all_splits,
)
from distilclip.sources.summary import report
from distilclip.storage.pictures import find_fault

TAIL = 4096  # bytes at the end of a file that are compared before the rest
Picture = tuple[list[str], str]  # its captions and its split


def pairs_of(
    entries: Iterable[Entry], name: str | Path, asked: Asked
) -> datasets.DatasetDict:
    """The pairs of a source from what its reader gives, one row a picture.

    Raises ValueError where nothing is left, or where some pictures have a split and
    others have none.
    """
    entries = with_folders(entries, name)
    first: list[Entry] = []
    blanks: list[tuple[int, str]] = []
    rows: list[tuple[int, list[str], str]] = []  # picture, captions, split
    files = Files()
    number_of_file: dict[str, int] = {}
    for entry in entries:
        number = None
        if isinstance(entry.image, str):
            file = files.resolve(entry.image)
            number = number_of_file.setdefault(file, len(first))
        if number is None or number == len(first):
            number = len(first)
            first.append(entry)
        rows.append((number, entry.captions, entry.split))
        if entry.blank:
            blanks.append((number, entry.blank))
    same = first_alike(contents_of([entry.image for entry in first], files))
    groups = [same[number] for number, _, _ in rows]
    pictures = join_rows(groups, [r[1] for r in rows], [r[2] for r in rows], name)
    refuse_blanks(((same[n], why) for n, why in blanks), pictures, asked, name)
    kept: dict[str, list[Entry]] = {}
    for number, (captions, split) in pictures.items():
        entry = first[number]
        if asked.skipped is not None:
            is_file = isinstance(entry.image, str)
            kind, other = ("path", "bytes") if is_file else ("bytes", "path")
            fault = find_fault({kind: entry.image, other: None})
            if fault:
                place = entry.image if is_file else entry.image_id
                asked.skipped.append(f"{place}: {fault}")
                continue
        kept.setdefault(split, []).append(
            Entry(entry.image, captions, entry.image_id, split)
        )
    report_skipped(asked.skipped, name)
    if not kept:
        raise ValueError(f"No captioned pictures in {name}.")
    order = sorted(kept, key=lambda split: (*SPLITS, split).index(split))
    pairs = datasets.DatasetDict({split: rows_of(kept[split]) for split in order})
    pairs = with_all_splits(pairs, name)
    report(pairs, name)
    return pairs


def refuse_blanks(
    blanks: Iterable[tuple[int, str]],
    pictures: Container[int],
    asked: Asked,
    name: str | Path,
) -> None:
    """Raise ValueError, or skip, where no row of a picture has a caption.

    `blanks` gives each row without one, as its picture and a sentence. Says in one
    line how many were left out because others of the picture have captions.
    """
    count = 0
    refused: set[int] = set()
    for group, why in blanks:
        if group in pictures:
            count += 1
        elif group not in refused:
            refused.add(group)
            refuse_or_skip(ValueError(why), asked.skipped)
    if count:
        text = "%s: %d %s left out, where others have captions of the same picture."
        noun = (
            "row without a caption was"
            if count == 1
            else "rows without a caption were"
        )
        LOG.warning(text, name, count, noun)


def join_rows(
    groups: Sequence[int],
    captions: Sequence[list[str] | None],
    words: Sequence[str],
    name: str | Path,
) -> dict[int, Picture]:
    """The captions and the split of each picture, in the order of their first rows.

    `groups` says which picture a row holds; a row without captions (None) gives
    nothing. A picture that lies in several splits is kept in the one held out.
    Says in one line how many rows were joined.
    """
    found: dict[int, list[str] | dict[str, None]] = {}
    splits: dict[int, str] = {}
    several: set[int] = set()
    names = {word: split_name(word) if word else "" for word in set(words)}
    count = 0
    for group, texts, word in zip(groups, captions, words, strict=True):
        if not texts:
            continue
        count += 1
        split = names[word]
        if group not in found:
            found[group], splits[group] = texts, split
            continue
        before = found[group]
        if isinstance(before, list):
            before = found[group] = dict.fromkeys(before)
        before.update(dict.fromkeys(texts))
        if split and splits[group] and split != splits[group]:
            several.add(group)
        if split and (
            not splits[group] or split_order(split) < split_order(splits[group])
        ):
            splits[group] = split
    without = sum(not split for split in splits.values())
    if 0 < without < len(splits):
        named = ", ".join(sorted({split for split in splits.values() if split}))
        raise ValueError(
            f"{without} of the {len(splits)} pictures in {name} have no split, "
            f"while the others have one ({named}): give each of them one, or none."
        )
    report_joined(count - len(found), len(several), name)
    return {
        group: (list(texts), splits[group] or "train")
        for group, texts in found.items()
    }


def report_joined(rows: int, several: int, name: str | Path) -> None:
    """Say how many rows were joined to others, and what lay in several splits.

    The latter is a warning: pictures are missing from a split that had them.
    """
    if rows:
        moved = ""
        if several:
            is_one = several == 1
            moved = (
                f" {several} {'picture' if is_one else 'pictures'} in several "
                f"splits {'is' if is_one else 'are'} kept only where held out "
                "(test before validation before train)."
            )
        LOG.log(
            logging.WARNING if several else logging.INFO,
            "%s: %d %s joined to the first with the same picture.%s",
            *(name, rows, "row was" if rows == 1 else "rows were", moved),
        )


def first_alike(keys: Sequence[Hashable | None]) -> list[int]:
    """For each key the position of the first that equals it; None equals none."""
    first: dict[Hashable, int] = {}
    return [
        position if key is None else first.setdefault(key, position)
        for position, key in enumerate(keys)
    ]


def meeting(keys: Iterable[Hashable | None]) -> list[int]:
    """The positions of the keys that occur more than once, None left out."""
    seen: dict[Hashable, int] = {}
    again: set[Hashable] = set()
    keys = list(keys)
    for position, key in enumerate(keys):
        if key is not None and seen.setdefault(key, position) != position:
            again.add(key)
    return [position for position, key in enumerate(keys) if key in again]


def digest(content: bytes | memoryview) -> bytes:
    """A short name of some bytes, the same for no others."""
    return hashlib.blake2b(content, digest_size=16).digest()


class Files:
    """Files looked up once each, and folders too: a million of them in seconds."""

    def __init__(self):
        self.found: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.folders: dict[str, str] = {}

    def resolve(self, path: str) -> str:
        """`path` with all links followed."""
        if path not in self.found:
            self.found[path] = self.look_up(path)
        return self.found[path]

    def folder(self, path: str) -> str:
        """The folder `path` with all links followed."""
        if path not in self.folders:
            self.folders[path] = os.path.realpath(path)
        return self.folders[path]

    def look_up(self, path: str) -> str:
        folder, name = os.path.split(path)
        try:
            status = os.lstat(path)
            if name in ("", ".", "..") or stat.S_ISLNK(status.st_mode):
                file = os.path.realpath(path)
                status = os.stat(file)
            else:
                file = os.path.join(self.folder(folder), name)
        except (OSError, ValueError):
            return os.path.realpath(path) if "\0" not in path else path
        if stat.S_ISREG(status.st_mode):
            self.sizes[file] = status.st_size
        return file

    def size(self, path: str) -> int:
        """The size of the plain file at `path`; -1 where there is none."""
        return self.sizes.get(self.resolve(path), -1)


def contents_of(
    images: Sequence[str | bytes], files: Files
) -> list[Hashable | None]:
    """A key for each picture, the same where the undecoded bytes are the same.

    A picture that nothing can be like, or that cannot be read, has None.
    """
    sizes = [files.size(i) if isinstance(i, str) else len(i) for i in images]
    keys: list[Hashable | None] = [None] * len(images)
    for number in meeting(size if size > 0 else None for size in sizes):
        keys[number] = (sizes[number], part_digest(images[number], TAIL))
    for number in meeting(keys):
        if sizes[number] > TAIL:
            keys[number] = (sizes[number], part_digest(images[number], 0))
    return keys


def part_digest(image: str | bytes, tail: int) -> Hashable:
    """The digest of the last `tail` bytes, or of all (0), of a picture."""
    if isinstance(image, bytes):
        return digest(image[-tail:])
    try:
        with open(image, "rb") as file:
            if not tail:
                return hashlib.file_digest(file, fresh_digest).digest()
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - tail, 0))
            return digest(file.read(tail))
    except OSError:  # whoever decodes it will say so
        return image


def fresh_digest():
    """What `hashlib.file_digest` begins with, to give the same as `digest`."""
    return hashlib.blake2b(digest_size=16)

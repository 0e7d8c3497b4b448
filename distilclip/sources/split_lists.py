"""Lists of the pictures of each split: `train.txt`, `val.txt`, `test.txt`.

They may lie beside the pictures of any layout. A line names a picture by its path,
by the end of it, or without its suffix.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from distilclip.sources.entries import Asked, Entry
from distilclip.sources.listed import (
    children_of,
    folders_called,
    inner,
    is_picture_name,
    report_left_out,
    split_word_in,
)
from distilclip.sources.places import shortened
from distilclip.sources.skipping import LOG, refuse_or_skip
from distilclip.sources.splits import split_name
from distilclip.storage.files import is_file, read_utf8

PLACES = (".", "splits", "split", "lists", "annotations")
PLACES += ("ImageSets", "ImageSets/Main")
UNREAD = (
    "split",
    "splits",
    "train_test_split",
    "train_val_test_split",
    "partition",
)
UNREAD_SUFFIXES = (
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".txt",
    ".mat",
    ".npy",
    ".pkl",
)
SUFFIXES = (".txt", ".lst", ".list")


def find_lists(source: Path) -> dict[Path, str]:
    """Files of a folder that are called after splits, and the word for each.

    Not one with a picture of the same name beside it, whose caption it is.
    """
    found = {}
    source = inner(source)
    for place in folders_called(source, PLACES) if source.is_dir() else ():
        files = [file for file in children_of(place) if file.name[0] != "."]
        pictures = {file.stem for file in files if is_picture_name(file.name)}
        for file in files:
            is_list = file.suffix.lower() in SUFFIXES and file.stem not in pictures
            if is_list and (word := split_word_in(file.stem)) and file.is_file():
                found[file] = word
    return found


def with_lists(
    entries: Iterable[Entry], source: Path, asked: Asked
) -> Iterator[Entry]:
    """The same entries, in the splits that lists say; as they are without lists.

    What no list names is for training if there is no list for that, else it is left
    out, with a word. Raises ValueError where a list names what is not there, where
    two name the same picture, or where a list and the source itself disagree.
    """
    lists = find_lists(source)
    if not lists:
        yield from entries
        return
    entries = list(entries)
    pictures = Names(entry.image_id for entry in entries)
    splits: dict[str, str] = {}
    words = [
        split_name(word)
        for file, word in lists.items()
        if read_list(file, word, pictures, splits, asked)
    ]
    left = []
    for entry in entries:
        word = splits.get(entry.image_id, "")
        if "train" in words and not word and not entry.split:
            left.append(entry.image_id)
            continue
        if word and entry.split and split_name(entry.split) != split_name(word):
            raise ValueError(
                f"{entry.image_id!r} is in {entry.split}, and in the list of "
                f"{word}: take the lists out of {source}, or correct them."
            )
        rest = "train" if words else ""
        yield entry._replace(split=entry.split or word or rest)
    report_left_out(left, f"which no list of a split in {source} names")


def warn_of_unread(source: Path) -> None:
    """Warn of files that may say the splits, and are of no kind that is read."""
    source, lists = inner(source), find_lists(source)
    for place in folders_called(source, PLACES) if source.is_dir() else ():
        for file in children_of(place):
            if file in lists:
                continue
            stem = re.sub(r"[\s_-]+", "_", file.stem.lower())
            is_like = stem in UNREAD or split_word_in(file.stem)
            if file.suffix.lower() in UNREAD_SUFFIXES and is_like and is_file(file):
                LOG.warning(
                    "%s is not read. If it says which pictures lie in which split, "
                    "write a list of their names for each, train.txt, val.txt and "
                    "test.txt, or a column called split.",
                    file,
                )


def read_list(
    file: Path, word: str, pictures: "Names", splits: dict[str, str], asked: Asked
) -> bool:
    """Put the pictures that a file names into `splits`; whether it names any."""
    lines = [line.strip() for line in read_utf8(file).splitlines()]
    lines = [line for line in lines if line]
    found = [pictures.find(line) for line in lines]
    if not lines or not (any(found) or all(map(is_picture_name, lines))):
        LOG.warning("%s names no pictures, so it says no split.", file)
        return False
    for line, image_id in zip(lines, found, strict=True):
        if not image_id:
            error = ValueError(
                f"{shortened(line)} in {file} is no captioned picture."
            )
            refuse_or_skip(error, asked.skipped)
            continue
        before = splits.setdefault(image_id, word)
        if split_name(before) != split_name(word):
            raise ValueError(
                f"{image_id!r} is in the list of {before} and in {file}: a picture "
                "lies in one split."
            )
    return True


class Names:
    """Pictures of a source, by what a line of a list may call them."""

    def __init__(self, image_ids: Iterable[str]):
        self.by_end: dict[str, list[str]] = {}
        for image_id in dict.fromkeys(image_ids):
            parts = image_id.replace("\\", "/").split("/")
            whole, stem = parts[-1], parts[-1].rpartition(".")[0]
            for name in {whole, stem} - {""}:
                self.by_end.setdefault(name, []).append(image_id)

    def find(self, line: str) -> str:
        """The picture that a line names; "" for none, or for one of several."""
        for text in dict.fromkeys((line, line.split()[0])):  # and a number
            parts = text.replace("\\", "/").split("/")
            parts = [part for part in parts if part not in ("", ".")]
            found = self.by_end.get(parts[-1], []) if parts else []
            for count in range(2, len(parts) + 1):
                if len(found) < 2:
                    break
                end = f"/{'/'.join(parts[-count:])}"
                found = [
                    each
                    for each in found
                    if f"/{each}".endswith(end)
                    or f"/{each}".rpartition(".")[0].endswith(end)
                ]
            if len(found) == 1:
                return found[0]
        return ""

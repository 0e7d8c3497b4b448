"""The folders that pictures lie in say their splits, whatever names the pictures.

A list of captions at the top may name `train/1.jpg` and `test/2.jpg`; what lies in
a folder of a split belongs to it, as if the folder had been the source.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from distilclip.sources.entries import Entry
from distilclip.sources.splits import split_of_folder, unclear_split


def with_folders(entries: Iterable[Entry], source: str | Path) -> Iterator[Entry]:
    """The same entries, in the splits that the folders of their pictures mean.

    As they are where any has a split of its own, or where no folder means one.
    Raises ValueError for a picture in the folders of two splits, and where some lie
    in such folders and others do not.
    """
    entries = list(entries)
    if any(entry.split for entry in entries):
        yield from entries
        return
    paths = [e.image if isinstance(e.image, str) else e.image_id for e in entries]
    splits = splits_by_folder(paths, source)
    for entry, split in zip(entries, splits, strict=True):
        yield entry._replace(split=split)


def splits_by_folder(paths: Sequence[str], source: str | Path) -> list[str]:
    """The split that the folders of each path mean, "" for all where none does.

    They are seen from the source; those of files elsewhere from the folder that
    holds these all. Raises ValueError where some paths have a split, not others.
    """
    root = os.path.join(os.path.abspath(source), "")
    places = list(map(os.path.dirname, paths))
    away = {p for p in places if os.path.isabs(p) and not f"{p}/".startswith(root)}
    common = os.path.commonpath(away) if away else ""
    within = {place: os.path.relpath(place, common) for place in away}
    within |= {
        p: os.path.relpath(p, root) for p in {*places} - away if os.path.isabs(p)
    }
    meant = {p: split_within(within.get(p, p), source) for p in set(places)}
    splits = [meant[place] for place in places]
    without = [path for path, split in zip(paths, splits, strict=True) if not split]
    if 0 < len(without) < len(paths):
        named = ", ".join(sorted(set(splits) - {""}))
        raise ValueError(
            f"{len(paths) - len(without)} of the {len(paths)} entries of {source} "
            f"name pictures in folders of splits ({named}), and others do not, "
            f"such as {without[0]!r}: give each a split, in a column called split, "
            "or rename the folders if they are none."
        )
    return splits


def split_within(folder: str, source: str | Path) -> str:
    """The split that a picture's folders mean, or ""; ValueError for several."""
    parts = folder.replace("\\", "/").split("/")
    found = {split for part in parts if (split := split_of_folder(part))}
    if len(found) > 1:
        raise ValueError(unclear_split(Path(source, folder)))
    return found.pop() if found else ""

"""Pictures that a list names, found in the folders beside it and nowhere else.

A name that the list gives goes in, the path of a picture inside the source comes
out. What the folders hold besides is counted, so that nothing is left out unsaid.
"""

import filecmp
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from distilclip.sources.entries import Asked
from distilclip.sources.places import Place
from distilclip.sources.skipping import LOG
from distilclip.sources.splits import SPLIT_WORDS
from distilclip.storage.pictures import IMAGE_SUFFIXES, find_pictures


class ListedPictures:
    """The folders of a source in which the pictures of a list may lie."""

    def __init__(self, source: Path, folders: Sequence[Path]):
        self.place, self.folders = Place(source), folders
        self.found: dict[Path, set[str]] = {folder: set() for folder in folders}
        self.within = {
            folder: os.path.relpath(folder, source) for folder in folders
        }

    def find(self, name: str, where: str) -> tuple[str, str]:
        """The file that goes by `name`, and its id: its path within the source.

        Raises ValueError for what `Place.find` refuses and for a name that
        different pictures share, FileNotFoundError where there is none.
        """
        there = []
        for folder in self.folders:
            within = self.within[folder]
            full_name = name if within == "." else os.path.join(within, name)
            try:
                there.append((folder, *self.place.find(full_name, where)))
            except FileNotFoundError:
                continue
        if not there:
            places = ", ".join(map(str, self.folders))
            raise FileNotFoundError(
                f"{name!r} {where} does not exist; looked in {places}."
            )
        folder, path, image_id = there[0]
        for _, other, other_id in there[1:]:
            if image_id != other_id and not filecmp.cmp(path, other, shallow=False):
                raise ValueError(
                    f"{name!r} {where} may be {path} or {other}, and these are "
                    "different pictures: take one of them out."
                )
        self.found[folder].add(image_id)
        return path, image_id

    def report_unlisted(self, file: Path) -> None:
        """Say how many pictures in these folders the list `file` does not name.

        Only folders count in which pictures of the list have been found.
        """
        listed = set().union(*self.found.values())
        unlisted = {}
        for folder in (folder for folder, ids in self.found.items() if ids):
            for name in find_pictures(folder).pictures:
                path = folder / name
                if path.relative_to(self.place.folder).as_posix() in listed:
                    continue
                real = os.path.relpath(os.path.realpath(path), self.place.root)
                if real.replace(os.sep, "/") not in listed:  # no link to another
                    unlisted[real] = str(path)
        report_left_out(list(unlisted.values()), f"not listed in {file}")


def children_of(folder: Path) -> list[Path]:
    """What is in a folder, in order; [] for one that is closed to the reader."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def inner(path: Path) -> Path:
    """The folder that a source is wrapped in as an archive is: with nothing beside.

    `path` itself where there is more in it than one folder.
    """
    while path.is_dir():
        visible = [
            child for child in children_of(path) if child.name[0] not in "._"
        ]
        if len(visible) != 1 or not visible[0].is_dir() or visible[0].is_symlink():
            break
        path = visible[0]
    return path


def unclear_split(folder: Path) -> str:
    """The sentence for a folder beside splits whose own split is not clear."""
    return (
        f"{folder} lies beside folders that are splits, but its name does not say "
        "which one it is: call it train, validation or test, or move it elsewhere."
    )


def refuse_columns(asked: Asked, path: Path) -> None:
    """Raise ValueError where columns are asked for that the layout has not."""
    if asked.names_columns():
        raise ValueError(
            f"{path} is of a layout that names its own columns: the options for "
            "columns and delimiters are for tables."
        )


def is_picture_name(name: str) -> bool:
    """Whether a file of this name is a picture, by its suffix."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def holds_captioned_pictures(folder: Path, leave_out: Sequence[Path] = ()) -> bool:
    """Whether a picture in or below this folder has a `.txt` beside it."""
    for place, folders, files in os.walk(folder):
        names = {name for name in files if name[0] != "."}
        texts = {name[:-4] for name in names if name.lower().endswith(".txt")}
        pictures = filter(is_picture_name, names)
        if texts and any(os.path.splitext(name)[0] in texts for name in pictures):
            return True
        paths = {name: Path(place, name) for name in folders if name[0] != "."}
        folders[:] = [name for name, path in paths.items() if path not in leave_out]
    return False


def folders_called(source: Path, names: Iterable[str]) -> list[Path]:
    """The folders below `source` that have one of these names, in any case.

    A name may lead through several folders, `a/b`; "." is `source` itself. The
    order is that of `names`.
    """
    found: dict[Path, None] = {}
    children: dict[Path, list[Path]] = {}
    for name in names:
        places = [source]
        for part in name.split("/"):
            if part == ".":
                continue
            for place in places:
                if place not in children:
                    inside = children_of(place)
                    children[place] = [child for child in inside if child.is_dir()]
            places = [
                child
                for place in places
                for child in children[place]
                if child.name.lower() == part.lower()
            ]
        found.update(dict.fromkeys(places))
    return list(found)


def split_word_in(name: str) -> str:
    """The one word for a split in a file's or folder's name, "" where none is."""
    words = [w for w in re.split("[^a-z]+", name.lower()) if w in SPLIT_WORDS]
    return words[0] if len({SPLIT_WORDS[word] for word in words}) == 1 else ""


def report_left_out(names: Sequence[str], why: str) -> None:
    """Say in a warning how many pictures were left out, with the first of them."""
    if names:
        noun = "picture" if len(names) == 1 else "pictures"
        more = ", ..." if len(names) > 3 else ""
        LOG.warning(
            "Left out %d %s, %s: %s%s",
            *(len(names), noun, why, ", ".join(names[:3]), more),
        )

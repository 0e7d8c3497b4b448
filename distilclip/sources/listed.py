"""Pictures that a list names, found in the folders beside it and nowhere else.

A name that the list gives goes in, the path of a picture inside the source comes
out. What the folders hold besides is counted, so that nothing is left out unsaid.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from distilclip.sources.entries import Asked
from distilclip.sources.places import (
    Place,
    is_inside,
    leads_out,
    shortened,
    the_same,
)
from distilclip.sources.skipping import LOG
from distilclip.sources.splits import SPLIT_WORDS
from distilclip.storage.files import is_folder
from distilclip.storage.pictures import IMAGE_SUFFIXES, find_pictures


class ListedPictures:
    """The folders of a source in which the pictures of a list may lie.

    What they lack is looked for in all others, in those called `first` at once.
    """

    def __init__(
        self, source: Path, folders: Sequence[Path], first: Sequence[str] = ()
    ):
        self.place, self.folders = Place(source, first=first), folders
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
                there.append((folder, *self.place.look_up(full_name, where)))
            except FileNotFoundError:
                continue
        if not there:
            below = self.place.look_below(name, where)
            if below is None:
                places = ", ".join(map(str, self.folders))
                raise FileNotFoundError(
                    f"{shortened(name)} {where} does not exist; looked in {places}."
                )
            folder = Path(below[0]).parent
            there = [(folder, *below)]
        path, image_id = the_same(name, [each[1:] for each in there], where)
        self.found.setdefault(there[0][0], set()).add(image_id)
        return path, image_id


def report_unlisted(several: Sequence[ListedPictures], lists: str) -> None:
    """Say how many pictures are not named by `lists`, in folders where some are."""
    listed = {
        os.path.join(pictures.place.root, image_id)
        for pictures in several
        for ids in pictures.found.values()
        for image_id in ids
    }
    folders = {
        folder: None
        for pictures in several
        for folder, ids in pictures.found.items()
        if ids
    }
    unlisted: dict[str, str] = {}
    for folder in folders:
        for name in find_pictures(folder).pictures:
            real = os.path.realpath(folder / name)
            if real not in listed:  # nor a link to another
                unlisted[real] = str(folder / name)
    report_left_out(list(unlisted.values()), f"not listed in {lists}")


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
        if (
            len(visible) != 1
            or not is_folder(visible[0])
            or visible[0].is_symlink()
        ):
            break
        path = visible[0]
    return path


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
    order is that of `names`. Raises ValueError for one that is a link out of it.
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
                    children[place] = [
                        child for child in inside if is_folder(child)
                    ]
            places = [
                child
                for place in places
                for child in children[place]
                if child.name.lower() == part.lower()
            ]
            for place in filter(Path.is_symlink, places):
                root = os.path.realpath(source)
                if not is_inside(os.path.realpath(place), root):
                    raise ValueError(leads_out(place, source))
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

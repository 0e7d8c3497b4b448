"""The index of a folder, kept between two calls of `distilclip search`.

One file a folder and model in the user's cache folder, written whole or not at all:
two processes at once do the same work twice, and the later one's file stays; a
killed one leaves the file of its last save. Nothing is ever written into the folder
of pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from distilclip.index.file import image_side_key
from distilclip.search import ImageIndex
from distilclip.storage.files import make_private, remove_leftovers

if TYPE_CHECKING:
    from distilclip.model import DistilCLIP

AUTOSAVE_SECONDS = 20
STALE_SECONDS = 3600


@dataclass
class FolderIndex:
    """The index of a folder as it is now, and how it came about.

    - index: every picture of the folder, embedded.
    - done: what was embedded and what was forgotten, in words.
    - problem: what kept the index from being saved, or None.
    """

    index: ImageIndex
    done: str
    problem: str | None = None


def index_file(model: DistilCLIP, folder: Path) -> Path:
    """Where the index of `folder` by `model` is kept: a file for each such pair.

    Below $XDG_CACHE_HOME, or ~/.cache where that is not set.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = home if home.is_absolute() else Path.home() / ".cache"
    place = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    name = f"{place[:20]}-{image_side_key(model)[:20]}.safetensors"
    return home / "distilclip" / "indexes" / name


def load_kept(model: DistilCLIP, folder: Path, file: Path) -> ImageIndex:
    """The index in `file`, or an empty one where there is none that can be used."""
    with contextlib.suppress(OSError, ValueError):
        index = ImageIndex.load(model, file)
        index.folder = folder
        return index
    return ImageIndex(model, folder=folder)


def folder_index(
    model: DistilCLIP,
    folder: Path,
    cache: bool = True,
    rebuild: bool = False,
    skip_broken: bool = False,
    progress: bool = True,
) -> FolderIndex:
    """The index of a folder as it is now.

    Embeds only what is new or has changed since the last call, unless `rebuild`.
    What has been embedded is saved every 20 seconds, and when an error or Ctrl-C
    ends the work. A cache that cannot be written is no reason not to search. Raises
    what `ImageIndex.refresh` raises.
    """
    index, file, problem = ImageIndex(model, folder=folder), None, None
    if cache:
        try:
            file = index_file(model, folder)
        except RuntimeError as error:  # there is no home folder
            problem = str(error)
    if file and not rebuild:
        index = load_kept(model, folder, file)
    before, saved = (index.names, index.stamps), time.monotonic()

    def save(file: Path) -> None:
        nonlocal saved, problem
        try:
            make_private(file.parent)
            index.save(file)
            file.chmod(0o600)
        except (OSError, SafetensorError) as error:
            problem = f"{getattr(error, 'strerror', None) or error}: {file}"
        saved = time.monotonic()

    def save_now_and_then() -> None:
        if file and time.monotonic() - saved > AUTOSAVE_SECONDS:
            save(file)

    try:
        embedded, forgotten = index.refresh(
            skip_broken=skip_broken,
            progress=progress,
            after_batch=save_now_and_then,
        )
    finally:
        if file and index.names and (index.names, index.stamps) != before:
            save(file)
            remove_leftovers(file.parent, age=STALE_SECONDS)
    done = f"{len(index)} pictures: {embedded} embedded, {forgotten} forgotten"
    return FolderIndex(index, done, problem)

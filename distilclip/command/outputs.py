"""What a command may write: never over what it reads.

An output that is there already is replaced where nothing is lost by it: it is no
input, or it is of those that an earlier command of ours has written.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from distilclip.storage.files import is_stream, read_json

MOST_ON_SHEET, MOST_ON_PAGE = 1_000, 10_000  # pictures of a .png, of a .html
PAGE_START = '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
PAGE_START += '<meta http-equiv="Content-Security-Policy"'


def check_output(option: str, file: Path | None, *inputs: str | Path) -> None:
    """Refuse to write to `file` what would replace one of the `inputs`.

    An input is a file, a folder with all that lies in it or that its links lead to,
    or a name that is neither, which cannot be replaced. Raises ValueError, before
    anything is read.
    """
    if file is None or is_stream(file):
        return
    if file.is_dir():
        raise ValueError(f"{option} takes a file, and {file} is a folder.")
    if not file.exists() or is_ours(file):
        return
    target = file.stat()
    for place in map(Path, inputs):
        for path in itertools.chain([place], files_below(place)):
            try:
                is_same = os.path.samestat(os.stat(path), target)
            except (OSError, ValueError):
                continue
            if is_same:
                where = "" if path == place else f", as {path}"
                raise ValueError(
                    f"{option} {file} would replace what is read{where}: choose "
                    "another file."
                )


def files_below(folder: Path) -> Iterator[str]:
    """The path of every file in a folder and in those below it."""
    for place, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(place, name)


def is_ours(file: Path) -> bool:
    """Whether an earlier command wrote this: figures of `evaluate`, or a page."""
    try:
        if file.suffix.lower() in (".html", ".htm"):
            with open(file, encoding="utf-8") as opened:
                return opened.read(len(PAGE_START)) == PAGE_START
        return file.stat().st_size < 10_000 and "t2i_r10" in read_json(file)
    except (OSError, ValueError):
        return False

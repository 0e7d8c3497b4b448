"""Files that are there whole or not at all, and readers that say what is wrong.

Everything is written beside its place, then moved into it. A file that cannot be
read as what it should be ends in a ValueError that names it.
"""

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    The rename is atomic: a reader, or a process that is killed, finds the old file
    or the new one, never half of either. Whatever goes wrong, the temporary file
    goes away; only a kill leaves it, for `remove_leftovers`. Raises OSError that
    names `path` where the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part"
        )
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        # To be written, too: Windows syncs no file that is only read.
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; give the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        at_fault = getattr(error, "filename", None)
        if temporary is not None and at_fault not in (None, str(temporary)):
            raise  # `write` could not read something
        kind = type(error) if isinstance(error, OSError) else OSError
        reason = getattr(error, "strerror", None) or error
        raise kind(
            f"Cannot write {path}: {reason}. What was there before is untouched."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Wait until the rename itself is on the disk, where the system can do that."""
    with contextlib.suppress(OSError):  # Windows does not open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed `write_whole`, or a killed tokenizer, has left behind.

    Only for a folder that no other process writes to.
    """
    for pattern in (".*.part", ".tmp*"):
        for file in folder.rglob(pattern):
            file.unlink(missing_ok=True)


def is_leftover(file: Path) -> bool:
    """Whether a killed process may have left this file half-written."""
    name = file.name
    return name.startswith(".tmp") or (name[0] == "." and name.endswith(".part"))


def write_text(path: Path, text: str) -> None:
    """Write `text` and a final newline to `path`, whole."""
    write_whole(path, lambda file: file.write_text(text + "\n", encoding="utf-8"))


def read_utf8(path: Path) -> str:
    """The text of a file; ValueError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8.") from None


def read_json(file: str | Path) -> dict:
    """The object in a JSON file; ValueError where it is none, or not all of one."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, or not JSON
        raise ValueError(f"{file} is damaged: it is not valid JSON.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it does not hold a JSON object.")
    return content


def read_json_lines(file: Path) -> list[dict]:
    """What the lines of a file hold; ValueError where one is not JSON."""
    try:
        lines = read_utf8(file).split("\n")
        return [json.loads(line) for line in lines if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} has a line that is not JSON: {error}.") from None


def read_csv(file: Path) -> list[dict]:
    """The rows of a table; ValueError where it cannot be read as one."""
    try:
        return list(csv.DictReader(io.StringIO(read_utf8(file), newline="")))
    except csv.Error as error:
        raise ValueError(f"{file} cannot be read as a table: {error}.") from None


def reserve_space(file: Path) -> None:
    """Take the disk space that a new file will need; OSError where it lacks."""
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def holds_array(file: Path, shape: tuple[int, ...]) -> bool:
    """Whether `file` is a whole array of uint8 in this shape."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return array.shape == shape and array.dtype == np.uint8

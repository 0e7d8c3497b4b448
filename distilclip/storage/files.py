"""Files that are there whole or not at all, and readers that say what is wrong.

Everything is written beside its place, then moved into it. A file that cannot be
read as what it should be ends in a ValueError that names it.
"""

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

OWN = ".distilclip-"  # how the name of each folder begins in which a file is made
LEFTOVER = re.compile(re.escape(OWN) + r"[a-z0-9_]{8}\.part")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file of `path`'s name elsewhere, then rename it to `path`.

    The rename is atomic: a reader, or a process that is killed, finds the old file
    or the new one, never half of either. Until then the file lies in a folder of
    its own beside `path`; only a kill leaves that behind, for `remove_leftovers`. A
    link is followed, a file that is replaced keeps its permissions, and what is no
    plain file (/dev/stdout, a pipe) is written to, not replaced. Raises OSError
    that names `path` where the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    place = None
    try:
        if is_stream(path):
            return write_through(path, write)
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = {"dir": target.parent, "prefix": OWN, "suffix": ".part"}
        place = Path(tempfile.mkdtemp(**beside))
        temporary = place / target.name
        write(temporary)
        # To be written, too: Windows syncs no file that is only read.
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except (OSError, SafetensorError) as error:
        at_fault = getattr(error, "filename", None)
        if place and at_fault and not Path(at_fault).is_relative_to(place):
            raise  # `write` could not read something
        kind = type(error) if isinstance(error, OSError) else OSError
        reason = getattr(error, "strerror", None) or error
        raise kind(
            f"Cannot write {path}: {reason}. What was there before is untouched."
        ) from error
    finally:
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def make_private(folder: Path) -> None:
    """Make a folder that only its owner can look into, where it is not there yet.

    What cannot be made is no error here, but where something is written into it.
    """
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def is_stream(path: Path) -> bool:
    """Whether `path` is a device, a pipe, or one of this process's open files."""
    real = os.path.abspath(path)
    if real.startswith(("/dev/", "/proc/")):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def write_through(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, and copy its bytes to a stream."""
    with tempfile.TemporaryDirectory() as place:
        temporary = Path(place) / "content"
        write(temporary)
        content = temporary.read_bytes()
    # A pipe that nobody reads is an error (ENXIO), not a wait without an end.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "ab") as stream:
        if hasattr(os, "set_blocking"):
            os.set_blocking(handle, True)
        stream.write(content)


def refuse_to_replace(
    output: Path, inputs: Iterable[Path], ours: Callable[[Path], bool]
) -> None:
    """Raise ValueError where writing `output` would replace something that is read.

    That is one of the files `inputs`, or a file in a folder of them, links being
    followed, unless `ours` says that we wrote it. IsADirectoryError for a folder.
    What is no plain file replaces nothing.
    """
    if is_stream(output) or not output.exists():
        return
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder: name a file in it.")
    real = Path(os.path.realpath(output))
    for given in inputs:
        place = Path(os.path.realpath(given))
        is_input = real == place or (place.is_dir() and real.is_relative_to(place))
        if is_input and not ours(real):
            raise ValueError(
                f"{output} is there already, and is {given} or a part of it: it "
                "would be lost. Write to another file."
            )


def _sync_folder(folder: Path) -> None:
    """Wait until the rename itself is on the disk, where the system can do that."""
    with contextlib.suppress(OSError):  # Windows does not open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path, age: float = 0.0) -> None:
    """Remove what a killed `write_whole` has left in `folder`, `age` seconds ago.

    Only what bears our own name, and not in folders below. Without an age, only for
    a folder that no other process writes to.
    """
    if folder.is_dir():
        for place in filter(is_leftover, folder.iterdir()):
            with contextlib.suppress(OSError):
                if time.time() - place.stat().st_mtime >= age:
                    shutil.rmtree(place)


def is_leftover(place: Path) -> bool:
    """Whether this is the folder in which a killed process was writing a file."""
    is_ours = LEFTOVER.fullmatch(place.name) is not None
    return is_ours and place.is_dir() and not place.is_symlink()


def is_file(path: Path) -> bool:
    """Whether a plain file lies at `path`; no link that leads nowhere does.

    `Path.is_file` raises OSError where the name that a link leads to is too long,
    too. Raises PermissionError where that cannot be known.
    """
    return not is_too_long(path) and path.is_file()


def is_folder(path: Path) -> bool:
    """`is_file` for a folder."""
    return not is_too_long(path) and path.is_dir()


def is_too_long(path: Path) -> bool:
    """Whether `path`, or where its link leads, has a name that no file can have."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    except ValueError:  # a zero byte
        return True
    return False


def write_text(path: Path, text: str) -> None:
    """Write `text` and a final newline to `path`, whole."""
    write_whole(path, lambda file: file.write_text(text + "\n", encoding="utf-8"))


def check_plain(path: Path) -> None:
    """Raise ValueError for a pipe or a device, which may never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path} is no plain file.")


def read_utf8(path: Path) -> str:
    """The text of a plain file; ValueError where it is none, or not UTF-8."""
    check_plain(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8.") from None


def read_json(file: str | Path) -> dict:
    """The object in a JSON file; ValueError where it is none, or not all of one."""
    check_plain(Path(file))
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
    except Exception:  # of many kinds: NumPy reads the header as Python is read
        return False
    return array.shape == shape and array.dtype == np.uint8

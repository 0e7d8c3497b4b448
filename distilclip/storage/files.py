"""Files that are there whole or not at all: written beside their place, then moved into it."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file in the same folder, then rename it to `path`.

    The rename is atomic: a reader, or a process that is killed, finds the old file or the new
    one, never half of either. Whatever goes wrong, the temporary file goes away; only a kill
    leaves it, for `remove_leftovers`. Raises OSError that names `path` where the disk is full or
    the folder cannot be written to.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        mask = os.umask(0)  # mkstemp makes files private; give them the usual permissions
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
        raise kind(f"Cannot write {path}: {reason}. What was there before is untouched.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the rename itself on the disk before going on, where the system can do that."""
    with contextlib.suppress(OSError):  # Windows does not open folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove what `write_whole`, or a tokenizer, could not, because its process was killed.

    Only for a folder that no other process writes to.
    """
    for pattern in (".*.part", ".tmp*"):
        for file in folder.rglob(pattern):
            file.unlink(missing_ok=True)


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Write a tokenizer's files into `folder`, each whole or not at all.

    Its own `save_pretrained` writes over what is there, and a full disk is a bare Exception to it.
    """
    with tempfile.TemporaryDirectory() as place:
        try:
            tokenizer.save_pretrained(place)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            raise OSError(f"Cannot write a tokenizer's files to {place}: {error}.") from error
        for file in sorted(Path(place).iterdir()):
            content = file.read_bytes()
            write_whole(folder / file.name, lambda path, content=content: path.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Write `text` and a final newline to `path`, whole."""
    write_whole(path, lambda file: file.write_text(text + "\n", encoding="utf-8"))


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write named tensors and a few strings to a safetensors file, whole."""
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda file: save_file(contiguous, file, metadata))

"""Where the pictures of a table lie: inside its folder, or where a user says."""

import os
import stat
from pathlib import Path


class Place:
    """The folder that a table's names are relative to.

    With `anywhere`, for a table that the user has named, names may be absolute and
    may lead out of the folder; else nothing outside is ever opened, links followed.
    """

    def __init__(self, folder: Path, anywhere: bool = False):
        self.folder, self.anywhere = folder, anywhere
        self.root = os.path.realpath(folder)
        self.known: dict[str, tuple[str, str]] = {}
        self.folders: dict[str, str] = {}

    def find(self, name: str, where: str) -> tuple[str, str]:
        """The file that `name` means, and its id: its path within the folder.

        Raises ValueError for a name that is no text, an address, or a file outside
        the folder or of no plain kind, FileNotFoundError for one that is missing.
        """
        if name not in self.known:
            self.known[name] = self.look_up(name, where)
        return self.known[name]

    def look_up(self, name: str, where: str) -> tuple[str, str]:
        check_name(name, where)
        if "://" in name:
            raise ValueError(
                f"{name[:80]!r} {where} is an address, not a file: download the "
                "pictures first."
            )
        path = os.path.join(self.root, name)
        if "\\" in name and not os.path.exists(path):  # as Windows writes them
            path = os.path.join(self.root, name.replace("\\", "/"))
        try:
            real, status = self.resolve(path)
        except (OSError, RuntimeError, ValueError):
            real, status = path, None
        inside = real.startswith(os.path.join(self.root, ""))
        if not inside and not self.anywhere:
            if status is None:
                outside = os.path.realpath(path)
                inside = outside.startswith(os.path.join(self.root, ""))
            if not inside:
                raise ValueError(f"{name!r} {where} lies outside {self.folder}.")
        if status is None:
            raise FileNotFoundError(
                f"{name!r} {where} does not exist in {self.folder}."
            )
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no plain file"
            raise ValueError(f"{name!r} {where} is {kind}.")
        if not inside:
            return real, real
        image_id = os.path.relpath(real, self.root).replace(os.sep, "/")
        return os.path.join(self.folder, image_id), image_id

    def resolve(self, path: str) -> tuple[str, os.stat_result]:
        """A path with its links followed, and what lies there."""
        status = os.lstat(path)
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or stat.S_ISLNK(status.st_mode):
            real = os.path.realpath(path)
            return real, os.stat(real)
        if folder not in self.folders:
            self.folders[folder] = os.path.realpath(folder)
        return os.path.join(self.folders[folder], name), status


def check_name(name: str, where: str) -> None:
    """Raise ValueError for a name that is no text, or that no file can have."""
    if "\0" in name or any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        raise ValueError(
            f"The file name {name!a} {where} is not valid text: rename the file."
        )

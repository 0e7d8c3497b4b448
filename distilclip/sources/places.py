"""Where the pictures of a table lie: inside its folder, or where a user says."""

import filecmp
import os
import re
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from distilclip.sources.splits import split_of_folder
from distilclip.storage.pictures import IMAGE_SUFFIXES

MOST_BELOW = 200  # folders in which a name is looked for
MOST_HINTS = 4  # a hint reads a whole folder
# Files that hold many pictures or their captions
CONTAINER = re.compile(
    r".*\.(parquet|arrow|tar|csv|tsv|jsonl)|(captions|dataset|state|metadata).*\.json"
    r"|(captions|results|results_20130124|.*\.token|.*images)\.(txt|token)"
)
# What a name never is: bytes of a picture written as text
WRITTEN_BYTES = re.compile(
    r"data:image/.*|[A-Za-z0-9+/_\s-]{120,}={0,2}\s*", re.DOTALL
)
LOOKED_INTO = {"annotations", "captions", "data", "karpathy"}  # beside splits


def check_containers(folder: Path) -> None:
    """Refuse a folder with shards or tables that are links to nowhere, pipes, ...

    Left out, they would make another data set of it; opened, a pipe never ends. Nor
    may links of tables, shards or the folders of splits lead out of it, but to the
    files of a snapshot in the Hub's cache. Hidden files are nobody's. Raises
    ValueError that names the first one.
    """
    roots = [os.path.realpath(folder)]
    roots += blobs_of(roots[0])
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        for name in (*folders, *names):
            path = os.path.join(place, name)
            is_read = CONTAINER.fullmatch(name.lower())
            if name in folders:
                is_read = split_of_folder(name) or name.lower() in LOOKED_INTO
            if name[0] == "." or not is_read or not os.path.islink(path):
                continue
            real = os.path.realpath(path)
            if not any(real == r or is_inside(real, r) for r in roots):
                raise ValueError(leads_out(path, folder))
        for name in names:
            if name[0] == "." or not CONTAINER.fullmatch(name.lower()):
                continue
            path = os.path.join(place, name)
            try:
                is_plain = stat.S_ISREG(os.stat(path).st_mode)
            except OSError as error:
                why = error.strerror
            else:
                why = "" if is_plain else "it is no plain file"
            if why:
                raise ValueError(
                    f"{path} cannot be read ({why}): mend it, or take it out of "
                    f"{folder}."
                )


def leads_out(path: str | Path, folder: Path) -> str:
    """The sentence for a link in a source that leads out of it."""
    return (
        f"{path} is a link that leads out of {folder}: put what it leads to in its "
        "place, or take it out."
    )


def is_inside(real: str, root: str) -> bool:
    """Whether a path lies below a folder, links being followed in both."""
    return real.startswith(os.path.join(root, ""))


def blobs_of(root: str) -> list[str]:
    """Where the files of a snapshot in the Hub's cache lie; [] for any other."""
    above = os.path.dirname(root)
    blobs = os.path.join(os.path.dirname(above), "blobs")
    is_snapshot = os.path.basename(above) == "snapshots" and os.path.isdir(blobs)
    return [blobs] if is_snapshot else []


class Place:
    """The folder that a table's names are relative to.

    With `anywhere`, for a table that the user has named, names may be absolute and
    may lead out of the folder; else nothing outside is ever opened, links followed.
    A name that is not there is looked for in the folders below: in `base` at once,
    if that is given, then in those called `first`, then in the others.
    """

    def __init__(
        self,
        folder: Path,
        anywhere: bool = False,
        first: Sequence[str] = (),
        base: Path | None = None,
    ):
        self.folder, self.anywhere, self.first = folder, anywhere, first
        self.base = os.path.relpath(base or folder, folder)
        self.root = os.path.realpath(folder)
        self.known: dict[str, tuple[str, str]] = {}
        self.folders: dict[str, str] = {}
        self.below: list[list[str]] | None = None
        self.hints = 0

    def find(self, name: str, where: str) -> tuple[str, str]:
        """The file that `name` means, and its id: its path within the folder.

        Raises ValueError for a name that is no text, an address, a file outside
        the folder or of no plain kind, or that several pictures below it have;
        FileNotFoundError for one that is missing.
        """
        if name not in self.known:
            try:
                found = self.look_up(name, where)
            except FileNotFoundError as error:
                found = self.look_below(name, where)
                if found is None:
                    other = self.elsewhere(name, where)
                    raise FileNotFoundError(f"{error}{other}") from None
            self.known[name] = found
        return self.known[name]

    def look_below(self, name: str, where: str) -> tuple[str, str] | None:
        """What `find` gives for a name in a folder below this one; None without."""
        if os.path.isabs(name) or ".." in re.split(r"[/\\]", name):
            return None
        if self.below is None:
            self.below = [[self.base], *folders_below(self.root, self.first)]
        for folders in self.below:
            there = []
            for folder in folders:
                if os.path.lexists(os.path.join(self.root, folder, name)):
                    there.append(self.look_up(os.path.join(folder, name), where))
            if there:
                return the_same(name, there, where)
        return None

    def elsewhere(self, name: str, where: str) -> str:
        """What to say of an absolute name whose picture lies in this folder."""
        base = re.split(r"[/\\]", name)[-1]
        is_absolute = name[:1] in "/\\" or re.match(r"[A-Za-z]:[/\\]", name)
        if not is_absolute or self.hints >= MOST_HINTS:
            return ""
        self.hints += 1
        try:
            found = self.look_below(base, where)
        except (ValueError, OSError):
            return ""
        if found is None:
            return ""
        return f" There is {found[1]!r}: write the names as they are from there."

    def look_up(self, name: str, where: str) -> tuple[str, str]:
        check_name(name, where)
        if "://" in name:
            raise ValueError(
                f"{shortened(name)} {where} is an address, not a file: download "
                "the pictures first."
            )
        path = os.path.join(self.root, name)
        if "\\" in name and not os.path.exists(path):  # as Windows writes them
            path = os.path.join(self.root, name.replace("\\", "/"))
        if not name.isascii() and not os.path.lexists(path):
            path = os.path.join(self.root, composed(self.root, name))
        try:
            real, status = self.resolve(path)
        except (OSError, RuntimeError, ValueError):
            real, status = os.path.realpath(path), None
        inside = is_inside(real, self.root)
        if not inside and not self.anywhere:
            text = f"{shortened(name)} {where} lies outside {self.folder}."
            raise ValueError(text)
        if status is None:
            hint = self.hint(path) if inside else ""
            raise FileNotFoundError(
                f"{shortened(name)} {where} does not exist in {self.folder}, from "
                f"where its names count{hint}."
            )
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no plain file"
            raise ValueError(f"{shortened(name)} {where} is {kind}.")
        if not inside:
            return real, real
        image_id = os.path.relpath(real, self.root).replace(os.sep, "/")
        return os.path.join(self.folder, image_id), image_id

    def hint(self, path: str) -> str:
        """`almost`, which reads a whole folder, for the first missing names."""
        self.hints += 1
        return almost(path) if self.hints <= MOST_HINTS else ""

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


def folders_below(root: str, first: Sequence[str]) -> list[list[str]]:
    """The folders in and two levels below `root`: those called `first`, the rest.

    Hidden folders and links are left out, and so are all where there are too many.
    """
    found: list[str] = []
    level = [""]
    for _ in range(2):
        below = []
        for folder in level:
            try:
                with os.scandir(os.path.join(root, folder)) as entries:
                    below += [
                        os.path.join(folder, entry.name)
                        for entry in entries
                        if entry.is_dir(follow_symlinks=False)
                        and entry.name[0] not in "._"
                    ]
            except OSError:
                continue
        level = sorted(below)
        found += level
        if len(found) > MOST_BELOW:
            return []
    first = [name.lower() for name in first]
    called = [f for f in found if set(f.lower().split(os.sep)) & set(first)]
    return [called, [folder for folder in found if folder not in called]]


def the_same(
    name: str, there: Sequence[tuple[str, str]], where: str
) -> tuple[str, str]:
    """The first of some files with their ids; ValueError where they differ."""
    for path, image_id in there[1:]:
        first, first_id = there[0]
        if image_id != first_id and not filecmp.cmp(path, first, shallow=False):
            raise ValueError(
                f"{shortened(name)} {where} may be {first} or {path}, and these "
                "are different pictures: take one of them out, or give the path."
            )
    return there[0]


def composed(root: str, name: str) -> str:
    """A name as it is written on the disk, where an é may be a letter or two."""
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, name)
        if os.path.lexists(os.path.join(root, other)):
            return other
    return name


def almost(path: str) -> str:
    """What to say of a file whose name differs in little from the one at `path`."""
    folder, name = os.path.split(path)
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError):
        return ""
    wanted = likenesses(name)
    for form in range(len(wanted)):
        for other in names:
            if likenesses(other)[form] == wanted[form]:
                return f"; there is {other!r}"
    return ""


def likenesses(name: str) -> tuple[str, ...]:
    """Forms of a name in which it may equal another, the strictest first.

    In capitals, as a part of an address ("my%20cat.jpg"), in its ending, in zeros.
    """
    lower = unicodedata.normalize("NFC", name.lower())
    text = unicodedata.normalize("NFC", unquote(name).lower()).strip()
    stem, ending = os.path.splitext(text)
    stem = text if ending not in IMAGE_SUFFIXES else stem
    return lower, text, stem, stem.lstrip("0") or "0"


def shortened(name: str) -> str:
    """A name in quotation marks, cut where it is no name at all."""
    return repr(name if len(name) <= 200 else f"{name[:80]}...")


def check_name(name: str, where: str) -> None:
    """Raise ValueError for a name that is no text, or that no file can have."""
    if "\0" in name or any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        raise ValueError(
            f"The file name {name!a} {where} is not valid text: rename the file."
        )
    if WRITTEN_BYTES.fullmatch(name):
        raise ValueError(
            f"{name[:30]!r}... {where} is no file name but seems to be the picture "
            "itself, written as text (base64): decode it, and give bytes or files."
        )

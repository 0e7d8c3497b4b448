"""WebDataset's shards, and what img2dataset writes: pictures and captions by keys.

A picture and its captions have the same name but for the ending: `000012.jpg`,
`000012.txt`, `000012.json`, as members of a tar or as files in folders `00000/`,
`00001/`. Members are read where they are: nothing is extracted, no link followed.
"""

import dataclasses
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from distilclip.sources.captions import captions_of_cells
from distilclip.sources.columns import caption_columns
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.listed import (
    ListedPictures,
    children_of,
    holds_captioned_pictures,
    inner,
    is_picture_name,
    refuse_columns,
    report_left_out,
    split_word_in,
)
from distilclip.sources.skipping import LOG, refuse_or_skip
from distilclip.sources.splits import unclear_split
from distilclip.sources.written import cells_of_text
from distilclip.storage.files import is_file, is_folder, read_utf8
from distilclip.storage.pictures import describe_others, find_pictures

TEXT_SUFFIXES = (".txt", ".caption", ".text")
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SHARD_ENDS = (".parquet", "_stats.json")  # beside it
SHARD_PLACES = ("data", "shards")
SHARD_FOLDER = re.compile(r"\d{5,}")
# What some put between the key and the ending: 01.image.jpg, 01.caption.txt
ROLE = re.compile(r"\.(image|img|caption|captions|text)$", re.IGNORECASE)
BLOCK = 512  # bytes: what the size of everything in a tar is a multiple of


class Sample(NamedTuple):
    """What goes by one key in a shard: a picture and its texts, by their names."""

    key: str
    picture: str
    texts: list[str]


# Shards


def recognises_tars(path: Path) -> bool:
    """Whether this is a tar, or a folder of tars and of no other data set."""
    if path.is_file():
        return path.name.lower().endswith((".tar", *PACKED))
    path = inner(path)
    shards = shards_of(path) if path.is_dir() else []
    if not shards:
        return False
    stems = {shard.stem for shard, _ in shards}
    folders = [child for child in children_of(path) if is_open_folder(child)]
    files = [file for place in (path, *folders) for file in children_of(place)]
    if any(is_other_source(file) and file.stem not in stems for file in files):
        return False
    return not holds_captioned_pictures(path)


def is_other_source(file: Path) -> bool:
    """Whether a file that no shard goes with makes its folder another layout."""
    is_table = file.suffix.lower() in (".parquet", ".arrow")
    return is_table or file.name.lower() in ("metadata.csv", "metadata.jsonl")


def is_open_folder(path: Path) -> bool:
    """Whether this is a folder that is not hidden."""
    return is_folder(path) and not path.name.startswith((".", "_"))


def places_in(path: Path) -> list[tuple[Path, str]]:
    """The folders in which shards lie, each with the word for its split, or "".

    They are the source itself, `data` or `shards` in it, and those of splits.
    """
    places = [(path, "")]
    for child in children_of(path):
        word = split_word_in(child.name)
        if is_open_folder(child) and (word or child.name.lower() in SHARD_PLACES):
            places.append((child, word))
    return places


def check_open(path: Path, asked: Asked) -> None:
    """Raise PermissionError for a folder of shards that is closed to the reader."""
    shard_folders = [folder for folder, _ in folders_of(path)]
    for folder in (*(place for place, _ in places_in(path)), *shard_folders):
        try:
            os.scandir(folder).close()
        except OSError as error:
            refuse_or_skip(error, asked.skipped)


def check_others(path: Path) -> None:
    """Raise ValueError for a folder of shards beside those of splits.

    Where there are no splits, say that they are left out.
    """
    places = dict(places_in(path))
    folders = [p for p in children_of(path) if is_open_folder(p)]
    others = [
        folder
        for folder in folders
        if folder not in places
        and any(f.suffix == ".tar" for f in children_of(folder))
    ]
    if others and any(places.values()):
        raise ValueError(unclear_split(others[0]))
    for folder in others:
        LOG.warning("Left out the shards in %s: no part of the source.", folder)


def shards_of(path: Path) -> list[tuple[Path, str]]:
    """The tars of a source, each with the word for its split, or "".

    The word is in the name of the shard, or else in that of its folder.
    """
    if path.is_file():
        return [(path, split_word_in(path.name))]
    return [
        (file, split_word_in(file.name) or word)
        for place, word in places_in(path)
        for file in children_of(place)
        if file.name.lower().endswith((".tar", *PACKED))
        and not file.name.startswith(".")
        and is_file(file)
    ]


def read_tars(path: Path, asked: Asked) -> Iterator[Entry]:
    """An entry a picture, its bytes as they are in the shard."""
    check_options(asked, path)
    path = inner(path)
    root = path.resolve().parent if path.is_file() else path.resolve()
    if path.is_dir():
        check_open(path, asked)
        check_others(path)
    tally = Tally(root)
    shards = shards_of(path)
    nameless = [shard for shard, split in shards if not split]
    if 0 < len(nameless) < len(shards):
        raise ValueError(unclear_split(nameless[0]))
    for shard, split in shards:
        if shard.suffix.lower() != ".tar":
            raise ValueError(
                f"{shard} is compressed: uncompress it to a .tar, and keep that."
            )
        if not shard.resolve().is_relative_to(root):
            raise ValueError(f"{shard} is a link that leads out of {root}.")
        yield from read_shard(shard, split, asked, tally)
        tally.read_stats(shard.with_name(f"{shard.stem}_stats.json"))
    tally.report(path)
    if path.is_dir():
        beside = list(find_pictures(path).pictures)
        report_left_out(beside, f"beside the shards in {path}")


def read_shard(
    shard: Path, split: str, asked: Asked, tally: "Tally"
) -> Iterator[Entry]:
    """The entries of one tar."""
    try:
        with tarfile.open(shard, "r:") as tar:
            members, fault = members_of(tar, shard, asked)

            def content_of(name: str) -> bytes:
                opened = tar.extractfile(members[name])
                return opened.read() if opened else b""

            for sample in samples_of(members, tally):
                captions = read_captions(sample, shard, content_of, asked)
                if captions:
                    image = content_of(sample.picture)
                    image_id = tally.name_of(sample, shard)
                    word = split or split_in_json(sample, content_of)
                    yield Entry(image, captions, image_id, word)
            if fault:
                refuse_or_skip(ValueError(fault), asked.skipped)
    except (tarfile.TarError, EOFError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        refuse_or_skip(
            ValueError(f"{shard} cannot be read as a tar: {cause}."), asked.skipped
        )


def members_of(
    tar: tarfile.TarFile, shard: Path, asked: Asked
) -> tuple[dict[str, tarfile.TarInfo], str]:
    """The plain files in a tar by their names, and what is wrong with its end.

    Hidden files, links and special members are left out.
    """
    members: dict[str, tarfile.TarInfo] = {}
    size, end, count, is_whole = shard.stat().st_size, 0, 0, True
    try:
        for member in tar:
            end = member.offset_data + -(-member.size // BLOCK) * BLOCK
            if end > size:  # the last one is not all there
                break
            count += 1
            name = str(PurePosixPath(member.name))
            is_plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
            if not is_plain or PurePosixPath(name).name.startswith("."):
                continue
            first = members.setdefault(name, member)
            if first is not member and not same_content(tar, first, member):
                error = ValueError(
                    f"{shard} holds two different files called {name!r}."
                )
                refuse_or_skip(error, asked.skipped)
    except tarfile.TarError:
        is_whole = False
    with open(shard, "rb") as opened:  # the module is content with half a header
        opened.seek(end)
        rest = opened.read(BLOCK)
    is_whole = is_whole and end <= size and rest in (b"", b"\0" * BLOCK)
    noun = "file" if count == 1 else "files"
    fault = f"{shard} is cut short, or damaged behind its first {count} {noun}."
    return members, "" if is_whole else fault


def same_content(
    tar: tarfile.TarFile, first: tarfile.TarInfo, second: tarfile.TarInfo
) -> bool:
    """Whether two members of a tar hold the same bytes."""
    if first.size != second.size:
        return False
    opened = [tar.extractfile(member) for member in (first, second)]
    contents = [file.read() for file in opened if file]
    return contents[0] == contents[-1]


# Folders of img2dataset


def recognises_img2dataset(path: Path) -> bool:
    """Whether there are folders like `00000` with a table or statistics beside."""
    path = inner(path)
    folders = folders_of(path) if path.is_dir() else []
    shards = [folder for folder, _ in folders]
    return bool(shards) and not holds_captioned_pictures(path, leave_out=shards)


def folders_of(path: Path) -> list[tuple[Path, str]]:
    """The folders of img2dataset's format `files`, each with its split's word."""
    return [
        (folder, word)
        for place, word in places_in(path)
        for folder in children_of(place)
        if SHARD_FOLDER.fullmatch(folder.name)
        and is_folder(folder)
        and any(is_file(place / f"{folder.name}{end}") for end in SHARD_ENDS)
    ]


def read_img2dataset(path: Path, asked: Asked) -> Iterator[Entry]:
    """An entry a picture, from folders of pictures with texts and JSON beside."""
    check_options(asked, path)
    path = inner(path)
    check_open(path, asked)
    tally = Tally(path)
    for folder, split in folders_of(path):
        files = ListedPictures(path, [folder])
        names = [p.name for p in children_of(folder) if not p.name.startswith(".")]
        paths: dict[str, Path] = {}
        for name in names:
            if is_folder(folder / name):
                continue
            try:
                paths[name] = Path(files.find(name, f"in {folder}")[0])
            except (ValueError, OSError) as error:
                refuse_or_skip(error, asked.skipped)

        def content_of(name: str, paths: dict[str, Path] = paths) -> bytes:
            return paths[name].read_bytes()

        for sample in samples_of(paths, tally):
            captions = read_captions(sample, folder, content_of, asked)
            if captions:
                image_id = tally.name_of(sample, folder)
                yield Entry(str(paths[sample.picture]), captions, image_id, split)
        tally.read_stats(folder.with_name(f"{folder.name}_stats.json"))
    tally.report(path)


# Both


def check_options(asked: Asked, path: Path) -> None:
    """Raise ValueError for options of tables; the caption may have another name."""
    refuse_columns(dataclasses.replace(asked, caption_columns=()), path)


class Tally:
    """What a source holds besides pairs, to be said once at the end."""

    def __init__(self, root: Path):
        self.root = root
        self.without_picture = 0
        self.failed = 0
        self.others: Counter[str] = Counter()
        self.ids: set[str] = set()

    def read_stats(self, file: Path) -> None:
        """Add up the downloads that failed, by img2dataset's statistics."""
        try:
            stats = json.loads(read_utf8(file))
            self.failed += max(0, int(stats["count"]) - int(stats["successes"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return  # there are none, or they are of another kind

    def name_of(self, sample: Sample, shard: Path) -> str:
        """An id for a picture: its name, after the shard's if the name is taken."""
        image_id = sample.picture
        if image_id in self.ids:
            place = os.path.relpath(shard.with_suffix(""), self.root)
            image_id = f"{place}/{image_id}".replace(os.sep, "/")
        self.ids.add(image_id)
        return image_id

    def report(self, path: Path) -> None:
        """Say what was left out, in a warning each."""
        count = max(self.failed, self.without_picture)
        if count:
            text = "Left out %d keys of %s that have no picture (failed downloads)"
            LOG.warning(text, count, path)
        if self.others:
            counted = dict(sorted(self.others.items(), key=lambda kind: -kind[1]))
            LOG.warning("In %s, %s", path, describe_others(counted))


def samples_of(names: Iterable[str], tally: Tally) -> list[Sample]:
    """Names grouped by what is before their last dot, in the order of the first."""
    groups: dict[str, list[str]] = {}
    for name in names:
        suffix = PurePosixPath(name).suffix
        if is_picture_name(name) or suffix.lower() in (*TEXT_SUFFIXES, ".json"):
            key = ROLE.sub("", name[: len(name) - len(suffix)])
            groups.setdefault(key, []).append(name)
        else:
            tally.others[suffix.lower()] += 1
    samples = []
    for key, group in groups.items():
        texts = sorted(name for name in group if not is_picture_name(name))
        pictures = [name for name in group if is_picture_name(name)]
        # 01.jpg, 01.txt and 01.mask.png: the last one needs no caption.
        owner = str(
            PurePosixPath(key).with_name(PurePosixPath(key).name.split(".")[0])
        )
        if not texts and owner != key and owner in groups:
            tally.others.update("." + name[len(owner) + 1 :] for name in pictures)
            continue
        if not pictures:
            tally.without_picture += 1
        samples += [Sample(key, picture, texts) for picture in pictures]
    return samples


def read_captions(
    sample: Sample, shard: Path, content_of: Callable[[str], bytes], asked: Asked
) -> list[str]:
    """All captions of a sample: the lines of its texts, and those of its JSON.

    img2dataset writes the same caption into both; there it counts once, and in one
    piece if it has several lines. [] where the sample is at fault and skipped.
    """
    where = f"{sample.picture} in {shard}"
    try:
        texts, objects = {}, {}
        for name in sample.texts:
            text = decode_text(content_of(name), f"{name} in {shard}")
            if name.lower().endswith(".json"):
                objects[name] = decode_json(text, f"{name} in {shard}")
            else:
                texts[name] = text
        if asked.caption_columns:  # as WebDataset calls a text: by its ending
            wanted = [
                f".{name.lower().lstrip('.')}" for name in asked.caption_columns
            ]
            texts = {
                n: t for n, t in texts.items() if n.lower().endswith((*wanted,))
            }
        described: list[Any] = []
        for name, value in objects.items():
            place = f"{name} in {shard}"
            described += captions_in(value, place, asked, has_texts=bool(texts))
        whole = {" ".join(str(caption).split()) for caption in described}
        lines = []
        for text in texts.values():
            if " ".join(text.split()) not in whole:
                lines += [cell for cell in cells_of_text(text) if cell.strip()]
        if not texts and not described:
            raise ValueError(no_captions(where, sample, objects))
        return captions_of_cells([*lines, *described], where)
    except (ValueError, OSError) as error:
        refuse_or_skip(error, asked.skipped)
        return []


def split_in_json(sample: Sample, content_of: Callable[[str], bytes]) -> str:
    """The word under `split` in what lies beside a picture as JSON, else ""."""
    for name in sample.texts:
        if name.lower().endswith(".json"):
            value = decode_json(decode_text(content_of(name), name), name)
            if isinstance(value, dict) and isinstance(value.get("split"), str):
                return value["split"]
    return ""


def decode_text(content: bytes, where: str) -> str:
    """Bytes as text; ValueError where they are not UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8 text: save it as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_json(text: str, where: str) -> Any:
    """What a JSON text holds; ValueError where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{where} is not valid JSON.") from None


def captions_in(value: Any, where: str, asked: Asked, has_texts: bool) -> list[Any]:
    """The captions in what JSON holds: a text, a list, or an object's captions.

    An object that lies beside a text is taken for what is known about the picture:
    of it only `caption` and `captions` count.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return []
    if asked.caption_columns:
        columns = [name for name in asked.caption_columns if name in value]
    elif has_texts:
        columns = [name for name in ("caption", "captions") if name in value]
    else:
        columns = caption_columns(list(value), where)
    cells = [value[column] for column in columns]
    lists = [cell if isinstance(cell, list) else [cell] for cell in cells]
    return [c for cells in lists for c in cells if c is not None]


def no_captions(where: str, sample: Sample, objects: dict[str, Any]) -> str:
    """The sentence for a picture without a caption: what is there, what helps."""
    keys = [
        key
        for value in objects.values()
        if isinstance(value, dict)
        for key in value
    ]
    beside = ", ".join(sample.texts) or "no text"
    having = f" with {', '.join(keys)}" if keys else ""
    return (
        f"{where} has no caption: expected the same name with "
        f"{', '.join(TEXT_SUFFIXES)} or .json (a caption under `caption`, or a "
        f"name given with --caption-column), found {beside}{having}."
    )

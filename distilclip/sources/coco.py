"""COCO's captions, `captions_train2017.json` and the like, and Karpathy's splits.

COCO's files name pictures and captions in two lists, one file a split; the pictures
lie in a folder of the same name, `train2017/`. A file of Karpathy & Fei-Fei (2015),
`dataset_coco.json`, names the captions and the split with each picture.
"""

import json
import os
import re
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from distilclip.sources.captions import clean_captions
from distilclip.sources.entries import Asked, Entry
from distilclip.sources.flickr import IMAGE_FOLDERS, only_one
from distilclip.sources.listed import (
    ListedPictures,
    children_of,
    folders_called,
    inner,
    refuse_columns,
    report_left_out,
    report_unlisted,
    split_word_in,
)
from distilclip.sources.skipping import refuse_or_skip
from distilclip.sources.splits import SPLIT_WORDS, split_name, split_of_folder
from distilclip.storage.files import is_file, is_folder, read_utf8
from distilclip.storage.pictures import find_pictures

# Its files, by their names; and what others call files of the same kind
COCO = re.compile(r"captions_([a-z]*?)_?(\d*)\.json", re.IGNORECASE)
LIKE_COCO = re.compile(
    r".*(caption|annotation|coco|train|val|test|dev).*\.json", re.I
)
KARPATHY = re.compile(r"dataset(_flickr8k|_flickr30k|_coco)?\.json", re.IGNORECASE)
FOLDERS = (
    *(".", "annotations", "karpathy"),
    *(f"annotations_trainval{year}/annotations" for year in (2014, 2017)),
)


def recognises_coco(path: Path) -> bool:
    """Whether there are files of COCO's kind, by their names and first words."""
    return bool(find_coco(inner(path)))


def find_coco(path: Path) -> list[Path]:
    """COCO's files of captions at `path`, which may be one itself."""
    return [file for file in json_files(path) if is_coco(file, file == path)]


def is_coco(file: Path, is_named: bool) -> bool:
    """Whether a file is of COCO's kind; any name will do where the user gave it."""
    is_its_own = COCO.fullmatch(file.name) is not None
    if not (is_its_own or is_named or LIKE_COCO.fullmatch(file.name)):
        return False
    if not mentions(file, '"images"', '"annotations"'):
        return False
    return is_its_own or (
        has_word(file, b'"image_id"') and has_word(file, b'"caption"')
    )


def has_word(file: Path, word: bytes) -> bool:
    """Whether some bytes are anywhere in a file."""
    with (
        open(file, "rb") as opened,
        mmap(opened.fileno(), 0, access=ACCESS_READ) as m,
    ):
        return m.find(word) >= 0


def recognises_karpathy(path: Path) -> bool:
    """Whether there is a file of Karpathy's kind, by its name and first words."""
    return bool(find_karpathy(inner(path)))


def find_karpathy(path: Path) -> list[Path]:
    """Karpathy's files of captions at `path`, which may be one itself."""
    found = [
        file
        for file in json_files(path)
        if KARPATHY.fullmatch(file.name) or file == path
    ]
    return [file for file in found if mentions(file, '"sentences"', '"sentids"')]


def json_files(path: Path) -> list[Path]:
    """The JSON files at the places where such data sets have them."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    if not path.is_dir():
        return []
    places = folders_called(path, FOLDERS)
    places += [
        p for p in children_of(path) if is_folder(p) and split_of_folder(p.name)
    ]
    files = [file for place in places for file in children_of(place)]
    return [f for f in files if f.suffix.lower() == ".json" and is_file(f)]


def mentions(file: Path, *keys: str) -> bool:
    """Whether a file holds a JSON object with one of these keys near its start."""
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        start = opened.read(1_000_000)
    return start.lstrip().startswith("{") and any(key in start for key in keys)


def source_of(path: Path) -> Path:
    """The folder of the source: `path`, or the one that a file stands in."""
    if not is_file(path):
        return path
    parents = (
        p for p in path.parents if not p.name.lower().startswith("annotations")
    )
    return next(parents)


def read_lists(file: Path, *names: str) -> list[list[dict]]:
    """The lists of objects with these names in a JSON file.

    Raises ValueError where it is no JSON, or lacks one of them.
    """
    try:
        content = json.loads(read_utf8(file))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is damaged, it is not valid JSON: {error}."
        ) from None
    except RecursionError:
        raise ValueError(f"{file} is damaged: it is not valid JSON.") from None
    lists = []
    for name in names:
        value = content.get(name) if isinstance(content, dict) else None
        if not isinstance(value, list) or not all(
            isinstance(x, dict) for x in value
        ):
            keys = (
                ", ".join(map(str, content))
                if isinstance(content, dict)
                else "none"
            )
            raise ValueError(
                f"{file} has no list of objects called {name!r}; its keys: {keys}."
            )
        lists.append(value)
    return lists


def check_one_kind(path: Path) -> None:
    """Raise ValueError where both kinds are there, which differ in their splits."""
    coco, karpathy = find_coco(path), find_karpathy(path)
    if coco and karpathy:
        raise ValueError(
            f"{path} has both {coco[0]} and {karpathy[0]}, which split pictures in "
            "different ways: name one file as the source, or take one out."
        )


# COCO


def read_coco(path: Path, asked: Asked) -> Iterator[Entry]:
    """An entry a picture, from every file of captions; its name says the split."""
    refuse_columns(asked, path)
    path = inner(path)
    check_one_kind(path)
    files, source = find_coco(path), source_of(path)
    splits = {file: split_of(file, source) for file in files}
    nameless = [file for file in files if not splits[file]]
    if nameless and len(files) > 1:
        raise ValueError(
            f"The name of {nameless[0]} says no split, such as train or val, "
            f"beside {len(files) - 1} more: name one file as the source, or take "
            "this one out."
        )
    several = []
    for file in files:
        several.append(pictures_of(file, source, splits[file]))
        yield from read_coco_file(file, several[-1], splits[file], asked)
    report_unlisted(several, ", ".join(map(str, files)))
    report_uncovered(several, source)


def report_uncovered(several: list[ListedPictures], source: Path) -> None:
    """Say which folders of splits no file of captions names a picture of."""
    covered = {
        os.path.join(pictures.place.root, image_id)
        for pictures in several
        for ids in pictures.found.values()
        for image_id in ids
    }
    for place in children_of(source) if source.is_dir() else ():
        if is_folder(place) and split_of_folder(place.name):
            inside = os.path.join(os.path.realpath(place), "")
            if not any(path.startswith(inside) for path in covered):
                names = list(find_pictures(place).pictures)
                why = f"in {place}, which no file of captions names"
                report_left_out(names, why)


def split_of(file: Path, source: Path) -> str:
    """The word for a split in a file's name, or else in its folder's; or ""."""
    match = COCO.fullmatch(file.name)
    word = split_word_in(match[1] if match else file.stem)
    inside = file.parent if file.parent != source else Path()
    return word or (inside.name if split_of_folder(inside.name) else "")


def pictures_of(file: Path, source: Path, split: str) -> ListedPictures:
    """Where the pictures of a file may lie, at once in a folder of its name."""
    stem, place = stem_of(file), os.path.relpath(file.parent, source)
    called = [stem, f"{stem}/{stem}", f"images/{stem}", *IMAGE_FOLDERS]
    if split_of_folder(file.parent.name):
        place = place.replace(os.sep, "/")
        called = [place, f"{place}/images", *called]
    alike = [word for word, of in SPLIT_WORDS.items() if of == split_name(split)]
    return ListedPictures(source, folders_called(source, called), alike)


def stem_of(file: Path) -> str:
    """What COCO calls the folder of a file's pictures: `val2017`."""
    return file.stem[len("captions_") :] if COCO.fullmatch(file.name) else file.stem


def read_coco_file(
    file: Path, pictures: ListedPictures, split: str, asked: Asked
) -> Iterator[Entry]:
    """An entry a picture of one file."""
    images, annotations = read_lists(file, "images", "annotations")
    names: dict[object, str] = {}
    for number, image in enumerate(images, start=1):
        image_id, name = image.get("id"), image.get("file_name")
        if (
            not isinstance(image_id, int | float | str)
            or not isinstance(name, str)
            or not name
        ):
            error = ValueError(
                f"Image {number} of {file} lacks an id or a file_name; "
                f"it has {', '.join(image)}."
            )
            refuse_or_skip(error, asked.skipped)
        elif names.setdefault(image_id, name) != name:
            error = ValueError(
                f"The id {image_id} of {file} is {names[image_id]!r} and {name!r}."
            )
            refuse_or_skip(error, asked.skipped)
    captions_of_ids: dict[object, list[str]] = {}
    for number, annotation in enumerate(annotations, start=1):
        image_id, where = (
            annotation.get("image_id"),
            f"annotation {number} of {file}",
        )
        try:
            if not isinstance(image_id, int | float | str) or image_id not in names:
                raise ValueError(
                    f"There is no image with the id {image_id!r} of {where}."
                )
            if "caption" not in annotation:
                raise ValueError(
                    f"No caption in {where}; it has {', '.join(annotation)}."
                )
        except ValueError as error:
            refuse_or_skip(error, asked.skipped)
            continue
        captions_of_ids.setdefault(image_id, []).append(annotation["caption"])
    without = [
        name for number, name in names.items() if number not in captions_of_ids
    ]
    report_left_out(without, f"without a caption in {file}")

    yield from entries_of(
        [
            ([names[image_id]], captions, f"image {image_id} of {file}", split)
            for image_id, captions in captions_of_ids.items()
        ],
        pictures,
        file,
        stem_of(file),
        asked,
    )


# Karpathy


def read_karpathy(path: Path, asked: Asked) -> Iterator[Entry]:
    """An entry a picture, with the split that the file names."""
    refuse_columns(asked, path)
    path = inner(path)
    check_one_kind(path)
    file, source = only_one(find_karpathy(path), path), source_of(path)
    (images,) = read_lists(file, "images")
    folders = sorted({str(image.get("filepath") or ".") for image in images})
    listed, without = [], []
    for number, image in enumerate(images, start=1):
        name, where = image.get("filename"), f"image {number} of {file}"
        if not isinstance(name, str) or not name:
            error = ValueError(
                f"The {where} lacks a filename; it has {', '.join(image)}."
            )
            refuse_or_skip(error, asked.skipped)
            continue
        captions = [raw_of(sentence) for sentence in image.get("sentences") or []]
        if not captions:
            without.append(name)
            continue
        split = str(image.get("split") or "")
        place = image.get("filepath")
        listed.append(
            ([f"{place}/{name}", name] if place else [name], captions, where, split)
        )
    report_left_out(without, f"without a caption in {file}")
    called = (*(f"images/{folder}" for folder in folders), *IMAGE_FOLDERS)
    pictures = ListedPictures(source, folders_called(source, called))
    expected = " or ".join(folder for folder in folders if folder != ".")
    yield from entries_of(listed, pictures, file, expected or "Images", asked)
    report_unlisted([pictures], str(file))


def raw_of(sentence: object) -> object:
    """A sentence as it was written, or its words where that is not there."""
    if not isinstance(sentence, dict):
        return sentence
    raw, tokens = sentence.get("raw"), sentence.get("tokens")
    if raw is None and isinstance(tokens, list):
        return " ".join(map(str, tokens))
    return raw


# Both


def entries_of(
    listed: list[tuple[list[str], list, str, str]],
    pictures: ListedPictures,
    file: Path,
    expected: str,
    asked: Asked,
) -> Iterator[Entry]:
    """Entries from the names, captions, place in `file` and split of each picture.

    Raises FileNotFoundError where the folder of all these pictures is missing: one
    sentence instead of thousands.
    """
    missing, found_one = [], False
    for names, captions, where, split in listed:
        try:
            cleaned = clean_captions(captions, where)
            path, image_id = find_one_of(names, pictures, f"in {where}")
        except FileNotFoundError as error:
            missing.append(error)
            if found_one:
                refuse_or_skip(error, asked.skipped)
            continue
        except (ValueError, OSError) as error:
            refuse_or_skip(error, asked.skipped)
            continue
        if not found_one:
            found_one = True
            for error in missing:
                refuse_or_skip(error, asked.skipped)
        yield Entry(path, cleaned, image_id, split)
    if missing and not found_one:
        looked_in = ", ".join(map(str, pictures.folders))
        error = FileNotFoundError(
            f"None of the {len(missing)} pictures that {file} names is there, the "
            f"first being {listed[0][0][0]!r}; looked in {looked_in}. Put a folder "
            f"{expected} with the pictures beside it, or take the file out."
        )
        refuse_or_skip(error, asked.skipped)


def find_one_of(
    names: list[str], pictures: ListedPictures, where: str
) -> tuple[str, str]:
    """The picture, and its id, that goes by the first name that is there."""
    for name in names[:-1]:
        try:
            return pictures.find(name, where)
        except FileNotFoundError:
            continue
    return pictures.find(names[-1], where)

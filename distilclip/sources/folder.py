"""Pictures of one's own in a folder, with their captions in files beside them."""

from pathlib import Path

import datasets

from distilclip.sources.captions import (
    CAPTION_COLUMNS,
    caption_columns,
    clean_captions,
)
from distilclip.sources.skipping import refuse_or_skip, report_skipped
from distilclip.sources.splits import SPLITS, with_all_splits
from distilclip.storage.files import read_csv, read_json_lines, read_utf8
from distilclip.storage.pictures import IMAGE_SUFFIXES, find_fault, find_pictures


def load_folder(
    folder: str | Path, skip_broken: bool = False
) -> datasets.DatasetDict:
    """One's own pictures: folders train, validation, test, or one heap to split.

    Captions come from `metadata.csv` or `metadata.jsonl` (a column `file_name`, and
    `captions`, `caption`, `text` or `caption_0`, ...), else from a `.txt` beside
    each picture.
    """
    folder = Path(folder).expanduser()
    parts = {name: folder / name for name in SPLITS if (folder / name).is_dir()}
    if "train" not in parts:
        parts = {"train": folder}
    skipped = [] if skip_broken else None
    pairs = datasets.DatasetDict()
    for split, part in parts.items():
        found = read_metadata(part, skipped)
        found = read_text_files(part, skipped) if found is None else found
        if skipped is not None:
            for path in list(found):
                fault = find_fault({"path": str(path), "bytes": None})
                if fault:
                    skipped.append(f"{path}: {fault}")
                    del found[path]
        if not found:
            report_skipped(skipped, folder)
            raise ValueError(
                f"No captioned pictures in {part}: expected pictures "
                f"({', '.join(sorted(IMAGE_SUFFIXES))}) with a .txt beside each, "
                "or a metadata.csv or metadata.jsonl."
            )
        columns = {
            "image": [str(path) for path in found],
            "captions": list(found.values()),
            "image_id": [path.relative_to(folder).as_posix() for path in found],
        }
        rows = datasets.Dataset.from_dict(columns)
        pairs[split] = rows.cast_column("image", datasets.Image())
    report_skipped(skipped, folder)
    return with_all_splits(pairs, folder)


def read_text_files(
    folder: Path, skipped: list[str] | None = None
) -> dict[Path, list[str]]:
    """Captions from the `.txt` beside each picture, one a line."""
    pictures, closed = find_pictures(folder)
    for error in closed:
        refuse_or_skip(error, skipped)
    found = {}
    for path in (folder / name for name in pictures):
        text = path.with_suffix(".txt")
        try:
            check_name(path.name, f"in {path.parent}")
            if not text.is_file():
                raise ValueError(
                    f"{path} has no captions: expected {text.name} beside it, "
                    f"or a metadata.csv or metadata.jsonl in {folder}."
                )
            lines = [line for line in read_utf8(text).splitlines() if line.strip()]
            found[path] = clean_captions(lines, str(text))
        except ValueError as error:
            refuse_or_skip(error, skipped)
    return found


def read_metadata(
    folder: Path, skipped: list[str] | None = None
) -> dict[Path, list[str]] | None:
    """Captions from `metadata.csv` or `metadata.jsonl`, None where there is none.

    A picture that several entries name has the captions of all of them.
    """
    file = folder / "metadata.csv"
    if file.is_file():
        entries = read_csv(file)
    else:
        file = folder / "metadata.jsonl"
        if not file.is_file():
            return None
        entries = read_json_lines(file)
    found = {}
    for number, entry in enumerate(entries, start=1):
        try:
            path, captions = read_entry(entry, folder, f"entry {number} of {file}")
        except (ValueError, OSError) as error:
            refuse_or_skip(error, skipped)
        else:
            found[path] = list(dict.fromkeys([*found.get(path, []), *captions]))
    return found


def read_entry(entry: dict, folder: Path, where: str) -> tuple[Path, list[str]]:
    """The picture and the captions of one entry, at `where` in the metadata.

    Raises ValueError for a picture outside `folder`, FileNotFoundError for one that
    is missing.
    """
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if not name or not isinstance(name, str):
        raise ValueError(f"No file_name in {where}.")
    check_name(name, f"in {where}")
    try:
        resolved = (folder / name).resolve()
    except (OSError, RuntimeError):  # RuntimeError up to Python 3.12: a circle
        raise ValueError(
            f"{name!r} in {where} is a link that leads nowhere."
        ) from None
    if folder.resolve() not in resolved.parents:
        raise ValueError(f"{name!r} in {where} lies outside {folder}.")
    if not resolved.is_file():
        raise FileNotFoundError(f"{name!r} in {where} does not exist in {folder}.")
    columns = caption_columns(entry)
    if not columns:
        raise ValueError(
            f"No caption in {where}: expected {', '.join(CAPTION_COLUMNS)}."
        )
    captions = [entry[column] for column in columns]
    captions = captions[0] if isinstance(captions[0], list) else captions
    path = folder / resolved.relative_to(folder.resolve())
    return path, clean_captions(captions, where)


def check_name(name: str, where: str) -> None:
    """Raise ValueError for a name that is no text, or that no file can have."""
    if "\0" in name or any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        raise ValueError(
            f"The file name {name!a} {where} is not valid text: rename the file."
        )

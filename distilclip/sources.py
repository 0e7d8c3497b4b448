"""Where pairs come from: one reader for each kind of source that `load_pairs` knows.

Each returns a `datasets.DatasetDict` with the columns `image`, `captions` and `image_id`, or
raises an error whose text says which file, row or column is at fault.
"""

import csv
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet

from distilclip.scenes import draw_scenes

EMOJI_FILE = Path(__file__).parent / "emoji" / "emoji.parquet"
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
CAPTION_COLUMNS = ("captions", "caption", "text", "sentences", "sentence")
SPLITS = ("train", "validation", "test")


def load_emoji() -> datasets.DatasetDict:
    """The embedded data set, one row a drawing; its `split` column says where a row belongs."""
    table = pyarrow.parquet.read_table(EMOJI_FILE)
    rows = datasets.Dataset(datasets.table.InMemoryTable(table))
    split_of_row = np.array(rows["split"])
    return datasets.DatasetDict(
        {
            split: rows.select(np.flatnonzero(split_of_row == split)).remove_columns("split")
            for split in (*SPLITS, "test_concepts")
        }
    )


def load_scenes(train: int = 3000, test: int = 500, seed: int = 0) -> datasets.DatasetDict:
    """Composed drawings: `train` scenes, and `test` for each of the other splits."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "captions": datasets.List(datasets.Value("string")),
            "image_id": datasets.Value("string"),
            "first": datasets.Value("string"),
            "relation": datasets.Value("string"),
            "second": datasets.Value("string"),
        }
    )
    sizes = {"train": train, "validation": test, "test": test, "test_combinations": test}
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list(
                draw_scenes(count, f"{seed}/{split}", held_out=split == "test_combinations"),
                features=features,
            )
            for split, count in sizes.items()
        }
    )


def load_hub(name: str | Path) -> datasets.DatasetDict:
    """A data set of the Hub, or a local folder of the same layout, with its columns renamed."""
    try:
        loaded = datasets.load_dataset(str(name))
    except (OSError, datasets.exceptions.DatasetNotFoundError) as error:
        raise FileNotFoundError(
            f"Cannot get the data set {str(name)!r} from the Hugging Face Hub "
            f"({type(error).__name__}). Check the name and the network; 'emoji' and 'scenes' "
            "work offline."
        ) from None
    pairs = datasets.DatasetDict()
    for split, rows in loaded.items():
        image_column = find_image_column(rows, name)
        captions = gather_captions(rows, name)
        ids = [f"{split}/{row}" for row in range(len(rows))]
        pairs[split] = (
            rows.select_columns([image_column])
            .rename_columns({image_column: "image"} if image_column != "image" else {})
            .add_column("captions", captions)
            .add_column("image_id", ids)
        )
    return with_all_splits(pairs, name)


def find_image_column(rows: datasets.Dataset, name: str | Path) -> str:
    """The one column of images; ValueError names the columns where there is none."""
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            return column
    raise ValueError(f"{name} has no column of images among {', '.join(rows.column_names)}.")


def gather_captions(rows: datasets.Dataset, name: str | Path) -> list[list[str]]:
    """Each row's captions, from a column of lists or strings, or from caption_0, caption_1, ..."""
    numbered = sorted(c for c in rows.column_names if c.startswith("caption_"))
    columns = numbered or [c for c in CAPTION_COLUMNS if c in rows.column_names][:1]
    if not columns:
        raise ValueError(
            f"{name} has no captions: expected a column called {', '.join(CAPTION_COLUMNS)} or "
            f"caption_0, caption_1, ...; found {', '.join(rows.column_names)}."
        )
    captions = []
    for row, values in enumerate(zip(*(rows[column] for column in columns), strict=True)):
        values = values[0] if isinstance(values[0], list) else values
        captions.append(clean_captions(values, f"row {row} of {name}"))
    return captions


def clean_captions(captions: Iterable[str | None], where: str) -> list[str]:
    """Captions without surrounding space; ValueError where one is empty or there is none."""
    cleaned = [" ".join(str(caption or "").split()) for caption in captions]
    if not cleaned or not all(cleaned):
        raise ValueError(f"Empty caption: {where}. Write one, or take the picture out.")
    return cleaned


def load_folder(folder: str | Path) -> datasets.DatasetDict:
    """Pictures of one's own: sub-folders train, validation, test, or one heap that is split.

    Captions come from `metadata.csv` or `metadata.jsonl` (a column `file_name`, and `captions`,
    `caption`, `text` or `caption_0`, ...), else from a `.txt` beside each picture.
    """
    folder = Path(folder).expanduser()
    parts = {name: folder / name for name in SPLITS if (folder / name).is_dir()}
    if "train" not in parts:
        parts = {"train": folder}
    pairs = datasets.DatasetDict()
    for split, part in parts.items():
        found = read_metadata(part) or read_text_files(part)
        if not found:
            raise ValueError(
                f"No captioned pictures in {part}: expected pictures "
                f"({', '.join(sorted(IMAGE_SUFFIXES))}) with a .txt beside each, or a "
                "metadata.csv or metadata.jsonl."
            )
        pairs[split] = datasets.Dataset.from_dict(
            {
                "image": [str(path) for path in found],
                "captions": list(found.values()),
                "image_id": [path.relative_to(folder).as_posix() for path in found],
            }
        ).cast_column("image", datasets.Image())
    return with_all_splits(pairs, folder)


def picture_files(folder: Path) -> list[Path]:
    """Every picture below `folder`, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_text_files(folder: Path) -> dict[Path, list[str]]:
    """Captions from the `.txt` beside each picture, one a line."""
    found = {}
    for path in picture_files(folder):
        text = path.with_suffix(".txt")
        if not text.is_file():
            raise ValueError(
                f"{path} has no captions: expected {text.name} beside it, or a metadata.csv or "
                f"metadata.jsonl in {folder}."
            )
        lines = [line for line in read_utf8(text).splitlines() if line.strip()]
        found[path] = clean_captions(lines, str(text))
    return found


def read_metadata(folder: Path) -> dict[Path, list[str]]:
    """Captions from `metadata.csv` or `metadata.jsonl`; nothing where there is neither."""
    if (folder / "metadata.csv").is_file():
        file = folder / "metadata.csv"
        rows = list(csv.DictReader(read_utf8(file).splitlines()))
    elif (folder / "metadata.jsonl").is_file():
        file = folder / "metadata.jsonl"
        try:
            rows = [json.loads(line) for line in read_utf8(file).splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} has a line that is not JSON: {error}.") from None
    else:
        return {}
    found = {}
    for number, row in enumerate(rows, start=1):
        where = f"entry {number} of {file}"
        if not isinstance(row, dict) or not row.get("file_name"):
            raise ValueError(f"No file_name in {where}.")
        path = folder / row["file_name"]
        if folder.resolve() not in path.resolve().parents:
            raise ValueError(f"{row['file_name']!r} in {where} lies outside {folder}.")
        if not path.is_file():
            raise FileNotFoundError(f"{row['file_name']!r} in {where} does not exist in {folder}.")
        numbered = sorted(column for column in row if column and column.startswith("caption_"))
        columns = numbered or [column for column in CAPTION_COLUMNS if column in row][:1]
        if not columns:
            raise ValueError(f"No caption in {where}: expected {', '.join(CAPTION_COLUMNS)}.")
        captions = [row[column] for column in columns]
        captions = captions[0] if isinstance(captions[0], list) else captions
        found.setdefault(path, []).extend(clean_captions(captions, where))
    return found


def read_utf8(path: Path) -> str:
    """The text of a file; ValueError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8.") from None


def with_all_splits(pairs: datasets.DatasetDict, name: str | Path) -> datasets.DatasetDict:
    """Draw the splits that are missing from `train`: a tenth each, at least one picture.

    Which pictures is decided by a hash of their ids, so it is the same on every machine.
    """
    missing = [split for split in ("validation", "test") if split not in pairs]
    if "train" not in pairs:
        raise ValueError(f"{name} has no split called train, only {', '.join(pairs)}.")
    rows = pairs["train"]
    if len(rows) <= len(missing):
        raise ValueError(
            f"{name} has {len(rows)} captioned pictures; at least {len(missing) + 1} are needed "
            "to set some aside for validation and test."
        )
    keys = [hashlib.sha256(image_id.encode()).digest() for image_id in rows["image_id"]]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    share = max(1, len(rows) // 10)
    for split in missing:
        pairs[split] = rows.select(sorted(order[:share]))
        order = order[share:]
    pairs["train"] = rows.select(sorted(order)) if missing else rows
    return pairs

"""Where pairs come from: one reader for each kind of source that `load_pairs` knows.

Each returns a `datasets.DatasetDict` with the columns `image`, `captions` and `image_id`, or
raises an error whose text says which file, row or column is at fault. With `skip_broken`, a
picture or caption at fault is left out instead, and every one of them is listed in a warning.
"""

import bisect
import csv
import hashlib
import io
import json
import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
from PIL import Image, UnidentifiedImageError

from distilclip.hub import offline_without_network
from distilclip.scenes import draw_scenes

EMOJI_FILE = Path(__file__).parent / "emoji" / "emoji.parquet"
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
CAPTION_COLUMNS = ("captions", "caption", "text", "sentences", "sentence")
SPLITS = ("train", "validation", "test")
LOG = logging.getLogger(__name__)


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


def load_hub(name: str | Path, skip_broken: bool = False) -> datasets.DatasetDict:
    """A data set of the Hub, or a local folder of the same layout, with its columns renamed."""
    try:
        with offline_without_network(name):
            loaded = datasets.load_dataset(str(name))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, OSError) and not Path(name).is_dir():
            raise FileNotFoundError(
                f"Cannot get the data set {str(name)!r} from the Hugging Face Hub "
                f"({type(error).__name__}). Check the name and the network; 'emoji' and 'scenes' "
                "work offline."
            ) from None
        cause = " ".join(str(error.__cause__ or error).split()).rstrip(".!")
        raise ValueError(f"Cannot read the data set {name}: {cause[:300]}.") from None
    skipped = [] if skip_broken else None
    pairs = datasets.DatasetDict()
    for split, rows in loaded.items():
        image_column = find_image_column(rows, name)
        captions = gather_captions(rows, name, skipped)
        if skipped is not None:
            images = rows.select_columns([image_column])
            for row, value in enumerate(images.cast_column(image_column, UNDECODED)):
                fault = captions[row] and find_fault(value[image_column])
                if fault:
                    skipped.append(f"row {row} of {split}: {fault}")
                    captions[row] = None
        kept = [row for row, texts in enumerate(captions) if texts]
        pairs[split] = (
            rows.select(kept)
            .select_columns([image_column])
            .rename_columns({image_column: "image"} if image_column != "image" else {})
            .add_column("captions", [captions[row] for row in kept])
            .add_column("image_id", [f"{split}/{row}" for row in kept])
        )
    report_skipped(skipped, name)
    return with_all_splits(pairs, name)


def find_image_column(rows: datasets.Dataset, name: str | Path) -> str:
    """The one column of images; ValueError names the columns where there is none."""
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            return column
    raise ValueError(f"{name} has no column of images among {', '.join(rows.column_names)}.")


def gather_captions(
    rows: datasets.Dataset, name: str | Path, skipped: list[str] | None = None
) -> list[list[str] | None]:
    """Each row's captions, from a column of lists or strings, or from caption_0, caption_1, ...

    A row whose captions are at fault raises ValueError, or, where there is a list `skipped`, is
    added to that and gets None.
    """
    columns = caption_columns(rows.column_names)
    if not columns:
        raise ValueError(
            f"{name} has no captions: expected a column called {', '.join(CAPTION_COLUMNS)} or "
            f"caption_0, caption_1, ...; found {', '.join(rows.column_names)}."
        )
    try:
        values_of_rows = list(zip(*(rows[column] for column in columns), strict=True))
    except UnicodeDecodeError:
        raise ValueError(
            f"{name} has captions that are not UTF-8 text: save it as UTF-8."
        ) from None
    captions = []
    for row, values in enumerate(values_of_rows):
        values = values[0] if isinstance(values[0], list) else values
        try:
            captions.append(clean_captions(values, f"row {row} of {name}"))
        except ValueError as error:
            refuse_or_skip(error, skipped)
            captions.append(None)
    return captions


def caption_columns(names: Iterable[str | None]) -> list[str]:
    """The columns of captions among `names`: caption_0, caption_1, ..., or one of a known name."""
    names = [name for name in names if name]
    numbered = sorted(name for name in names if name.startswith("caption_"))
    return numbered or [name for name in CAPTION_COLUMNS if name in names][:1]


def clean_captions(captions: Iterable[str | None], where: str) -> list[str]:
    """Captions without control characters and needless space.

    Raises ValueError where there is none, or one that is empty, no text or no valid Unicode.
    """
    cleaned = []
    for caption in captions:
        if caption is not None and not isinstance(caption, str):
            raise ValueError(f"A caption is a {type(caption).__name__}, not text: {where}.")
        text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in caption or "")
        text = " ".join(text.split())
        if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
            raise ValueError(f"A caption holds half a character (a lone surrogate): {where}.")
        cleaned.append(text)
    if not cleaned or not all(map(is_visible, cleaned)):
        raise ValueError(f"Empty caption: {where}. Write one, or take the picture out.")
    return cleaned


def is_visible(text: str) -> bool:
    """Whether there is more to `text` than spaces and marks without a shape."""
    return any(unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Zs") for c in text)


def load_folder(folder: str | Path, skip_broken: bool = False) -> datasets.DatasetDict:
    """Pictures of one's own: sub-folders train, validation, test, or one heap that is split.

    Captions come from `metadata.csv` or `metadata.jsonl` (a column `file_name`, and `captions`,
    `caption`, `text` or `caption_0`, ...), else from a `.txt` beside each picture.
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
            faults = {path: find_fault({"path": str(path), "bytes": None}) for path in found}
            skipped += [f"{path}: {fault}" for path, fault in faults.items() if fault]
            found = {path: found[path] for path in found if not faults[path]}
        if not found:
            report_skipped(skipped, folder)
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
    report_skipped(skipped, folder)
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


def read_text_files(folder: Path, skipped: list[str] | None = None) -> dict[Path, list[str]]:
    """Captions from the `.txt` beside each picture, one a line."""
    found = {}
    for path in picture_files(folder):
        text = path.with_suffix(".txt")
        try:
            check_name(path.name, f"in {path.parent}")
            if not text.is_file():
                raise ValueError(
                    f"{path} has no captions: expected {text.name} beside it, or a metadata.csv "
                    f"or metadata.jsonl in {folder}."
                )
            lines = [line for line in read_utf8(text).splitlines() if line.strip()]
            found[path] = clean_captions(lines, str(text))
        except ValueError as error:
            refuse_or_skip(error, skipped)
    return found


def read_metadata(folder: Path, skipped: list[str] | None = None) -> dict[Path, list[str]] | None:
    """Captions from `metadata.csv` or `metadata.jsonl`; None where there is neither.

    A picture that several entries name has the captions of all of them.
    """
    file = folder / "metadata.csv"
    if file.is_file():
        entries = parse_csv(file)
    else:
        file = folder / "metadata.jsonl"
        if not file.is_file():
            return None
        entries = parse_json_lines(file)
    found = {}
    for number, entry in enumerate(entries, start=1):
        try:
            path, captions = read_entry(entry, folder, f"entry {number} of {file}")
        except (ValueError, OSError) as error:
            refuse_or_skip(error, skipped)
        else:
            found[path] = list(dict.fromkeys([*found.get(path, []), *captions]))
    return found


def parse_csv(file: Path) -> list[dict]:
    """The rows of a table; ValueError where it cannot be read as one."""
    try:
        return list(csv.DictReader(io.StringIO(read_utf8(file), newline="")))
    except csv.Error as error:
        raise ValueError(f"{file} cannot be read as a table: {error}.") from None


def parse_json_lines(file: Path) -> list[dict]:
    """What the lines of a file hold; ValueError where one is not JSON."""
    try:
        return [json.loads(line) for line in read_utf8(file).split("\n") if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} has a line that is not JSON: {error}.") from None


def read_entry(entry: dict, folder: Path, where: str) -> tuple[Path, list[str]]:
    """The picture and the captions of one entry of the metadata, which stands at `where`.

    Raises ValueError for a picture outside `folder`, FileNotFoundError for one that is missing.
    """
    name = entry.get("file_name") if isinstance(entry, dict) else None
    if not name or not isinstance(name, str):
        raise ValueError(f"No file_name in {where}.")
    check_name(name, f"in {where}")
    try:
        resolved = (folder / name).resolve()
    except (OSError, RuntimeError):  # RuntimeError: Python 3.12 and older, for links in a circle
        raise ValueError(f"{name!r} in {where} is a link that leads nowhere.") from None
    if folder.resolve() not in resolved.parents:
        raise ValueError(f"{name!r} in {where} lies outside {folder}.")
    if not resolved.is_file():
        raise FileNotFoundError(f"{name!r} in {where} does not exist in {folder}.")
    columns = caption_columns(entry)
    if not columns:
        raise ValueError(f"No caption in {where}: expected {', '.join(CAPTION_COLUMNS)}.")
    captions = [entry[column] for column in columns]
    captions = captions[0] if isinstance(captions[0], list) else captions
    return folder / resolved.relative_to(folder.resolve()), clean_captions(captions, where)


def check_name(name: str, where: str) -> None:
    """ValueError for the name of a file that is no text, or that no file can have."""
    if "\0" in name or any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        raise ValueError(f"The file name {name!a} {where} is not valid text: rename the file.")


def read_utf8(path: Path) -> str:
    """The text of a file; ValueError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as UTF-8.") from None


UNDECODED = datasets.Image(decode=False)


def find_fault(image: dict | None) -> str | None:
    """Why an image, undecoded as `datasets` keeps it, cannot be decoded; None where it can."""
    try:
        decode_image(image)
    except ValueError as error:
        return str(error)
    return None


def decode_image(image: dict | None) -> Image.Image:
    """An image from its `bytes`, or from the file at its `path`; ValueError says why not."""
    if image is None:
        raise ValueError("there is no image")
    try:
        return datasets.Image().decode_example(image)
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise ValueError(why_undecodable(error)) from None


def why_undecodable(error: Exception) -> str:
    """What an error of Pillow means, as a part of a sentence."""
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, or in no image format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return "it is so large (a decompression bomb?) that Pillow refuses it"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def refuse_or_skip(error: Exception, skipped: list[str] | None) -> None:
    """Raise `error`, or, where there is a list `skipped`, add its text to that."""
    if skipped is None:
        raise error
    skipped.append(str(error))


def report_skipped(skipped: list[str] | None, name: str | Path) -> None:
    """Say in a warning how many entries of a source were left out, and which."""
    if skipped:
        lines = "".join(f"\n  {line}" for line in skipped)
        LOG.warning("Skipped %d of the pictures in %s:%s", len(skipped), name, lines)


def hash_of_id(image_id: str) -> float:
    """A number in [0, 1) that depends on a picture's id alone, and looks drawn at random."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:6], "big") / 2**48


def with_all_splits(pairs: datasets.DatasetDict, name: str | Path) -> datasets.DatasetDict:
    """Draw the splits that are missing from `train`: about a tenth each, at least one picture.

    A hash of a picture's own id decides: it falls into the same split on every machine, and also
    when other pictures join the data set or are left out as broken. (Only where a split would get
    none, it takes the picture whose hash is nearest.)
    """
    missing = [split for split in ("validation", "test") if split not in pairs]
    if "train" not in pairs:
        raise ValueError(f"{name} has no split called train, only {', '.join(pairs)}.")
    for split, rows in pairs.items():
        if len(rows) == 0:
            raise ValueError(f"The split {split!r} of {name} is empty: no captioned picture in it.")
    rows = pairs["train"]
    if len(rows) <= len(missing):
        pictures = "1 captioned picture" if len(rows) == 1 else f"{len(rows)} captioned pictures"
        raise ValueError(
            f"{name} has {pictures}; at least {len(missing) + 1} are needed to set some aside "
            f"for {' and '.join(missing)}."
        )
    places = [hash_of_id(image_id) for image_id in rows["image_id"]]
    order = sorted(range(len(rows)), key=places.__getitem__)
    taken = 0
    for number, split in enumerate(missing, start=1):
        end = bisect.bisect_left(order, number / 10, key=places.__getitem__)
        end = min(max(end, taken + 1), len(rows) - 1 - len(missing) + number)
        pairs[split] = rows.select(sorted(order[taken:end]))
        taken = end
    pairs["train"] = rows.select(sorted(order[taken:])) if missing else rows
    return pairs

"""Rows of pictures and captions: of the Hub, of parquet files, saved, in memory.

They stay where they are. Only undecoded bytes are looked at, a batch at a time, and
what is joined or left out is left out by its row's number.
"""

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.exceptions import DatasetsError
from datasets.table import InMemoryTable

from distilclip.sources.arrays import UNDECODED, encode_all, is_blank
from distilclip.sources.captions import captions_or_blank
from distilclip.sources.columns import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    Columns,
    best_named,
    choose_columns,
    find_column,
    known_split,
    listed,
    report_left_texts,
    report_unheeded,
    split_by_cells,
    the_only,
)
from distilclip.sources.entries import FEATURES, Asked, Entry
from distilclip.sources.joining import (
    Files,
    Picture,
    digest,
    first_alike,
    join_rows,
    pairs_of,
    part_digest,
    refuse_blanks,
)
from distilclip.sources.places import Place
from distilclip.sources.skipping import SKIP, refuse_or_skip, report_skipped
from distilclip.sources.split_folders import splits_by_folder
from distilclip.sources.splits import (
    SPLITS,
    looks_like_split,
    split_name,
    with_all_splits,
)
from distilclip.sources.summary import report
from distilclip.sources.tables import cell_of_picture, word_of_split
from distilclip.storage.files import is_file
from distilclip.storage.hub import looks_like_hub_id, offline_without_network
from distilclip.storage.pictures import find_fault

BATCH = 1000  # rows looked at together
# What libraries raise for files that are strange, the last ones by mistake
BY_MISTAKE = (
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    UnicodeDecodeError,
)
UNREADABLE = (
    *(OSError, ValueError, RuntimeError, DatasetsError, pa.ArrowException),
    *BY_MISTAKE,
)


def load_hub(name: str, asked: Asked | None = None) -> datasets.DatasetDict:
    """The pairs of a data set of the Hub.

    Raises ValueError for what cannot be the name of one, FileNotFoundError for one
    that cannot be had.
    """
    if name.count("/") != 1 or not looks_like_hub_id(name):
        raise ValueError(
            f"Unknown data source {name!r}: there is no folder and no file of that "
            "name here. Give emoji, scenes, flickr8k, naruto, a folder of pictures "
            "with captions, a table, or a Hub id such as jxie/flickr8k."
        )
    try:
        with offline_without_network(name):
            loaded = datasets.load_dataset(name)
    except UNREADABLE as error:
        if isinstance(error, OSError):
            raise FileNotFoundError(
                f"Cannot get the data set {name!r}: there is no folder and no file "
                "of that name here, and the Hugging Face Hub gave none "
                f"({type(error).__name__}). Check the name and the network; "
                "'emoji' and 'scenes' work offline."
            ) from None
        raise unreadable(name, error) from None
    return pairs_of_rows(loaded, name, asked or Asked())


def unreadable(name: str | Path, error: Exception) -> ValueError:
    """The sentence for a data set that a library could not read."""
    first = error.__cause__ or error
    cause = " ".join(str(first).split()).rstrip(".!")
    if isinstance(first, BY_MISTAKE):
        cause = "what it says of itself is not what it should be"
    return ValueError(f"Cannot read the data set {name}: {cause[:300]}.")


def load_saved(folder: Path, asked: Asked) -> datasets.DatasetDict:
    """The pairs of what `save_to_disk` of `datasets` wrote."""
    try:
        loaded = datasets.load_from_disk(str(folder))
    except UNREADABLE as error:
        raise unreadable(folder, error) from None
    return load_memory(loaded, asked, str(folder), Place(folder))


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote this folder."""
    parts = (folder / "state.json", folder / "dataset_info.json")
    whole = folder / "dataset_dict.json"
    return is_file(whole) or all(is_file(part) for part in parts)


def load_memory(
    data: Any,
    asked: Asked,
    name: str = "the data given",
    place: Place | None = None,
) -> datasets.DatasetDict:
    """The pairs of a Dataset, a DatasetDict or a pandas DataFrame.

    Raises ValueError for anything else.
    """
    place = place or Place(Path.cwd(), anywhere=True)
    if isinstance(data, datasets.DatasetDict):
        return pairs_of_rows(data, name, asked, place)
    if isinstance(data, datasets.Dataset):
        return pairs_of_rows({split_of_data(data, name): data}, name, asked, place)
    if type(data).__name__ == "DataFrame" and hasattr(data, "columns"):
        return pairs_of_rows({"": rows_of_frame(data, asked)}, name, asked, place)
    if isinstance(data, datasets.IterableDataset | datasets.IterableDatasetDict):
        raise ValueError(
            f"A {type(data).__name__} is read as it comes: train on it with "
            "streaming (`train(config, data=...)`), or load it without "
            "streaming=True."
        )
    kind = f"{type(data).__module__}.{type(data).__qualname__}"
    kind = "None" if data is None else kind.removeprefix("builtins.")
    raise ValueError(
        f"Cannot read pairs from {kind}: "
        "give a name, a path, a datasets.Dataset or DatasetDict, or a pandas "
        "DataFrame."
    )


def split_of_data(data: Any, name: str) -> str:
    """The split that a data set in memory says it is; "" for none, or for several.

    `split="test[:50%]"` is a part of test. Raises ValueError for one whose name
    begins as a split's does and is none, such as testA.
    """
    word = re.split(r"[\[(]", str(data.split or ""), maxsplit=1)[0]
    if "+" in str(data.split or "") or not looks_like_split(word):
        return ""
    if split_name(word) not in SPLITS:
        raise ValueError(
            f"{name.capitalize()} is the split {word!r}, which does not say what "
            "it is for: give a datasets.DatasetDict that calls it train, "
            "validation or test."
        )
    return split_name(word)


def rows_of_frame(frame: Any, asked: Asked) -> datasets.Dataset:
    """The rows of a pandas DataFrame, its pictures as undecoded bytes or paths."""
    names = [column for column in frame.columns if isinstance(column, str)]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"The DataFrame has several columns called {listed(twice)}."
        )
    if not names:
        raise ValueError(
            f"The columns of the DataFrame have no names: {listed(frame.columns)}."
        )
    if asked.image_column:
        image = find_column(asked.image_column, names, "the DataFrame", "image")
    else:
        fitting = [name for name in names if holds_values(frame[name])] or names
        best = best_named(fitting, IMAGE_COLUMNS)
        image = the_only(best, "the picture", "image", "the DataFrame")
    columns = {n: array_of_column(frame[n]) for n in names if n != image}
    if image:
        values, kept = encode_all(frame[image], "the DataFrame", asked)
        columns = {n: values_of.take(kept) for n, values_of in columns.items()}
        columns[image] = pa.array(values, UNDECODED.pa_type)
    rows = datasets.Dataset(InMemoryTable(pa.table(columns)))
    return rows.cast_column(image, UNDECODED) if image else rows


def array_of_column(column: Iterable[Any]) -> pa.Array:
    """A column of pandas as Arrow has it; values of many kinds become text."""
    values = [None if is_blank(value) else value for value in column]
    values = [v.tolist() if hasattr(v, "tolist") else v for v in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        texts = [None if is_blank(value) else as_text(value) for value in values]
        if any(isinstance(text, bytes) for text in texts):
            texts = [t.encode() if isinstance(t, str) else t for t in texts]
            return pa.array(texts, pa.binary())
        return pa.array(texts, pa.string())


def as_text(value: Any) -> str | bytes:
    """A value as text, lists and objects in JSON; bytes stay what they are."""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value if isinstance(value, str | bytes) else str(value)


def holds_values(column: Any) -> bool:
    """Whether a column of pandas holds pictures or bytes, rather than names."""
    first = next((value for value in column if not is_blank(value)), "")
    return not isinstance(first, str | Path)


def pairs_of_rows(
    splits: Mapping[Any, datasets.Dataset],
    name: str | Path,
    asked: Asked,
    place: Place | None = None,
) -> datasets.DatasetDict:
    """The pairs of rows that lie in the splits of a source, one row a picture.

    `place` says where files lie that the rows name; where there is none, files are
    where `datasets` put them.
    """
    if asked.delimiter:
        raise ValueError(f"{name} is no table of text: it has no delimiter.")
    plain = {split: rows.with_format(None) for split, rows in splits.items()}
    for split, rows in plain.items():
        if not len(rows):
            part = f"The split {split!r} of {name}" if split else str(name)
            raise ValueError(f"{part} is empty: it has no rows.")
    columns = {s: columns_of_rows(rows, name, asked) for s, rows in plain.items()}
    for split, rows in [*plain.items()][:1]:
        report_left_texts(columns[split], rows.column_names, asked, name)
    plain = {
        split: with_pictures(rows, columns[split].image, split, asked)
        for split, rows in plain.items()
    }
    if place and any(is_text(rows, columns[s].image) for s, rows in plain.items()):
        entries = (
            entry
            for split, rows in plain.items()
            for entry in entries_of_rows(rows, columns[split], place, split, asked)
        )
        return pairs_of(entries, name, asked)
    images: list[datasets.Dataset] = []
    captions: list[list[str] | None] = []
    blanks: dict[int, str] = {}
    words: list[str] = []
    for split, rows in plain.items():
        image, found = images_of_rows(rows, columns[split], place, split, asked)
        images.append(image)
        texts, without = captions_of_rows(rows, columns[split], name, asked)
        blanks |= {len(captions) + n: why for n, why in without.items() if found[n]}
        captions += [texts[n] if found[n] else None for n in range(len(rows))]
        words += words_of_rows(rows, columns[split], split)
    if not any(words):
        words = splits_by_folder(names_of_files(images), name)
    firsts = first_alike(keys_of_rows(images))
    ids = ids_of_rows(firsts, list(plain), images)
    if asked.skipped is not None:
        take_out_broken(images, firsts, captions, list(plain), asked.skipped)
    pictures = join_rows(firsts, captions, words, name)
    empty = ((firsts[row], why) for row, why in blanks.items())
    refuse_blanks(empty, pictures, asked, name)
    report_skipped(asked.skipped, name)
    named = [str(s) for s in plain if not columns[s].split]
    return select_pictures(images, pictures, ids, {*named, *words}, name)


def columns_of_rows(
    rows: datasets.Dataset, name: str | Path, asked: Asked
) -> Columns:
    """The columns of a data set; ValueError says what there is if one is missing.

    A column that is known to hold pictures comes before one that only has a name.
    """
    names = rows.column_names
    image = asked.image_column
    image = image and find_column(image, names, str(name), "image")
    kinds = (is_image, holds_bytes, holds_arrays, is_text)
    for kind in () if image else kinds:
        fitting = [column for column in names if kind(rows, column)]
        best = best_named(fitting, IMAGE_COLUMNS)
        if not best and kind in (is_image, holds_bytes):
            best = [
                c for c in fitting if kind is is_image or holds_picture(rows, c)
            ]
        image = the_only(best, "the picture", "image", str(name))
        if image:
            break
    if not image:
        raise ValueError(
            f"{name} has no column of images among {listed(names)}. Name it with "
            "--image-column, in Python image_column."
        )
    columns = choose_columns(names, replace(asked, image_column=image), str(name))
    if not columns.captions:
        usual = ", ".join(sum(CAPTION_COLUMNS, ()))
        raise ValueError(
            f"{name} has no captions: expected a column called {usual} or "
            f"caption_0, caption_1, ...; found {listed(names)}. Name it with "
            "--caption-column, in Python caption_column."
        )
    if columns.split:
        return columns
    taken = [image, *columns.captions]
    kinds = [c for c in names if c not in taken and may_say_split(rows, c)]
    words = [words_in(rows, column) for column in kinds]
    split = split_by_cells(kinds, (), lambda: zip(*words, strict=True), str(name))
    if not split:
        rest = [c for c in names if c not in (*taken, *kinds)]
        report_unheeded(rest, str(name))
    return columns._replace(split=split)


def may_say_split(rows: datasets.Dataset, column: str) -> bool:
    """Whether a column may say the split: its first word is one for a split."""
    is_label = isinstance(rows.features[column], datasets.ClassLabel)
    if not is_label and not is_text(rows, column):
        return False
    first = words_in(rows.select([0]), column)
    return bool(known_split(first[0]))


def is_image(rows: datasets.Dataset, column: str) -> bool:
    """Whether `datasets` knows that a column holds pictures."""
    return isinstance(rows.features[column], datasets.Image)


def holds_bytes(rows: datasets.Dataset, column: str) -> bool:
    """Whether a column holds bytes, or bytes beside a path, as pandas writes."""
    kind = rows.features.arrow_schema.field(column).type
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def holds_arrays(rows: datasets.Dataset, column: str) -> bool:
    """Whether a column holds numbers in lists, as arrays become in `datasets`."""
    kind = rows.features[column]
    if hasattr(kind, "shape"):  # Array2D and the like
        return True
    depth = 0
    while hasattr(kind, "feature"):
        kind, depth = kind.feature, depth + 1
    dtype = str(getattr(kind, "dtype", ""))
    return depth > 0 and dtype.startswith(("int", "uint", "float", "bool"))


def with_pictures(
    rows: datasets.Dataset, column: str, split: object, asked: Asked
) -> datasets.Dataset:
    """The rows with undecoded pictures where the column `column` has arrays."""
    if not holds_arrays(rows, column):
        return rows
    arrays = rows.select_columns([column]).with_format("numpy")
    values = (row[column] for row in arrays)  # type: ignore
    pictures, kept = encode_all(values, str(split or "the table"), asked)
    others = rows.select(kept).remove_columns([column])
    return others.add_column(column, pictures, feature=UNDECODED)


def holds_picture(rows: datasets.Dataset, column: str) -> bool:
    """Whether the first bytes in a column of them are those of a picture."""
    for content in rows.select_columns([column])[column]:
        content = content.get("bytes") if isinstance(content, dict) else content
        if content:
            return find_fault({"bytes": content, "path": None}) is None
    return False


def is_text(rows: datasets.Dataset, column: str) -> bool:
    """Whether a column holds text, such as the names of files."""
    kind = rows.features.arrow_schema.field(column).type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def arrow_batches(
    rows: datasets.Dataset, columns: Iterable[str]
) -> Iterator[tuple[int, pa.Table]]:
    """Some columns of a data set as Arrow has them, a batch of rows at a time."""
    chosen = rows.select_columns(list(columns)).with_format("arrow")
    for start in range(0, len(chosen), BATCH):
        yield start, chosen[start : start + BATCH]


def captions_of_rows(
    rows: datasets.Dataset,
    columns: Columns,
    name: str | Path,
    asked: Asked,
) -> tuple[list[list[str] | None], dict[int, str]]:
    """Each row's captions, and a sentence for each that is blank.

    A row whose captions are at fault raises ValueError, or, where there is a list
    `skipped`, is added to that and gets None.
    """
    captions: list[list[str] | None] = []
    blanks: dict[int, str] = {}
    try:
        for start, table in arrow_batches(rows, columns.captions):
            cells = [table[column].to_pylist() for column in columns.captions]
            for row, values in enumerate(zip(*cells, strict=True), start=start):
                try:
                    where = f"row {row} of {name}"
                    texts, blank = captions_or_blank(values, where)
                    captions.append(texts)
                    if blank:
                        blanks[row] = blank
                except ValueError as error:
                    if isinstance(error, UnicodeDecodeError):
                        raise
                    refuse_or_skip(error, asked.skipped)
                    captions.append(None)
    except UnicodeDecodeError:
        raise ValueError(
            f"{name} has captions that are not UTF-8 text: save it as UTF-8."
        ) from None
    return captions, blanks


def words_of_rows(
    rows: datasets.Dataset, columns: Columns, split: object
) -> list[str]:
    """The source's word for each row's split: its column's, or that of all."""
    if not columns.split:
        return [str(split)] * len(rows)
    return [word or str(split) for word in words_in(rows, columns.split)]


def words_in(rows: datasets.Dataset, column: str) -> list[str]:
    """The cells of a column as words; labels by their names."""
    cells, label = rows[column], rows.features[column]
    if isinstance(label, datasets.ClassLabel):
        return [label.names[n] if n is not None and n >= 0 else "" for n in cells]
    return [word_of_split(cell) for cell in cells]


def entries_of_rows(
    rows: datasets.Dataset,
    columns: Columns,
    place: Place,
    split: object,
    asked: Asked,
) -> Iterator[Entry]:
    """The entries of rows that name files."""
    names = [columns.image, *columns.captions, *filter(None, [columns.split])]
    for start, table in arrow_batches(rows, dict.fromkeys(names)):
        for row, cells in enumerate(table.to_pylist(), start=start):
            where = f"row {row} of {split or 'the table'}"
            try:
                file = cell_of_picture(cells[columns.image], where)
                path, image_id = place.find(file, f"in {where}")
                texts = [cells[column] for column in columns.captions]
                captions, blank = captions_or_blank(texts, where)
            except (ValueError, OSError) as error:
                refuse_or_skip(error, asked.skipped)
            else:
                word = word_of_split(cells[columns.split]) if columns.split else ""
                yield Entry(path, captions, image_id, word or str(split), blank)


def images_of_rows(
    rows: datasets.Dataset,
    columns: Columns,
    place: Place | None,
    split: object,
    asked: Asked,
) -> tuple[datasets.Dataset, list[bool]]:
    """The undecoded pictures as the column `image`, and which rows are in order.

    Files that rows name instead of holding them are looked for in `place`.
    """
    image = rows.select_columns([columns.image])
    try:
        image = image.cast_column(columns.image, UNDECODED)
    except (pa.ArrowException, TypeError, ValueError):
        kind = str(rows.data.schema.field(columns.image).type)
        raise ValueError(
            f"The column {columns.image!r} of {split or 'the table'} holds no "
            f"pictures: it is of the type {kind[:80]}."
        ) from None
    if columns.image != "image":
        image = image.rename_column(columns.image, "image")
    fine = rows_with_picture(image, split, asked)
    if place is None or not len(rows):
        return image, fine
    chunks, is_named = [], False
    for start, content, path in image_chunks(image):
        names = path.to_pylist()
        for number in np.flatnonzero(np.invert(fine[start : start + len(names)])):
            is_named, names[number] = True, None  # nobody shall open it
        for number in np.flatnonzero(is_null(content)):
            if names[number] is None:
                continue
            is_named = True
            where = f"in row {start + number} of {split or 'the table'}"
            try:
                names[number] = place.find(names[number], where)[0]
            except (ValueError, OSError) as error:
                refuse_or_skip(error, asked.skipped)
                fine[start + number] = False
                names[number] = None  # nobody shall open it
        found = pa.array(names, pa.string())
        chunks.append(
            pa.StructArray.from_arrays([content, found], ["bytes", "path"])
        )
    if not is_named:
        return image, fine
    table = InMemoryTable(pa.table({"image": pa.chunked_array(chunks)}))
    return datasets.Dataset(table).cast_column("image", UNDECODED), fine


def rows_with_picture(
    image: datasets.Dataset, split: object, asked: Asked
) -> list[bool]:
    """Which rows have a picture, or name one; raises ValueError for the others.

    A failed download, say, leaves a row with its caption and no picture.
    """
    fine = [True] * len(image)
    for start, content, path in image_chunks(image):
        names = pc.fill_null(pc.binary_length(path), 0)  # type: ignore[attr-defined]
        sizes = pc.coalesce(pc.binary_length(content), names)  # type: ignore[attr-defined]
        is_empty = pc.equal(sizes, 0)  # type: ignore[attr-defined]
        for number in np.flatnonzero(is_empty.to_numpy(zero_copy_only=False)):
            row = start + int(number)
            error = ValueError(
                f"There is no picture in row {row} of {split or 'the table'}, its "
                f"cell is empty: put one there, take the row out, or {SKIP}."
            )
            refuse_or_skip(error, asked.skipped)
            fine[row] = False
    return fine


def image_chunks(
    image: datasets.Dataset,
) -> Iterator[tuple[int, pa.Array, pa.Array]]:
    """The bytes and paths in the column `image`: views of some rows at a time."""
    for start, table in arrow_batches(image, ["image"]):
        for chunk in table["image"].chunks:
            content = pc.struct_field(chunk, "bytes")  # type: ignore[attr-defined]
            path = pc.struct_field(chunk, "path")  # type: ignore[attr-defined]
            yield start, content, path
            start += len(chunk)


def names_of_files(images: Sequence[datasets.Dataset]) -> list[str]:
    """The file that each row names instead of holding a picture, "" for others."""
    names: list[str] = []
    for image in images:
        for _, content, path in image_chunks(image):
            held = ~is_null(content)
            found = path.to_pylist()
            names += [
                "" if h else n or "" for h, n in zip(held, found, strict=True)
            ]
    return names


def is_null(array: pa.Array) -> np.ndarray:
    """Which values of an array are missing."""
    return array.is_null().to_numpy(zero_copy_only=False)


def keys_of_rows(images: Sequence[datasets.Dataset]) -> list[Hashable | None]:
    """A key for each row, the same where the undecoded bytes are; None without any.

    Bytes are hashed where their number is not unlike that of all others.
    """
    files, sizes, named = Files(), [], {}
    for image in images:
        for _, content, path in image_chunks(image):
            lengths = pc.fill_null(pc.binary_length(content), 0)  # type: ignore[attr-defined]
            sizes.append(lengths.to_numpy(zero_copy_only=False).astype(np.int64))
            base = sum(map(len, sizes[:-1])) if path.null_count < len(path) else 0
            for number in np.flatnonzero(is_null(content)):
                file = path[int(number)].as_py()
                if file is not None:
                    named[base + int(number)] = file
                    sizes[-1][number] = max(files.size(file), 0)
    every = np.concatenate(sizes) if sizes else np.zeros(0, np.int64)
    keys: list[Hashable | None] = [None] * len(every)
    _, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
    alike = (counts[inverse] > 1) & (every > 0)
    seen, base = {}, 0
    for image in images:
        for start, content, _ in image_chunks(image):
            first = base + start
            for number in np.flatnonzero(alike[first : first + len(content)]):
                row = first + int(number)
                if row in named:
                    file = files.resolve(named[row])
                    if file not in seen:
                        seen[file] = part_digest(file, 0)
                    keys[row] = (int(every[row]), seen[file])
                else:
                    view = memoryview(content[int(number)].as_buffer())
                    keys[row] = (int(every[row]), digest(view))
        base += len(image)
    return keys


def ids_of_rows(
    firsts: Sequence[int],
    splits: Sequence[object],
    images: Sequence[datasets.Dataset],
) -> list[str]:
    """An id for each row: its split, and how many pictures there came before it."""
    ids: list[str] = []
    for split, image in zip(splits, images, strict=True):
        count = 0
        for row in range(len(ids), len(ids) + len(image)):
            ids.append(f"{split or 'train'}/{count}")
            count += firsts[row] == row
    return ids


def take_out_broken(
    images: Sequence[datasets.Dataset],
    firsts: Sequence[int],
    captions: list[list[str] | None],
    splits: Sequence[object],
    skipped: list[str],
) -> None:
    """Take the captions from the rows whose pictures cannot be decoded."""
    used = {first for first, texts in zip(firsts, captions, strict=True) if texts}
    broken, base = set(), 0
    for split, image in zip(splits, images, strict=True):
        for number in range(len(image)):
            if base + number in used:
                fault = find_fault(image[number]["image"])
                if fault:
                    skipped.append(f"row {number} of {split or 'train'}: {fault}")
                    broken.add(base + number)
        base += len(image)
    for row, first in enumerate(firsts):
        if first in broken:
            captions[row] = None


def select_pictures(
    images: Sequence[datasets.Dataset],
    pictures: dict[int, Picture],
    ids: Sequence[str],
    words: Iterable[str],
    name: str | Path,
) -> datasets.DatasetDict:
    """The rows of `pictures` in their splits; `words` name those there should be.

    Nothing is copied: columns are laid beside the pictures, and rows are selected.
    """
    parts: dict[str, list[datasets.Dataset]] = {}
    expected = {split_name(word) if word else "train" for word in words}
    base = 0
    for image in images:
        rows: dict[str, list[int]] = {split: [] for split in expected}
        texts: list[list[str]] = []
        for number in range(len(image)):
            captions, split = pictures.get(base + number, ([], ""))
            texts.append(captions)
            if captions:
                rows.setdefault(split, []).append(number)
        whole = (
            image.cast_column("image", FEATURES["image"])
            .add_column("captions", texts, feature=FEATURES["captions"])
            .add_column("image_id", list(ids[base : base + len(image)]))
        )
        for split, chosen in rows.items():
            parts.setdefault(split, []).append(whole.select(chosen))
        base += len(image)
    pairs = datasets.DatasetDict()
    for split in sorted(parts, key=lambda split: (*SPLITS, split).index(split)):
        some = [rows for rows in parts[split] if len(rows)] or parts[split][:1]
        pairs[split] = datasets.concatenate_datasets(some) if some[1:] else some[0]
    pairs = with_all_splits(pairs, name)
    report(pairs, name)
    return pairs

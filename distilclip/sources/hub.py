"""Data sets of the Hugging Face Hub, and local folders in the same layout."""

from pathlib import Path

import datasets
from datasets.exceptions import DatasetsError

from distilclip.sources.captions import (
    CAPTION_COLUMNS,
    caption_columns,
    clean_captions,
)
from distilclip.sources.skipping import refuse_or_skip, report_skipped
from distilclip.sources.splits import with_all_splits
from distilclip.storage.hub import offline_without_network
from distilclip.storage.pictures import find_fault

UNDECODED = datasets.Image(decode=False)
UNREADABLE = (OSError, ValueError, RuntimeError, DatasetsError)


def load_hub(name: str | Path, skip_broken: bool = False) -> datasets.DatasetDict:
    """A data set of the Hub, or a folder in its layout, with columns renamed."""
    try:
        with offline_without_network(name):
            loaded = datasets.load_dataset(str(name))
    except UNREADABLE as error:
        if isinstance(error, OSError) and not Path(name).is_dir():
            raise FileNotFoundError(
                f"Cannot get the data set {str(name)!r} from the Hugging Face Hub "
                f"({type(error).__name__}). Check the name and the network; "
                "'emoji' and 'scenes' work offline."
            ) from None
        cause = " ".join(str(error.__cause__ or error).split()).rstrip(".!")
        raise ValueError(
            f"Cannot read the data set {name}: {cause[:300]}."
        ) from None
    skipped = [] if skip_broken else None
    pairs = datasets.DatasetDict()
    for split, rows in loaded.items():
        image_column = find_image_column(rows, name)
        captions = gather_captions(rows, name, skipped)
        if skipped is not None:
            images = rows.cast_column(image_column, UNDECODED)[image_column]
            for row, value in enumerate(images):
                fault = captions[row] and find_fault(value)
                if fault:
                    skipped.append(f"row {row} of {split}: {fault}")
                    captions[row] = None
        kept = [row for row, texts in enumerate(captions) if texts]
        names = {image_column: "image"} if image_column != "image" else {}
        pairs[split] = (
            rows.select(kept)
            .select_columns([image_column])
            .rename_columns(names)
            .add_column("captions", [captions[row] for row in kept])
            .add_column("image_id", [f"{split}/{row}" for row in kept])
        )
    report_skipped(skipped, name)
    return with_all_splits(pairs, name)


def find_image_column(rows: datasets.Dataset, name: str | Path) -> str:
    """The column of images; ValueError names the columns where there is none."""
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            return column
    raise ValueError(
        f"{name} has no column of images among {', '.join(rows.column_names)}."
    )


def gather_captions(
    rows: datasets.Dataset, name: str | Path, skipped: list[str] | None = None
) -> list[list[str] | None]:
    """Each row's captions, from one column or from caption_0, caption_1, ...

    A row whose captions are at fault raises ValueError, or, where there is a list
    `skipped`, is added to that and gets None.
    """
    columns = caption_columns(rows.column_names)
    if not columns:
        raise ValueError(
            f"{name} has no captions: expected a column called "
            f"{', '.join(CAPTION_COLUMNS)} or caption_0, caption_1, ...; "
            f"found {', '.join(rows.column_names)}."
        )
    try:
        values_of_columns = [rows[column] for column in columns]
        values_of_rows = list(zip(*values_of_columns, strict=True))
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

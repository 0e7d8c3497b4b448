"""What a reader is asked, and what it gives: pictures with their captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import pyarrow as pa
from datasets.table import InMemoryTable

FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
        "image_id": datasets.Value("string"),
    }
)


@dataclass(frozen=True)
class Asked:
    """How a source is to be read, where it does not say so itself.

    Column names and the delimiter of tables, as given by the user ("" and () where
    nothing was given). Where there is a list `skipped`, entries at fault are added
    to it instead of being refused.
    """

    image_column: str = ""
    caption_columns: tuple[str, ...] = ()
    split_column: str = ""
    delimiter: str = ""
    skipped: list[str] | None = None

    def names_columns(self) -> bool:
        """Whether there is anything here that only a table can answer."""
        given = self.image_column, self.split_column, self.delimiter
        return any(given) or bool(self.caption_columns)


class Entry(NamedTuple):
    """A picture as a source names it once: a file's path or bytes, and captions.

    `split` is the source's own word for the split, "" where it names none. An entry
    without captions says why in `blank`: it counts where no other entry has the
    picture.
    """

    image: str | bytes
    captions: list[str]
    image_id: str
    split: str = ""
    blank: str = ""


def rows_of(entries: Sequence[Entry]) -> datasets.Dataset:
    """Entries as rows with the columns `image`, `captions` and `image_id`."""
    paths = [e.image if isinstance(e.image, str) else None for e in entries]
    contents = [e.image if isinstance(e.image, bytes) else None for e in entries]
    arrays = {
        "image": pa.StructArray.from_arrays(
            [pa.array(contents, pa.binary()), pa.array(paths, pa.string())],
            ["bytes", "path"],
        ),
        "captions": pa.array([e.captions for e in entries], pa.list_(pa.string())),
        "image_id": pa.array([e.image_id for e in entries], pa.string()),
    }
    table = pa.table(arrays).cast(FEATURES.arrow_schema)
    info = datasets.DatasetInfo(features=FEATURES)
    return datasets.Dataset(InMemoryTable(table), info=info)

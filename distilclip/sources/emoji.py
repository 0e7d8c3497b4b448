"""The data set inside this package: openly licensed emoji with their captions."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
from datasets.table import InMemoryTable

from distilclip.sources.splits import SPLITS

EMOJI_FILE = Path(__file__).parents[1] / "emoji" / "emoji.parquet"


def load_emoji() -> datasets.DatasetDict:
    """The embedded data set, one row a drawing, in the splits that it names."""
    table = pyarrow.parquet.read_table(EMOJI_FILE)
    rows = datasets.Dataset(InMemoryTable(table))
    split_of_row = table["split"].to_numpy()
    pairs = datasets.DatasetDict()
    for split in (*SPLITS, "test_concepts"):
        chosen = rows.select(np.flatnonzero(split_of_row == split))
        pairs[split] = chosen.remove_columns("split")
    return pairs

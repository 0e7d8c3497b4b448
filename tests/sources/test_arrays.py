"""A picture in memory is read as it was meant, or refused in one sentence."""

import io

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from distilclip import load_pairs
from distilclip.sources.arrays import encode_picture

SHAPES = st.tuples(*[st.integers(5, 9)] * 2, st.sampled_from([1, 3, 4]))
COUNT = 6


def pixels(value):
    return np.asarray(Image.open(io.BytesIO(encode_picture(value, "here")["bytes"])))


def forms_of(array):
    """The same picture, (H, W, C) of uint8, in other forms."""
    first = np.ascontiguousarray(array.transpose(2, 0, 1))
    yield from (array, array.astype(np.int64), array.astype(np.uint16), array.tolist())
    yield from (array / 255, (array / 255).astype(np.float32), first, first / 255)
    yield from (torch.from_numpy(first), torch.from_numpy(first) / 255)
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(buffer, "PNG")
    content = buffer.getvalue()
    yield from (buffer, content, bytearray(content), memoryview(content))
    yield from (io.BufferedReader(io.BytesIO(content)), {"bytes": content, "path": None})


@given(SHAPES.flatmap(lambda shape: arrays.arrays(np.uint8, shape)))
def test_every_form_is_the_same_picture(array):
    wanted = array.squeeze(2) if array.shape[2] == 1 else array
    for form in forms_of(array):
        assert np.array_equal(pixels(form), wanted)
    for mask in (array[:, :, 0] > 99, torch.from_numpy(array[:, :, 0] > 99)):
        assert np.array_equal(pixels(mask), (array[:, :, 0] > 99) * 255)


REFUSED = {
    "16 bits": (lambda n: np.full((8, 8, 3), 1000 + n, np.uint16), "uint16, from 1000 to 1000"),
    "negative": (lambda n: np.full((8, 8), -1 - n), "int64, from -1"),
    "to 255": (lambda n: np.full((8, 8), 200.0 + n), "float64, from 200"),
    "not numbers": (lambda n: np.full((8, 8), np.nan), "float64, from nan"),
    "flattened": (lambda n: np.arange(784, dtype=np.uint8) + n, r"the shape \(784,\)"),
    "of no size": (lambda n: np.zeros((0, 8, 3), np.uint8), r"the shape \(0, 8, 3\)"),
    "two channels": (lambda n: np.zeros((8, 8, 2), np.uint8), r"the shape \(8, 8, 2\)"),
    "no rectangle": (lambda n: [[1, 2], [3]], "an array of the shape"),
    "a number": (lambda n: 3, "of the type int"),
    "another object": (lambda n: {"a": 3}, "of the type dict"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_refused_with_its_row_or_skipped(kind, caplog):
    make, message = REFUSED[kind]
    good = [np.full((8, 8, 3), n, np.uint8) for n in range(COUNT)]
    frame = pd.DataFrame({"image": [*good, make(0)], "caption": [f"c {n}" for n in range(7)]})
    with pytest.raises(ValueError, match=f"row {COUNT} of the DataFrame.*{message}.*--skip-broken"):
        load_pairs(frame)
    rows = load_pairs(frame, skip_broken=True)
    assert sum(map(len, rows.values())) == COUNT
    assert "Skipped 1 of the pictures" in caplog.text
    with pytest.raises(ValueError, match=r"Nothing in the DataFrame can be read\."):
        load_pairs(frame[COUNT:], skip_broken=True)


@pytest.mark.parametrize("features", [None, datasets.Array3D((8, 8, 3), "uint8")])
def test_arrays_in_a_dataset_are_pictures(features):
    made = [np.full((8, 8, 3), 40 * n, np.uint8) for n in range(COUNT)]
    columns = {"image": made, "caption": [f"number {n}" for n in range(COUNT)]}
    kinds = features and datasets.Features(image=features, caption=datasets.Value("string"))
    data = datasets.Dataset.from_dict(columns, features=kinds)
    rows = [row for rows in load_pairs(data).values() for row in rows]
    found = {row["captions"][0]: np.asarray(row["image"])[0, 0, 0] for row in rows}
    assert found == {f"number {n}": 40 * n for n in range(COUNT)}
    wide = datasets.Dataset.from_dict({**columns, "image": [[300, 2]] * COUNT})
    with pytest.raises(ValueError, match="row 0 of the table is an array of the shape"):
        load_pairs(wide)

"""Streams have the pairs of their sources, row by row, and can be left and found again."""

import json
from itertools import islice

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shards import captioned, encoded, write_parquet, write_shards, write_tar

from distilclip import load_pairs
from distilclip.sources import streams
from distilclip.sources.entries import Asked
from distilclip.sources.streams import (
    Skips,
    captions_of_alike,
    held_out_of,
    join_block,
    open_stream,
    row_of,
    rows_of_split,
)

KINDS = ("tar", "parquet")


def iterable(rows, shards=1):
    """Captioned pictures as an iterable data set of `datasets`."""
    columns = {"image": [c for c, _ in rows], "caption": [t for _, t in rows]}
    data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    return data.to_iterable_dataset(num_shards=shards)


def known(rows):
    """What rows are, whatever their names and their order."""
    return sorted((row.key, tuple(row.captions)) for row in rows)


def pairs_of(splits):
    """The same of pairs as `load_pairs` has them."""
    undecoded = [rows.cast_column("image", datasets.Image(decode=False)) for rows in splits]
    return sorted(
        (row_of(row["image"]["bytes"], []).key, tuple(row["captions"]))
        for rows in undecoded
        for row in rows
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_has_the_pairs_of_its_source(kind, tmp_path):
    write_shards(tmp_path, [7, 0, 1, 12], kind)
    rows = rows_of_split(open_stream(tmp_path, Asked()), "train")
    assert known(rows) == pairs_of(load_pairs(tmp_path).values())


def test_what_datasets_streams_has_the_same_pairs(tmp_path):
    rows = captioned(range(20))
    write_parquet(tmp_path / "all.parquet", rows)
    whole = known(rows_of_split(open_stream(tmp_path / "all.parquet", Asked()), "train"))
    for data in (iterable(rows, 3), datasets.IterableDatasetDict(train=iterable(rows))):
        stream = open_stream(data, Asked())
        assert known(rows_of_split(stream, "train")) == whole


def test_decoded_pictures_without_features_are_streamed_too():
    def generate():
        for number in range(5):
            yield {"image": Image.new("RGB", (8, 8), (number, 0, 0)), "text": f"picture {number}"}

    stream = open_stream(datasets.IterableDataset.from_generator(generate), Asked())
    rows = list(rows_of_split(stream, "train"))
    assert [row.captions for row in rows] == [[f"picture {n}"] for n in range(5)]
    assert len({row.key for row in rows}) == 5


def test_columns_as_webdataset_has_them_on_the_hub():
    rows = {"__key__": ["a", "b"], "jpg": [encoded(0), encoded(1)], "txt": ["one", "two"]}
    data = datasets.Dataset.from_dict(rows).cast_column("jpg", datasets.Image())
    stream = open_stream(data.to_iterable_dataset(), Asked())
    found = [(row.image_id, row.captions) for row in rows_of_split(stream, "train")]
    assert found == [("a", ["one"]), ("b", ["two"])]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Functions that open a shard of each kind, of eleven rows, one of them at fault."""
    folder = tmp_path_factory.mktemp("shards")
    rows = captioned(range(11))
    rows[4] = (rows[4][0], " ")
    write_tar(folder / "tar" / "0.tar", rows)
    write_parquet(folder / "parquet" / "0.parquet", rows, group=4)
    sources = [folder / "tar", folder / "parquet", iterable(rows)]
    opened = [open_stream(source, Asked(skipped=Skips())).shards["train"][0] for source in sources]
    return dict(zip((*KINDS, "datasets"), opened, strict=True))


@pytest.mark.parametrize("kind", [*KINDS, "datasets"])
@given(stops=st.lists(st.integers(0, 4), max_size=6))
def test_a_shard_is_left_and_found_again_anywhere(kind, stops, shards):
    open_shard = shards[kind]
    whole = [row.captions for row in open_shard()]
    assert len(whole) == 10
    state, found = None, []
    for stop in [*stops, None]:
        shard = open_shard()
        if state is not None:
            shard.load_state_dict(json.loads(state))
        found += [row.captions for row in islice(shard, stop)]
        state = json.dumps(shard.state_dict()) if stop or state is None else state
    assert found == whole


@pytest.mark.parametrize("kind", KINDS)
def test_named_splits_are_used_as_named(kind, tmp_path):
    write_shards(tmp_path / "train", [9, 5], kind)
    write_shards(tmp_path / "val", [3], kind, start=40)
    write_shards(tmp_path / "test", [4], kind, start=12)  # two of them are in train, too
    held_out, keys = held_out_of(open_stream(tmp_path, Asked()), Asked())
    assert {split: len(rows) for split, rows in held_out.items()} == {"validation": 3, "test": 4}
    assert keys == {row_of(encoded(n), []).key for n in (12, 13, 14, 15, 40, 41, 42)}


@pytest.mark.parametrize(("pictures", "share"), [(3, 1), (19, 1), (20, 2), (85, 8)])
def test_what_is_not_named_are_the_first_pictures(pictures, share, tmp_path):
    write_shards(tmp_path, [2, pictures - 2])
    stream = open_stream(tmp_path, Asked())
    held_out, keys = held_out_of(stream, Asked())
    first = [[f"picture {n}"] for n in range(2 * share)]
    assert list(held_out["validation"]["captions"]) == first[:share]
    assert list(held_out["test"]["captions"]) == first[share:]
    left = join_block(rows_of_split(stream, "train"), keys)
    assert len(left) == pictures - 2 * share and not keys & {row.key for row in left}


def test_a_large_source_is_not_read_to_its_end_for_what_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "HELD_OUT", 2)
    write_shards(tmp_path, [50, 150], "parquet")
    stream = open_stream(tmp_path, Asked())
    (tmp_path / "00001.parquet").unlink()
    held_out, keys = held_out_of(stream, Asked())
    assert len(held_out["validation"]) == len(held_out["test"]) == 2 and len(keys) == 4


def test_rows_with_one_picture_are_joined_in_a_block_and_share_captions_in_a_batch():
    rows = [row_of(encoded(n), [text]) for n, text in ((0, "a"), (1, "b"), (0, "c"), (2, "d"))]
    joined = join_block(rows, {rows[3].key})
    assert [row.captions for row in joined] == [["a", "c"], ["b"]]
    assert captions_of_alike(rows) == [["a", "c"], ["b"], ["a", "c"], ["d"]]


def with_a_list(path):
    write_tar(path / "0.tar", captioned(range(6)))
    (path / "test.txt").write_text("0\n1\n")


def named_only(path):
    """A parquet file whose pictures are files somewhere else."""
    write_parquet(path / "0.parquet", captioned(range(3)))
    table = streams.pyarrow.parquet.read_table(path / "0.parquet")
    images = streams.pa.array([{"bytes": None, "path": "/etc/hostname"}] * 3)
    streams.pyarrow.parquet.write_table(table.set_column(0, "image", images), path / "0.parquet")


def with_split_column(path):
    write_parquet(path / "0.parquet", captioned(range(3)))
    table = streams.pyarrow.parquet.read_table(path / "0.parquet")
    table = table.append_column("split", streams.pa.array(["train", "val", "test"]))
    streams.pyarrow.parquet.write_table(table, path / "0.parquet")


FAULTS = {
    "no captions": (
        lambda p: write_parquet(p / "0.parquet", captioned(range(3)), caption="words"),
        "has no captions: expected a column called",
    ),
    "a tar without captions": (
        lambda p: write_tar(p / "0.tar", [(encoded(0), ""), (encoded(1), "")]),
        "Empty caption: ",
    ),
    "nothing in it": (
        lambda p: write_tar(p / "0.tar", []),
        "has 0 captioned pictures to train on; at least 3 are needed",
    ),
    "an empty file": (
        lambda p: (p / "0.tar").touch(),
        "0.tar cannot be read as a tar: empty file",
    ),
    "only names": (named_only, "row 0 of 0.parquet has no picture, only the name of one"),
    "a split column": (with_split_column, "leave out --streaming, or write each split"),
    "a list of a split": (with_a_list, "test.txt seems to list the pictures of a split"),
    "some shards name a split": (
        lambda p: [write_tar(p / f"{name}.tar", captioned([0])) for name in ("test", "0")],
        "has shards that name their split, and others, such as 0.tar",
    ),
    "no training split": (
        lambda p: write_tar(p / "test.tar", captioned(range(3))),
        "has no split 'train', only test",
    ),
    "a folder of pictures": (
        lambda p: Image.new("RGB", (8, 8)).save(p / "a.png"),
        "cannot be streamed: only parquet files, WebDataset's .tar shards",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_streamed_is_said_in_a_sentence(fault, tmp_path):
    make, message = FAULTS[fault]
    make(tmp_path)
    with pytest.raises(ValueError) as error:
        held_out_of(open_stream(tmp_path, Asked()), Asked())
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_that_has_vanished_breaks_the_stream_off(kind, tmp_path):
    write_shards(tmp_path, [3, 3], kind)
    stream = open_stream(tmp_path, Asked())
    (tmp_path / f"00001.{kind}").unlink()
    message = rf"The stream .*00001.{kind} broke off: No such file is there any more.* --resume"
    with pytest.raises(OSError, match=message):
        list(rows_of_split(stream, "train"))


def test_a_stream_that_fails_inside_datasets_breaks_off():
    def generate():
        for content, caption in captioned(range(10)):
            yield {"image": content, "caption": caption}
        raise ConnectionError("the network is gone")

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    data = datasets.IterableDataset.from_generator(generate, features=features)
    stream = open_stream(data, Asked())
    with pytest.raises(OSError, match="The stream the data given broke off: the network is gone"):
        list(rows_of_split(stream, "train"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("emoji", "emoji is small and comes whole: leave out --streaming"),
        ("nowhere", "Unknown data source 'nowhere'"),
        (datasets.Dataset.from_dict({"image": []}), "is in memory already: leave out streaming"),
    ],
)
def test_other_sources_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        open_stream(source, Asked())


def test_a_data_set_of_the_hub_is_streamed(monkeypatch):
    asked = []

    def load_dataset(name, streaming):
        asked.append((name, streaming))
        parts = {"train": iterable(captioned(range(9)), 3), "val": iterable(captioned([20, 21]))}
        return datasets.IterableDatasetDict(parts | {"other": iterable(captioned([30]))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    stream = open_stream("owner/name", Asked())
    assert asked == [("owner/name", True)] and set(stream.shards) == {"train", "validation"}
    held_out, keys = held_out_of(stream, Asked())
    assert {split: len(rows) for split, rows in held_out.items()} == {"validation": 2, "test": 1}
    assert len(keys) == 3 and len(stream.shards["train"]) == 3


def test_a_data_set_without_a_training_split_is_said():
    data = datasets.IterableDatasetDict(everything=iterable(captioned(range(5))))
    with pytest.raises(ValueError, match="has no split 'train', only everything"):
        open_stream(data, Asked())


def test_a_data_set_that_the_hub_does_not_give_is_said(monkeypatch):
    def load_dataset(name, streaming):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match="Cannot stream the data set 'owner/name'"):
        open_stream("owner/name", Asked())


def test_an_iterable_data_set_is_no_source_of_pairs():
    with pytest.raises(ValueError, match=r"is read as it comes.*streaming"):
        load_pairs(iterable(captioned(range(3))))


def test_pictures_are_opened_only_where_they_may_lie(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(0))
    cell = {"bytes": None, "path": str(tmp_path / "a.png")}
    assert streams.content_of(cell, "row 0", place="") == encoded(0)
    for place in (None, "hf://"):
        with pytest.raises(ValueError, match="row 0 has no picture, only the name of one"):
            streams.content_of(cell, "row 0", place)
        hidden = cell | {"path": f"{tmp_path}/a.png::hf://datasets/x"}
        with pytest.raises(ValueError, match="row 0 has no picture, only the name of one"):
            streams.content_of(hidden, "row 0", place)


def test_what_is_skipped_is_counted_once_over_all_passes(caplog):
    skips = Skips()
    for line in ("a", "b", "a", *map(str, range(20))):
        skips.append(line)
    skips.report("x")
    first, *lines = [record.getMessage() for record in caplog.records]
    assert first == "Skipped 22 of the pictures in the stream x:"
    assert lines == [*(f"  {line}" for line in ("a", "b", *range(8))), "  and 12 more"]


@pytest.mark.parametrize("kind", ["parquet", "iterable"])
def test_a_row_without_a_picture_names_the_option_or_is_counted(kind, tmp_path):
    contents = [encoded(0), None, encoded(2), encoded(3)]
    columns = {"image": contents, "caption": [f"number {n}" for n in range(4)]}
    data = datasets.Dataset.from_dict(columns)
    data.to_parquet(tmp_path / "x.parquet")
    source = data.to_iterable_dataset() if kind == "iterable" else tmp_path / "x.parquet"
    with pytest.raises(ValueError, match=r"no picture in .*--skip-broken, in Python skip_broken"):
        list(rows_of_split(open_stream(source, Asked()), "train"))
    skips = Skips()
    rows = list(rows_of_split(open_stream(source, Asked(skipped=skips)), "train"))
    assert (len(rows), len(skips)) == (3, 1)

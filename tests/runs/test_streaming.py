"""A run on a stream learns from every picture, goes on exactly, and is one with two processes."""

import itertools
import json
import logging
import os
import threading
from collections import Counter
from contextlib import contextmanager

import datasets
import pytest
import torch
from fault_worker import STEPS, configure, run, together
from safetensors import safe_open
from safetensors.torch import load_file
from shards import captioned, encoded, write_parquet, write_shards, write_tar

from distilclip import train
from distilclip.command.cli import main
from distilclip.data import decode_pixels, load_pairs
from distilclip.runs import streaming
from distilclip.runs.checkpoint import STATE_FILE
from distilclip.runs.settings import TrainConfig
from distilclip.runs.streaming import ahead, open_streamed

SIZES = [5, 9, 0, 14]  # 28 pictures: two each are held out, 24 left
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("stream"), SIZES)


@pytest.fixture(scope="module")
def config(source, tiny_text):
    def make(out, data=source, **changes):
        settings = {"streaming": True, "shuffle_buffer": 7, "text_lr": 0.0} | changes
        return configure(data, tiny_text, out, **settings)

    return make


def weights(folder):
    return load_file(folder / STATE_FILE)


def losses(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "epoch"]


def stream_of(folder):
    with safe_open(folder / STATE_FILE, "pt") as state:
        return json.loads(state.metadata()["state"])["stream"]


def assert_same(folder, other):
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    assert not [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert losses(folder) == losses(other)
    assert stream_of(folder) == stream_of(other)


@pytest.fixture(scope="module", params=["tar", "parquet", "text learns"])
def whole(request, config, tmp_path_factory):
    """A run to which nothing happens, its folder and its configuration."""
    folder = tmp_path_factory.mktemp("whole")
    changes = {}
    if request.param == "parquet":
        changes["data"] = write_shards(tmp_path_factory.mktemp("parquet"), SIZES, "parquet")
    if request.param == "text learns":
        changes |= {"text_lr": 1e-3, "text_start": 0.4, "sort_captions": True}
    end, message = run(config(folder, **changes))
    assert end == "done", message
    return folder, lambda out, **others: config(out, **changes, **others)


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 4, STEPS])
def test_a_killed_run_goes_on_exactly(at, whole, tmp_path):
    folder, configure = whole
    assert run(configure(tmp_path), "after AdamW", at)[0] == "killed"
    assert run(configure(tmp_path, resume=True))[0] == "done"
    assert_same(tmp_path, folder)


@pytest.mark.slow
def test_a_run_interrupted_twice_goes_on_exactly(whole, tmp_path):
    folder, configure = whole
    assert run(configure(tmp_path), "Ctrl-C after AdamW", 2)[0] == "KeyboardInterrupt"
    assert run(configure(tmp_path, resume=True), "Ctrl-C after AdamW", 3)[0] == "KeyboardInterrupt"
    assert run(configure(tmp_path, resume=True))[0] == "done"
    assert_same(tmp_path, folder)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(config, tmp_path):
    calm = {"dropout": 0.0, "patch_dropout": 0.0, "augmentation": 0.0, "skip_broken": False}
    assert run(config(tmp_path / "one", **calm))[0] == "done"
    assert {end for end, _ in together(config(tmp_path / "two", **calm))} == {"done"}
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    assert stream_of(tmp_path / "two") == stream_of(tmp_path / "one")


@contextmanager
def opened(config, group=(0, 1), data=None):
    """The training pairs of a stream, and what is held out of it."""
    with open_streamed(config, None, group, CPU, data) as (splits, _):
        yield splits["train"], {name: rows for name, rows in splits.items() if name != "train"}


def captions_met(pairs, steps):
    return [
        text for _, _, captions in pairs.take(range(steps)) for texts in captions for text in texts
    ]


def test_every_picture_that_is_not_held_out_is_met_once_a_pass(config, tmp_path):
    with opened(config(tmp_path)) as (pairs, held_out):
        assert len(pairs) == 24
        met = Counter(captions_met(pairs, 6))
    out = {text for rows in held_out.values() for texts in rows["captions"] for text in texts}
    assert len(out) == 4 and out.isdisjoint(met)
    assert met == Counter({f"picture {n}": 2 for n in range(28) if f"picture {n}" not in out})


def test_the_pictures_are_those_of_their_captions(config, tmp_path, source):
    rows = datasets.concatenate_datasets([*load_pairs(source).values()])
    known = dict(
        zip((c[0] for c in rows["captions"]), decode_pixels(rows, 16, progress=False), strict=True)
    )
    with opened(config(tmp_path)) as (pairs, _):
        for _, batch, captions in pairs.take(range(4)):
            assert all(
                torch.equal(pixels, known[texts[0]])
                for pixels, texts in zip(batch.pixels, captions, strict=True)
            )


def test_of_two_processes_each_decodes_its_share_of_the_same_batches(config, tmp_path):
    seen = []
    for group in ((0, 1), (0, 2), (1, 2)):
        with opened(config(tmp_path), group) as (pairs, _):
            seen.append([(batch.pixels, texts) for _, batch, texts in pairs.take(range(5))])
    for (whole, texts), (first, same), (second, too) in zip(*seen, strict=True):
        assert texts == same == too
        assert torch.equal(first[:4], whole[:4]) and torch.equal(second[4:], whole[4:])
        assert not first[4:].any() and not second[:4].any()


def test_rows_with_one_picture_are_positives_and_no_negatives(config, tmp_path):
    rows = [(encoded(n % 30), f"caption {n // 30} of {n % 30}") for n in range(90)]
    write_parquet(tmp_path / "0.parquet", rows)
    changes = {"data": tmp_path / "0.parquet", "shuffle_buffer": 20, "batch_size": 16}
    with opened(config(tmp_path / "run", **changes)) as (pairs, held_out):
        shared = 0
        for _, batch, _ in pairs.take(range(30)):
            drawn = batch.draw(torch.arange(16), torch.Generator().manual_seed(0))
            number = [int(batch.captions[i].split()[-1]) for i in drawn.caption_ids]
            number = torch.tensor(number)
            alike = number.unsqueeze(0) == number.unsqueeze(1)
            assert torch.equal(drawn.positives, alike)
            shared += int(alike.sum()) - 16
        assert shared > 0
    assert all(len(texts) == 3 for split in held_out.values() for texts in split["captions"])


def broken_tar(folder):
    rows = captioned(range(40))
    for number in (20, 33):
        rows[number] = (b"no picture %d" % number, f"picture {number}")
    write_tar(folder / "0.tar", rows)
    return folder


@pytest.mark.parametrize("group", [(0, 1), (1, 2)])
def test_broken_pictures_are_left_out_counted_and_replaced(group, config, tmp_path, caplog):
    data = broken_tar(tmp_path)
    with opened(config(tmp_path / "run", data=data, skip_broken=True), group) as (pairs, _):
        met = Counter(captions_met(pairs, 8))
    left = [n for n in range(8, 40) if n not in (20, 33)]
    assert sum(met.values()) == 64 and set(met) == {f"picture {n}" for n in left}
    assert "Skipped 2 of the pictures in the stream" in caplog.text
    assert "Cannot decode the image '0.tar/0000020.png'" in caplog.text


@pytest.mark.slow
def test_a_broken_picture_ends_the_run_in_a_sentence(config, tmp_path):
    ended = run(config(tmp_path / "run", data=broken_tar(tmp_path)))
    assert ended[0] == "ValueError"
    assert ended[1].startswith("Cannot decode the image '0.tar/00000")
    assert "\n" not in ended[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_run_that_loses_a_shard_goes_on_when_it_is_back(kind, config, tmp_path):
    data, lost = write_shards(tmp_path / "data", SIZES, kind), tmp_path / "elsewhere"
    assert run(config(tmp_path / "whole", data=data))[0] == "done"
    with opened(config(tmp_path / "run", data=data)) as (pairs, _):
        os.rename(data / f"00003.{kind}", lost)
        with pytest.raises(OSError, match=rf"The stream .*00003.{kind} broke off: No such file"):
            captions_met(pairs, 9)
    end, message = run(config(tmp_path / "run", data=data))
    assert end == "done", message  # what is left of it is a source of its own
    os.rename(lost, data / f"00003.{kind}")
    assert run(config(tmp_path / "killed", data=data), "after AdamW", 5)[0] == "killed"
    os.rename(data / f"00003.{kind}", lost)
    end, message = run(config(tmp_path / "killed", data=data, resume=True))
    assert end == "ValueError" and "has changed since the run" in message
    os.rename(lost, data / f"00003.{kind}")
    assert run(config(tmp_path / "killed", data=data, resume=True))[0] == "done"
    assert_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_another_stream_is_not_gone_on_with(config, tmp_path):
    data = write_shards(tmp_path / "data", [28])
    assert run(config(tmp_path / "run", data=data), "Ctrl-C after AdamW", 1)[0]
    write_shards(data, [29])
    end, message = run(config(tmp_path / "run", data=data, resume=True))
    assert end == "ValueError" and "has changed since the run" in message


def test_an_iterable_data_set_is_trained_on_and_gone_on_with(config, tmp_path):
    columns = {
        "image": [encoded(n) for n in range(30)],
        "text": [f"picture {n}" for n in range(30)],
    }
    data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    data = data.to_iterable_dataset(num_shards=3)
    with pytest.raises(ValueError, match="say how many make an epoch, with --epoch-pictures"):
        train(config(tmp_path / "a"), progress=False, data=data)
    with pytest.raises(ValueError, match=r"is read as it comes.*streaming"):
        train(config(tmp_path / "b", streaming=False), progress=False, data=data)
    settings = {"epoch_pictures": 16, "epochs": 2}
    result = train(config(tmp_path / "c", **settings), progress=False, data=data)
    assert result.history[-1]["step"] == 4
    again = train(config(tmp_path / "c", **settings, resume=True), progress=False, data=data)
    assert torch.equal(result.model.log_logit_scale, again.model.log_logit_scale)


def test_a_data_set_in_memory_is_trained_on(config, tmp_path):
    columns = {
        "image": [encoded(n) for n in range(30)],
        "text": [f"picture {n}" for n in range(30)],
    }
    data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    result = train(config(tmp_path / "a", streaming=False), progress=False, data=data)
    assert result.history[-1]["step"] == 9


def test_the_length_of_an_epoch_is_for_streams():
    with pytest.raises(ValueError, match="epoch_pictures is for a stream: add streaming"):
        TrainConfig(epoch_pictures=100)


def test_what_is_no_name_is_given_to_train():
    data = datasets.Dataset.from_dict({"image": [], "text": []})
    with pytest.raises(ValueError, match=r"data must be a name or a path, got a Dataset: .*data="):
        TrainConfig(data=data)


@pytest.mark.parametrize(
    ("sizes", "changes", "message"),
    [
        ([9], {}, "has 7 training pictures an epoch, fewer than one batch of 8"),
        ([9], {"epoch_pictures": 80}, "The stream has 7 rows to train on, fewer than the 8 of"),
        ([40], {"epoch_pictures": 7}, "has 7 training pictures an epoch, fewer than one batch"),
    ],
)
def test_fewer_pictures_than_a_batch_end_in_a_sentence(sizes, changes, message, config, tmp_path):
    data = write_shards(tmp_path / "data", sizes)
    with pytest.raises(ValueError) as error:
        train(config(tmp_path / "run", data=data, **changes), progress=False)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: write_parquet(p / "0.parquet", captioned(range(9)), caption="words"),
            "captions",
        ),
        (lambda p: (p / "0.tar").touch(), "0.tar cannot be read as a tar: empty file"),
        (lambda p: write_tar(p / "0.tar", captioned(range(9))), "fewer than one batch of 128"),
    ],
)
def test_the_command_says_what_is_wrong_and_leaves_nothing(make, message, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    out = tmp_path / "run"
    status = main(["train", "--data", str(tmp_path / "data"), "--out", str(out), "--streaming"])
    said = capsys.readouterr().err.strip()
    assert status == 1 and not out.exists()
    *notes, said = said.splitlines()  # what was read, and then the one sentence
    assert said.startswith("distilclip: error: ") and message in said
    assert all(note.startswith(str(tmp_path)) for note in notes)


def test_nothing_is_left_running_when_a_run_ends(config, tmp_path):
    before = threading.active_count()
    with opened(config(tmp_path)) as (pairs, _):
        assert len(captions_met(pairs, 2)) == 16
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_a_stream_says_of_unread_captions_now_and_then(config, tmp_path, caplog):
    log = logging.getLogger("distilclip.text")
    with opened(config(tmp_path)):
        for number in range(1, 100):
            log.warning("batch %d", number)
    assert caplog.messages == [f"batch {2**n}" for n in range(7)]
    log.warning("later")
    assert caplog.messages[-1] == "later"


def test_items_are_made_ahead_and_no_further():
    made, gate = [], threading.Semaphore(0)

    def items():
        for number in itertools.count():
            made.append(number)
            gate.release()
            yield number

    ready = ahead(items(), 2)
    for number in range(5):
        assert next(ready) == number
        while len(made) < number + 3:
            assert gate.acquire(timeout=10)
        assert len(made) == number + 3
    ready.close()


def test_what_goes_wrong_ahead_is_raised_when_it_is_due():
    def items():
        yield 1
        raise OSError("gone")

    ready = ahead(items(), 4)
    assert next(ready) == 1
    with pytest.raises(OSError, match="gone"):
        next(ready)
    assert list(ahead(iter([1, 2]), 3)) == [1, 2]


def test_the_number_of_threads_leaves_a_cpu_to_the_steps(config, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    for device, threads in ((CPU, 2), (torch.device("cuda"), 8)):
        with open_streamed(config(tmp_path), None, (0, 1), device) as (splits, _):
            assert splits["train"].pool._max_workers == threads

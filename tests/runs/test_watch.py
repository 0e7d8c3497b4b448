"""What a run shows of itself is what happened: lines, sheets of samples, TensorBoard."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from recorded_runs import losses

from distilclip import train


def test_every_epoch_says_what_it_cost(config, tmp_path):
    result = train(config(tmp_path / "run", evaluations=2, epochs=4), progress=False)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [line["kind"] for line in lines] == [
        *("epoch", "epoch", "evaluation", "epoch", "epoch", "final", "final")
    ]
    for line in lines:
        if line["kind"] == "epoch":
            assert 0 <= line["waiting"] <= 1 and line["peak_memory_mib"] > 50
            pictures = line["images_per_second"] * line["seconds"]
            assert pictures == pytest.approx(3 * 16)  # three batches of 16
        else:
            assert 0 <= line["t2i_r1"] <= line["t2i_r5"] <= line["t2i_r10"] <= 1


def test_each_evaluation_leaves_a_sheet_of_what_it_found(config, tmp_path, monkeypatch):
    train(config(tmp_path / "run", evaluations=2, epochs=4), progress=False)
    sheets = sorted((tmp_path / "run" / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["step_000006.png", "step_000012.png"]
    sizes = {Image.open(sheet).size for sheet in sheets}
    assert len(sizes) == 1 and min(sizes.pop()) > 300


def test_the_right_picture_is_the_framed_one(tmp_path):
    from distilclip.runs.watch import RIGHT, draw_samples

    pixels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    scores = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1], [8.0, 7, 6, 5, 4, 3, 2, 1]])
    right = [{2}, {7}]
    draw_samples(["third", "猫 $x_1$ " * 30], right, scores, pixels, tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    green = tuple(bytes.fromhex(RIGHT[1:]))
    rows, columns = (np.asarray(sheet) == green).all(axis=2).nonzero()
    assert columns.min() > 240 and columns.max() < 370  # the third place of the first row, alone
    assert rows.max() < sheet.height / 2


def test_a_caption_of_several_pictures_frames_each_and_has_the_rank_of_the_best(
    tmp_path, monkeypatch
):
    from PIL import ImageDraw

    from distilclip.runs.watch import RIGHT, draw_samples

    titles = []
    write = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda draw, at, text, **look: titles.append(text) or write(draw, at, text, **look),
    )
    pixels = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    scores = torch.tensor([8.0, 7, 6, 5, 4, 3, 2, 1]).repeat(4, 1) / 10
    scores[3] = 0.5  # a model that puts everything in one place
    right = [{1, 3}, {0}, {0, 1, 2}, {0, 4}]
    draw_samples(list("abcd"), right, scores, pixels, tmp_path / "sheet.png")
    assert titles == [
        f"{name}  (right: rank {n})" for name, n in zip("abcd", (2, 1, 1, 7), strict=True)
    ]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    green = (sheet == tuple(bytes.fromhex(RIGHT[1:]))).all(axis=2)
    bands = [slice(144 * row + 29, 144 * row + 147) for row in range(4)]
    framed = [
        [place for place in range(5) if green[rows, 120 * place + 4 : 120 * place + 124].any()]
        for rows in bands
    ]
    assert framed == [[1, 3], [0], [0, 1, 2], []]


def test_a_sheet_is_drawn_from_what_the_captions_say(small_model, tmp_path, monkeypatch):
    from datasets import Dataset

    from distilclip.runs import watch
    from distilclip.search import evaluate_retrieval

    drawn = []
    monkeypatch.setattr(watch, "draw_samples", lambda *given: drawn.append(given))
    captions = [["a cat", "one"], ["a cat", "two"], ["three", "a cat"], ["four"], ["five", "one"]]
    colours = ("red", "green", "blue", "white", "black")
    images = [Image.new("RGB", (32, 32), colour) for colour in colours]
    rows = Dataset.from_dict({"captions": captions})
    pixels = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])
    given = small_model, rows, pixels, tmp_path / "sheet.png", small_model.encode_text
    metrics = watch.evaluate_and_draw(*given)
    queries, right = drawn[0][:2]
    assert queries == ["a cat", "a cat", "three", "four", "five"]
    assert right == [{0, 1, 2}, {0, 1, 2}, {2}, {3}, {4}]
    monkeypatch.setattr("distilclip.data.decode_pixels", lambda *given, **named: pixels)
    assert metrics == evaluate_retrieval(small_model, rows)


class Curves(list):
    """A stand-in for TensorBoard's writer: it keeps (curve, value, step)."""

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step = folder, purge_step
        Curves.last = self

    def add_scalar(self, name, value, step):
        self.append((name, value, step))

    def flush(self):
        pass

    def close(self):
        self.closed = True


def test_tensorboard_gets_the_numbers_of_every_line(config, tmp_path, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Curves)
    )
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    result = train(config(tmp_path / "run", tensorboard=True), progress=False)
    curves = Curves.last
    assert curves.folder == tmp_path / "run" / "tensorboard" and curves.purge_step == 1
    assert [v for n, v, _ in curves if n == "train/loss"] == losses(result.history)
    assert [step for n, _, step in curves if n == "validation/t2i_r5"] == [3, 6, 9]
    assert curves.closed


def test_tensorboard_reads_what_we_write(config, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = train(config(tmp_path / "run", tensorboard=True), progress=False)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    points = [(point.step, point.value) for point in events.Scalars("train/loss")]
    assert [step for step, _ in points] == [3, 6, 9]
    assert [value for _, value in points] == pytest.approx(losses(result.history))

"""The benchmark of streams: its pictures differ, and a killed run is found to go on exactly."""

from argparse import Namespace

import pytest
import streaming
from systems import SMALL, save_random_text

from distilclip import load_pairs
from distilclip.sources.entries import Asked
from distilclip.sources.streams import open_stream, rows_of_split


def test_no_two_pairs_are_alike(tmp_path):
    size = streaming.make_shards(tmp_path / "data", 250, 100)
    rows = list(rows_of_split(open_stream(tmp_path / "data", Asked()), "train"))
    assert len({row.key for row in rows}) == len({row.captions[0] for row in rows}) == 250
    assert size > 250 * 500
    assert sum(map(len, load_pairs(tmp_path / "data").values())) == 250


@pytest.mark.slow
def test_memory_and_resuming_are_measured_in_processes_of_their_own(tmp_path, capsys):
    streaming.make_shards(tmp_path / "data", 160, 50)
    save_random_text(tmp_path / "text", SMALL)
    options = Namespace(small=True, threads=1, rounds=1)
    sizes = {96: tmp_path / "data"}
    memory = streaming.measure_memory(tmp_path, tmp_path / "text", sizes, options)
    assert memory["96"]["peak_mib"] > 100 and memory["96"]["images_per_second"] > 0
    found = streaming.measure_resume(tmp_path, tmp_path / "text", tmp_path / "data", options)
    assert found["was_killed"] and found["tensors"] > 10 and found["different"] == 0
    settings = {"text_model": str(tmp_path / "text"), "text_lr": 1e-4} | streaming.TINY
    speed = streaming.measure_speed(tmp_path / "data", settings, options)
    assert speed["ratio"] > 0 and speed.keys() == {"in memory", "streamed", "ratio"}

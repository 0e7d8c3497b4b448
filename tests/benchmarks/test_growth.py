"""The benchmarks measure what they say: same data, same work, nothing left behind."""

import json
import sys
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import DistilBertModel, ViTModel
from transformers import VisionTextDualEncoderConfig as DualConfig
from transformers import VisionTextDualEncoderModel as DualModel

from distilclip import TrainConfig, load_pairs
from distilclip.data import decode_pixels

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import growth
import pipeline
import systems
import timing
import where_time_goes


@pytest.fixture(scope="module")
def random_text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    systems.save_random_text(folder, systems.SMALL)
    return folder


@pytest.fixture
def our_steps(random_text):
    config = TrainConfig(
        preset="t4",
        precision="float32",
        sort_captions=False,  # which the peers do not do
        **systems.shape(systems.SMALL, random_text),
    )
    return systems.OurSteps(config, systems.SMALL)


def test_every_round_runs_every_action_once_and_turns_their_order_round():
    ran = []
    actions = {name: partial(ran.append, name) for name in "abc"}
    seconds = timing.in_turn(actions, rounds=2, warm_up=1)
    assert "".join(ran) in ("abccbaabc", "cbaabccba")
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_rates_are_of_the_median_time():
    line = timing.rates({"it": [1.0, 4.0, 2.0]}, items=8)["it"]
    assert line == {"per_second": 4.0, "slowest": 2.0, "fastest": 8.0}


def test_the_patch_of_transformers_is_needed_and_gives_distilbert_s_own_token(random_text):
    dual = systems.dual_encoder(systems.SMALL, random_text).eval()
    tokens = {"input_ids": torch.arange(1, 11).view(2, 5), "attention_mask": torch.ones(2, 5).int()}
    pixels = torch.randn(2, 3, 32, 32)
    text = DistilBertModel.from_pretrained(random_text).eval()
    expected = dual.text_projection(text(**tokens).last_hidden_state[:, 0])
    found = dual(pixel_values=pixels, **tokens).text_embeds
    torch.testing.assert_close(found, expected / expected.norm(dim=-1, keepdim=True))
    config = DualConfig.from_vision_text_configs(dual.vision_model.config, text.config)
    unpatched = DualModel(config, ViTModel(dual.vision_model.config), text)
    with pytest.raises((IndexError, KeyError, AttributeError)):
        unpatched(pixel_values=pixels, **tokens)


def test_ours_and_transformers_get_the_same_captions(our_steps, random_text):
    theirs = systems.build_transformers(systems.SMALL, random_text)["transformers"]
    ours = our_steps.make()
    padding = [ours() for _ in range(6)]
    assert padding == [theirs() for _ in range(6)]
    assert len(set(padding)) > 1  # by the captions, not by chance


def test_a_kind_of_step_leaves_the_others_as_they_are(our_steps):
    half, whole, locked = (
        our_steps.make(),
        our_steps.make(every_patch=True),
        our_steps.make(text_locked=True),
    )
    seen, run = [], our_steps.run
    block, words = (
        run.model.vision.blocks[0],
        run.model.text.get_parameter("model.transformer.layer.0.ffn.lin1.weight"),
    )
    block.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    for step, learns in ((half, True), (whole, True), (locked, False), (half, True)):
        before = words.detach().clone()
        step()
        assert torch.equal(before, words) != learns
    assert seen == [3, 5, 3, 3]  # two patches or four, and [CLS]


def test_the_parts_of_a_step_are_the_whole_step(our_steps):
    step = our_steps.make()
    parts, seconds = where_time_goes.shares(our_steps.run, step, steps=2)
    assert set(parts) == {*where_time_goes.PARTS.values(), "optimiser", "data", "rest"}
    assert all(share > 0 for share in parts.values())
    assert sum(parts.values()) == pytest.approx(1)
    assert seconds > 0


def test_a_step_is_counted_whole(our_steps):
    """Forward once, backward twice: six operations a weight and token, and attention's own."""
    sizes, tokens = systems.SMALL, 5
    counted = where_time_goes.count_operations(our_steps.make(every_patch=True))
    vision = our_steps.run.model.vision
    blocks = 6 * sum(p.numel() for p in vision.blocks.parameters() if p.ndim == 2) * tokens
    patches = 4 * vision.patch_embedding.projection.weight.numel() * (tokens - 1)  # pixels: no way
    mixing = 3 * 2 * 2 * tokens**2 * sizes.dim * sizes.depth
    assert counted > sizes.batch_size * (blocks + patches + mixing)
    assert counted < 3 * sizes.batch_size * (blocks + patches + mixing)


def test_the_ways_of_the_pipeline_see_the_same_pixels(tmp_path):
    size = pipeline.make_photographs(tmp_path, 10, 64, 48)
    rows = load_pairs(tmp_path)["train"]
    once = decode_pixels(rows, 32, tmp_path / "cache")
    each_time = pipeline.DecodedEachTime(rows, 32)
    assert torch.equal(once, torch.stack([each_time[row] for row in range(len(rows))]))
    assert len(once.unique(dim=0)) == len(rows) and size > 1000


def test_a_power_law_is_found_again():
    sizes = [16, 32, 64, 128]
    law = growth.power_law(sizes, [3e-4 * size**2.5 for size in sizes])
    assert law == {"factor": pytest.approx(3e-4), "exponent": 2.5}


@pytest.mark.parametrize("exponent", [2, -2])
def test_the_second_fit_is_that_of_the_largest_costs(exponent):
    """A floor that every size pays hides the power; the half that costs most shows it."""
    points = [{"size": s, "seconds": 1 + (s / 64) ** exponent} for s in (4, 16, 64, 256, 1024)]
    laws = growth.fits(points, "seconds")
    assert abs(laws["all"]["exponent"]) < 1.5
    assert laws["last_half"]["exponent"] == pytest.approx(exponent, abs=0.25)


@pytest.mark.parametrize("seconds, rounds", [(0.01, 50), (0.2, 5), (5.0, 2), (9.0, 1)])
def test_short_rounds_are_many_and_long_ones_few(monkeypatch, seconds, rounds):
    now = [0.0]
    monkeypatch.setattr(growth.time, "perf_counter", lambda: now[0])

    def action():
        now[0] += seconds

    assert len(growth.seconds_of(action, rounds=5)) == pytest.approx(rounds, abs=1)
    assert now[0] == pytest.approx((rounds + 1) * seconds, abs=1.01 * seconds)


def test_memory_is_that_of_the_point_alone(tmp_path):
    """32 MiB of vectors, and little else: not Python, not the libraries, not another point."""
    systems.save_random_text(tmp_path / "tiny", systems.SMALL)
    with ProcessPoolExecutor(1, mp_context=growth.PROCESSES) as process:
        arguments = ("index_size", 2**15, tmp_path, True, 2, 1)
        point = process.submit(growth.measure_point, *arguments).result()
    assert 32 <= point["peak_mib"] < 64
    assert 0 < point["fastest"] <= point["seconds"] <= point["slowest"]


def test_growth_measures_six_curves():
    results = growth.measure(Namespace(small=True, rounds=1, threads=1))
    assert list(results["curves"]) == list(growth.CURVES) and len(growth.CURVES) == 6
    for name, curve in results["curves"].items():
        assert [point["size"] for point in curve["points"]] == list(growth.CURVES[name].small)
        assert all(point["seconds"] > 0 < point["peak_mib"] for point in curve["points"])
        assert set(curve["fits"]) == {"seconds", "peak_mib"}
    assert json.loads(json.dumps(results)) == results


def test_full_sizes_double():
    for curve in growth.CURVES.values():
        assert 4 <= len(curve.sizes) <= 6
        assert all(b == 2 * a for a, b in zip(curve.sizes, curve.sizes[1:], strict=False))

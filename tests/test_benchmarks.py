"""The benchmarks measure what they say: same data, same work, nothing left behind."""

import sys
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
        preset="t4", precision="float32", **systems.shape(systems.SMALL, random_text)
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
    whole, half = our_steps.make(), our_steps.make(patch_dropout=0.5)
    seen = []
    block = our_steps.run.model.vision.blocks[0]
    block.register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    for step in (whole, half, whole):
        step()
    assert seen == [5, 3, 5]  # four patches or two, and [CLS]


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
    counted = where_time_goes.count_operations(our_steps.make())
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

"""The parts of a step are the whole of it."""

import pytest
import systems
import where_time_goes


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

"""A GPU's batch: everything per pixel happens where the pixels are, and the benchmark runs."""

import json
import sys

import host_work
import pytest
import timing
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distilclip import TrainConfig
from distilclip.data import seeded
from distilclip.training import views


class LargestOnCPU(TorchDispatchMode):
    """How many elements the largest tensor on the CPU has that anything inside makes."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for made in torch.utils._pytree.tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.device.type == "cpu":
                self.elements = max(self.elements, made.numel())
        return result


@pytest.mark.parametrize("preset", ["t4", "t4-drawings", "cpu", "original"])
def test_the_cpu_makes_nothing_per_pixel_for_pixels_that_lie_elsewhere(preset):
    """The device "meta" has shapes and no contents: to bring pixels back would be an error."""
    config = TrainConfig(preset=preset, text_model="minilm")
    pixels = torch.zeros(16, 3, 224, 224, dtype=torch.uint8, device="meta")
    flip = torch.zeros(16, dtype=torch.bool, device="meta")
    with LargestOnCPU() as largest:
        made = views(pixels, flip, config, seeded(0))
    assert made.shape == pixels.shape and made.device.type == "meta"
    assert largest.elements < 224 * 224  # less than one channel of one picture


@pytest.mark.slow
def test_the_benchmark_runs(monkeypatch, tmp_path):
    out = tmp_path / "host_work.json"
    monkeypatch.setattr(
        sys, "argv", ["host_work.py", "--small", "--rounds", "1", "--out", str(out)]
    )
    timing.run(host_work.measure, host_work.__doc__)
    results = json.loads(out.read_text())["results"]
    for preset in host_work.PRESETS:
        assert results[preset]["together"] > 0
        assert len(results[preset]["milliseconds"]) == 3

"""The benchmarks can be imported; a small random text encoder, and steps of ours with it."""

import sys
from pathlib import Path

import pytest

from distilclip import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import systems


@pytest.fixture(scope="session")
def random_text(tmp_path_factory):
    """The folder of a small DistilBERT with random weights."""
    folder = tmp_path_factory.mktemp("text")
    systems.save_random_text(folder, systems.SMALL)
    return folder


@pytest.fixture
def our_steps(random_text):
    """A run of the preset `t4-drawings` on scenes, ready to take steps."""
    config = TrainConfig(
        preset="t4-drawings",
        precision="float32",
        sort_captions=False,  # which the peers do not do
        **systems.shape(systems.SMALL, random_text),
    )
    return systems.OurSteps(config, systems.SMALL)

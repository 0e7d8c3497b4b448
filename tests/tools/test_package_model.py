"""What is said of the packaged model is what made it."""

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from distilclip import TrainConfig
from distilclip.book.stored import stored_results
from distilclip.command.cli import build_parser
from distilclip.runs.checkpoint import ELSEWHERE

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import package_model


@pytest.mark.parametrize(
    ("changes", "options"),
    [({}, ""), ({"epochs": 3, "lr": 0.001, "text_model": "minilm"}, " --text-model minilm")],
)
def test_the_command_names_what_differs_from_the_preset(changes, options):
    settings = asdict(TrainConfig(preset="t4", **changes))
    settings = {name: value for name, value in settings.items() if name not in ELSEWHERE}
    command = package_model.command_of(settings)
    assert command.startswith(f"distilclip train --data emoji --preset t4{options}")
    words = command.removeprefix("distilclip train ").split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    told = {name[2:].replace("-", "_") for name in given} - {"data", "preset"}
    assert told == changes.keys()


def test_the_command_can_be_run():
    settings = asdict(TrainConfig(preset="original", lr=1e-4, learn_temperature=True, flip=True))
    command = package_model.command_of(settings)
    assert command == (
        "distilclip train --data emoji --preset original --flip --learn-temperature --lr 0.0001"
    )
    options = build_parser(command.split()[1:]).parse_args([*command.split()[1:], "--out", "x"])
    given = {name: value for name, value in vars(options).items() if name in settings}
    assert asdict(TrainConfig(**given)) == settings | {"out": "x"}
    locked = asdict(TrainConfig(preset="cpu", mask_positives=False))
    assert package_model.command_of(locked).endswith(" --no-mask-positives")


@pytest.mark.parametrize("name", ["emoji_cpu", "emoji_long"])
def test_the_stored_commands_are_those_of_the_stored_settings(name):
    stored = stored_results(name)
    assert package_model.command_of(stored["settings"]) == stored["command"]

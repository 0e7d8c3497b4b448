"""Recipes are compared at equal epochs, and no run is made twice."""

import json

import photographs
import pytest


@pytest.mark.slow
def test_a_small_comparison_is_made_once_and_can_be_gone_on_with(shapes, tmp_path, capsys):
    out = tmp_path / "runs.json"
    given = [str(shapes), "--small", "--epochs", "1", "--threads", "1", "--out", str(out)]
    chosen = ["--only", "t4", "t4-drawings", "--seeds"]
    photographs.main([*given, *chosen, "0"])
    first = json.loads(out.read_text())
    assert [(run["recipe"], run["seed"]) for run in first["runs"]] == [
        ("t4", 0),
        ("t4-drawings", 0),
    ]
    seen = {run["pictures_seen"] for run in first["runs"]}
    assert len(seen) == 1 and str(shapes) not in first["runs"][0]["command"]
    longer = [run | {"epochs": 2} for run in first["runs"]]  # of other lengths: kept apart
    out.write_text(json.dumps({"runs": [*first["runs"], *longer]}))
    photographs.main([*given, *chosen, "0", "1"])
    both = json.loads(out.read_text())["runs"]
    assert both[:4] == [*first["runs"], *longer]
    assert [(run["seed"], run["epochs"]) for run in both[4:]] == [(1, 1), (1, 1)]
    assert "t4 over t4-drawings" in capsys.readouterr().out


def test_a_recipe_changes_what_it_says_and_sizes_stay():
    for recipe, changes in photographs.RECIPES.items():
        settings = photographs.SIZES | {"text_model": "minilm"} | changes
        config = photographs.TrainConfig(**settings)
        assert config.image_size == 64, recipe
        for name, value in changes.items():
            assert getattr(config, name) == value

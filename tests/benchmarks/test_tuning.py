"""A model that goes on is compared with others on pictures that none has seen."""

import json

import pytest
import tuning
from samples import picture


@pytest.fixture
def pairs(tmp_path):
    """Eighty pictures, each of another colour, with captions."""
    for number in range(80):
        picture(tmp_path / "pairs" / f"{number}.png", (3 * number, 255 - 3 * number, number))
        (tmp_path / "pairs" / f"{number}.txt").write_text(f"picture number {number}\n")
    return tmp_path / "pairs"


def test_nothing_that_is_learned_from_is_searched(pairs):
    rows = tuning.choose(str(pairs), 30, 16)
    ids = [set(rows[split]["image_id"]) for split in ("train", "validation", "test")]
    assert list(map(len, ids)) == [30, tuning.WATCHED, 16]
    assert len(set.union(*ids)) == 46 + tuning.WATCHED


def test_a_recipe_is_chosen_on_none_of_the_pictures_that_report_it(pairs):
    reported = set(tuning.choose(str(pairs), 40, 16)["test"]["image_id"])
    choosing = tuning.choose(str(pairs), 40, 10, choosing=True)
    assert len(reported) == 16
    assert all(reported.isdisjoint(choosing[split]["image_id"]) for split in choosing)
    assert [len(choosing[split]) for split in choosing] == [20, tuning.WATCHED, 10]


def test_every_picture_is_searched_in_one_fold_and_learned_from_in_no_part_of_it(pairs):
    searched = []
    for number in range(5):
        rows = tuning.fold_of(str(pairs), number, 5)
        ids = [set(rows[split]["image_id"]) for split in ("train", "validation", "test")]
        assert list(map(len, ids)) == [64 - tuning.WATCHED, tuning.WATCHED, 16]
        assert len(set.union(*ids)) == 80
        searched += rows["test"]["image_id"]
    assert len(searched) == len(set(searched)) == 80


def test_folds_and_seeds_are_not_averaged(pairs, tmp_path, capsys):
    out, runs = tmp_path / "runs.json", []
    for number, recall in enumerate((0.5, 0.7)):
        rows = tuning.fold_of(str(pairs), number, 2)
        counts = {"pictures": len(rows["train"]), "held_out": len(rows["test"]), "captions": 40}
        metrics = dict.fromkeys(("t2i_r1", "t2i_r5", "t2i_r10"), recall)
        run = {"kind": "pictures", "recipe": tuning.TUNE, "seed": number, "metrics": metrics}
        runs.append(run | counts | {"fold": number, "folds": 2})
    seeds = {key: value for key, value in runs[0].items() if not key.startswith("fold")}
    runs.append(seeds | {"metrics": dict.fromkeys(metrics, 0.9)})
    out.write_text(json.dumps({"runs": runs}))
    given = ["--folds", "2", "--only", tuning.TUNE, "--out", str(out), "--threads", "1"]
    tuning.main([str(pairs), *given])
    assert "50.0, 70.0 " in capsys.readouterr().out
    assert json.loads(out.read_text())["runs"] == runs


@pytest.mark.slow
def test_a_small_comparison_is_made_once_and_can_be_gone_on_with(pairs, tmp_path, capsys):
    out = tmp_path / "runs.json"
    given = [str(pairs), "--small", "--threads", "1", "--out", str(out), "--seeds"]
    tuning.main([*given, "0"])
    first = json.loads(out.read_text())["runs"]
    assert [run["recipe"] for run in first] == [tuning.BUNDLED, tuning.SCRATCH, tuning.TUNE]
    assert {run["captions"] for run in first} == {16}
    assert str(pairs) not in out.read_text()
    tuning.main([*given, "0", "1"])
    both = json.loads(out.read_text())["runs"]
    assert both[:3] == first and [run["seed"] for run in both] == [0, 0, 0, 1, 1]
    assert "points of R@10 over from scratch" in capsys.readouterr().out


def test_recalls_among_other_pictures_are_not_averaged(pairs, tmp_path, capsys):
    out, runs = tmp_path / "runs.json", []
    for held_out, recall in ((16, 0.5), (16, 0.7), (17, 0.9)):
        counts = {"pictures": 30, "held_out": held_out, "captions": held_out}
        metrics = dict.fromkeys(("t2i_r1", "t2i_r5", "t2i_r10"), recall)
        run = {"kind": "pictures", "recipe": tuning.TUNE, "seed": len(runs), "metrics": metrics}
        runs.append(run | counts)
    runs.append(runs[0] | {"choosing": True})
    out.write_text(json.dumps({"runs": runs}))
    given = ["--pictures", "30", "--held-out", "16", "--only", tuning.TUNE, "--out", str(out)]
    tuning.main([str(pairs), *given, "--threads", "1", "--seeds", "0", "1"])
    assert "50.0, 70.0 " in capsys.readouterr().out
    assert json.loads(out.read_text())["runs"] == runs

"""Two networks of about equal size, the same drawings for both, and runs that are made once."""

import json

import inductive_bias
import pytest
import torch

from distilclip.book.stored import stored_results


def numbered_squares():
    """A picture of 16 squares, each of which holds its own number: (1, 3, S, S)."""
    size, patch = inductive_bias.SIZE, inductive_bias.PATCH
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    numbers = (rows // patch) * (size // patch) + columns // patch
    return numbers.float().expand(1, 3, size, size)


@pytest.fixture(scope="module")
def drawings():
    return inductive_bias.load_drawings(40)


def test_both_networks_have_about_as_many_parameters_and_start_with_no_opinion():
    counts = []
    for build in inductive_bias.MODELS.values():
        model = build(9).eval()
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
        scores = model(torch.rand(2, 3, inductive_bias.SIZE, inductive_bias.SIZE))
        assert scores.shape == (2, 9) and not scores.any()
    assert max(counts) < 1.05 * min(counts)


def test_shuffling_moves_whole_squares_to_the_same_places_and_loses_none():
    picture = numbered_squares()
    shuffled = inductive_bias.shuffle_squares(picture)
    assert not torch.equal(shuffled, picture)
    patch = inductive_bias.PATCH
    squares = shuffled.unfold(2, patch, patch).unfold(3, patch, patch).flatten(4)
    assert torch.equal(squares.amin(dim=-1), squares.amax(dim=-1))  # in one piece
    assert sorted(squares[0, 0, ..., 0].flatten().tolist()) == list(range(16))
    twice = inductive_bias.shuffle_squares(torch.cat([picture, picture + 100]))
    assert torch.equal(twice[0], shuffled[0]) and torch.equal(twice[1], shuffled[0] + 100)


@pytest.mark.slow
def test_a_run_depends_on_its_seed_alone(drawings):
    splits, groups = drawings
    given = {"pictures": 20, "lr": 1e-3, "steps": 2, "is_shuffled": False}
    first, again, other = (
        inductive_bias.learn("CNN", splits, len(groups), seed=seed, **given) for seed in (0, 0, 1)
    )
    assert first["loss"] == again["loss"] and first["accuracy"] == again["accuracy"]
    assert first["loss"] != other["loss"]


def test_no_drawing_that_is_tested_is_learned_from(drawings):
    splits, groups = inductive_bias.load_pairs("emoji"), drawings[1]
    learned = splits["train"]
    for split in inductive_bias.SPLITS:
        assert not set(splits[split]["image_id"]) & set(learned["image_id"])
        assert set(splits[split]["group"]) <= set(groups)
    assert not set(splits["test"]["style"]) & set(learned["style"])
    assert not set(splits["test_concepts"]["emoji"]) & set(learned["emoji"])


@pytest.mark.slow
def test_a_small_study_is_made_once_and_can_be_gone_on_with(tmp_path, capsys):
    out = tmp_path / "runs.json"
    given = ["--small", "--threads", "1", "--out", str(out), "--seeds"]
    inductive_bias.main([*given, "0"])
    first = json.loads(out.read_text())["runs"]
    parts = [run["part"] for run in first]
    assert parts == ["search"] * 8 + ["drawings"] * 4 + ["shuffled"] * 2
    assert {run["seed"] for run in first if run["part"] == "search"} == {100}
    assert str(tmp_path) not in out.read_text()
    inductive_bias.main([*given, "0", "1"])
    both = json.loads(out.read_text())["runs"]
    assert both[: len(first)] == first and len(both) == len(first) + 6
    assert "drawings, 200 drawings" in capsys.readouterr().out


def test_the_rate_is_the_one_that_did_best_on_validation():
    runs = [
        {"part": "search", "model": name, "lr": lr, "accuracy": {"validation": value, "test": test}}
        for name, lr, value, test in (("a", 1, 0.2, 0.9), ("a", 2, 0.3, 0.1), ("b", 1, 0.9, 0.9))
    ]
    assert inductive_bias.best_rate(runs, "a") == 2


def test_what_is_stored_is_whole_and_its_rates_are_those_that_were_found():
    runs = stored_results("inductive_bias")["runs"]
    for name in inductive_bias.MODELS:
        rate = inductive_bias.best_rate(runs, name)
        for part, sizes in (("drawings", (200, 2000, 6037)), ("shuffled", (2000,))):
            for pictures in sizes:
                found = inductive_bias.made(runs, part, name, pictures=pictures, lr=rate)
                assert {run["seed"] for run in found} >= {0, 1, 2}
    assert len({run["steps"] for run in runs}) == 1
    for name, build in inductive_bias.MODELS.items():
        counts = {run["parameters"] for run in runs if run["model"] == name}
        assert counts == {sum(parameter.numel() for parameter in build(9).parameters())}

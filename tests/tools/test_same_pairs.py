"""Twelve layouts give the same pairs and splits, and the tool says so where one does not."""

import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from samples import picture

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import same_pairs

CAPTIONS = [
    'a dog, a cat | and "a cow"',
    '"Stop", says the sign # 3',
    "#1",
    '"a whole caption"',
    "a | b | c",
    "l'été; 🙂 — 猫",
    "=1+2, 'quoted'",
    "4   A dog runs across the grass .",
    "1.jpg, 2.jpg",
]


@pytest.fixture
def source(tmp_path):
    """Drawings of several formats in three splits, with captions that are hard to write down."""
    suffixes = [".png", ".jpg", ".webp", ".gif"]
    for number in range(18):
        split = ("train", "val", "test")[number % 3]
        name = f"{number}{suffixes[number % 4]}"
        path = picture(tmp_path / "source" / split / name, (10 * number, 9 * number, 99))
        lines = [CAPTIONS[number % len(CAPTIONS)], *["another", f"this is {number}"][: number % 3]]
        path.with_suffix(".txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def the_cache_stays(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE)


def test_every_layout_gives_the_same(source, capsys):
    assert same_pairs.main([str(source)]) == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("18 pictures (6 train, 6 validation, 6 test)")
    assert sum(line.endswith("  same") for line in lines) == 12
    assert len({line[33:45] for line in lines[3:17]}) == 1


def test_what_differs_is_named(source, capsys, monkeypatch):
    def without_a_caption(folder, pairs):
        fewer = [replace(p, captions=p.captions[:1]) for p in pairs]
        return same_pairs.metadata_csv(folder, fewer)

    def other_splits(folder, pairs):
        moved = [replace(pairs[0], split="test"), *pairs[1:]]
        return same_pairs.metadata_jsonl(folder, moved)

    def not_readable(folder, pairs):
        return folder / "absent.csv"

    wrong = {"fewer": without_a_caption, "moved": other_splits, "absent": not_readable}
    layouts = {**wrong, "parquet": same_pairs.parquet_files}
    monkeypatch.setattr(same_pairs, "LAYOUTS", layouts)
    assert same_pairs.main([str(source), "--limit", "4"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12 pictures (4 train")
    verdicts = {line.split()[0]: line for line in lines[5:9]}
    assert verdicts["fewer"].endswith("DIFFERS") and verdicts["moved"].endswith("DIFFERS")
    assert "Error: " in verdicts["absent"] and verdicts["parquet"].endswith("same")
    assert lines[-1].startswith("1 of 4 layouts")

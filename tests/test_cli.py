"""The command, as a user types it: what works, and one sentence for what does not."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from distilclip.cli import main

TINY = [
    "--image-size",
    "32",
    "--dim",
    "16",
    "--depth",
    "1",
    "--num-heads",
    "2",
    "--batch-size",
    "8",
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(20):
        Image.new("RGB", (40, 40), (12 * number, 99, 0)).save(folder / f"p{number}.png")
        (folder / f"p{number}.txt").write_text(f"shade number {number}")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, pictures):
    out = tmp_path_factory.mktemp("runs") / "run"
    train = ["train", "--data", str(pictures), "--out", str(out), "--epochs", "2", *TINY]
    assert main(train) == 0
    return out


def test_training_leaves_a_complete_run(run):
    names = {file.name for file in run.iterdir()}
    wanted = {"config.json", "model.safetensors", "metrics.jsonl", "train_config.json"}
    assert wanted | {"training_state.safetensors", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".part")) for name in names)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines].count("epoch") == 2
    assert {line["split"] for line in lines if line["kind"] == "final"} == {"validation", "test"}


def test_evaluate_prints_and_writes_the_same_figures(run, pictures, tmp_path, capsys):
    file = tmp_path / "figures.json"
    command = ["evaluate", str(run), "--data", str(pictures), "--split", "train"]
    assert main([*command, "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["images"] == 16 and figures["captions"] == 16
    assert f"R@5 {100 * figures['t2i_r5']:.1f}" in capsys.readouterr().out


def test_search_prints_ranked_files_and_writes_galleries(run, pictures, tmp_path, capsys):
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
    command = ["search", str(run), "shade number 3", str(pictures), "-k", "4"]
    assert main([*command, "--html", str(page), "--png", str(sheet)]) == 0
    lines = capsys.readouterr().out.splitlines()
    ranked = [line.split() for line in lines[:4]]
    assert [int(rank) for rank, _, _ in ranked] == [1, 2, 3, 4]
    scores = [float(score) for _, score, _ in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all((pictures / file.rsplit("/", 1)[1]).is_file() for _, _, file in ranked)
    assert page.read_text().count("<img") == 4 and Image.open(sheet).size == (600, 400)


def test_help_and_version_work_in_a_process_of_their_own():
    for arguments, expected in ((["--help"], "search"), (["--version"], "distilclip 0.")):
        command = [sys.executable, "-m", "distilclip.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and expected in done.stdout


FAULTS = {
    "unknown source": (["train", "--data", "emojis", "--out", "{new}"], "Unknown data source"),
    "empty folder": (["train", "--data", "{empty}", "--out", "{new}"], "No captioned pictures"),
    "no captions": (["train", "--data", "{bare}", "--out", "{new}"], "has no captions"),
    "broken picture": (
        ["train", "--data", "{broken}", "--out", "{new}", "--batch-size", "2"],
        "Cannot decode the image",
    ),
    "empty caption": (["train", "--data", "{blank}", "--out", "{new}"], "Empty caption"),
    "no weights": (
        ["train", "--data", "{pictures}", "--out", "{new}", "--text-model", "a/b", *TINY],
        "Cannot get 'a/b'",
    ),
    "patch size": (["train", "--out", "{new}", "--patch-size", "7"], "not divisible by patch_size"),
    "used folder": (["train", "--out", "{empty}/..", *TINY], "is not empty"),
    "nothing to resume": (["train", "--out", "{new}", "--resume"], "Nothing to resume"),
    "not a run": (["evaluate", "{empty}"], "is not the folder of a run"),
    "absent run": (["evaluate", "./absent"], "There is no folder absent"),
    "run off line": (["evaluate", "no/run"], "Cannot get 'no/run'"),
    "absent split": (["evaluate", "{run}", "--split", "tset"], "has no split 'tset'"),
    "search without pictures": (["search", "{run}", "x", "{empty}"], "No pictures in"),
    "search in no folder": (["search", "{run}", "x", "{new}"], "There is no folder"),
    "search for nothing": (["search", "{run}", " ", "{pictures}"], "The query is empty"),
    "search for none": (["search", "{run}", "x", "{pictures}", "-k", "0"], "-k must be at least"),
    "a gallery that is none": (
        ["search", "{run}", "x", "{pictures}", "--html", "page.txt"],
        "--html takes a file that ends in .html",
    ),
    "search in broken pictures": (["search", "{run}", "x", "{broken}"], "Cannot decode"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_ends_in_one_sentence(fault, run, pictures, tmp_path, capsys):
    folders = {name: tmp_path / name for name in ("empty", "bare", "broken", "blank")}
    for folder in folders.values():
        folder.mkdir()
    for name in ("bare", "broken", "blank"):
        for number in range(4):
            Image.new("RGB", (9, 9)).save(folders[name] / f"{number}.png")
            text = " " if name == "blank" else f"number {number}"
            if name != "bare":
                (folders[name] / f"{number}.txt").write_text(text)
    for number in range(4):
        (folders["broken"] / f"{number}.png").write_bytes(b"\x89PNG\r\n")
    new = tmp_path / "new"
    places = {**folders, "new": new, "run": run, "pictures": pictures}
    arguments, message = FAULTS[fault]
    status = main([argument.format(**places) for argument in arguments])
    output = capsys.readouterr()
    assert status != 0 and message in output.err
    sentences = [line for line in output.err.splitlines() if line.startswith("distilclip: error")]
    assert len(sentences) == 1 and "Traceback" not in output.err
    assert not new.exists()


def test_wrong_options_are_refused_by_argparse(capsys):
    for arguments in ([], ["fly"], ["train"], ["train", "--out", "x", "--epochs", "many"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err

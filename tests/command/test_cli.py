"""The command, as a user types it: what works, and one sentence for what does not."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from distilclip import ImageIndex, load_pairs
from distilclip.command.cli import load_run, main
from distilclip.runs.settings import PRESETS, TrainConfig
from distilclip.search import caption_bank, expand_queries

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


@pytest.mark.slow
def test_a_run_is_evaluated_on_what_it_was_trained_on(run, pictures, tmp_path, capsys):
    def evaluated(*given):
        status = main(["evaluate", str(run), *given, "--json", str(tmp_path / "figures.json")])
        output = capsys.readouterr()
        return status, output, json.loads((tmp_path / "figures.json").read_text())

    status, output, figures = evaluated()
    assert status == 0 and figures["data"] == str(pictures)
    assert evaluated("--data", str(pictures))[2] == figures
    assert f"by chance: text→image R@1 {100 / figures['images']:.1f}" in output.out
    assert figures["chance"]["t2i_r1"] == pytest.approx(1 / figures["images"])
    assert f"test has {figures['images']} pictures, one of which is" in output.err
    assert evaluated("--data", "emoji")[2]["images"] > 1000


@pytest.mark.slow
def test_data_that_are_not_what_they_were_are_told_of(pictures, tmp_path, capsys):
    folder, out = tmp_path / "pictures", tmp_path / "run"
    table = tmp_path / "table.csv"
    shutil.copytree(pictures, folder)
    rows = [f"pictures/p{n}.png,shade number {n},nothing" for n in range(20)]
    table.write_text("\n".join(["file_name,what,text", *rows]))
    train = ["train", "--data", str(table), "--caption-column", "what", "--out", str(out)]
    assert main([*train, "--epochs", "1", *TINY]) == 0
    said = capsys.readouterr()
    assert "By chance, validation would have" in said.err
    assert main(["evaluate", str(out)]) == 0
    said = capsys.readouterr()
    assert "not those that the run" not in said.err and "none shared" in said.out
    assert main(["evaluate", str(out), "--caption-column", "text"]) == 0
    assert "not those that the run" in capsys.readouterr().err
    table.unlink()
    assert main(["evaluate", str(out)]) == 1
    assert re.search("was trained on .*table.csv, which cannot be read", capsys.readouterr().err)
    (out / "train_config.json").unlink()
    assert main(["evaluate", str(out)]) == 1
    assert "There is no record of what" in capsys.readouterr().err


def test_evaluate_says_how_many_captions_are_shared(run, tmp_path, capsys):
    folder, file = tmp_path / "pictures", tmp_path / "figures.json"
    folder.mkdir()
    for number in range(20):
        Image.new("RGB", (40, 40), (12 * number, 90, 0)).save(folder / f"{number}.png")
        texts = ["any shade", f"shade {number}", f"one of three {number // 3}"]
        (folder / f"{number}.txt").write_text("\n".join(texts))
    captions = list(load_pairs(folder)["train"]["captions"])
    times = Counter(text for texts in captions for text in texts)
    shared = sum(count > 1 for count in times.values())
    assert len(times) > shared > 1
    for strict in (False, True):
        command = ["evaluate", str(run), "--data", str(folder), "--split", "train"]
        assert main([*command, "--json", str(file), *["--strict"] * strict]) == 0
        out, figures = capsys.readouterr().out, json.loads(file.read_text())
        assert figures["strict"] is strict and figures["images"] == len(captions)
        assert figures["captions"] == times.total() == 3 * len(captions)
        assert figures["different_captions"] == len(times)
        assert figures["shared_captions"] == shared
        assert f"{times.total()} captions, {len(times)} of them different, {shared} shared" in out
        assert ("strict" in out) is strict


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
    assert page.read_text().count("<img") == 4 and Image.open(sheet).size == (600, 444)


def ranking(output):
    """The files that a search printed, best first."""
    lines = [line for line in output.splitlines() if not line.startswith("Gallery: ")]
    return [Path(line.split(maxsplit=2)[2]).name for line in lines]


@pytest.fixture(scope="module")
def model(run):
    return load_run(str(run))


@pytest.fixture
def loaded(model, monkeypatch):
    """The run is loaded once: these tests search often."""
    monkeypatch.setattr("distilclip.command.cli.load_run", lambda name: model)


def test_words_can_be_said_in_those_of_known_captions(run, loaded, pictures, capsys):
    command = ["search", str(run), "the darkest of them", str(pictures), "-k", "20", "--no-cache"]
    assert main([*command, "--captions", str(pictures)]) == 0
    found = ranking(capsys.readouterr().out)
    model = load_run(str(run))
    bank = caption_bank(model, load_pairs(str(pictures))["train"]["captions"])
    query = expand_queries(model.encode_text("the darkest of them"), bank)[0]
    hits = ImageIndex.from_folder(model, pictures, progress=False).search(query, 20)
    assert found == [Path(hit.name).name for hit in hits]
    assert main([*command, "--captions", "nowhere"]) == 1
    assert "Unknown data source 'nowhere'" in capsys.readouterr().err


def test_a_picture_can_be_the_question(run, loaded, pictures, tmp_path, capsys):
    page = tmp_path / "page.html"
    picture = str(pictures / "p7.png")
    for words in (
        [str(run), str(pictures), "--image", picture],
        [str(run), "--image", picture, str(pictures)],
        [f"--image={picture}", str(run), "-k", "3", str(pictures)],
    ):
        assert main(["search", *words, "-k", "3", "--html", str(page)]) == 0
        found = ranking(capsys.readouterr().out)
        assert len(found) == 3 and "p7.png" not in found  # which needs no search
    assert page.read_text().count("<img") == 4 and "Like p7.png" in page.read_text()


def test_several_queries_are_asked_at_once(run, pictures, capsys, monkeypatch):
    command = ["search", str(run), str(pictures), "-k", "2"]
    alone = []
    for words in ("shade number 3", "-17 shades"):
        assert main([*command[:2], "--no-cache", "-k", "2", "--", words, str(pictures)]) == 0
        alone.append(capsys.readouterr().out)
    loads = []
    monkeypatch.setattr(
        "distilclip.command.cli.load_run", lambda name: loads.append(name) or load_run(name)
    )
    assert main([*command, "-q", "shade number 3", "--query=-17 shades"]) == 0
    assert capsys.readouterr().out == f"shade number 3:\n{alone[0]}-17 shades:\n{alone[1]}"
    monkeypatch.setattr("sys.stdin", io.StringIO("shade number 3\n\n-17 shades\n"))
    assert main([*command, "-q", "-", "-f"]) == 0
    assert len(loads) == 2
    files = [line.split(maxsplit=2)[2] for line in "".join(alone).splitlines()]
    assert capsys.readouterr().out.splitlines() == files
    assert main([*command, "-qshade number 3", "--json"]) == 0
    (first, second) = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["path"] == files[0] and first["score"] >= second["score"]
    assert [first["rank"], second["rank"]] == [1, 2] and first["query"] == "shade number 3"
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main([*command, "-q", "-"]) == 1
    assert "Standard input has no words" in capsys.readouterr().err


def test_a_picture_and_words_are_looked_for_together(run, loaded, pictures, capsys):
    model = load_run(run)
    picture = sorted(pictures.iterdir())[2]
    command = ["search", str(run), str(pictures), "--image", str(picture), "-k", "30", "--json"]
    assert main([*command, "-q", "shade number 3", "-q", "-17 shades"]) == 0
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    index = ImageIndex.from_folder(model, pictures)
    own = model.encode_image(picture)[0]
    for words in ("shade number 3", "-17 shades"):
        both = F.normalize(own + model.encode_text(words)[0], dim=0)
        expected = {
            name: float(v @ both) for name, v in zip(index.names, index.embeds, strict=True)
        }
        found = {Path(line["path"]).name: line["score"] for line in lines if words in line["query"]}
        assert picture.name not in found and len(found) == len(expected) - 1
        assert all(abs(score - expected[name]) < 1e-3 for name, score in found.items())
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_duplicates_are_listed_nearest_first(run, loaded, pictures, tmp_path, capsys):
    pictures = shutil.copytree(pictures, tmp_path / "pictures")
    first = sorted(pictures.iterdir())[0]
    (pictures / "a copy.png").write_bytes(first.read_bytes())
    command = ["search", str(run), str(pictures), "--duplicates"]
    assert main([*command, "0.99999", "--json"]) == 0
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert sorted(map(Path, lines[0]["paths"])) == sorted([pictures / "a copy.png", first])
    assert lines[0]["cosine"] == 1
    assert main([*command, "--files"]) == 0
    output = capsys.readouterr()
    pairs = [line.split("\t") for line in output.out.splitlines()]
    assert pairs and all(Path(name).is_file() for pair in pairs for name in pair)
    have = "has" if len(pairs) == 1 else "have"
    assert f"of 21 pictures {have} a cosine of at least 0.95" in output.err
    assert main(command) == 0
    cosines = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert cosines == sorted(cosines, reverse=True) and len(cosines) == len(pairs)


def test_pictures_below_a_score_are_not_shown(run, loaded, pictures, capsys):
    command = ["search", str(run), "shade number 3", str(pictures), "-k", "20"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    least = (float(lines[4].split()[1]) + float(lines[5].split()[1])) / 2
    assert main([*command, "--min-score", str(least)]) == 0
    expected = [line for line in lines if float(line.split()[1]) > least]
    assert capsys.readouterr().out.splitlines() == expected
    assert main([*command, "--min-score", "1"]) == 0
    output = capsys.readouterr()
    assert output.out == "" and "None of 20 pictures has a cosine of 1; the nearest" in output.err


def test_words_and_folder_may_change_places(run, loaded, pictures, capsys):
    orders = [["shade number 3", str(pictures)], [str(pictures), "shade number 3"]]
    found = []
    for order in orders:
        assert main(["search", str(run), *order]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-q", "a", "--image", "x.png"], "There is no picture x.png"),
        (["--duplicates", "0"], "a cosine, above 0"),
        (["--duplicates", "1.5"], "at most 1, got 1.5"),
        (["--duplicates", "0.9", "-q", "a"], "leave out -q"),
        (["--duplicates", "0.9", "--min-score", "0.2"], "leave out --min-score"),
        (["--duplicates", "0.9", "--html", "x.html"], "leave out --html"),
        (["-q", "a", "-q", " "], "The query is empty"),
        (["-q", "a", "-q", "b", "--html", "x.html"], "show one query"),
        (["-q", "-", "--png", "x.png"], "show one query"),
        (["-q", "a", "--min-score", "2"], "from -1 to 1, got 2"),
    ],
)
def test_queries_that_cannot_be_are_refused(run, pictures, given, message, capsys):
    assert main(["search", str(run), str(pictures), *given]) == 1
    assert message in capsys.readouterr().err


def test_words_can_be_taken_away(run, loaded, pictures, capsys):
    command = ["search", str(run), "shade number 3", str(pictures), "-k", "20"]
    assert main(command) == 0
    plain = capsys.readouterr().out
    assert main([*command, "--without", "shade number 12"]) == 0
    assert capsys.readouterr().out != plain


def test_the_second_search_embeds_nothing(run, loaded, tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (40, 40), (50 * number, 0, 0)).save(folder / f"{number}.png")

    def search(*options):
        assert main(["search", str(run), "red", str(folder), *options]) == 0
        return capsys.readouterr()

    first, second = search(), search()
    assert "5 pictures: 5 embedded" in first.err and "5 pictures: 0 embedded" in second.err
    assert first.out == second.out
    assert {file.name for file in folder.iterdir()} == {f"{number}.png" for number in range(5)}
    Image.new("RGB", (40, 40), "blue").save(folder / "new.png")
    (folder / "0.png").unlink()
    changed = search()
    assert "5 pictures: 1 embedded, 1 forgotten" in changed.err
    assert changed.out == search("--rebuild").out == search("--no-cache").out
    assert "5 pictures: 5 embedded" in search("--no-cache").err


def test_broken_pictures_are_listed_and_skipped(run, loaded, tmp_path, capsys):
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    (tmp_path / "bad\n.png").write_bytes(b"\x89PNG")
    command = ["search", str(run), "red", str(tmp_path)]
    assert main(command) == 1
    assert "Cannot decode" in capsys.readouterr().err
    assert main([*command, "--skip-broken"]) == 0
    output = capsys.readouterr()
    assert ranking(output.out) == ["good.png"]
    assert "Skipped 1 " in output.err and "bad\\n.png: it is" in output.err


def test_names_of_any_kind_are_printed_on_one_line(run, loaded, tmp_path, capsys):
    names = [os.fsdecode(b"caf\xe9.png"), "two\nlines.png", "猫.png", "\x1b[31mred.png"]
    for name in names:
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    assert main(["search", str(run), "red", str(tmp_path), "--html", str(tmp_path / "x.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and not any("\x1b" in line for line in lines)
    assert any("猫.png" in line for line in lines) and any("\\udce9" in line for line in lines)


def test_help_needs_no_pytorch():
    code = (
        "import sys\n"
        "from distilclip.command.cli import main\n"
        "helps = ['--help'], ['train', '--help'], ['search', '--help']\n"
        "for words in (*helps, ['search', 'run'], ['fly'], []):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_help_and_version_work_in_a_process_of_their_own():
    for arguments, expected in ((["--help"], "search"), (["--version"], "distilclip 0.")):
        command = [sys.executable, "-m", "distilclip.command.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and expected in done.stdout


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_what_is_not_given(preset, monkeypatch):
    asked = []
    result = SimpleNamespace(metrics={}, folder="x")
    monkeypatch.setattr("distilclip.training.train", lambda config: asked.append(config) or result)
    command = ["train", "--out", "x", "--preset", preset]
    assert main(command) == 0
    assert main([*command, "--epochs", "7", "--flip", "--no-mask-positives"]) == 0
    changes = {"epochs": 7, "flip": True, "mask_positives": False}
    plain = {"out": "x", "preset": preset}
    assert asked == [TrainConfig(**plain), TrainConfig(**plain, **changes)]


def test_help_shows_every_setting_with_its_values(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(TrainConfig):
        flag = f"--{field.name.replace('_', '-')}"
        assert f"[{flag}" in text or f" {flag} " in text
    assert "in pixels (cpu 48, t4 224, t4-drawings 224, t4-pretrained 224, original 224)" in text
    epochs = ", ".join(f"{name} {settings['epochs']}" for name, settings in PRESETS.items())
    assert f"seen ({epochs})" in text
    starts = "cpu none, t4 none, t4-drawings none, tune emoji, t4-pretrained none, original none"
    assert f"a Hub id ({starts})" in text
    assert "shared space (default: 256)" in text


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
    "absent device": (["train", "--out", "{new}", "--device", "meta"], "There is no device 'meta'"),
    "used folder": (["train", "--out", "{empty}/..", *TINY], "is not empty"),
    "nothing to resume": (["train", "--out", "{new}", "--resume"], "Nothing to resume"),
    "not a run": (["evaluate", "{empty}"], "is not the folder of a run"),
    "absent run": (["evaluate", "./absent"], "There is no folder absent"),
    "run off line": (["evaluate", "no/run"], "Cannot get 'no/run'"),
    "absent split": (["evaluate", "{run}", "--split", "tset"], "has no split 'tset'"),
    "search without pictures": (["search", "{run}", "x", "{empty}"], "No pictures in"),
    "search in no folder": (["search", "{run}", "x", "{new}"], "There is no folder"),
    "search for nothing": (["search", "{run}", " ", "{pictures}"], "The query is empty"),
    "search without nothing": (
        ["search", "{run}", "x", "{pictures}", "--without", " "],
        "The query is empty",
    ),
    "search for no picture": (
        ["search", "{run}", "{pictures}", "--image", "{new}"],
        "There is no picture",
    ),
    "search for what is no picture": (
        ["search", "{run}", "{pictures}", "--image", "{blank}/0.txt"],
        "Cannot decode",
    ),
    "search with a run off line": (["search", "no/run", "x", "{pictures}"], "Cannot get 'no/run'"),
    "search in a file": (["search", "{run}", "x", "{blank}/0.txt"], "There is no folder"),
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
            Image.new("RGB", (9, 9), (number, 0, 0)).save(folders[name] / f"{number}.png")
            text = " " if name == "blank" else f"number {number}"
            if name != "bare":
                (folders[name] / f"{number}.txt").write_text(text)
    for number in range(4):
        (folders["broken"] / f"{number}.png").write_bytes(b"\x89PNG\r\n" + bytes(number))
    new = tmp_path / "new"
    places = {**folders, "new": new, "run": run, "pictures": pictures}
    arguments, message = FAULTS[fault]
    status = main([argument.format(**places) for argument in arguments])
    output = capsys.readouterr()
    assert status != 0 and message in output.err
    sentences = [line for line in output.err.splitlines() if line.startswith("distilclip: error")]
    assert len(sentences) == 1 and "Traceback" not in output.err
    assert not new.exists()


@pytest.mark.parametrize("command", ["run_train", "run_evaluate", "run_search"])
def test_without_memory_every_command_ends_in_one_sentence(command, monkeypatch, tmp_path, capsys):
    def lacking(options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 ...")

    monkeypatch.setattr(f"distilclip.command.cli.{command}", lacking)
    arguments = {
        "run_train": ["train", "--out", str(tmp_path / "new")],
        "run_evaluate": ["evaluate", "emoji"],
        "run_search": ["search", "emoji", "x", str(tmp_path)],
    }
    assert main(arguments[command]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Out of memory (2.00 GiB more" in line and "--micro-batch" in line


def test_other_errors_of_a_library_are_not_hidden(monkeypatch, tmp_path):
    def broken(options):
        raise RuntimeError("mat1 and mat2 must have the same dtype")

    monkeypatch.setattr("distilclip.command.cli.run_train", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        main(["train", "--out", str(tmp_path / "new")])


def test_an_emoji_can_be_the_question(run, loaded, pictures, capsys):
    def scores(query):
        assert main(["search", str(run), query, str(pictures), "-k", "3"]) == 0
        return capsys.readouterr()

    assert scores("\U0001f34e").out == scores("red apple").out != scores("\U0001f697").out


def test_a_question_without_a_known_word_is_warned_about(run, loaded, pictures, capsys, caplog):
    assert main(["search", str(run), "\u0e20\u0e32\u0e29\u0e32", str(pictures)]) == 0
    assert "knows no word of 1 text" in caplog.text


def test_files_of_other_kinds_are_counted_in_one_line(run, loaded, pictures, capsys, caplog):
    assert main(["search", str(run), "shade", str(pictures)]) == 0
    assert "not read" not in caplog.text  # captions beside pictures are no surprise
    (pictures / "scan.pdf").write_bytes(b"%PDF")
    assert main(["search", str(run), "shade", str(pictures)]) == 0
    (pictures / "scan.pdf").unlink()
    assert "1 file is of a kind that is not read: 1 .pdf" in caplog.text


def test_wrong_options_are_refused_by_argparse(capsys):
    for arguments in ([], ["fly"], ["train"], ["train", "--out", "x", "--epochs", "many"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


INTERRUPT_AT_IMPORT = """
import signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
sys.meta_path.insert(0, Interrupt())
from distilclip.command.cli import main
sys.exit(main(["evaluate", "nowhere", "--data", "emoji"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["datasets", "pyarrow.lib", "transformers", "torch.nn"])
def test_ctrl_c_while_libraries_are_imported_ends_in_one_line(module):
    command = [sys.executable, "-c", INTERRUPT_AT_IMPORT, module]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 130
    assert ended.stderr.strip() == "distilclip: Stopped."


def test_the_options_for_tables_reach_the_table(tmp_path, run, capsys):
    """In `evaluate` and in `train`; captions may be named several times."""
    lines = ["photo;en;de;part"]
    for number in range(4):
        Image.new("RGB", (9, 9), (number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png;cat {number};Katze {number};testing")
    file = tmp_path / "list.csv"
    file.write_text("\n".join(lines))
    options = ["--data", str(file), "--image-column", "photo", "--split-column", "part"]
    options += ["--caption-column", "en", "--caption-column", "de", "--delimiter", ";"]
    assert main(["evaluate", str(run), *options]) == 0
    assert "4 images, 8 captions" in capsys.readouterr().out
    assert main(["train", "--out", str(tmp_path / "new"), *options]) == 1
    assert "has no split 'train', only test." in capsys.readouterr().err
    assert not (tmp_path / "new" / "model.safetensors").exists()


def test_what_was_read_is_said(pictures, tmp_path, capsys):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    shutil.copy(folder / "p0.png", folder / "again.png")
    (folder / "again.txt").write_text("the first shade once more")
    train = ["train", "--data", str(folder), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert main([*train, *TINY]) == 0
    said = capsys.readouterr().err
    assert "1 row was joined" in said
    sizes = re.search(
        r"train (\d+) pictures with (\d+) captions, validation (\d+).*test (\d+)", said
    )
    assert int(sizes[1]) + int(sizes[3]) + int(sizes[4]) == 20


def snapshot(*folders):
    """Every file below some folders, and what is in it."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {file: file.read_bytes() for file in files if "cache" not in file.parts}


LINKED = ["itself", "a link", "another spelling"]


@pytest.mark.parametrize("how", LINKED)
@pytest.mark.parametrize("kind", ["--png", "--html", "--json"])
def test_an_output_never_replaces_what_is_read(kind, how, run, pictures, tmp_path, capsys):
    """Pictures, captions, queries, a model's files; by any path that leads there."""
    folder, model = tmp_path / "pictures", tmp_path / "model"
    shutil.copytree(pictures, folder)
    shutil.copytree(run, model)
    query = tmp_path / "query.png"
    shutil.copy(folder / "p3.png", query)
    suffix = {"--png": ".png", "--html": ".html", "--json": ""}[kind]
    targets = [folder / "p3.png", query]
    if kind == "--json":
        targets = [folder / "p3.txt", folder / "p3.png", model / "config.json"]
        targets += [model / "model.safetensors", model / "metrics.jsonl"]
    before = snapshot(folder, model)
    for number, target in enumerate(targets):
        output = target
        if how == "a link" or target.suffix != (suffix or target.suffix):
            output = tmp_path / f"link{number}{suffix}"
            output.symlink_to(target)
        elif how == "another spelling":
            output = target.parent / ".." / target.parent.name / target.name
        command = ["search", str(model), str(folder), "--image", str(query), kind, str(output)]
        if kind == "--json":
            command = ["evaluate", str(model), "--data", str(folder), kind, str(output)]
        assert main(command) == 1
        assert "it would be lost" in capsys.readouterr().err
    assert snapshot(folder, model) == before and query.read_bytes() == before[folder / "p3.png"]


def test_an_output_of_ours_is_replaced_and_a_new_one_written(run, pictures, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(run, model)
    for _ in range(2):
        file = model / "evaluation.json"
        assert main(["evaluate", str(model), "--data", str(pictures), "--json", str(file)]) == 0
        for name in ("page.html", "sheet.png"):
            kind = f"--{name.partition('.')[2]}"
            search = ["search", str(model), "shade", str(pictures), kind, str(tmp_path / name)]
            assert main(search) == 0
    assert json.loads(file.read_text())["split"] == "test"


@pytest.mark.parametrize(("kind", "most"), [("html", 10_000), ("png", 1_000)])
def test_a_gallery_of_too_many_is_refused(kind, most, run, pictures, tmp_path, capsys):
    output = tmp_path / f"out.{kind}"
    command = ["search", str(run), "shade", str(pictures), f"--{kind}", str(output), "-k"]
    assert main([*command, str(most + 1)]) == 1
    assert f"shows at most {most:,} pictures" in capsys.readouterr().err and not output.exists()
    assert main([*command, str(most)]) == 0 and output.is_file()


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--data", "{data}", "--out", "~nobody-here/run"],
        ["train", "--data", "~nobody-here/data", "--out", "{out}"],
        ["evaluate", "~nobody-here/run", "--data", "{data}"],
        ["evaluate", "emoji", "--data", "~nobody-here/data"],
        ["search", "~nobody-here/run", "words", "{data}"],
        ["search", "emoji", "words", "~nobody-here/pictures"],
    ],
)
def test_a_home_that_nobody_has_is_one_sentence(command, pictures, tmp_path, capsys):
    filled = [part.format(data=pictures, out=tmp_path / "run") for part in command]
    assert main(filled) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("distilclip: error: ") and line.endswith(".")
    assert not (tmp_path / "run").exists() and not Path("~nobody-here").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("skip", [False, True])
def test_what_is_no_picture_is_counted_and_a_name_makes_no_line(skip, pictures, tmp_path, capsys):
    """Links to nowhere and to themselves, pipes, and a line break in a broken file's name."""
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    (folder / "nowhere.png").symlink_to("/absent/picture.png")
    train = ["train", "--data", str(folder), "--out", str(tmp_path / "run"), "--epochs", "1", *TINY]
    if skip:
        train.append("--skip-broken")
        (folder / "circle.png").symlink_to("circle.png")
        os.mkfifo(folder / "pipe.jpg")
        name = "good\ndistilclip: error: no.png"
        (folder / name).write_bytes(b"nothing")
        (folder / name).with_suffix(".txt").write_text("a caption")
    assert main(train) == 0
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "that is not read" in line or "that are not" in line]
    assert "1 .png that leads nowhere" in line
    assert not any(line.startswith("distilclip: error") for line in lines)
    about = [line for line in lines if line.startswith("  ")]
    assert len(about) == 3 * skip
    assert not skip or any(r"good\ndistilclip: error: no.png" in line for line in about)


@pytest.mark.parametrize("option", ["--without=--", "--query=--", "-q=--", "--captions=--"])
def test_two_hyphens_are_no_value(option, pictures, capsys):
    words = ["a dog"] if "q" not in option else []
    assert main(["search", "emoji", *words, str(pictures), option]) in (0, 1)
    err = capsys.readouterr().err
    assert "Traceback" not in err and err.rstrip().endswith(".")


def test_a_wrong_option_is_one_line_whatever_it_holds(pictures, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["search", "emoji", "a dog", str(pictures), "--no\nsuch\x1b[31m"])
    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and lines[-1].endswith(r"--no\nsuch\x1b[31m")

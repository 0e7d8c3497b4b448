"""What the README shows runs as it stands: its Python, in its order, and its commands."""

import re
import shlex
from pathlib import Path

import pytest
from samples import noise_pictures

from distilclip.command.cli import build_parser

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """Every call of the command, as its arguments."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [arguments for word, *arguments in filter(None, words) if word == "distilclip"]


@pytest.mark.slow
def test_python_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(noise_pictures(30)):
        picture.save(tmp_path / "pictures" / f"{number}.png")
        (tmp_path / "pictures" / f"{number}.txt").write_text(f"picture {number}\n")
    (tmp_path / "pictures" / "0.png").rename(tmp_path / "pictures" / "dog.png")
    (tmp_path / "pictures" / "0.txt").rename(tmp_path / "pictures" / "dog.txt")
    snippets = blocks("python")
    assert len(snippets) == README.count("```python") >= 4
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "mine" / "model.safetensors").is_file()
    assert "'a beach'" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_every_command_is_understood(arguments):
    options = build_parser(arguments).parse_args(arguments)
    assert options.run.__name__ == f"run_{arguments[0]}"


def test_there_are_commands_of_each_kind():
    assert {arguments[0] for arguments in commands()} == {
        *("train", "evaluate", "search", "serve"),
    }

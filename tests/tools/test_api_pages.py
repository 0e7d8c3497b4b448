"""The API reference: a page a module, listed with its first sentence, and in the contents."""

import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import api_pages


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package with one chapter, one module beside, and a room."""
    package = tmp_path / "distilclip"
    for name, text in (
        ("__init__", "The package."),
        ("cli", "An old address."),
        ("odd", "Nobody's."),
        ("vit", "Pixels go in,\nvectors come out.\n\nMore of it."),
        ("runs/__init__", "What a run needs."),
        ("runs/watch", "What a run shows."),
    ):
        file = package / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'"""{text}"""\n')
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/03_vit.ipynb").touch()
    (tmp_path / "book").mkdir()
    contents = "root: x\nparts:\n  - chapters:\n      - file: book/api\n      - file: book/end\n"
    (tmp_path / "_toc.yml").write_text(contents)
    for name, place in (("ROOT", tmp_path), ("PACKAGE", package)):
        monkeypatch.setattr(api_pages, name, place)
    monkeypatch.setattr(api_pages, "PAGES", tmp_path / "book/api")
    return tmp_path


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["api_pages.py", *options])
    return api_pages.main()


def test_every_module_has_a_page_and_a_line(house, monkeypatch, capsys):
    assert run(monkeypatch, "--check") == 1 and not (house / "book/api").exists()
    assert run(monkeypatch) == 0 and run(monkeypatch, "--check") == 0
    pages = {path.stem for path in (house / "book/api").glob("*.md")}
    assert pages == {"vit", "odd", "runs", "runs.watch"}
    listed = (house / "book/api.md").read_text()
    line = "- [distilclip.vit](api/vit.md): Pixels go in, vectors come out.\n"
    assert line in listed and listed.index("vit") < listed.index("odd")
    assert (
        "- [distilclip.runs.watch](runs.watch.md): What a run shows."
        in (house / "book/api/runs.md").read_text()
    )
    (chapters,) = [
        part["chapters"] for part in yaml.safe_load((house / "_toc.yml").open())["parts"]
    ]
    rooms = {"file": "book/api/runs", "sections": [{"file": "book/api/runs.watch"}]}
    flat = [{"file": "book/api/vit"}, {"file": "book/api/odd"}]
    assert chapters == [
        {"file": "book/api", "sections": [*flat, rooms]},
        {"file": "book/end"},
    ]


def test_a_module_that_is_gone_takes_its_page_along(house, monkeypatch, capsys):
    run(monkeypatch)
    (house / "distilclip/odd.py").unlink()
    assert run(monkeypatch, "--check") == 1
    assert "book/api/odd.md" in capsys.readouterr().err
    run(monkeypatch)
    assert not (house / "book/api/odd.md").exists()
    assert "odd" not in (house / "_toc.yml").read_text()

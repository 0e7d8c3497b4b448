"""No command replaces what it reads, by whatever name the file is given."""

import json
import os
import shutil

import pytest
from PIL import Image

from distilclip.command.cli import main
from distilclip.command.outputs import MOST_ON_SHEET

ALIASES = ("itself", "link", "hard link", "through a folder", "another spelling")


def alias(path, kind, place):
    """Another path to the same file."""
    if kind == "itself":
        return path
    if kind == "another spelling":
        return path.parent / "." / ".." / path.parent.name / path.name
    if kind == "through a folder":
        (place / "folder").symlink_to(path.parent)
        return place / "folder" / path.name
    other = place / f"alias{path.suffix}"
    os.link(path, other) if kind == "hard link" else other.symlink_to(path)
    return other


@pytest.fixture
def searched(tmp_path, pictures):
    """A folder of pictures, one of them a link to a picture elsewhere."""
    outside = tmp_path / "outside.png"
    Image.new("RGB", (9, 9), "pink").save(outside)
    (pictures / "linked.png").symlink_to(outside)
    return pictures


def contents(folder):
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "cache" not in path.parts
    }


@pytest.mark.parametrize("kind", ALIASES)
@pytest.mark.parametrize("name", ["query.png", "pictures/red.png", "outside.png"])
def test_no_gallery_replaces_a_picture(name, kind, searched, saved, tmp_path, capsys):
    Image.new("RGB", (9, 9), "white").save(tmp_path / "query.png")
    place = tmp_path / "place"
    place.mkdir()
    target = alias(tmp_path / name, kind, place)
    before = contents(tmp_path)
    command = ["search", str(saved), str(searched), "--image", str(tmp_path / "query.png")]
    assert main([*command, "--png", str(target)]) == 1
    assert "would replace what is read" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_page_that_is_a_link_to_a_picture_is_refused(searched, saved, tmp_path, capsys):
    (tmp_path / "page.html").symlink_to(searched / "red.png")
    before = contents(tmp_path)
    command = ["search", str(saved), "words", str(searched)]
    assert main([*command, "--html", str(tmp_path / "page.html")]) == 1
    assert "would replace" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
@pytest.mark.parametrize("kind", ALIASES)
def test_no_figures_replace_a_file_of_the_model(name, kind, saved, tmp_path_factory, capsys):
    place = tmp_path_factory.mktemp("place")
    before = contents(saved)
    target = alias(saved / name, kind, place)
    assert main(["evaluate", str(saved), "--data", "scenes", "--json", str(target)]) == 1
    assert "would replace what is read" in capsys.readouterr().err
    assert contents(saved) == before


def test_no_figures_replace_the_data(saved, pictures, tmp_path, capsys):
    table = tmp_path / "table.jsonl"
    table.write_text(json.dumps({"file_name": "pictures/red.png", "text": "red"}) + "\n")
    for data, target in ((table, table), (pictures, pictures / "notes.txt")):
        before = contents(tmp_path)
        assert main(["evaluate", str(saved), "--data", str(data), "--json", str(target)]) == 1
        assert "would replace what is read" in capsys.readouterr().err
        assert contents(tmp_path) == before


def test_what_we_wrote_is_replaced(saved, shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    shutil.copytree(shapes, folder)
    figures, page = saved / "figures.json", folder / "page.html"
    for _ in range(2):
        command = ["evaluate", str(saved), "--data", str(folder)]
        assert main([*command, "--json", str(figures)]) == 0
        assert main(["search", str(saved), "words", str(folder), "--html", str(page)]) == 0
    assert "t2i_r10" in json.loads(figures.read_text())


def test_a_folder_is_no_file_to_write(saved, searched, capsys):
    command = ["evaluate", str(saved), "--data", "scenes", "--json", str(searched)]
    assert main(command) == 1
    assert "is a folder" in capsys.readouterr().err


def test_a_sheet_of_more_pictures_than_can_be_looked_at_is_refused(saved, searched, capsys):
    command = ["search", str(saved), "words", str(searched), "--png", "sheet.png"]
    assert main([*command, "-k", str(MOST_ON_SHEET + 1)]) == 1
    assert "too many for --png" in capsys.readouterr().err

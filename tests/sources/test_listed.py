"""Pictures are found by the names that a list gives, inside the source and nowhere else."""

import os

import pytest
from samples import picture

from distilclip.sources.listed import (
    ListedPictures,
    children_of,
    folders_called,
    holds_captioned_pictures,
    inner,
    report_unlisted,
    split_word_in,
)
from distilclip.sources.places import Place


def test_a_picture_is_found_in_the_first_folder_that_has_it(tmp_path):
    picture(tmp_path / "Images" / "1.jpg")
    picture(tmp_path / "2.jpg", "blue")
    pictures = ListedPictures(tmp_path, folders_called(tmp_path, ["images", "."]))
    assert pictures.find("1.jpg", "in a list") == (f"{tmp_path}/Images/1.jpg", "Images/1.jpg")
    assert pictures.find("Images\\1.jpg", "in a list")[1] == "Images/1.jpg"
    assert pictures.find("2.jpg", "in a list")[1] == "2.jpg"


def test_a_name_that_different_pictures_share_is_refused(tmp_path):
    for place, colour in (("Images", "red"), (".", "blue")):
        picture(tmp_path / place / "1.jpg", colour)
        picture(tmp_path / place / "2.jpg", "green")
    pictures = ListedPictures(tmp_path, folders_called(tmp_path, ["Images", "."]))
    assert pictures.find("2.jpg", "in a list")[1] == "Images/2.jpg"
    with pytest.raises(ValueError, match="different pictures"):
        pictures.find("1.jpg", "in a list")


@pytest.mark.parametrize("kind", ["absolute", "up", "link", "linked folder", "folder", "pipe"])
def test_nothing_but_plain_files_inside_the_source_is_found(tmp_path, kind):
    outside = picture(tmp_path / "outside" / "1.jpg")
    inside = picture(tmp_path / "source" / "Images" / "2.jpg").parent
    name = {"absolute": str(outside), "up": "../../outside/1.jpg"}.get(kind, "1.jpg")
    if kind == "link":
        (inside / "1.jpg").symlink_to(outside)
    elif kind == "linked folder":
        (inside / "more").symlink_to(outside.parent)
        name = "more/1.jpg"
    elif kind == "folder":
        (inside / "1.jpg").mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes on this system")
        os.mkfifo(inside / "1.jpg")
    pictures = ListedPictures(inside.parent, [inside])
    with pytest.raises(ValueError, match=r"outside|is a folder|no plain file"):
        pictures.find(name, "in a list")


def test_what_a_list_does_not_name_is_counted(tmp_path, caplog):
    for number in range(5):
        picture(tmp_path / "Images" / "sub" / f"{number}.jpg", (number, 0, 0))
    pictures = ListedPictures(tmp_path, folders_called(tmp_path, ["Images"]))
    pictures.find("sub/0.jpg", "in a list")
    report_unlisted([pictures], "list.txt")
    assert "Left out 4 pictures, not listed in list.txt" in caplog.text


def test_what_one_of_two_lists_names_is_not_left_out(tmp_path, caplog):
    lists = []
    for number in range(2):
        picture(tmp_path / "Images" / f"{number}.jpg", (number, 0, 0))
        lists.append(ListedPictures(tmp_path, folders_called(tmp_path, ["Images"])))
        lists[-1].find(f"{number}.jpg", "in a list")
    report_unlisted(lists, "both")
    assert not caplog.text


def test_a_name_is_looked_for_in_the_folders_below(tmp_path):
    """In the folder of the table's own split first; never in hidden ones."""
    for place, colour in (("train", "red"), ("val", "blue"), (".old", "green")):
        picture(tmp_path / "images" / place / "1.jpg", colour)
    picture(tmp_path / "images" / ".old" / "2.jpg")
    for split in ("train", "val"):
        place = Place(tmp_path, first=[split])
        assert place.find("1.jpg", "in a list")[1] == f"images/{split}/1.jpg"
    with pytest.raises(ValueError, match="different pictures"):
        Place(tmp_path).find("1.jpg", "in a list")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Place(tmp_path).find("2.jpg", "in a list")


@pytest.mark.parametrize("name", ["1.JPG", "1"])
def test_a_name_that_is_nearly_right_is_told(name, tmp_path):
    picture(tmp_path / "1.jpg")
    if (tmp_path / name).exists():
        pytest.skip("this system does not tell capitals apart")
    with pytest.raises(FileNotFoundError, match=r"there is '1\.jpg'"):
        Place(tmp_path).find(name, "in a list")


def test_the_word_for_a_split_in_a_name():
    words = {"train": "train", "cc3m-validation-0001.tar": "validation", "Val_2": "val"}
    words |= {"00000.tar": "", "train-test-0.tar": "", "training.tar": "training", "trained": ""}
    assert {name: split_word_in(name) for name in words} == words


def test_captioned_pictures_are_seen_however_deep_they_lie(tmp_path):
    file = picture(tmp_path / "a" / "b" / "1.JPG")
    (tmp_path / "1.txt").write_text("far from its picture")
    assert not holds_captioned_pictures(tmp_path)
    file.with_suffix(".txt").write_text("beside it")
    assert holds_captioned_pictures(tmp_path)
    assert not holds_captioned_pictures(tmp_path, leave_out=[tmp_path / "a"])


def test_a_closed_folder_is_empty(tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    picture(tmp_path / "1.jpg")
    assert [path.name for path in children_of(tmp_path)] == ["1.jpg"]
    monkeypatch.setattr(type(tmp_path), "iterdir", closed)
    assert children_of(tmp_path) == [] and inner(tmp_path) == tmp_path

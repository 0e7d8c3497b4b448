"""A gallery is one page or one picture, and no name in it is more than a name."""

import html.parser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from distilclip.command.gallery import write_gallery
from distilclip.search import Hit
from distilclip.storage.pictures import fitting_name, label_font


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_gallery_is_one_page_and_escapes_names(tmp_path):
    nasty = tmp_path / "<script>alert(1)</script>&.png"
    nasty = tmp_path / nasty.name.replace("/", "")
    Image.new("RGB", (10, 10)).save(nasty)
    query = '"><script>alert(2)</script>'
    write_gallery(query, [Hit(nasty.name, 0.5, nasty)], tmp_path, tmp_path / "page.html")
    page = Page()
    page.feed((tmp_path / "page.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["src"].startswith("data:image/webp;base64,") and image["alt"] == ""
    (link,) = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert link == nasty.resolve().as_uri() and Path(unquote(urlsplit(link).path)) == nasty
    assert all(
        not value.startswith("http")
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("href", "src")
    )
    assert query in page.text and nasty.name in page.text and "0.500" in page.text


def test_a_gallery_can_be_a_picture(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(4)]
    for number, file in enumerate(files):
        Image.new("RGB", (30, 20), (60 * number, 0, 0)).save(file)
    hits = [Hit(file.name, 0.1, file) for file in files]
    write_gallery("x", hits, tmp_path, tmp_path / "all.png")
    with Image.open(tmp_path / "all.png") as sheet:
        assert sheet.size == (600, 444)
        assert sheet.getpixel((100, 322)) == (180, 0, 0)
        names = [sheet.crop((200 * n, 200, 200 * n + 200, 222)) for n in range(3)]
    assert all(min(strip.convert("L").getextrema()) < 128 for strip in names)
    assert names[0].tobytes() != names[1].tobytes()


@pytest.mark.parametrize(
    "name", ["a.png", "folder/" + "long " * 60 + "end.png", "x\ny\x1b[31m.png", ""]
)
def test_a_name_on_a_sheet_keeps_its_ends_and_fits(name):
    font = label_font(13)
    shown = fitting_name(name, 180, font)
    assert font.getlength(shown) <= 180 and "\n" not in shown and "\x1b" not in shown
    assert shown[:1] == name[:1] and (shown.endswith(name[-4:]) or not name)


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"A gallery is a \.html or \.png file"):
        write_gallery("x", [], tmp_path, tmp_path / "page.pdf")


@pytest.mark.parametrize("name", ["page.html", "sheet.png"])
def test_a_picture_without_a_file_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="emoji/7 is a picture of a data set, not of a folder"):
        write_gallery("x", [Hit("emoji/7", 0.5)], tmp_path, tmp_path / name)
    assert not list(tmp_path.iterdir())

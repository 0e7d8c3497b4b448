"""The printed book: pages in the order of the contents, links that stay within it."""

import re
import sys
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import print_book

TOC = {
    "root": "book/introduction",
    "parts": [
        {"chapters": [{"file": "notebooks/01_a"}]},
        {"chapters": [{"file": "book/api", "sections": [{"file": "book/api/a"}]}]},
    ],
}
STYLED = '<html><head><link rel="stylesheet" href="../_static/a.css"></head><body>'
INTRODUCTION = (
    f'{STYLED}<nav>menu</nav><article><h1 id="top">Book</h1><img src="../_images/x.png">'
    '<a href="../notebooks/01_a.html#loss">a</a> <a href="#top">up</a>'
    '<a href="https://example.org/y">out</a><script>run()</script></article></body></html>'
)
CHAPTER = (
    f'{STYLED}<article><section id="loss"><h2>Loss</h2><button>copy</button></section>'
    '<details class="admonition hide above-input"><pre>draw()</pre></details>'
    "<details><summary>more</summary>folded</details></article></body></html>"
)


@pytest.fixture
def rendered(tmp_path, monkeypatch):
    for name, text in (("book/introduction", INTRODUCTION), ("notebooks/01_a", CHAPTER)):
        file = tmp_path / f"{name}.html"
        file.parent.mkdir()
        file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(print_book.yaml, "safe_load", lambda text: TOC)
    return tmp_path


def test_pages_come_in_the_order_of_the_contents():
    assert list(print_book.pages(TOC, everything=False)) == ["book/introduction", "notebooks/01_a"]
    assert list(print_book.pages(TOC, everything=True))[2:] == ["book/api", "book/api/a"]


def test_links_between_pages_stay_in_the_book_and_code_that_only_draws_is_left_out(rendered):
    joined = BeautifulSoup(print_book.join(rendered, everything=False), "html.parser")
    assert [article["id"] for article in joined.find_all("article")] == [
        "book-introduction",
        "notebooks-01_a",
    ]
    links = [link["href"] for link in joined.find_all("a")]
    assert links == [
        "#notebooks-01_a--loss",
        "#book-introduction--top",
        "https://example.org/y",
    ]
    names = {part["id"] for part in joined.find_all(id=True)}
    assert {link[1:] for link in links[:2]} <= names
    assert joined.img["src"] == "_images/x.png"
    assert joined.link["href"] == "_static/a.css"
    text = joined.get_text()
    assert "folded" in text and not re.search(r"menu|copy|draw\(\)|run\(\)", text)


def test_a_book_that_was_not_rendered_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(print_book, "chromium", lambda: "chromium")
    monkeypatch.setattr(sys, "argv", ["print_book.py", "--html", str(tmp_path)])
    assert print_book.main() == 1
    assert "run 'make book' first" in capsys.readouterr().err

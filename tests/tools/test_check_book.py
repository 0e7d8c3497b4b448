"""The check of the book finds what is wrong, and the sources are spelt right."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check_book():
    spec = importlib.util.spec_from_file_location("check_book", ROOT / "tools" / "check_book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sources_are_spelt_right(check_book):
    assert not check_book.check_spelling(check_book.sources())


def test_a_misspelt_word_is_found_where_it_stands(check_book):
    wrong = "".join(("t", "eh")) + " picture"
    (problem,) = check_book.check_spelling({ROOT / "book" / "page.md": f"fine\n{wrong}\n"})
    assert problem.startswith("book/page.md:2: spelling:") and "the" in problem


def test_the_sources_say_it_in_the_words_of_the_field(check_book):
    assert not check_book.check_words(check_book.sources())


@pytest.mark.parametrize(
    ("parts", "use"),
    [
        (("What was lear", "nt by heart"), "learned"),
        (("A lock", "ed\nencoder gives the same"), "frozen"),
        (("it un", "locks the last layers"), "unfreeze"),
        (("The slo", "pe at an embedding"), "gradient"),
        (("a table of\n", "cosines"), "similarity matrix"),
        (("86 million num", "bers"), "parameters"),
        (("an encoder that is trained", " along"), "trained too"),
        (("the step was brought to", " its end"), "native editor"),
    ],
)
def test_another_word_is_found_where_it_stands(parts, use, check_book):
    (problem,) = check_book.check_words({ROOT / "book" / "page.md": "fine\n" + "".join(parts)})
    assert problem.startswith("book/page.md:2: words: ") and use in problem


def test_a_word_is_right_where_the_list_says_so(check_book):
    texts = {ROOT / "book" / "costs.md": "its slo" + "pe is the exponent"}
    assert not check_book.check_words(texts)


GOOD = '<p id="here"><a href="other.html#there">x</a> <a href="#here">x</a></p>'
FAULTS = {
    "a missing page": ('<a href="absent.html">x</a>', "the link absent.html leads nowhere"),
    "a missing anchor": ('<a href="other.html#gone">x</a>', "no anchor gone in other.html"),
    "an anchor of its own": ('<a href="#gone">x</a>', "no anchor gone in index.html"),
    "a missing picture": ('<img src="absent.png" alt="x">', "absent.png leads nowhere"),
    "a silent picture": ('<img src="data:,">', "without alternative text"),
    "a picture with an empty text": ('<img src="data:," alt=" ">', "without alternative text"),
    "a link out of the book": ('<a href="../../x.html">x</a>', "leads out of the book"),
}


def rendered(folder, extra=""):
    (folder / "index.html").write_text(f"<html>{GOOD}{extra}</html>")
    (folder / "other.html").write_text('<a name="there" href="index.html">back</a>')
    return folder


def test_a_sound_book_has_no_problems(check_book, tmp_path):
    outside = (
        '<a href="https://example.org/absent">x</a> <img src="data:," alt="" role="presentation">'
    )
    assert check_book.check_pages(rendered(tmp_path, outside)) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_pages_are_found(fault, check_book, tmp_path):
    html, message = FAULTS[fault]
    (problem,) = check_book.check_pages(rendered(tmp_path, html))
    assert problem.startswith("index.html: ") and message in problem


def test_an_orphan_is_found(check_book, tmp_path):
    (rendered(tmp_path) / "alone.html").write_text('<a href="alone.html">myself</a>')
    assert check_book.check_pages(tmp_path) == ["alone.html: nothing links to this page"]


def test_what_is_missing_is_said_in_one_sentence(check_book, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["check_book.py", "pages", "--book", str(tmp_path)])
    with pytest.raises(SystemExit, match="run 'make book' first"):
        check_book.main()
    monkeypatch.setattr(check_book, "ROOT", tmp_path)
    monkeypatch.setattr(check_book.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="axe-core is needed: install npm"):
        check_book.axe_script(None)

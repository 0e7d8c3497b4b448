"""Slides are chosen from the chapters: headings, questions with their answers, figures."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import mirror
import slides

ADDRESS = mirror.repository()
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"


def code(source, printed="", picture="", **metadata):
    cell = new_code_cell(source, metadata=metadata)
    if printed:
        cell.outputs.append(new_output("stream", text=printed))
    if picture:
        cell.outputs.append(new_output("display_data", data={"image/png": picture}))
    return cell


ALT = {"mystnb": {"image": {"alt": "Two curves."}}}
CELLS = [
    new_markdown_cell("# 5. A loss\n\n[![x](y.svg)](z)\n\nWhy?\n\n:::{note} Box\nNot shown.\n:::"),
    code("import sys", "installed\n", tags=["setup"]),
    new_markdown_cell("## A guess\n\nFour pairs. Chance is 1 in 4. **What does it cost?**"),
    code("print(1.39)", "1.39\n"),
    new_markdown_cell("It costs $\\ln 4$. Is that much? Then we go on with no question."),
    code("x = 1"),
    new_markdown_cell("Every loss falls. Here are two."),
    code("plot()", picture=DOT, **ALT),
    new_markdown_cell("And what is printed at such length?"),
    code("print(long)", "a line\n" * 40),
    new_markdown_cell("## What we built\n\nIt.\n\n## What we learned\n\n- One thing."),
    new_markdown_cell("## Exercises\n\nHow many?"),
    code("check()", "No answer yet.\n"),
]


def test_questions_come_before_their_answers_and_code_stays_in_the_book():
    chosen = slides.choose(CELLS)
    assert [slide.kind for slide in chosen] == ["title", "section", "question", "figure", "learned"]
    title, section, question, figure, learned = chosen
    assert title.text == "# 5. A loss\n\nWhy?" and section.text == "## A guess"
    assert question.text == "Chance is 1 in 4. **What does it cost?**" and question.answer == "1.39"
    assert figure.text == "Here are two." and figure.alt == "Two curves."
    assert learned.text == "## What we learned\n\n- One thing."


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Guess first. How many?", "Guess first. How many?"),
        ("One. Two. **How many? And why?**", "How many? And why?"),
        ("How many?\n\nThe next paragraph asks nothing.", ""),
        ("- a list?", ""),
        ("", ""),
    ],
)
def test_a_question_stands_at_the_end_of_a_cell(text, question):
    assert slides.question_of(text).replace("**", "") == question


@pytest.mark.parametrize("path", mirror.notebooks(), ids=lambda path: path.stem)
def test_a_deck_has_all_of_its_chapter_and_asks_for_nothing(path):
    cells = nbformat.read(path, as_version=4).cells
    chosen = slides.choose(cells)
    pictures = [slide for slide in chosen if slide.picture]
    assert chosen[0].kind == "title" and chosen[0].text.startswith("# ")
    assert all(slide.alt for slide in pictures)
    assert all(slide.text for slide in chosen)
    described = [cell for cell in cells if cell.metadata.get("mystnb", {}).get("image")]
    assert len(pictures) >= len(described)
    assert any(slide.kind == "question" for slide in chosen)
    text, count = slides.deck(path, ADDRESS)
    assert text.count("<section") == count == len(chosen) + 1
    assert set(re.findall(r'src="([^"]{,9})', text)) <= {"tex-svg.j", "data:imag"}
    assert not re.findall(r"\{(?:cite|py):\w+\}|^:::", text, flags=re.M)


@pytest.mark.skipif(not shutil.which("node"), reason="the script is run by Node")
def test_keys_show_the_answer_first_and_the_next_slide_then(tmp_path):
    stand_in = """
    const listeners = {}; const location = {hash: ""}; let number = "";
    const made = (later) => { const on = new Set(); return {
      classList: {toggle: (c, is) => is ? on.add(c) : on.delete(c), contains: (c) => on.has(c)},
      querySelector: () => later }; };
    const all = [made(null), made({}), made(null)];
    const document = {querySelectorAll: () => all,
      querySelector: () => ({set textContent(t) { number = t; }})};
    const history = {replaceState: () => {}};
    const addEventListener = (name, f) => { listeners[name] = f; };
    """
    press = 'listeners.keydown({key: KEY, preventDefault() {}}); console.log(number, "TOLD");'
    told = '" + all[1].classList.contains("told") + "'
    keys = ["ArrowRight", "ArrowRight", " ", "ArrowLeft", "End"]
    presses = [press.replace("KEY", f'"{key}"').replace("TOLD", told) for key in keys]
    (tmp_path / "deck.js").write_text(stand_in + slides.SCRIPT + "\n".join(presses))
    done = subprocess.run(["node", tmp_path / "deck.js"], capture_output=True, text=True)
    shown = ["2 / 3 false", "2 / 3 true", "3 / 3 true", "2 / 3 true", "2 / 3 true"]
    assert done.stdout.split("\n")[:-1] == shown, done.stderr

"""Slides for each chapter, from its own headings, questions and figures; no network, no server.

    python tools/slides.py                              every chapter, into _build/slides/
    python tools/slides.py notebooks/05_loss.ipynb      some of them

Nothing is written for the slides alone. A chapter gives its title and opening; of each section the
heading; every question that stands before a cell, and on the next key what the cell answered; the
figures; and at the end what was learned. Code stays in the book. A deck is one HTML file that opens
from the disk, with formulas set by the MathJax of the book, which is copied beside it. Arrow keys,
space, swipes and clicks turn the slides; printing gives one slide a page.
"""

import argparse
import base64
import mimetypes
import re
import shutil
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

import nbformat
from markdown_it import MarkdownIt
from mirror import ROOT, notebooks, published, repository
from nbformat import NotebookNode

from colab import BLOCK, Plain

OUT = ROOT / "_build" / "slides"
MATHJAX = ROOT / "book" / "_static" / "mathjax" / "tex-svg.js"
LONGEST_OUTPUT = 14  # lines of printed text that can be read from the last row
LAST = ("## What we built", "## Exercises", "## Further reading", "## If the evening is still")
FORMULA = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.?!])(?:\*\*)?\s+(?=[A-Z*$`(])")


@dataclass
class Slide:
    """What is shown at once (Markdown), and what the next key adds to it."""

    kind: str  # title, section, question, figure, learned
    text: str
    answer: str = ""  # printed text
    picture: str = ""  # a data: address
    alt: str = ""


# --- What is chosen -------------------------------------------------------------------------


def question_of(markdown: str) -> str:
    """The question that ends a cell, with the sentence before it; "" where nothing is asked."""
    paragraphs = [part for part in re.split(r"\n\s*\n", markdown.strip()) if part.strip()]
    if not paragraphs or paragraphs[-1].startswith(("#", ":::", "|", "- ", "```", "$$")):
        return ""
    sentences = SENTENCE.split(paragraphs[-1].replace("\n", " "))
    asked = [n for n, sentence in enumerate(sentences) if sentence.rstrip("*) ").endswith("?")]
    if not asked:
        return ""
    first = max(0, asked[-1] - 1)
    return balanced(" ".join(sentences[first:]))


def balanced(text: str) -> str:
    """Text without a ** that lost its partner when sentences were taken apart."""
    return text if text.count("**") % 2 == 0 else text.replace("**", "")


def before_figure(markdown: str) -> str:
    """The last sentence before a figure, as its caption."""
    prose = BLOCK.sub("", markdown).strip()
    paragraphs = [part for part in re.split(r"\n\s*\n", prose) if part.strip()]
    if not paragraphs or paragraphs[-1].startswith(("#", "|", "- ", "$$")):
        return ""
    return balanced(SENTENCE.split(paragraphs[-1].replace("\n", " "))[-1])


def shown_by(cell: NotebookNode) -> tuple[str, str, str]:
    """Of a code cell: its printed text where that is short, its picture, and what that shows."""
    text, picture = "", ""
    for output in cell.get("outputs", ()):
        text += output.get("text", "")
        data = output.get("data", {})
        if "image/png" in data:
            picture = f"data:image/png;base64,{data['image/png'].strip()}"
    alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
    return text.rstrip() if text.count("\n") <= LONGEST_OUTPUT else "", picture, alt


def drawings_of(markdown: str) -> list[Slide]:
    """The figures of a text cell that lie in the book's folder."""
    slides = []
    for found in BLOCK.finditer(markdown):
        if found["kind"] != "figure":
            continue
        file = (ROOT / "notebooks" / found["title"].strip()).resolve()
        kind = mimetypes.guess_type(file.name)[0]
        picture = f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
        alt = dict(re.findall(r"^:(\w+): ?(.*)$", found["body"], flags=re.M)).get("alt", "")
        caption = re.sub(r"^:\w+:.*\n?", "", found["body"], flags=re.M).strip()
        slides.append(Slide("figure", caption, picture=picture, alt=alt))
    return slides


def opening(markdown: str) -> str:
    """The title of a chapter and its first paragraphs, without button and box."""
    kept = BLOCK.sub("", markdown)
    kept = re.sub(r"^\[!\[.*$", "", kept, flags=re.M)
    title, *rest = [part for part in re.split(r"\n\s*\n", kept.strip()) if part.strip()]
    return "\n\n".join([title, *rest[:2]])


def learned(markdown: str) -> str:
    """The section of what was learned, heading and list."""
    found = re.search(r"^## What we learned\n.*?(?=^## |\Z)", markdown, re.M | re.S)
    return found[0].strip() if found else ""


def choose(cells: list[NotebookNode]) -> list[Slide]:
    """The slides of a chapter, in its order."""
    slides = [Slide("title", opening(cells[0].source))]
    last = section = ""  # the text before a cell of code, and the heading above it
    for cell in cells[1:]:
        if cell.cell_type == "markdown":
            text = cell.source
            if summary := learned(text):
                slides.append(Slide("learned", summary))
            end = min((text.find(head) for head in LAST if head in text), default=-1)
            text = text if end < 0 else text[:end]
            for heading in re.findall(r"^##+ .*$", text, flags=re.M):
                if heading != "## What we learned":
                    section = heading.lstrip("# ")
                    slides.append(Slide("section", heading))
            slides += drawings_of(text)
            last = text
            if end >= 0:
                break
        else:
            answer, picture, alt = shown_by(cell)
            if "setup" not in cell.metadata.get("tags", []):
                if (question := question_of(last)) and (answer or picture):
                    slides.append(Slide("question", question, answer, picture, alt))
                elif picture:
                    caption = before_figure(last) or section
                    slides.append(Slide("figure", caption, "", picture, alt))
            last = ""
    if not any(slide.kind == "learned" for slide in slides):
        both = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        if summary := learned(both):
            slides.append(Slide("learned", summary))
    return slides


# --- How it is shown ------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --blue: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #ced6dd; --paper: #14181e; --blue: #56b4e9; } }
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 1.5rem/1.45 system-ui, sans-serif;
  margin: 0; }
section { display: none; flex-direction: column; gap: 1.2rem; height: 100vh;
  justify-content: center; margin: auto; max-width: 60rem; overflow: auto; padding: 1.5rem; }
section.on { display: flex; }
section > * { flex-shrink: 0; margin: 0; }
h1 { color: var(--blue); font-size: 2.6rem; line-height: 1.15; }
h2, h3 { color: var(--blue); font-size: 2.2rem; line-height: 1.2; }
p, ul { margin: 0; } li { margin-bottom: .5rem; }
.learned { font-size: 1.25rem; } .learned h2 { font-size: 1.8rem; }
.question::before { color: var(--blue); content: "?"; font-size: 3rem;
  font-weight: 700; line-height: 1; }
pre { border: 2px solid currentColor; border-radius: 8px; font-size: 1.1rem; overflow: auto;
  padding: .8rem; }
code { font-size: .9em; }
img { align-self: center; background: #fff; border-radius: 8px; max-height: 66vh; max-width: 100%;
  min-height: 40vh; object-fit: contain; padding: 6px; }
.later { visibility: hidden; } .told .later { visibility: visible; }
a { color: var(--blue); }
footer { bottom: .6rem; font-size: 1rem; position: fixed; right: 1rem; }
@media print { @page { size: 297mm 167mm; margin: 0; }
  section { break-after: page; display: flex; height: 166mm; } .later { visibility: visible; }
  footer { display: none; } img { max-height: 110mm; } }
"""
SCRIPT = """
const slides = [...document.querySelectorAll("section")];
let at = Math.min(slides.length, Math.max(1, parseInt(location.hash.slice(1)) || 1)) - 1;
const show = (told) => {
  slides.forEach((s, n) => s.classList.toggle("on", n === at));
  slides[at].classList.toggle("told", told);
  document.querySelector("footer").textContent = `${at + 1} / ${slides.length}`;
  history.replaceState(null, "", `#${at + 1}`);
};
const turn = (step) => {
  const slide = slides[at];
  if (step > 0 && slide.querySelector(".later") && !slide.classList.contains("told")) {
    return show(true);
  }
  at = Math.min(slides.length - 1, Math.max(0, at + step));
  show(step < 0);
};
const KEYS = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1};
Object.assign(KEYS, {ArrowLeft: -1, ArrowUp: -1, PageUp: -1});
addEventListener("keydown", (e) => { if (KEYS[e.key]) { e.preventDefault(); turn(KEYS[e.key]); } });
addEventListener("click", (e) => {
  if (!e.target.closest("a")) turn(e.clientX < innerWidth / 3 ? -1 : 1);
});
let start = 0;
addEventListener("touchstart", (e) => { start = e.touches[0].clientX; }, {passive: true});
addEventListener("touchend", (e) => {
  const moved = e.changedTouches[0].clientX - start;
  if (Math.abs(moved) > 40) turn(moved < 0 ? 1 : -1);
});
show(false);
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style>
<script>MathJax = {{tex: {{inlineMath: [["$", "$"]]}}}};</script>
<script defer src="tex-svg.js"></script></head>
<body>{slides}<footer></footer><script>{script}</script></body></html>
"""


def html_of(markdown: str, plain: Plain) -> str:
    """Markdown as HTML, formulas left as they are for MathJax."""
    formulas: list[str] = []

    def keep(found: re.Match) -> str:
        formulas.append(escape(found[0], quote=False))
        return f"\x02{len(formulas) - 1}\x03"

    rendered = MarkdownIt("commonmark").enable("table").render(FORMULA.sub(keep, plain(markdown)))
    return re.sub("\x02(\\d+)\x03", lambda found: formulas[int(found[1])], rendered)


def section_of(slide: Slide, plain: Plain) -> str:
    later = ' class="later"' if slide.kind == "question" else ""
    parts = [html_of(slide.text, plain)]
    if slide.answer:
        parts.append(f"<pre{later}>{escape(slide.answer)}</pre>")
    if slide.picture:
        parts.append(f'<img{later} src="{slide.picture}" alt="{escape(slide.alt)}">')
    return f'<section class="{slide.kind}">{"".join(parts)}</section>'


def deck(path: Path, address: str) -> tuple[str, int]:
    """The page of a chapter's slides, and how many there are."""
    cells, plain = nbformat.read(path, as_version=4).cells, Plain(address)
    slides = choose(cells)
    name = cells[0].source.splitlines()[0].lstrip("# ")
    page = f"{published(address)}/notebooks/{path.stem}.html"
    end = Slide("section", f"## The chapter\n\n<{page}>")
    sections = "\n".join(section_of(slide, plain) for slide in [*slides, end])
    text = PAGE.format(title=escape(name), style=STYLE, slides=sections, script=SCRIPT)
    return text, len(slides) + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("named", nargs="*", type=Path, metavar="NOTEBOOK")
    paths, address = parser.parse_args().named or notebooks(), repository()
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.copy(MATHJAX, OUT)
    for path in paths:
        text, count = deck(path, address)
        target = OUT / f"{path.stem}.html"
        target.write_text(text, encoding="utf-8")
        print(f"{target.relative_to(ROOT)}: {count} slides, {len(text) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

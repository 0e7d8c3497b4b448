"""The whole book as one PDF: the rendered pages, joined in their order and printed by Chromium.

    python tools/print_book.py                  _build/book.pdf, from _build/html
    python tools/print_book.py --html FOLDER    from another rendering

`make pdf` renders the book first. Nothing is asked from a network: pages, styles, pictures and
MathJax lie in the rendering. A figure that moves is printed as its still picture; code that only
draws, folded in the book, is left out. So is the reference of the modules (book/api/...), unless
`--all` is given.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from bs4 import BeautifulSoup, Tag
from check_book import CHROMIUM_OPTIONS, CHROMIUMS, ROOT

JOINED = "whole_book.html"
LEFT_OUT = "script, .headerlink, .prev-next-area, .moving-stage, button, iframe, .live-search"
LEFT_OUT += ", details.hide"  # code that only draws
STYLE = """
@page { size: A4; margin: 18mm 17mm; }
body { background: #fff; font-size: 10.5pt; }
article { break-before: page; max-width: none; }
article:first-of-type { break-before: auto; }
h1 { font-size: 22pt !important; } h2 { font-size: 16pt !important; }
h3 { font-size: 13pt !important; }
h1, h2, h3, h4 { break-after: avoid; scroll-margin-top: 0; }
section, .cell, .tag_hide-input { break-after: auto !important; break-before: auto !important;
  break-inside: auto !important; }
figure, img, table, .admonition, div.cell_output { break-inside: avoid; }
img { height: auto; max-height: 225mm; max-width: 100%; }
pre { font-size: 8pt !important; overflow: visible !important; white-space: pre-wrap; }
div.highlight, div.cell_input { overflow: visible !important; }
details > summary { display: none; }
a { color: inherit; }
/* A line of no width is drawn by printers as thin as they can, which makes formulas bold. */
mjx-container [stroke-width="0"] { stroke: none; }
"""


def pages(toc: dict, everything: bool) -> Iterator[str]:
    """The pages of the table of contents, in their order."""

    def below(chapters: list[dict]) -> Iterator[str]:
        for chapter in chapters:
            yield chapter["file"]
            yield from below(chapter.get("sections", []))

    yield toc["root"]
    for part in toc["parts"]:
        for name in below(part["chapters"]):
            if everything or not name.startswith("book/api"):
                yield name


def anchor(page: str, name: str = "") -> str:
    """The name of a place of a page in the joined page."""
    return re.sub(r"[^\w-]", "-", f"{page}--{name}" if name else page)


def article_of(folder: Path, page: str, known: set[str]) -> Tag:
    """The article of a page, its names and links changed to those of the joined page."""
    soup = BeautifulSoup((folder / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article")
    if article is None:
        raise SystemExit(f"{page}.html has no article: is this a rendering of the book?")
    for unwanted in article.select(LEFT_OUT):
        unwanted.decompose()
    for folded in article.find_all("details"):
        folded["open"] = ""
    for part in article.find_all(id=True):
        part["id"] = anchor(page, part["id"])
    here = (folder / page).parent
    for attribute in ("src", "href"):
        for part in article.find_all(**{attribute: True}):
            part[attribute] = moved(folder, here, page, part[attribute], known)
    article["id"] = anchor(page)
    return article


def moved(folder: Path, here: Path, page: str, target: str, known: set[str]) -> str:
    """A link or the address of a picture, as seen from the joined page."""
    if re.match(r"[a-z]+:", target):
        return target
    path, _, name = target.partition("#")
    if not path:
        return f"#{anchor(page, name)}"
    try:
        file = (here / path).resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return target
    other = file.removesuffix(".html")
    return f"#{anchor(other, name)}" if other in known else file


def join(folder: Path, everything: bool) -> str:
    """One page that holds all articles, with the styles of the first."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [name for name in pages(toc, everything) if (folder / f"{name}.html").is_file()]
    first = (folder / f"{names[0]}.html").read_text(encoding="utf-8")
    head = BeautifulSoup(first, "html.parser")
    here = (folder / names[0]).parent
    links = [str(tag["href"]) for tag in head.select('link[rel="stylesheet"]')]
    styles = [
        f'<link rel="stylesheet" href="{moved(folder, here, "", link, set())}">'
        for link in links
        if not re.match(r"[a-z]+:", link)
    ]
    articles = [str(article_of(folder, name, set(names))) for name in names]
    return "\n".join(
        [
            '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">',
            "<title>DistilCLIP</title>",
            *styles,
            f"<style>{STYLE}</style>",
            "<script>MathJax = {options: {processHtmlClass: 'tex2jax_process|mathjax_process|"
            "math|output_area', ignoreHtmlClass: 'tex2jax_ignore'}};</script>",
            '<script src="_static/mathjax/tex-svg.js"></script></head>',
            '<body class="bd-article">',
            *articles,
            "</body></html>",
        ]
    )


def chromium() -> str:
    for name in CHROMIUMS:
        if found := shutil.which(name):
            return found
    names = ", ".join(CHROMIUMS)
    raise SystemExit(f"To print the book, install Chromium: none of {names} is here.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "html", metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "book.pdf", metavar="FILE")
    parser.add_argument("--all", action="store_true", help="with the reference of the modules")
    options = parser.parse_args()
    folder, program = options.html.resolve(), chromium()
    if not (folder / "book" / "introduction.html").is_file():
        print(f"{folder} has no rendered book: run 'make book' first.", file=sys.stderr)
        return 1
    joined = folder / JOINED
    joined.write_text(join(folder, options.all), encoding="utf-8")
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as profile:
            command = [program, "--headless", *CHROMIUM_OPTIONS, f"--user-data-dir={profile}"]
            command += ["--no-pdf-header-footer", "--virtual-time-budget=120000"]
            command += ["--generate-pdf-document-outline"]
            command += [f"--print-to-pdf={options.out.resolve()}", joined.as_uri()]
            done = subprocess.run(command, capture_output=True, text=True)
    finally:
        joined.unlink()
    if done.returncode or not options.out.is_file():
        print(f"Chromium printed nothing: {done.stderr[-500:]}", file=sys.stderr)
        return 1
    size, seconds = options.out.stat().st_size / 1e6, time.perf_counter() - started
    print(f"{options.out}: {size:.1f} MB, printed in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

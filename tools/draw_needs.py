"""Draw which chapter needs which, as the chapters' openings say: book/figures/needs.svg.

    python tools/draw_needs.py            draw
    python tools/draw_needs.py --check    only say whether the drawing is old; status 1 if it is

An arrow that follows from others is left out: whoever has read chapter 6 has read chapter 5.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from mirror import ROOT, notebooks

TARGET = ROOT / "book" / "figures" / "needs.svg"
NEEDS = re.compile(r"^- \*\*You need\*\*(.*?)(?=^- \*\*|^:::)", re.DOTALL | re.MULTILINE)
WIDE, HIGH, ACROSS, DOWN = 150, 40, 176, 78  # a box, and the steps from one to the next
INK, BLUE, SKY = "#222222", "#0072B2", "#E8F1F8"


def title_of(path: Path) -> str:
    """The number and the name of a chapter, without what follows the colon."""
    first = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
    return first.lstrip("# ").split(":")[0]


def needed(path: Path) -> set[str]:
    """The chapters, as "08b", that a chapter's opening asks for; one that "helps" is none."""
    (text,) = NEEDS.findall(nbformat.read(path, as_version=4).cells[0].source)
    text = " ".join(part for part in text.split(". ") if " helps" not in part)
    linked = re.findall(r"\((\d\d[a-z]?)_\w+\.ipynb", text)
    return {*linked, *(number.zfill(2) for number in re.findall(r"chapter (\d+)\b", text))}


def reduced(needs: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same order with as few arrows as will do."""
    above: dict[str, set[str]] = {}
    for number in sorted(needs):
        above[number] = needs[number].union(*(above[each] for each in needs[number]))
    return {
        number: {each for each in own if not any(each in above[other] for other in own - {each})}
        for number, own in needs.items()
    }


def layers(needs: dict[str, set[str]]) -> list[list[str]]:
    """Chapters by the length of the longest way to them."""
    depth: dict[str, int] = {}
    for number in sorted(needs):
        depth[number] = 1 + max((depth[each] for each in needs[number]), default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(depth.values()))]
    for number, row in depth.items():
        rows[row].append(number)
    return rows


def draw(titles: dict[str, str], needs: dict[str, set[str]]) -> str:
    """The drawing as SVG: a box a chapter, an arrow from what it needs."""
    rows, arrows = layers(needs), reduced(needs)
    width = ACROSS * max(map(len, rows)) + 20
    height = DOWN * len(rows) + 6
    middle = {
        number: (width / 2 + ACROSS * (place - (len(row) - 1) / 2), 6 + HIGH / 2 + DOWN * level)
        for level, row in enumerate(rows)
        for place, number in enumerate(row)
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="14">',
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#FFFFFF"/>',
    ]
    for number, own in sorted(arrows.items()):
        for each in sorted(own):
            (x, y), (u, v) = middle[each], middle[number]
            y, v = y + HIGH / 2, v - HIGH / 2
            bend = (v - y) / 2
            parts.append(
                f'<path d="M{x:g} {y:g}C{x:g} {y + bend:g} {u:g} {v - bend:g} {u:g} {v - 1:g}" '
                f'fill="none" stroke="{INK}" stroke-width="1.5" marker-end="url(#tip)"/>'
            )
    for number, (x, y) in sorted(middle.items()):
        parts.append(
            f'<rect x="{x - WIDE / 2:g}" y="{y - HIGH / 2:g}" width="{WIDE}" height="{HIGH}" '
            f'rx="8" fill="{SKY}" stroke="{BLUE}" stroke-width="1.5"/>'
        )
        text = titles[number].replace("The Vision Transformer", "ViT")
        parts.append(
            f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" fill="{INK}">{text}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def drawing() -> str:
    """The drawing of the book as it is."""
    paths = {path.stem.partition("_")[0]: path for path in notebooks() if path.stem[:2] != "00"}
    titles = {number: title_of(path) for number, path in paths.items()}
    return draw(titles, {number: needed(path) for number, path in paths.items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is old")
    check = parser.parse_args().check
    text = drawing()
    if check:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        print("book/figures/needs.svg is old: run tools/draw_needs.py.", file=sys.stderr)
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

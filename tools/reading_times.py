"""Write how long each chapter takes to read, section by section: book/times.md.

    python tools/reading_times.py            write
    python tools/reading_times.py --check    only say whether the page is old; status 1 if it is

Counted are the words of the text and the lines of code that the page shows before anything is
unfolded, from the opening to the last section before the exercises. What a chapter's code takes to
run depends on the machine, and is said at the chapter's top.
"""

import argparse
import math
import re
import sys
from pathlib import Path

import nbformat
from mirror import ROOT, SETUP_TAG, notebooks

TARGET = ROOT / "book" / "times.md"
WORDS, LINES = 200, 15  # read in a minute
END = ("What we built", "What we learned", "Exercises", "If the evening is still young")
PAGE = """# How long it takes to read

Minutes for each chapter and, behind each of its sections, for that one: {words} words of text a \
minute, and {lines} lines of code, of those that are shown before anything is unfolded. They are \
rounded up, a chapter's to five. Exercises say beside them how long they take, and every chapter \
says at its top how long its code runs. `tools/reading_times.py` counts.

| chapter | minutes | its sections |
| --- | --- | --- |
"""


def sections_of(cells: list[nbformat.NotebookNode]) -> dict[str, float]:
    """The minutes of each section by its heading; "" has what stands above the first."""
    minutes, name = {"": 0.0}, ""
    for cell in cells:
        if cell.cell_type == "markdown":
            first, *parts = re.split(r"^## ", cell.source, flags=re.MULTILINE)
            minutes[name] += minutes_of(first)
            for part in parts:
                name, _, text = part.partition("\n")
                if name in END:
                    return minutes
                minutes[name] = minutes.get(name, 0.0) + minutes_of(text)
        elif not is_folded(cell):
            shown = [line for line in cell.source.splitlines() if line.strip()]
            minutes[name] += len(shown) / LINES
    return minutes


def minutes_of(text: str) -> float:
    """The minutes of a piece of text, without the addresses of its links."""
    return len(re.sub(r"\]\([^)]*\)", "]", text).split()) / WORDS


def is_folded(cell: nbformat.NotebookNode) -> bool:
    tags = cell.metadata.get("tags", [])
    return SETUP_TAG in tags or any(tag.startswith(("hide", "remove")) for tag in tags)


def row(path: Path) -> str:
    """A chapter's line of the table."""
    cells = nbformat.read(path, as_version=4).cells
    title = cells[0].source.splitlines()[0].lstrip("# ").split(":")[0]
    minutes = sections_of(cells)
    whole = 5 * math.ceil(sum(minutes.values()) / 5)
    parts = [f"{name}\u00a0**{math.ceil(each)}**" for name, each in minutes.items() if name]
    return f"| [{title}](../notebooks/{path.name}) | {whole} | {' · '.join(parts)} |\n"


def page() -> str:
    """The page as the chapters are."""
    head = PAGE.format(words=WORDS, lines=LINES)
    return head + "".join(map(row, notebooks()))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is old")
    check = parser.parse_args().check
    text = page()
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    if check:
        print("book/times.md is old: run 'make mirror'.", file=sys.stderr)
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

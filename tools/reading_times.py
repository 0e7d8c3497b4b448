"""Write how long each chapter takes to read, section by section: book/times.md.

    python tools/reading_times.py            write
    python tools/reading_times.py --check    only say whether the page is old; status 1 if it is

Counted are the words of the text and the lines of code that the page shows before anything is
unfolded, from the opening to the last section before the exercises. What the code takes to run is
measured by `tools/running_times.py`.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from mirror import ROOT, SETUP_TAG, notebooks

TARGET = ROOT / "book" / "times.md"
RAN = ROOT / "book" / "running_times.json"
WORDS, LINES = 200, 15  # read in a minute
LONG = 10  # seconds from which a section's code is worth a word
END = ("What we built", "What we learned", "Exercises", "If the evening is still young")
PAGE = """# How long it takes to read

Minutes for each chapter and, behind each of its sections, for that one: {words} words of text a \
minute, and {lines} lines of code, of those that are shown before anything is unfolded. They are \
rounded up, a chapter's to five. `tools/reading_times.py` counts.

A chapter's code runs for as long as the third column says, and a section's, where that is {long} \
seconds or more, for what stands in brackets behind it: each chapter alone, on {device} \
({date}; `tools/running_times.py`). \
Your machine will differ. Exercises say beside them how long they take.

| chapter | minutes to read | to run | its sections |
| --- | --- | --- | --- |
"""


def pieces_of(cells: list[nbformat.NotebookNode]) -> Iterator[tuple[str, Any]]:
    """The pieces of text and the cells of code of a chapter, each after its section's heading.

    "" is the heading of what stands above the first. The exercises and what follows are left out.
    """
    name = ""
    for cell in cells:
        if cell.cell_type != "markdown":
            yield name, cell
            continue
        first, *parts = re.split(r"^## ", cell.source, flags=re.MULTILINE)
        yield name, first
        for part in parts:
            name, _, text = part.partition("\n")
            if name in END:
                return
            yield name, text


def sections_of(cells: list[nbformat.NotebookNode]) -> dict[str, float]:
    """The minutes of each section by its heading; "" has what stands above the first."""
    minutes = {"": 0.0}
    for name, piece in pieces_of(cells):
        here = minutes.setdefault(name, 0.0)
        if isinstance(piece, str):
            minutes[name] = here + minutes_of(piece)
        elif not is_folded(piece):
            shown = [line for line in piece.source.splitlines() if line.strip()]
            minutes[name] = here + len(shown) / LINES
    return minutes


def minutes_of(text: str) -> float:
    """The minutes of a piece of text, without the addresses of its links."""
    return len(re.sub(r"\]\([^)]*\)", "]", text).split()) / WORDS


def is_folded(cell: nbformat.NotebookNode) -> bool:
    tags = cell.metadata.get("tags", [])
    return SETUP_TAG in tags or any(tag.startswith(("hide", "remove")) for tag in tags)


def running(seconds: float) -> str:
    """What code takes to run, in words; "" where it is next to nothing."""
    if seconds < LONG:
        return ""
    return f"{seconds:.0f}\u00a0s" if seconds < 90 else f"{seconds / 60:.0f}\u00a0min"


def row(path: Path, ran: dict[str, float]) -> str:
    """A chapter's line of the table; `ran` has the seconds of its sections' code."""
    cells = nbformat.read(path, as_version=4).cells
    title = cells[0].source.splitlines()[0].lstrip("# ").split(":")[0]
    minutes = sections_of(cells)
    whole = 5 * math.ceil(sum(minutes.values()) / 5)
    parts = []
    for name in filter(None, minutes):
        took = running(ran.get(name, 0.0))
        behind = f" ({took})" if took else ""
        parts.append(f"{name}\u00a0**{math.ceil(minutes[name])}**{behind}")
    together = running(sum(ran.values())) or f"under {LONG}\u00a0s"
    return f"| [{title}](../notebooks/{path.name}) | {whole} | {together} | {' · '.join(parts)} |\n"


def page() -> str:
    """The page as the chapters are, and as they ran when that was measured."""
    ran = json.loads(RAN.read_text(encoding="utf-8"))
    head = PAGE.format(words=WORDS, lines=LINES, long=LONG, device=ran["device"], date=ran["date"])
    return head + "".join(row(path, ran["seconds"].get(path.stem, {})) for path in notebooks())


def unknown_sections() -> list[str]:
    """Sections whose code has not been timed under this heading."""
    ran = json.loads(RAN.read_text(encoding="utf-8"))["seconds"]
    found = []
    for path in notebooks():
        cells = nbformat.read(path, as_version=4).cells
        names = {name for name, piece in pieces_of(cells) if not isinstance(piece, str)}
        found += [f"{path.stem}: {name}" for name in sorted(names - set(ran.get(path.stem, {})))]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether it is old")
    check = parser.parse_args().check
    for section in (unknown := unknown_sections()):
        print(f"{section}: not timed; run tools/running_times.py", file=sys.stderr)
    if check and unknown:
        return 1
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

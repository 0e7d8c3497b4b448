"""What a chapter says, its cells show: no failed verdict, no figure from nowhere, no lone seed."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from distilclip.book.stored import stored_results

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EACH_CHAPTER = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)

# Printed lines that end in False, each with the reason why that is what the chapter wants to show.
MEANT = {
    "05_loss": {
        f"torch.float{bits}        above 0.2, 0.02: {above}   fewer than 50 values: False": "digits"
        for bits, above in ((16, "[False, True]"), (32, "[False, False]"))
    },
    "08b_run": {"may be mirrored: [True, False]": "a list of answers"},
    "11_scale": {
        "cut            process 0: same loss True, same gradients False": "no gradient",
        "cut            process 1: same loss True, same gradients False": "no gradient",
    },
}

# Figures in prose that no cell prints: what stands around them, and where they come from.
ELSEWHERE = {
    "00_one_evening": {"trained for 81 minutes": "the record of that run, emoji_long.json"},
    "01_patches": {"40 % of the work": "N / (6 D + N), which chapter 3 counts"},
    "03_vit": {
        "reaches about 75 %, and CNNs around 90 %": "reported by the author that is cited there",
    },
    "04_text": {
        "97 % of BERT's score": "reported by the authors that are cited there",
        "60 % faster": "reported by the authors that are cited there",
        "about 265 MB": "66 million parameters of four bytes, as said there",
    },
    "08b_run": {"0.0078 times 100": "the table above it"},
    "09_search": {"256 million times": "a million vectors of 256 numbers, as said there"},
    "10_explain": {"by 15 points in this seed": "90 less 75, both printed"},
}

UNITS = r"%|s|ms|seconds?|minutes?|[KMG]iB|[KMGT]B|points?|times|nats?|images a second|parameters"
FIGURE = re.compile(
    r"(?<![\w.,@^{/])(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?)( million)?[ -]?"
    rf"(?=(?:{UNITS})(?!\w))|± ?(\d+(?:\.\d+)?)()"
)


def printed(cell) -> str:
    """All that a cell shows in words."""
    outputs = cell.get("outputs", ())
    return "\n".join(
        output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
        for output in outputs
    )


def numbers_in(text: str) -> set[float]:
    return {float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?", text)}


def prose(cells) -> list[tuple[int, str]]:
    """The text between a chapter's opening, which says how long it runs, and its exercises."""
    found = []
    for place, cell in enumerate(cells):
        if cell.cell_type == "markdown" and place > 0:
            text, heading, _ = cell.source.partition("## Exercises")
            found.append((place, text))
            if heading:
                break
    return found


def unfounded(cells, allowed) -> list[str]:
    """Figures with a unit that stand in no output and in no line of code."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    known = numbers_in("\n".join(printed(cell) + "\n" + cell.source for cell in code))
    problems = []
    for place, text in prose(cells):
        text = " ".join(text.split())
        for phrase in allowed:
            text = text.replace(phrase, "")
        for found in FIGURE.finditer(text):
            value = float((found[1] or found[3]).replace(",", ""))
            digits = len((found[1] or found[3]).partition(".")[2])
            near = {round(each / 1e6, digits) for each in known} if found[2] else known
            if value not in near:
                around = text[max(0, found.start() - 40) : found.end() + 20]
                problems.append(f"cell {place}: {around}")
    return problems


@EACH_CHAPTER
def test_no_line_that_a_chapter_prints_ends_in_false(path):
    cells = nbformat.read(path, as_version=4).cells
    lines = [line.strip() for cell in cells for line in printed(cell).splitlines()]
    false = {line for line in lines if re.search(r"\bFalse\W*$", line)}
    assert false == MEANT.get(path.stem, {}).keys()


@EACH_CHAPTER
def test_figures_in_prose_are_printed_by_the_chapter(path):
    assert not unfounded(nbformat.read(path, as_version=4).cells, ELSEWHERE.get(path.stem, ()))


def test_what_is_exempt_is_still_there():
    for name, phrases in ELSEWHERE.items():
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        said = " ".join(" ".join(text.split()) for _, text in prose(cells))
        assert [phrase for phrase in phrases if phrase not in said] == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("It finds 89 %.", 0),
        ("It finds 90 %.", 1),
        ("It takes 3.5 seconds.", 1),
        ("86 million parameters", 0),
        ("85 million parameters", 1),
        ("a spread of ± 0.4", 1),
        ("chapter 7, page 12 and $x^{4}$ times", 0),
    ],
)
def test_a_figure_from_nowhere_is_found(text, problems):
    cell = nbformat.v4.new_code_cell("print(recall)")
    cell.outputs = [nbformat.v4.new_output("stream", text="R@10 89 % of 85,798,656\n")]
    opening, said = nbformat.v4.new_markdown_cell("# 1."), nbformat.v4.new_markdown_cell(text)
    assert len(unfounded([opening, cell, said], ())) == problems


# Seeds


def runs_by_recipe(stored: dict) -> dict[str, set]:
    """The seeds of each recipe in a file of results."""
    seeds: dict[str, set] = {}
    for run in stored.get("runs", ()):
        recipe = {key: run[key] for key in ("variant", "recipe", "budget", "epochs") if key in run}
        seeds.setdefault(json.dumps(recipe), set()).add(run.get("seed", 0))
    return seeds


SHOWN = [*CHAPTERS, *sorted((ROOT / "solutions").glob("*.ipynb"))]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_comparison_of_fewer_than_three_seeds_says_so(path):
    """Where a cell shows stored runs of which a recipe has one seed or two, the text says it."""
    cells = nbformat.read(path, as_version=4).cells
    for place, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        for name in re.findall(r'stored_results\("(\w+)"\)', cell.source):
            if any(len(seeds) < 3 for seeds in runs_by_recipe(stored_results(name)).values()):
                near = cells[max(0, place - 2) : place + 5]
                said = " ".join(each.source for each in near if each.cell_type == "markdown")
                assert re.search(r"\b(one|a single) (run|seed)\b|\bone seed each\b", said), name

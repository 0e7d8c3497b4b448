"""Keep the notebooks the mirror of the package, and every link to the repository the same.

A class or function that a notebook defines under a name that a chapter's module defines is the
module's own code, and a module's notebook, or its two, build all of it. A long class is told over
several cells: `class_parts.py` puts it together and takes it apart. This tool copies the
module's source over each such definition, and writes the repository's address, which stands in
pyproject.toml, wherever else it is needed.

    python tools/mirror.py            copy
    python tools/mirror.py --check    only say what differs; status 1 if anything does
"""

import argparse
import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat
from class_parts import (
    Definition,
    Original,
    assembled,
    dump,
    originals,
    python_of,
    read_definitions,
    rewrite,
)

ROOT = Path(__file__).parents[1]
CHAPTERS = {  # module: the notebooks that build it, in the order of the book
    "patches": ("01_patches",),
    "attention": ("02_attention",),
    "vit": ("03_vit",),
    "text": ("04_text",),
    "loss": ("05_loss",),
    "model": ("06_model",),
    "data": ("07_data",),
    "training": ("08_train", "08b_run"),
    "search": ("09_search",),
    "explain": ("10_explain",),
    "scale": ("11_scale",),
    "share": ("12_share",),
    "export": ("13_export",),
    "pretrained": ("14_pretrained",),
}
EXTRAS = {"13_export": "[onnx]"}  # what a notebook needs besides the package's own requirements
LINKED = (
    "*.md",
    "pyproject.toml",
    "book/*.md",
    "CITATION.cff",
    "_config.yml",
    "distilclip/command/cli.py",
)
BADGE = r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)"
BOOK = re.compile(r"https://[\w-]+\.github\.io/Distil-?CLIP", re.IGNORECASE)
SETUP_TAG = "setup"


def repository() -> str:
    """The repository's address: its one home is pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["urls"]["Repository"]


def published(address: str) -> str:
    """The address of the published book: GitHub Pages of the repository."""
    owner, name = address.removeprefix("https://github.com/").split("/")
    return f"https://{owner.lower()}.github.io/{name}"


def notebooks(folder: str = "notebooks") -> list[Path]:
    return sorted((ROOT / folder).glob("*.ipynb"))


def read_package() -> dict[str, Original]:
    """Every public class and function of the chapters' modules, under its name."""
    found: dict[str, Original] = {}
    for module in CHAPTERS:
        for item in originals((ROOT / f"distilclip/{module}.py").read_text(), module):
            name = item.node.name
            if name in found:
                raise SystemExit(
                    f"{name} is defined in distilclip/{module}.py and in "
                    f"distilclip/{found[name].module}.py: names must be unique."
                )
            found[name] = item
    return found


# --- What the check says ---------------------------------------------------------------------


def check_definitions(package: dict[str, Original]) -> Iterator[str]:
    """Code that differs from the package's, and names that their own notebook does not build."""
    built: dict[str, list[str]] = {name: [] for name in package}
    for path in notebooks():
        definitions, strays = read_definitions(nbformat.read(path, as_version=4).cells)
        for part in strays:
            yield (
                f"{part.name} is added to {part.owner} in cell {part.cell} of {path.name}, and no "
                f"cell before it defines the class {part.owner}."
            )
        for item in definitions:
            original = package.get(item.head.name)
            if original is None:
                continue
            built[item.head.name].append(f"{path.name} cell {item.head.cell}")
            yield from compare(item, original, path.name)
            if path.stem not in (own := CHAPTERS[original.module]):
                yield (
                    f"{item.head.name} of distilclip/{original.module}.py is built in {path.name}, "
                    f"but its chapter is {' or '.join(f'{name}.ipynb' for name in own)}."
                )
    for name, places in built.items():
        if len(places) > 1:
            yield f"{name} is built more than once: {', '.join(places)}."
        if not places:
            yield f"{name} of distilclip/{package[name].module}.py is built in no notebook."


def compare(item: Definition, original: Original, notebook: str) -> Iterator[str]:
    """How a notebook's class or function differs from the package's."""
    name, module = item.head.name, f"distilclip/{original.module}.py"
    inside = {getattr(member, "name", None) for member in item.head.node.body}
    added = [part.name for part in item.added]
    twice = [
        method for method in dict.fromkeys(added) if added.count(method) > 1 or method in inside
    ]
    if twice:
        yield from (f"{name}.{method} is told twice in {notebook}: keep one." for method in twice)
        return
    ours, theirs = assembled(item), original.node
    if dump(ours) == dump(theirs):
        return
    same_members = sorted(map(dump, ours.body)) == sorted(map(dump, theirs.body))
    pairs = zip(ours.body, theirs.body, strict=False)
    here, there = next(((a, b) for a, b in pairs if dump(a) != dump(b)), (None, None))
    if same_members and isinstance(here, ast.FunctionDef) and isinstance(there, ast.FunctionDef):
        yield (
            f"{notebook} has {name}.{here.name} where {module} has {name}.{there.name}: put its "
            "cells into the package's order."
        )
    else:
        yield (
            f"{name} in cell {item.head.cell} of {notebook} is not the code of {module}: "
            "rename it, or run 'make mirror'."
        )


def check_imports() -> Iterator[str]:
    """Imports of the package's private names, in notebooks, tools, benchmarks and tests."""
    for path in [*notebooks(), *notebooks("solutions")]:
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code":
                for name in private_imports(python_of(cell)):
                    yield f"Cell {number} of {path.name} imports the private name {name}."
    for folder in ("tools", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name in private_imports(path.read_text()):
                yield f"{path.relative_to(ROOT)} imports the private name {name}."


def private_imports(source: str) -> list[str]:
    """The names below distilclip that some code imports and that begin with an underscore."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [
        name
        for name in names
        if name.startswith("distilclip.")
        and any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
    ]


# --- What is copied --------------------------------------------------------------------------


def copy_definitions(text: str, package: dict[str, Original]) -> str:
    """A notebook's text with the package's code in every definition of the package's names."""
    notebook = nbformat.reads(text, as_version=4)
    number = 0
    while number < len(definitions := read_definitions(notebook.cells)[0]):
        item = definitions[number]  # read anew, because cells come and go
        if item.head.name in package:
            rewrite(notebook.cells, item, package[item.head.name])
        number += 1
    import_decorator(notebook.cells)
    return nbformat.writes(notebook) + "\n"


def import_decorator(cells: list) -> None:
    """Import `add_to_class` where cells use it and none imports it, with the first imports."""
    code = [cell for cell in cells if cell.cell_type == "code"]
    users = [cell for cell in code if "@add_to_class(" in cell.source]
    if not users or any(re.search(r"import .*\badd_to_class\b", cell.source) for cell in code):
        return
    cell, line = users[0], 0
    for earlier in code[: code.index(users[0])]:
        imports = [
            node
            for node in ast.parse(python_of(earlier)).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        if imports and SETUP_TAG not in earlier.metadata.get("tags", []):
            cell, line = earlier, imports[0].end_lineno
            break
    lines = cell.source.split("\n")
    lines.insert(line, "from distilclip.book.growing import add_to_class")
    cell.source = "\n".join(lines)


def formatted(text: str, path: Path) -> str:
    """A notebook's text with its imports sorted and its code formatted, as `path` would be."""
    for command in (["check", "--fix", "--exit-zero", "--select", "I"], ["format"]):
        command = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", path, "-"]
        done = subprocess.run(command, input=text, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise SystemExit(f"{path.name}: {done.stderr}")
        text = done.stdout
    return text


def setup_cell(address: str, extra: str = "") -> str:
    """The first code cell of every notebook."""
    return (
        "# On Colab: install this book's package; Colab's own torch stays as it is.\n"
        "import sys\n"
        "\n"
        'if "google.colab" in sys.modules:\n'
        f'    address = "{address}"\n'
        f'    %pip install --quiet "distilclip{extra} @ git+{{address}}"'
    )


def badge(path: Path, address: str) -> str:
    """The button that opens a notebook in Colab; a chapter opens as what `make colab` wrote."""
    folder = "colab" if path.parent.name == "notebooks" else path.parent.name
    place = f"{address.removeprefix('https://')}/blob/main/{folder}/{path.name}"
    return (
        "[![Open in Colab](../book/figures/colab.svg)]"
        f"(https://colab.research.google.com/{place.replace('github.com', 'github', 1)})"
    )


def link_notebook(text: str, path: Path, address: str) -> str:
    """A notebook's text with the repository's address in its set-up cell and its button."""
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        if SETUP_TAG in cell.metadata.get("tags", []):
            cell.source = setup_cell(address, EXTRAS.get(path.stem, ""))
        cell.source = re.sub(BADGE, badge(path, address), cell.source)
    return nbformat.writes(notebook) + "\n"


def linked_files(address: str) -> dict[Path, str]:
    """Every file that names the repository, with the text that it should have."""
    pattern = re.compile(r"https://github\.com/[\w-]+/Distil-?CLIP", re.IGNORECASE)
    files = [path for name in LINKED for path in sorted(ROOT.glob(name))]
    wanted = {
        path: BOOK.sub(published(address), pattern.sub(address, path.read_text())) for path in files
    }
    both = [*notebooks(), *notebooks("solutions")]
    return wanted | {path: link_notebook(path.read_text(), path, address) for path in both}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only say what differs")
    check = parser.parse_args().check
    package, address = read_package(), repository()
    problems = []
    if check:
        for path, text in linked_files(address).items():
            if path.read_text() != text:
                problems.append(
                    f"{path.name} has another address or set-up cell: run 'make mirror'."
                )
    else:
        for path in notebooks():
            before = path.read_text()
            text = copy_definitions(before, package)
            if text != before and (text := formatted(text, path)) != before:
                path.write_text(text)
                print(f"{path.name}: copied the package's code; run it again (make notebooks)")
        for path, text in linked_files(address).items():
            if path.read_text() != text:
                path.write_text(text)
                print(f"{path.name}: wrote the repository's address")
    problems += [*check_definitions(package), *check_imports()]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

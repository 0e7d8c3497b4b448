"""Keep the notebooks the mirror of the package, and every link to the repository the same.

A class or function that a notebook defines under a name that a chapter's module defines is the
module's own code. This tool copies the module's source over each such definition, and writes
the repository's address, which stands in pyproject.toml, wherever else it is needed.

    python tools/mirror.py            copy
    python tools/mirror.py --check    only say what differs; status 1 if anything does
"""

import ast
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
CHAPTERS = {
    "patches": "01_patches",
    "attention": "02_attention",
    "vit": "03_vit",
    "text": "04_text",
    "loss": "05_loss",
    "model": "06_model",
    "data": "07_data",
    "train": "08_train",
    "search": "09_search",
    "explain": "10_explain",
    "scale": "11_scale",
    "share": "12_share",
}
COMPLETE = (
    "patches",
    "attention",
    "vit",
    "text",
    "loss",
    "model",
    "data",
    "train",
    "search",
    "explain",
    "scale",
    "share",
)
SETUP_TAG = "setup"
EXTRAS = {"12_share": "[onnx]"}  # what a notebook needs besides the package's own requirements


@dataclass
class Definition:
    """A class or function at the top level of a module or of a notebook's cell."""

    name: str
    where: str
    source: str
    node: ast.AST
    cell: int = -1


def repository() -> str:
    """The repository's address: its one home is pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["urls"]["Repository"]


def definitions(source: str, where: str, cell: int = -1) -> list[Definition]:
    """Every public class and function at the top level of some source code."""
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        text = "\n".join(lines[first - 1 : node.end_lineno])
        found.append(Definition(node.name, where, text, node, cell))
    return found


def package_definitions() -> dict[str, Definition]:
    """Name to definition for all chapters' modules; a name stands in one module only."""
    found: dict[str, Definition] = {}
    for module in CHAPTERS:
        for item in definitions((ROOT / f"distilclip/{module}.py").read_text(), module):
            if item.name in found:
                raise SystemExit(
                    f"{item.name} is defined in distilclip/{item.where}.py and in "
                    f"distilclip/{found[item.name].where}.py: names must be unique."
                )
            found[item.name] = item
    return found


def cell_source(cell) -> str:
    """A code cell's source with notebook magics as comments, so that it parses as Python."""
    return re.sub(r"^(\s*)[%!]", r"\1pass  # ", cell.source, flags=re.MULTILINE)


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def notebook_definitions(path: Path) -> list[Definition]:
    """Every public class and function that a notebook's code cells define."""
    cells = nbformat.read(path, as_version=4).cells
    return [
        item
        for number, cell in enumerate(cells)
        if cell.cell_type == "code"
        for item in definitions(cell_source(cell), path.name, number)
    ]


def check_definitions() -> list[str]:
    """What is wrong: code that differs, and public names not built in exactly one notebook."""
    package = package_definitions()
    problems, built = [], {}
    for path in notebooks():
        for item in notebook_definitions(path):
            original = package.get(item.name)
            if original is None:
                continue
            built.setdefault(item.name, []).append(f"{path.name} cell {item.cell}")
            if ast.dump(item.node) != ast.dump(original.node):
                problems.append(
                    f"{item.name} in cell {item.cell} of {path.name} is not the code of "
                    f"distilclip/{original.where}.py: rename it, or run 'make mirror'."
                )
    for name, item in package.items():
        places = built.get(name, [])
        if len(places) > 1:
            problems.append(f"{name} is built more than once: {', '.join(places)}.")
        if not places and item.where in COMPLETE:
            problems.append(f"{name} of distilclip/{item.where}.py is built in no notebook.")
    return problems


def copy_definitions(path: Path, package: dict[str, Definition]) -> bool:
    """Replace each definition in a notebook by the package's code; say whether any changed."""
    notebook = nbformat.read(path, as_version=4)
    changed = False
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for item in definitions(cell_source(cell), path.name):
            original = package.get(item.name)
            if original and item.source != original.source:
                cell.source = cell.source.replace(item.source, original.source)
                changed = True
    if changed:
        nbformat.write(notebook, path)
    return changed


def setup_cell(address: str, extra: str = "") -> str:
    """The first code cell of every notebook."""
    return (
        "# On Colab: install this book's package; Colab's own torch stays as it is.\n"
        "import sys\n"
        "\n"
        'if "google.colab" in sys.modules:\n'
        f'    %pip install --quiet "distilclip{extra} @ git+{address}"'
    )


def badge(path: Path, address: str) -> str:
    """The button that opens a notebook in Colab, for its first cell."""
    place = f"{address.removeprefix('https://')}/blob/main/notebooks/{path.name}"
    return (
        "[![Open in Colab](../book/figures/colab.svg)]"
        f"(https://colab.research.google.com/{place.replace('github.com', 'github', 1)})"
    )


def linked_files(address: str) -> dict[Path, str]:
    """Every file that names the repository, with the text that it should have."""
    wanted = {}
    pattern = re.compile(r"https://github\.com/[\w-]+/Distil-?CLIP", re.IGNORECASE)
    for name in ("README.md", "CITATION.cff", "_config.yml", "distilclip/cli.py"):
        text = (ROOT / name).read_text()
        wanted[ROOT / name] = pattern.sub(address, text)
    for path in notebooks():
        notebook = json.loads(path.read_text())
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if SETUP_TAG in cell["metadata"].get("tags", []):
                source = setup_cell(address, EXTRAS.get(path.stem, ""))
            source = re.sub(
                r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)", badge(path, address), source
            )
            cell["source"] = source.splitlines(keepends=True)
        wanted[path] = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    return wanted


def main() -> int:
    check = "--check" in sys.argv[1:]
    problems = []
    if not check:
        package = package_definitions()
        for path in notebooks():
            if copy_definitions(path, package):
                print(f"{path.name}: copied the package's code; run it again (make notebooks)")
    for path, text in linked_files(repository()).items():
        if path.read_text() == text:
            continue
        if check:
            problems.append(f"{path.name} has another address or set-up cell: run 'make mirror'.")
        else:
            path.write_text(text)
            print(f"{path.name}: wrote the repository's address")
    problems += check_definitions()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

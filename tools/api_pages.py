"""Write the API reference: a page a module, and the list of them, from the package's tree.

Chapters' modules come first, in the order of the book, then the rooms that they lean on, each with
its modules. What a page shows is the module's docstrings; this tool only says which pages there
are: `book/api.md`, `book/api/`, and their part of `_toc.yml`.

    python tools/api_pages.py            write
    python tools/api_pages.py --check    only say what differs; status 1 if anything does
"""

import argparse
import ast
import re
import sys
from pathlib import Path

from mirror import ROOT

PACKAGE = ROOT / "distilclip"
PAGES = ROOT / "book" / "api"
CHAPTER = re.compile(r"\d\d_(\w+)")
OTHER_NAMES = {"train": "training"}  # a chapter's notebook and its module, where they differ
LEFT_OUT = {"cli"}  # the command's old address
HEAD = """# API reference

A page a module: first what the chapters build, in their order, then the rooms that they lean on.
Shapes are written batch first, as in [Notation](notation.md).
"""


def summary(file: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def chapter_modules() -> list[str]:
    """The flat modules, as the chapters build them; then any that no chapter builds."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    found = [CHAPTER.fullmatch(path.stem) for path in notebooks]
    named = [OTHER_NAMES.get(match[1], match[1]) for match in found if match]
    flat = {path.stem for path in PACKAGE.glob("[!_]*.py")} - LEFT_OUT
    return [name for name in named if name in flat] + sorted(flat - set(named))


def rooms() -> dict[str, list[str]]:
    """The folders of modules, each with the names of its modules."""
    folders = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    return {
        folder.name: sorted(path.stem for path in folder.glob("[!_]*.py")) for folder in folders
    }


def page(module: str, members: bool = True) -> str:
    """A module's page."""
    options = "   :members:\n" if members else ""
    return f"# {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n{options}```\n"


def wanted() -> dict[Path, str]:
    """Every file of the reference -> what it should hold."""
    files, index, toc = {}, [HEAD, "## The chapters' modules\n"], []

    def add(module: str, file: Path, indent: str, listed: str = "") -> None:
        files[PAGES / f"{module}.md"] = page(f"distilclip.{module}", not listed) + listed
        toc.append(f"{indent}- file: book/api/{module}")
        if not listed:
            index.append(f"- [distilclip.{module}](api/{module}.md): {summary(file)}")

    for module in chapter_modules():
        add(module, PACKAGE / f"{module}.py", " " * 10)
    for room, modules in rooms().items():
        file = PACKAGE / room / "__init__.py"
        index.append(f"\n## [distilclip.{room}](api/{room}.md)\n\n{summary(file)}\n")
        lines = [
            f"- [distilclip.{room}.{name}]({room}.{name}.md): "
            f"{summary(PACKAGE / room / f'{name}.py')}"
            for name in modules
        ]
        add(room, file, " " * 10, "\n" + "\n".join(lines) + "\n")
        toc.append(" " * 12 + "sections:")
        for name in modules:
            add(f"{room}.{name}", PACKAGE / room / f"{name}.py", " " * 14)
    files[ROOT / "book" / "api.md"] = "\n".join(index) + "\n"
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    part = "      - file: book/api\n        sections:\n" + "\n".join(toc) + "\n"
    pattern = r"      - file: book/api\n(        sections:\n( {10,}.*\n)*)?"
    files[ROOT / "_toc.yml"] = re.sub(pattern, part, contents, count=1)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only say what differs")
    check = parser.parse_args().check
    files = wanted()
    stale = [
        path
        for path, text in files.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    extra = [path for path in PAGES.glob("*") if path not in files]
    for path in stale + extra:
        name = path.relative_to(ROOT).as_posix()
        if check:
            print(f"{name} is not what the package holds: run 'make mirror'.", file=sys.stderr)
        elif path in extra:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
            print(f"{name}: written")
    return int(check and bool(stale + extra))


if __name__ == "__main__":
    sys.exit(main())

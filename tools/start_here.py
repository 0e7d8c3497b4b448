"""What a section of a notebook needs from the sections above it, as one cell of code.

A reader who restarts a notebook in the middle runs this cell and goes on from there. It holds the
statements of the cells above that make the names which the section uses, and those that change
what these names stand for; classes and functions of the package are imported instead of built.
`tools/colab.py` puts one under each section's heading.

    python tools/start_here.py                   run each section alone, after its own cell
    python tools/start_here.py 05_loss 06_model  those of some chapters
"""

import argparse
import ast
import builtins
import functools
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from class_parts import Original, python_of
from mirror import ROOT, SETUP_TAG, notebooks, read_package
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell

TITLE = "# @title Start here: what this section needs from those above"
# Calls that show something and change nothing
SHOWS = re.compile("print|display|check|(show|draw|plot|mark)(_.+)?")
# Methods that change what they are called on; those that end in _ do, too
CHANGES = {"append", "extend", "update", "add", "insert", "pop", "clear", "sort", "remove"}
CHANGES |= {"train", "eval", "load_state_dict", "step", "backward", "zero_grad", "to", "half"}
CHANGES |= {"requires_grad_", "setdefault", "register_buffer", "seed", "manual_seed"}
# Methods that write files: what says where is changed by them
WRITES = re.compile("(save|write|dump|export|copy2?$|copy(file|tree)|mkdir|touch).*")
NAMES = set(dir(builtins)) | {"get_ipython", "__name__", ""}


@dataclass
class Statement:
    """One statement at the top of a cell: its source, and the names that it deals with."""

    source: str
    makes: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)
    is_import: bool = False
    owner: str = ""  # the class or function that it defines, or adds a method to


@dataclass
class Section:
    """A part of a notebook under one heading: where its cells begin, and its statements."""

    title: str
    cell: int
    statements: list[Statement]


def sections_of(notebook: nbformat.NotebookNode) -> list[Section]:
    """The sections of a notebook that have code; what stands above the first is one, too."""
    sections = [Section("", 0, [])]
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            titles = re.findall(r"^## (.+)$", cell.source, flags=re.MULTILINE)
            if titles:
                sections.append(Section(titles[-1], number, []))
        elif SETUP_TAG not in cell.metadata.get("tags", []):
            sections[-1].statements += statements_of(python_of(cell))
    return sections


def statements_of(source: str) -> list[Statement]:
    lines = source.splitlines(keepends=True)
    found = []
    for node in ast.parse(source).body:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        names = Names()
        names.visit(node)
        text = "".join(lines[start - 1 : node.end_lineno]).rstrip()
        statement = Statement(text, names.makes, names.needs, names.changes)
        statement.is_import = isinstance(node, ast.Import | ast.ImportFrom)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            statement.owner = added_to(node) or node.name
            if added_to(node):
                statement.makes, statement.changes = set(), {statement.owner}
        found.append(statement)
    return found


def added_to(node: ast.ClassDef | ast.FunctionDef) -> str:
    """The class that a function becomes a method of, by its decorator; else ""."""
    for each in node.decorator_list:
        if isinstance(each, ast.Call) and getattr(each.func, "id", "") == "add_to_class":
            return getattr(each.args[0], "id", "")
    return ""


class Names(ast.NodeVisitor):
    """The names that a statement makes, needs and changes, those inside functions left out."""

    def __init__(self) -> None:
        self.makes: set[str] = set()
        self.needs: set[str] = set()
        self.changes: set[str] = set()

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            if node.id not in self.makes:
                self.needs.add(node.id)
        else:
            self.makes.add(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        for part in (node.annotation, node.value, node.target):
            if part is not None:
                self.visit(part)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        name = root_of(node.target)
        self.needs |= {name} - {""} - self.makes
        self.changes.add(name)

    def visit_For(self, node: ast.For) -> None:
        for part in (node.iter, node.target, *node.body, *node.orelse):
            self.visit(part)

    def visit_comprehension(self, node: ast.AST) -> None:
        inner = Names()
        inner.makes = set(self.makes)
        for generator in getattr(node, "generators", []):
            inner.visit(generator.iter)
            inner.visit(generator.target)
            for test in generator.ifs:
                inner.visit(test)
        for part in ("elt", "key", "value"):
            if hasattr(node, part):
                inner.visit(getattr(node, part))
        self.needs |= inner.needs
        self.changes |= inner.changes & (self.makes | inner.needs)
        self.makes |= {w.target.id for w in ast.walk(node) if isinstance(w, ast.NamedExpr)}

    def visit(self, node: ast.AST) -> None:
        kinds = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
        if isinstance(node, kinds):
            self.visit_comprehension(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            self.makes |= {a.asname or a.name.split(".")[0] for a in node.names}
        else:
            super().visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.changes.add(root_of(node))
        self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.changes.add(root_of(node))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            method = node.func.attr
            if method in CHANGES or (method.endswith("_") and method[-2:] != "__"):
                self.changes.add(root_of(node.func))
            if WRITES.fullmatch(method):  # a file below a path, which a name stands for
                self.changes |= {a.id for a in ast.walk(node) if isinstance(a, ast.Name)}
        elif WRITES.fullmatch(getattr(node.func, "id", "")) and len(node.args) == 1:
            self.changes.add(root_of(node.args[0]))  # a folder that a function fills
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        call = node.value
        name = getattr(getattr(call, "func", None), "id", "")
        if name == "use_book_style":
            self.changes.add("plt")
        if isinstance(call, ast.Call) and name and not SHOWS.fullmatch(name):
            arguments = [*call.args, *(k.value for k in call.keywords)]
            self.changes |= {a.id for a in arguments if isinstance(a, ast.Name)}
        self.visit(call)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for each in [*node.decorator_list, *node.args.defaults, *node.args.kw_defaults]:
            if each is not None:
                self.visit(each)
        self.needs |= free_names(node) - self.makes
        self.makes.add(node.name)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        self.makes |= {node.name} if node.name else set()
        self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.needs |= free_names(node) - self.makes

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for each in [*node.decorator_list, *node.bases, *(k.value for k in node.keywords)]:
            self.visit(each)
        inner = Names()
        for each in node.body:
            inner.visit(each)
        self.needs |= inner.needs - {node.name} - self.makes
        self.makes.add(node.name)


def root_of(node: ast.AST) -> str:
    """The name at the start of `name.part[3].other`, "" where there is none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def free_names(node: ast.FunctionDef | ast.Lambda) -> set[str]:
    """The names of its module that a function uses."""
    loaded, bound = set(), {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            (loaded if isinstance(each.ctx, ast.Load) else bound).add(each.id)
        elif isinstance(each, ast.Import | ast.ImportFrom):
            bound |= {a.asname or a.name.split(".")[0] for a in each.names}
        elif isinstance(each, ast.FunctionDef | ast.ExceptHandler) and each is not node:
            bound.add(each.name or "")
    return loaded - bound


def needed(above: Sequence[Statement], section: Sequence[Statement]) -> list[Statement]:
    """The statements above a section without which its names would not be what they are."""
    wanted = set(wanted_by(section))
    changed = set(wanted)
    kept = []
    for statement in reversed(above):
        makes, changes = statement.makes & wanted, statement.changes & changed
        if not makes and not changes:
            continue
        kept.append(statement)
        wanted |= statement.needs
        changed |= statement.needs
    return kept[::-1]


def wanted_by(statements: Iterable[Statement]) -> set[str]:
    """The names that statements use before they make them."""
    statements = list(statements)
    made: set[str] = set()
    wanted: set[str] = set()
    later = set().union(*(s.makes for s in statements))  # before a function is called
    for statement in statements:
        wanted |= statement.needs - (later if statement.owner else made)
        wanted |= {statement.owner} & statement.changes - made
        made |= statement.makes
    return wanted - NAMES


def start_cell(above: Sequence[Statement], section: Sequence[Statement]) -> str:
    """The code of the cell for a section, "" where it needs nothing from above.

    It does nothing where all that it would make is there.
    """
    found = needed(with_imports(above), section)
    if not found:
        return ""
    made = set().union(*(statement.makes for statement in above))
    wanted = sorted(wanted_by(section) & made)
    used = set(wanted).union(*(statement.needs for statement in found))
    body = merged_imports(found, used) + [s.source for s in found if not s.is_import]
    names = "\n".join(textwrap.wrap(" ".join(wanted), 76))
    code = f'needs = """{names}"""\nif not globals().keys() >= set(needs.split()):\n'
    return TITLE + "\n" + formatted(code + "\n".join(map(indented, body)))


def with_imports(above: Sequence[Statement]) -> list[Statement]:
    """Statements in which the package's classes and functions are imported, not built."""
    package = of_the_package()
    imports: dict[str, Statement] = {}
    rest = []
    for statement in above:
        if statement.owner in package:
            module = package[statement.owner].module
            line = f"from distilclip.{module} import {statement.owner}"
            imports.setdefault(line, Statement(line, {statement.owner}, is_import=True))
        else:
            rest.append(statement)
    return [*imports.values(), *rest]


@functools.cache
def of_the_package() -> dict[str, Original]:
    """The package's public classes and functions, read once."""
    return read_package()


def merged_imports(statements: Iterable[Statement], used: set[str]) -> list[str]:
    """Each module once, with those of its names that are used."""
    whole: dict[str, None] = {}
    parts: dict[str, dict[str, None]] = {}
    for statement in statements:
        for node in ast.parse(statement.source).body if statement.is_import else ():
            assert isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names:
                if (alias.asname or alias.name.split(".")[0]) not in used:
                    continue
                text = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                if isinstance(node, ast.Import):
                    whole[f"import {text}"] = None
                else:
                    parts.setdefault(f"{node.module}", {})[text] = None
    return [*whole, *(f"from {m} import {', '.join(sorted(n))}" for m, n in parts.items())]


def indented(source: str) -> str:
    """A statement four columns to the right, without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return textwrap.indent(ast.unparse(tree), "    ")


def formatted(code: str) -> str:
    """Code as `ruff` would have it in the notebooks."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename"]
    file = ROOT / "distilclip" / "start_here.py"  # where the lines are as short
    done = subprocess.run([*command, file, "-"], input=code, capture_output=True, text=True)
    done.check_returncode()
    return done.stdout.rstrip("\n")


def start_cells(notebook: nbformat.NotebookNode) -> dict[int, str]:
    """The cells for a notebook's sections, by the number of the cell that has the heading.

    The first section has none: what is above it has just been run.
    """
    above: list[Statement] = []
    cells, is_first = {}, True
    for section in sections_of(notebook):
        if section.title and section.statements:
            code = "" if is_first else start_cell(above, section.statements)
            if code:
                cells[section.cell] = code
            is_first = False
        above += section.statements
    return cells


def run_alone(path: Path, cell: int, code: str) -> str:
    """What went wrong when a section was run by itself after its cell, "" if nothing did."""
    notebook = nbformat.read(path, as_version=4)
    kept, inside = [], False
    for number, each in enumerate(notebook.cells):
        if each.cell_type == "markdown" and re.search("^## ", each.source, flags=re.M):
            inside = number == cell
        if inside and each.cell_type == "code":
            kept.append(each)
    notebook.cells = [new_code_cell(code), *kept]
    where = {"metadata": {"path": str(path.parent)}}
    try:
        NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=where).execute()
    except CellExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("chapters", nargs="*")
    chapters = parser.parse_args().chapters
    bad = 0
    for path in notebooks():
        if chapters and path.stem not in chapters:
            continue
        for number, code in start_cells(nbformat.read(path, as_version=4)).items():
            wrong = run_alone(path, number, code)
            bad += bool(wrong)
            lines = len(code.splitlines())
            print(f"{path.stem} cell {number}, {lines} lines: {wrong or 'runs'}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

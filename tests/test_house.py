"""The house keeps its plan: floors, private names, sizes, docstrings, doors, the tree of tests.

Every check reads the sources and gives a list of what is wrong, so that it can be shown to find
something in a made-up house, too.
"""

import ast
import graphlib
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import distilclip

ROOT = Path(__file__).parents[1]
FOLDERS = ("notebooks", "solutions")
NOTEBOOKS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.ipynb"))]
PAGES = [*NOTEBOOKS, *sorted((ROOT / "book").glob("*.md"))]

# From the ground up. A folder of the package is a room, and so is a module that lies flat. A room
# imports from the floors below it; two rooms on one floor know nothing of each other.
FLOORS = (
    ("storage",),
    ("patches", "attention", "loss", "sources"),
    ("vit", "data"),
    ("text", "scale"),
    ("model",),
    ("pretrained",),
    ("index", "export"),
    ("search",),
    ("runs",),
    ("training", "share"),
    ("explain",),
    ("__init__",),  # the names that `distilclip` itself exports
    ("command", "book"),
    ("cli",),  # the command's old address
)
ONLY = {"storage": (), "sources": ("storage",), "index": ("storage", "model")}
CORE = ("patches", "attention", "vit", "text", "loss")
CORE_LINES = 500
CELL_LINES, CELL_WIDTH = 40, 84
FEW_LINES = 25  # more only where a cell is one whole function or class
# Tests that no module owns
CROSS_CUTTING = ("bad_input", "book", "claims", "endings", "faults", "house", "readme", "release")
CROSS_CUTTING += ("card", "nearly", "safety", "types")


# Floors


def modules_of(root: Path) -> dict[str, Path]:
    """The files of the package by the names under which they are imported."""
    found = {}
    for path in sorted((root / "distilclip").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def imported_names(path: Path, module: str) -> Iterator[str]:
    """What a file imports, by full names, wherever in it: at the top, in functions, for types."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = parents if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def arrows_of(root: Path) -> dict[str, set[str]]:
    """Module to the modules of ours that it imports."""
    modules = modules_of(root)
    arrows = {}
    for module, path in modules.items():
        arrows[module] = set()
        for name in imported_names(path, module):
            while name and name not in modules:  # a function: the module that holds it
                name = name.rpartition(".")[0]
            arrows[module] |= {name} - {"", module}
    return arrows


FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def wrong_arrows(root: Path) -> list[str]:
    """Imports that do not go down, or that lead where a room may not look."""
    problems = []
    for module, targets in arrows_of(root).items():
        room = room_of(module)
        if room not in FLOOR_OF:
            problems.append(f"{module} is on no floor: give {room!r} a place in FLOORS")
            continue
        below = {other for other, floor in FLOOR_OF.items() if floor < FLOOR_OF[room]}
        allowed = below.intersection(ONLY.get(room, below)) | {room}
        problems += [
            f"{module} -> {target}: {room} (floor {FLOOR_OF[room]}) may not import "
            f"{room_of(target)} (floor {FLOOR_OF.get(room_of(target), 'none')})"
            for target in sorted(targets)
            if room_of(target) not in allowed
        ]
    return problems


def circle_in(arrows: dict[str, set[str]]) -> list[str]:
    """Names that import each other in a circle, the first one again at the end; [] if none do."""
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def between_rooms(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same arrows from room to room."""
    rooms = {}
    for module, targets in arrows.items():
        room = room_of(module)
        rooms.setdefault(room, set()).update({room_of(target) for target in targets} - {room})
    return rooms


def test_every_import_goes_down():
    assert not wrong_arrows(ROOT)


def test_nothing_goes_in_a_circle():
    arrows = arrows_of(ROOT)
    assert not circle_in(arrows)
    assert not circle_in(between_rooms(arrows))


def test_every_room_on_a_floor_is_there():
    rooms = [room for floor in FLOORS for room in floor]
    assert len(rooms) == len(set(rooms))
    assert set(rooms) == set(map(room_of, modules_of(ROOT)))


def test_nothing_in_the_package_needs_the_command_or_what_only_notebooks_use():
    arrows = arrows_of(ROOT)
    for room in ("command", "book"):
        users = {m for m, targets in arrows.items() if room in map(room_of, targets)}
        assert {room_of(module) for module in users} <= {room, "cli"}  # its old address


def house(root: Path, files: dict[str, str]) -> Path:
    """A made-up house: file to source."""
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
    return root


UPWARD = {
    "at the top": "from distilclip.model import DistilCLIP",
    "a module by its name": "import distilclip.model",
    "a module out of the package": "from distilclip import model",
    "relative": "from .model import DistilCLIP",
    "relative, a module": "from . import model",
    "in a function": "def f():\n    from distilclip.model import DistilCLIP",
    "for types": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import distilclip.model",
    "by a call": "import importlib\nimportlib.import_module('distilclip.model')",
}


@pytest.mark.parametrize("way", UPWARD)
def test_an_arrow_up_is_found_however_it_is_written(way, tmp_path):
    house(tmp_path, {"distilclip/vit.py": UPWARD[way], "distilclip/model.py": ""})
    (problem,) = wrong_arrows(tmp_path)
    assert problem.startswith("distilclip.vit -> distilclip.model: vit (floor ")


WRONG_ARROWS = {
    "beside": ("patches.py", "from distilclip.loss import cosines", "distilclip.loss"),
    "out of the ground": ("storage/files.py", "import distilclip.patches", "distilclip.patches"),
    "to a chapter that a source could reach": ("sources/hub.py", "import distilclip.vit", "vit"),
    "to a chapter that an index could reach": ("index/file.py", "import distilclip.data", "data"),
    "to the command": ("search.py", "import distilclip.command.cli", "distilclip.command.cli"),
    "to the roof": ("search.py", "from distilclip import ViT", "distilclip"),
    "to no floor": ("explain.py", "import distilclip.attic", "attic (floor none)"),
    "from no floor": ("attic.py", "", "distilclip.attic is on no floor"),
}


@pytest.mark.parametrize("case", WRONG_ARROWS)
def test_wrong_arrows_are_named(case, tmp_path):
    name, source, message = WRONG_ARROWS[case]
    rooms = ("__init__", "loss", "vit", "model", "data", "storage/hub", "patches", "command/cli")
    house(tmp_path, {f"distilclip/{room}.py": "" for room in rooms})
    assert not wrong_arrows(tmp_path)
    fine = "import distilclip.storage.hub\n" if "/" in name else ""
    house(tmp_path, {f"distilclip/{name}": fine + source})
    if case == "to no floor":
        house(tmp_path, {"distilclip/attic.py": ""})
    (problem,) = [p for p in wrong_arrows(tmp_path) if case == "from no floor" or "->" in p]
    assert problem.startswith(f"distilclip.{name.removesuffix('.py').replace('/', '.')}")
    assert message in problem


def test_circles_are_found(tmp_path):
    files = {
        "distilclip/runs/watch.py": "def f():\n    from distilclip.runs import checkpoint",
        "distilclip/runs/checkpoint.py": "import distilclip.runs.watch",
        "distilclip/runs/memory.py": "import distilclip.search",
        "distilclip/search.py": "from distilclip.runs.settings import TrainConfig",
        "distilclip/runs/settings.py": "",
    }
    arrows = arrows_of(house(tmp_path, files))
    circle = circle_in(arrows)
    assert set(circle) == {"distilclip.runs.watch", "distilclip.runs.checkpoint"}
    del arrows["distilclip.runs.watch"]
    assert not circle_in(arrows)
    assert set(circle_in(between_rooms(arrows))) == {"runs", "search"}


# Private names


def code_cells(path: Path) -> list[str]:
    """The code of a notebook, cell by cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def without_magics(cell: str) -> str:
    return re.sub(r"^(\s*)[%!]", r"\1pass  # ", cell, flags=re.MULTILINE)


PATCHES = ("setattr", "delattr", "patch", "import_module")  # calls that name a thing by a string


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def private_uses(source: str, ours: set[str]) -> list[str]:
    """Private names of other modules that some code imports, reads off a module, or patches."""
    found, bound = [], set()
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", None) or ""
            is_ours = (
                getattr(node, "level", 0) or {n.split(".")[0] for n in (module, *names)} & ours
            )
            whole = [f"{module}.{name}".strip(".") for name in names]
            private = [name for name in whole if is_private(name.rpartition(".")[2])]
            if is_ours:
                private += [n for n in whole if any(map(is_private, n.split(".")[:-1]))]
                bound |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            found += private
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            start, *rest = ast.unparse(node.value).split(".")
            if start in bound and all(map(str.isidentifier, rest)):
                found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in PATCHES:
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            parts = [text.split(".") for text in texts if isinstance(text, str)]
            found += [".".join(p) for p in parts if p[0] in ours and any(map(is_private, p))]
    return found


def private_names(root: Path) -> list[str]:
    """Every use of another module's private name, in all that is ours."""
    folders = ("distilclip", "tools", "benchmarks", "tests")
    files = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    ours = {"distilclip", *(path.stem for path in files if path.parent.name in folders[1:])}
    sources = [(path, path.read_text(encoding="utf-8")) for path in files]
    for path in sorted([*root.glob("notebooks/*.ipynb"), *root.glob("solutions/*.ipynb")]):
        sources += [(path, without_magics(cell)) for cell in code_cells(path)]
    return [
        f"{path.relative_to(root).as_posix()}: {name}"
        for path, source in sources
        for name in private_uses(source, ours)
    ]


def test_a_private_name_stays_in_its_module():
    assert not private_names(ROOT)


def test_private_names_are_found_wherever_they_are_used(tmp_path):
    hidden = "_hidden"
    cells = [{"cell_type": "code", "source": [f"%time 1\nfrom distilclip.vit import {hidden}\n"]}]
    files = {
        "distilclip/a.py": f"def f():\n    from distilclip.b import {hidden}",
        "distilclip/runs/c.py": f"from . import {hidden}",
        "distilclip/fine.py": "from os import path as _path\n_own = path.__name__\nprint(_own)",
        "tools/b.py": f"import distilclip.vit as vit\nvit.{hidden}()",
        "tools/c.py": f"import distilclip.vit\ndistilclip.vit.{hidden}()",
        "benchmarks/d.py": f"from distilclip.search import ImageIndex\nImageIndex.{hidden}",
        "benchmarks/e.py": f"from d import {hidden}",
        "tests/runs/f.py": f"m.setattr('distilclip.vit.{hidden}', 1)",
        "tests/g.py": f"import distilclip.{hidden}.x",
        "notebooks/01_a.ipynb": json.dumps({"cells": cells}),
    }
    found = private_names(house(tmp_path, files))
    places = {line.split(":")[0] for line in found}
    assert len(found) == len(places) and places == files.keys() - {"distilclip/fine.py"}
    assert all(hidden in line for line in found)


# Sizes


def code_lines(source: str) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*nothing, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_the_core_is_short():
    lines = {name: code_lines((ROOT / f"distilclip/{name}.py").read_text()) for name in CORE}
    assert sum(lines.values()) < CORE_LINES, lines


def test_only_code_is_counted():
    source = '"""Two\nlines."""\n\nimport os  # one\n\n# none\ndef f(\n    a,  # three\n):\n'
    source += '    """None."""\n    # none\n    return """four\n\n    of them\n    """\n'
    assert code_lines(source) == 1 + 3 + 4


def large_cells(path: Path) -> list[str]:
    """Cells of a notebook with too many lines, and lines that are too long."""
    problems = []
    for number, cell in enumerate(code_cells(path)):
        lines = [line for line in cell.splitlines() if line.strip()]
        if len(lines) > CELL_LINES:
            problems.append(f"code cell {number} has {len(lines)} lines: {lines[0]}")
        wide = [line for line in lines if len(line) > CELL_WIDTH]
        problems += [f"code cell {number} has a line of {len(line)}: {line}" for line in wide]
    return problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_cell_fits_a_screen(path):
    assert not large_cells(path)


def test_large_cells_are_found(tmp_path):
    sources = [["x = 1\n"] * 40 + ["\n"], ["y = 1\n"] * 41, ["z" * 84 + "\n", "w" * 85]]
    cells = [{"cell_type": "code", "source": source} for source in sources]
    cells += [{"cell_type": "markdown", "source": ["v" * 100 + "\n"] * 50}]
    path = tmp_path / "01.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    many, wide = large_cells(path)
    assert many == "code cell 1 has 41 lines: y = 1"
    assert wide.startswith("code cell 2 has a line of 85: www")


def wide_blocks(text: str) -> list[str]:
    """Lines of code and of commands in a page's Markdown that are too long for it."""
    problems, inside = [], ""
    for line in text.splitlines():
        fence = re.match(r"\s*(?:```+|~~~+)\s*(\S*)", line)
        is_head = line.lstrip().startswith(("alt:", ":"))  # of a cell, and not shown
        if fence:
            inside = "" if inside else fence[1] or "text"
        elif len(line) > CELL_WIDTH and re.match(r"[^{]|\{code", inside) and not is_head:
            problems.append(f"a line of {len(line)}: {line}")
    return problems


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_block_of_code_fits_a_page(path):
    texts = [path.read_text(encoding="utf-8")]
    if path.suffix == ".ipynb":
        cells = json.loads(texts[0])["cells"]
        texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    assert not [problem for text in texts for problem in wide_blocks(text)]


def test_wide_blocks_are_found():
    wide, fits = "w" * 85, "f" * 84
    text = f"{wide}\n```bash\n{fits}\n{wide}\n```\n```{{figure}} x\n{wide}\n```\n"
    text += f"```{{code-cell}}\n:tags: {wide}\n{wide}\n```\n{wide}"
    assert wide_blocks(text) == [f"a line of 85: {wide}"] * 2


def crowded_cells(path: Path) -> list[str]:
    """Long cells that hold something besides one definition and the imports that it needs.

    A drawing that is folded away is read by those who unfold it only.
    """
    problems = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        lines = [line for line in source.splitlines() if line.strip()]
        is_folded = "hide-input" in cell.get("metadata", {}).get("tags", [])
        if cell["cell_type"] != "code" or len(lines) <= FEW_LINES or is_folded:
            continue
        parts = ast.parse(without_magics(source)).body
        parts = [part for part in parts if not isinstance(part, ast.Import | ast.ImportFrom)]
        if len(parts) != 1 or not isinstance(parts[0], ast.FunctionDef | ast.ClassDef):
            problems.append(f"{len(lines)} lines: {lines[0]}")
    return problems


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_long_cell_is_one_definition(path):
    assert not crowded_cells(path)


def printed_lines(path: Path) -> int:
    """How many lines of code a chapter's page shows before anything is unfolded."""
    count = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        tags = cell.get("metadata", {}).get("tags", [])
        if cell["cell_type"] == "code" and not any(t.startswith(("hide", "remove")) for t in tags):
            count += sum(bool(line.strip()) for line in "".join(cell["source"]).splitlines())
    return count


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_chapter_prints_at_most_350_lines(path):
    assert printed_lines(path) <= 350


def test_folded_lines_are_not_counted(tmp_path):
    cells = [
        {"cell_type": "code", "source": "x = 1\n\ny = 2", "metadata": {"tags": tags}}
        for tags in ([], ["hide-input"], ["remove-cell"], ["other"])
    ]
    cells.append({"cell_type": "markdown", "source": "a\nb", "metadata": {}})
    path = tmp_path / "01.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    assert printed_lines(path) == 4


def test_crowded_cells_are_found(tmp_path):
    function = "import os\n\n\ndef f():\n" + "    x = 1\n" * 24
    cells = [
        {"cell_type": "code", "source": source, "metadata": {"tags": tags}}
        for source, tags in (
            (function, []),
            (function + "\n\nf()", []),
            ("y = 1\n" * 26, []),
            ("z = 1\n" * 26, ["hide-input"]),
            ("import os\n" * 26, []),
            ("w = 1\n" * 25, []),
        )
    ]
    path = tmp_path / "01.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    found = ["27 lines: import os", "26 lines: y = 1", "26 lines: import os"]
    assert crowded_cells(path) == found


# Docstrings


def undescribed(root: Path) -> list[str]:
    """Modules, and their public functions and classes, that do not say what they are."""
    problems = []
    for module, path in modules_of(root).items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        problems += [module] * (not ast.get_docstring(tree))
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                problems += [f"{module}.{node.name}"] * (not ast.get_docstring(node))
    return problems


def test_all_that_is_public_is_described():
    assert not undescribed(ROOT)


def test_what_is_not_described_is_found(tmp_path):
    files = {
        "distilclip/a.py": "def _own(): ...\ndef f(): ...\nclass C:\n    def g(self): ...",
        "distilclip/runs/b.py": '"""Described."""\ndef f():\n    """So is this."""',
    }
    found = undescribed(house(tmp_path, files))
    assert found == ["distilclip.a", "distilclip.a.f", "distilclip.a.C"]


# Doors


def in_a_fresh_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_train_is_the_function_and_training_the_module():
    in_a_fresh_process(
        "import distilclip\n"
        "import distilclip.training as training\n"
        "from types import FunctionType, ModuleType\n"
        "assert isinstance(training, ModuleType) and training is distilclip.training\n"
        "assert isinstance(distilclip.train, FunctionType)\n"
        "assert distilclip.train is training.train\n"
        f"from distilclip import {', '.join(distilclip.__all__)}\n"
        "assert train is training.train\n"
    )


def test_every_name_of_the_package_is_known_to_type_checkers():
    tree = ast.parse((ROOT / "distilclip" / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    homes = {a.asname or a.name: node.module for node in imports for a in node.names}
    for name in distilclip.__all__:
        assert getattr(distilclip, name).__module__ == homes[name]


def test_a_name_that_is_not_there_is_said():
    with pytest.raises(AttributeError, match="module 'distilclip' has no attribute 'nothing'"):
        distilclip.nothing  # noqa: B018
    assert set(distilclip.__all__) <= set(dir(distilclip))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("distilclip", ("torch", "transformers", "datasets")),
        ("distilclip.vit", ("transformers", "datasets")),
    ],
)
def test_no_more_is_loaded_than_is_needed(module, absent):
    in_a_fresh_process(f"import sys, {module}\nassert not {{*{absent}}} & sys.modules.keys()")


# The tree of tests


def stray_tests(root: Path) -> list[str]:
    """Tests that do not lie where what they test lies, and chapters without tests."""
    problems = []
    chapters = {path.stem for path in (root / "distilclip").glob("[!_]*.py")}
    tested = set()
    for path in sorted((root / "tests").rglob("test_*.py")):
        folder, name = path.parent.relative_to(root / "tests"), path.stem.removeprefix("test_")
        if folder == Path():
            tested.add(name)
            is_there = name in chapters or name in CROSS_CUTTING
        else:
            home = root if folder.name in ("tools", "benchmarks") else root / "distilclip"
            is_there = (home / folder / f"{name}.py").is_file()
        problems += [f"{path.relative_to(root).as_posix()} tests nothing of its name"] * (
            not is_there
        )
    return problems + [f"chapter {name} has no tests" for name in sorted(chapters - tested)]


def test_the_tests_are_the_same_tree():
    assert not stray_tests(ROOT)


def test_stray_tests_are_found(tmp_path):
    here = ("distilclip/vit.py", "distilclip/runs/watch.py", "tools/soak.py", "distilclip/loss.py")
    tests = ("test_vit.py", "test_safety.py", "runs/test_watch.py", "tools/test_soak.py")
    house(tmp_path, dict.fromkeys([*here, *(f"tests/{name}" for name in tests)], ""))
    assert stray_tests(tmp_path) == ["chapter loss has no tests"]
    stray = ("test_loss.py", "test_watch.py", "runs/test_vit.py", "benchmarks/test_soak.py")
    house(tmp_path, {f"tests/{name}": "" for name in stray})
    found = [problem.split()[0] for problem in stray_tests(tmp_path)]
    assert sorted(found) == sorted(f"tests/{name}" for name in stray[1:])


def test_the_files_that_begin_first_are_there():
    tree = ast.parse((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (longest,) = (
        [node.value for node in ast.walk(statement) if isinstance(node, ast.Constant)]
        for statement in tree.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "LONGEST"
    )
    files = [*(ROOT / "tests").rglob("test_*.py"), *NOTEBOOKS]
    assert len(longest) == len(set(longest)) and set(longest) <= {path.stem for path in files}


# The tools

TOOLS = [
    path
    for path in sorted((ROOT / "tools").glob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
]


def parses_first(source: str) -> bool:
    """Whether `main` calls `parse_args` and does no work before it, but to say what is read."""
    main = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    for statement in main.body[ast.get_docstring(main) is not None :]:
        calls = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
        names = {func.attr if isinstance(func, ast.Attribute) else func.id for func in calls}
        if "parse_args" in names:
            return True
        if not any(
            name in ("ArgumentParser", "add_argument", "add_subparsers", "add_parser")
            for name in names
        ):
            return False
    return False


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.stem)
def test_a_tool_parses_its_options_first(path: Path) -> None:
    assert parses_first(path.read_text(encoding="utf-8"))


def test_a_main_that_ignores_its_options_is_found() -> None:
    assert not parses_first("def main():\n    work()\n")
    assert not parses_first("def main():\n    work()\n    parser.parse_args()\n")

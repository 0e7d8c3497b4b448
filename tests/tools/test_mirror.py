"""The book and the package are one: the mirror says what differs, and copies what it must."""

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[2]
ADDRESS = "https://github.com/someone/Distil-CLIP"
MODULES = ["patches", "attention", "vit", "text", "loss", "model", "data", "training"]
MODULES += ["search", "explain", "scale", "share", "export", "pretrained"]
IMPORT = "from distilclip.book.growing import add_to_class"

GALLERY = '''
"""A module with a class too long for one cell, and two short definitions."""

from functools import cached_property

import torch


class Gallery(torch.nn.Module):
    """Pictures on walls.

    The second paragraph is indented in the class and not in a cell.
    """

    colour = "white"  # of every wall
    sizes: tuple[int, ...] = (1, 2)

    def __init__(self, pictures):
        super().__init__()
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    # How many walls there are.
    # It is a property.
    @property
    def walls(self) -> int:
        """A quarter of the pictures.

        Each wall has four:
            two above two.
        """
        return len(self) // 4

    @cached_property
    def first(self):
        return self.pictures[0]

    # A remark that stands alone.

    @classmethod
    def of(cls, *pictures: str) -> "Gallery":
        """Hang them."""

        def hang(picture):
            """Straight,

            and high.
            """
            return picture

        return cls([hang(picture) for picture in pictures])

    @staticmethod
    def label(name: str) -> str:
        return f"""
        {name}
    is the painter
        """

    @torch.no_grad()
    def walk(self, steps: int = 3) -> list[str]:
        """Walk along the walls."""
        seen = []
        for step in range(steps):
            if step % 2:
                seen.append("a picture on the left, which is described at some length")
            else:
                seen.append("a picture on the right, which is described at some length")
        seen += [
            "one more",
            "and another",
            "and a third",
        ]
        seen.sort()
        seen.reverse()
        return seen

    def forward(self, x):
        return x
'''
SHORT = '''

def patchify(images):
    """Cut."""
    return images


class Patch:
    """One patch."""

    def __init__(self, size):
        self.size = size


def _private():
    return 0
'''


class House:
    """A small copy of the repository, with one chapter that has code."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("distilclip/command", "tools", "notebooks", "tests", "benchmarks", "book"):
            (folder / name).mkdir(parents=True)
        for name in ("mirror.py", "class_parts.py"):
            self.write(f"tools/{name}", (ROOT / "tools" / name).read_text())
        self.write("pyproject.toml", f'[project]\nurls = {{ Repository = "{ADDRESS}" }}\n')
        self.write("notebooks/ruff.toml", "line-length = 84\n")
        for module in MODULES:
            self.write(f"distilclip/{module}.py", "")
        self.package(GALLERY + SHORT)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def package(self, source: str, module: str = "patches") -> None:
        self.write(f"distilclip/{module}.py", source)

    def notebook(self, *cells, name: str = "01_patches") -> None:
        cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        text = nbformat.writes(new_notebook(cells=cells)) + "\n"
        self.write(f"notebooks/{name}.ipynb", text)

    def text(self, name: str = "01_patches") -> str:
        return (self.folder / f"notebooks/{name}.ipynb").read_text()

    def cells(self, name: str = "01_patches") -> list:
        notebook = nbformat.reads(self.text(name), as_version=4)
        nbformat.validate(notebook)
        return notebook.cells

    def sources(self) -> list[str]:
        return [cell.source for cell in self.cells()]

    def run(self, *options: str) -> str:
        """What the tool complains of; its status is 0 exactly if that is nothing."""
        command = [sys.executable, self.folder / "tools" / "mirror.py", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "Traceback" not in done.stderr, done.stderr
        assert (done.returncode == 0) == (done.stderr == "")
        return done.stderr

    def check(self) -> str:
        return self.run("--check")


def lines(source: str) -> int:
    return sum(bool(line.strip()) for line in source.split("\n"))


def definition(name: str, source: str = GALLERY + SHORT) -> str:
    """One class or function of a module, as it stands there."""
    for node in ast.parse(source).body:
        if getattr(node, "name", None) == name:
            return "\n".join(source.split("\n")[node.lineno - 1 : node.end_lineno])
    raise KeyError(name)


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


@pytest.fixture
def split_house(house):
    """A house whose notebook tells the long class in cells that the mirror has split."""
    house.notebook("import torch", definition("Gallery"), definition("patchify"))
    cells = house.cells()
    cells += [new_markdown_cell("A patch."), new_code_cell(definition("Patch"))]
    house.notebook(*cells)
    assert house.run() == ""
    return house


@pytest.mark.slow
def test_notebooks_mirror_the_package():
    command = [sys.executable, str(ROOT / "tools" / "mirror.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_long_class_is_split_and_put_together_again(split_house):
    sources = split_house.sources()
    assert split_house.check() == ""
    assert all(lines(source) <= 40 for source in sources)
    head = sources[1]
    assert head.startswith("class Gallery(torch.nn.Module):") and "def __init__" in head
    assert 'colour = "white"  # of every wall' in head and "def __len__" not in head
    added = [source for source in sources if "@add_to_class(Gallery)" in source]
    assert sources[2 : 2 + len(added)] == added and len(added) == 3
    assert "@add_to_class(Gallery)\ndef __len__(self):\n    return len(self.pictures)" in added[0]
    assert (
        "# How many walls there are.\n# It is a property.\n@add_to_class(Gallery)\n@property\n"
        'def walls(self) -> int:\n    """A quarter of the pictures.\n\n    Each wall has four:\n'
        '        two above two.\n    """\n    return len(self) // 4'
    ) in added[0]
    assert "# A remark that stands alone.\n@add_to_class(Gallery)\n@classmethod" in "".join(added)
    assert '    return f"""\n        {name}\n    is the painter\n        """' in "".join(added)
    assert IMPORT in sources[0]


def test_the_split_class_runs_as_the_package_does(split_house):
    names, package = {"__name__": "notebook"}, {"__name__": "package"}
    exec("from functools import cached_property", names)
    for source in split_house.sources()[:-2]:
        exec(source, names)
    exec(GALLERY, package)
    for gallery in (names["Gallery"].of(*"abcdefgh"), package["Gallery"].of(*"abcdefgh")):
        assert (len(gallery), gallery.walls, gallery.first, gallery.colour) == (8, 2, "a", "white")
        assert gallery.label("Max") == package["Gallery"].label("Max")
        assert gallery.walk() == package["Gallery"].of().walk() and gallery(3) == 3
    ours, theirs = names["Gallery"], package["Gallery"]
    assert list(vars(ours)) == list(vars(theirs))
    assert ours.of.__qualname__ == theirs.of.__qualname__ == "Gallery.of"


def test_mirroring_again_changes_nothing(split_house):
    before = split_house.text()
    assert split_house.run() == ""
    assert split_house.text() == before
    assert before.startswith('{\n "cells": [\n  {\n   "cell_type"') and before.endswith("}\n")


def test_short_neighbours_share_a_cell_and_long_methods_do_not(split_house):
    methods = ["__len__", "walls", "first", "of", "label", "walk", "forward"]
    cells = split_house.sources()[2:5]
    held = [[name for name in methods if f"def {name}(" in cell] for cell in cells]
    assert held == [["__len__", "walls", "first"], ["of", "label"], ["walk", "forward"]]


def test_a_class_of_40_lines_stays_in_one_cell(house):
    methods = "".join(f"    def m{n}(self):\n        return {n}\n\n" for n in range(19))
    house.package(f'class Long:\n    """{{}}"""\n\n{methods}'.strip() + "\n")
    house.notebook("class Long:\n    pass")
    assert house.run() == "" and len(house.cells()) == 1
    assert lines(house.sources()[0]) == 40
    house.package(f'class Long:\n    """{{}}"""\n\n    size = 1\n\n{methods}'.strip() + "\n")
    assert house.run() == "" and house.check() == ""
    assert house.sources()[0].endswith("size = 1")
    assert [source.count("def ") for source in house.sources()] == [0, 8, 8, 3]


def test_a_method_added_to_the_package_comes_after_the_one_before_it(split_house):
    after_walk = "    def leave(self):\n        return 'the door'\n\n    def forward(self, x)"
    new = GALLERY.replace("    def forward(self, x)", after_walk)
    after_label = "    def light(self):\n        return 'on'\n\n    @torch.no_grad()"
    split_house.package(new.replace("    @torch.no_grad()", after_label) + SHORT)
    before = split_house.cells()
    assert "Gallery in cell 1 of 01_patches.ipynb is not the code" in split_house.check()
    assert split_house.run() == "" and split_house.check() == ""
    cells = split_house.cells()
    assert len(cells) == len(before) + 1  # `leave` stands within the cell of its neighbours
    light = next(n for n, cell in enumerate(cells) if "def light" in cell.source)
    assert "def label" in cells[light - 1].source and "def walk" in cells[light + 1].source
    assert cells[light].outputs == [] and cells[light].execution_count is None
    assert {cell.id for cell in before} == {cell.id for cell in cells} - {cells[light].id}
    assert "def leave" in cells[light + 1].source


def test_a_method_that_the_package_no_longer_has_goes(split_house):
    gone = definition("Gallery").split("    @classmethod")[0]
    split_house.package(gone.split("    # A remark")[0] + SHORT)
    assert split_house.run() == ""
    sources = split_house.sources()
    assert "Gallery" in sources[1] and "@cached_property" in sources[2]
    assert sources[3] == definition("patchify") and "of(cls" not in "".join(sources)


def test_a_changed_method_is_written_where_it_is_told(split_house):
    cells = split_house.cells()
    cells.insert(3, new_markdown_cell("Why it is like this."))
    cells[4].source = "before = 1\n\n\n" + cells[4].source + "\n\n\nprint(Gallery.of('a'))"
    split_house.notebook(*cells)
    assert split_house.check() == ""
    split_house.package(GALLERY.replace('"""Hang them."""', '"""Hang them straight."""') + SHORT)
    assert split_house.run() == ""
    changed = split_house.cells()
    assert [cell.id for cell in changed] == [cell.id for cell in cells]
    assert changed[3].source == "Why it is like this."
    hanging = changed[4].source
    assert hanging.startswith("before = 1") and hanging.endswith('print(Gallery.of("a"))')
    assert '"""Hang them straight."""' in hanging


def test_the_head_keeps_the_methods_that_it_holds(house):
    head = definition("Gallery").split("    # A remark")[0].strip()
    forward = "@add_to_class(Gallery)\ndef forward(self, x):\n    return 2 * x"
    house.notebook(IMPORT, head, forward, definition("patchify"), definition("Patch"))
    assert house.run() == ""
    sources = house.sources()
    assert "def first" in sources[1] and "def of(" not in sources[1]
    assert "def of(" in sources[2] and "return x" in sources[4]


def test_what_follows_a_class_in_its_cell_follows_its_methods(house):
    cell = new_code_cell("size = 3\n\n\n" + definition("Gallery") + "\n\n\nGallery.of('a').first")
    cell.metadata["tags"] = ["kept"]
    cell.outputs = [nbformat.v4.new_output("stream", text="a")]
    house.notebook(cell, definition("patchify"), definition("Patch"))
    assert house.run() == ""
    cells = house.cells()
    assert cells[0].source.startswith("size = 3") and "def __init__" in cells[0].source
    shown = next(c for c in cells if c.source == 'Gallery.of("a").first')
    assert (shown.id, shown.metadata, shown.outputs) == (cell.id, cell.metadata, cell.outputs)
    assert "def forward" in cells[cells.index(shown) - 1].source


def test_what_only_a_class_can_hold_stays_in_its_head(house):
    filler = "        pass\n" * 20
    source = f'''
class Held:
    """Members that a cell of their own could not hold."""

    def first(self):
{filler}
    def grown(self):
        return super().__repr__()

    def second(self):
{filler}
    default = 3

    def third(self, size=default):
        return size

    def fourth(self):
        return 4
'''
    house.package(source)
    house.notebook("class Held:\n    pass")
    house.run()
    sources = house.sources()
    assert "def third" in sources[0]
    assert sources[1].startswith(IMPORT + "\n\n\n@add_to_class(Held)\ndef fourth")
    assert house.check() == ""


def test_the_check_says_what_is_not_built_or_not_the_packages_code(house):
    house.notebook("def patchify(images):\n    return -images", "class Patch:\n    pass")
    said = house.check().splitlines()
    assert said == [
        "patchify in cell 0 of 01_patches.ipynb is not the code of distilclip/patches.py: "
        "rename it, or run 'make mirror'.",
        "Patch in cell 1 of 01_patches.ipynb is not the code of distilclip/patches.py: "
        "rename it, or run 'make mirror'.",
        "Gallery of distilclip/patches.py is built in no notebook.",
    ]


def test_the_check_compares_docstrings_but_not_their_indentation(split_house):
    cells = split_house.cells()
    cells[1].source = cells[1].source.replace("on walls", "on the floor")
    split_house.notebook(*cells)
    assert "Gallery in cell 1 of 01_patches.ipynb is not the code" in split_house.check()


def test_the_check_says_what_is_built_twice_or_in_another_chapter(split_house):
    split_house.notebook(definition("patchify"), name="12_share")
    assert split_house.check().splitlines() == [
        "patchify of distilclip/patches.py is built in 12_share.ipynb, "
        "but its chapter is 01_patches.ipynb.",
        f"patchify is built more than once: 01_patches.ipynb cell "
        f"{split_house.sources().index(definition('patchify'))}, 12_share.ipynb cell 0.",
    ]
    split_house.notebook()
    assert "patchify of distilclip/patches.py is built in 12_share.ipynb, but its chapter" in (
        split_house.check()
    )


def test_the_check_says_which_method_is_told_twice_too_early_or_out_of_order(split_house):
    cells = split_house.cells()
    forward = "@add_to_class(Gallery)\ndef forward(self, x):\n    return x"
    split_house.notebook(*cells, forward)
    assert split_house.check() == "Gallery.forward is told twice in 01_patches.ipynb: keep one.\n"
    split_house.notebook(*cells[:1], cells[2], cells[1], *cells[3:])
    assert (
        "walls is added to Gallery in cell 1 of 01_patches.ipynb, and no cell before it defines "
        "the class Gallery." in split_house.check()
    )
    split_house.notebook(*cells[:2], cells[3], cells[2], *cells[4:])
    assert split_house.check() == (
        "01_patches.ipynb has Gallery.of where distilclip/patches.py has Gallery.__len__: "
        "put its cells into the package's order.\n"
    )


def test_the_notebooks_own_classes_are_left_alone(split_house):
    cells = split_house.cells()
    own = [
        "class Naive:\n    pass",
        *["@add_to_class(Naive)\ndef forward(self):\n    return 1"] * 2,
    ]
    split_house.notebook(*cells, *own)
    before = split_house.text()
    assert split_house.run() == "" and split_house.text() == before


def test_a_name_stands_in_one_module_only(split_house):
    split_house.package("def patchify():\n    return 1\n", "attention")
    assert split_house.check() == (
        "patchify is defined in distilclip/attention.py and in distilclip/patches.py: "
        "names must be unique.\n"
    )


@pytest.mark.parametrize(
    "code, name",
    [
        ("from distilclip.vit import ViT, _hidden", "distilclip.vit._hidden"),
        ("from distilclip import _hidden as shown", "distilclip._hidden"),
        ("def late():\n    import distilclip._hidden", "distilclip._hidden"),
        ("from distilclip._hidden import shown", "distilclip._hidden.shown"),
    ],
)
def test_private_names_are_imported_nowhere(split_house, code, name):
    split_house.notebook(*split_house.cells(), "%pip --version\n" + code)
    for folder in ("tools", "benchmarks", "tests"):
        split_house.write(f"{folder}/some.py", code)
    cell = len(split_house.cells()) - 1
    assert split_house.check().splitlines() == [
        f"Cell {cell} of 01_patches.ipynb imports the private name {name}.",
        *(f"{place}/some.py imports the private name {name}."
          for place in ("tools", "benchmarks", "tests")),
    ]  # fmt: skip


def test_public_names_and_other_packages_may_be_imported(split_house):
    code = "from distilclip import ViT, __version__\nfrom torch import _C\nfrom . import _beside"
    split_house.write("tests/some.py", code)
    assert split_house.check() == ""


def test_addresses_and_set_up_cells_have_one_home(split_house):
    old = "https://github.com/another/distilclip"
    for name in ("README.md", "book/setup.md", "CITATION.cff", "distilclip/command/cli.py"):
        split_house.write(name, f"'see {old}'\n")
    button = new_markdown_cell(f"# Export\n\n[![Open in Colab](x.svg)]({old}/blob/main/x.ipynb)")
    setup = new_code_cell("import sys", metadata={"tags": ["setup"]})
    split_house.notebook(button, setup, name="13_export")
    split_house.notebook(button, setup, name="12_share")
    assert len(split_house.check().splitlines()) == 6
    assert split_house.run() == "" and split_house.check() == ""
    assert (split_house.folder / "book/setup.md").read_text() == f"'see {ADDRESS}'\n"
    button, setup = split_house.cells("13_export")
    assert f'address = "{ADDRESS}"\n' in setup.source
    assert '"distilclip[onnx] @ git+{address}"' in setup.source
    assert '"distilclip @ git+{address}"' in split_house.cells("12_share")[1].source
    place = "github/someone/Distil-CLIP/blob/main/colab/13_export.ipynb"
    assert f"(https://colab.research.google.com/{place})" in button.source

"""colab/ shows what the chapters say, in Markdown that Colab, JupyterLab and GitHub all render."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import mirror

import colab

ROOT = Path(__file__).parents[2]
PATHS = mirror.notebooks()
ADDRESS = mirror.repository()
RAW = f"{ADDRESS.replace('github.com', 'raw.githubusercontent.com')}/main/"
BOOK = f"{mirror.published(ADDRESS)}/"
LEFT_OVER = (
    r"\{(?:cite|py|ref|doc|numref|eq|term)(?::\w+)?\}`",  # roles
    r"^:::",  # directives
    r"^`{3,}\{",
    r"^:\w+: ",  # options
    r"\]\((?!https://|#)",  # relative links
)


def written(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "colab" / path.name, as_version=4)


def prose(notebook) -> str:
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


CODE = r"^```\w*\n.*?^```$|\$\$.*?\$\$|`[^`\n]+`|\$[^$\n]+\$"


def without_code(text: str) -> str:
    return re.sub(CODE, "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_is_what_the_chapter_says_without_myst(path):
    assert (ROOT / "colab" / path.name).read_text() == colab.convert(path, ADDRESS)
    notebook = written(path)
    nbformat.validate(notebook)
    for pattern in LEFT_OVER[:-1]:
        assert not re.findall(pattern, prose(notebook), flags=re.M)
    assert not re.findall(LEFT_OVER[-1], without_code(prose(notebook)))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert ("cellView" in cell.metadata) == cell.source.startswith("# @title")
    assert "describe_place" in next(c.source for c in notebook.cells if c.cell_type == "code")
    assert ("accelerator" in notebook.metadata) == (path.stem in colab.WANTS_GPU)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path):
    links = re.findall(r"\]\((https://[^)\s]+)\)", prose(written(path)))
    assert links
    for link in links:
        if link.startswith(RAW):
            assert (ROOT / link.removeprefix(RAW)).is_file(), link
        elif link.startswith(BOOK):
            page, _, anchor = link.removeprefix(BOOK).partition("#")
            sources = [ROOT / page.replace(".html", ending) for ending in (".ipynb", ".md")]
            (source,) = [file for file in sources if file.is_file()]
            text = source.read_text()
            if anchor.startswith("exercise-"):
                assert f"## Exercise {anchor[-1]}" in text, link
            elif page.startswith("book/api/") and anchor:
                (module,) = re.findall(r"automodule:: (\S+)\n", text)
                assert anchor == f"module-{module}" or anchor.startswith(f"{module}."), link
        elif link.startswith(f"{ADDRESS}/blob/main/"):
            assert (ROOT / link.removeprefix(f"{ADDRESS}/blob/main/")).exists(), link


def test_what_myst_says_is_said_in_markdown():
    plain = colab.Plain("https://github.com/Someone/Clip")
    options = ":alt: A [CLS] block.\n:width: 6px"
    figure = f":::{{figure}} ../book/figures/vit_block.svg\n{options}\n\nOne\nline.\n:::"
    raw = "https://raw.githubusercontent.com/Someone/Clip/main/book/figures/vit_block.svg"
    assert plain(figure) == f"![A [CLS] block.]({raw})\n\n*One line.*"
    assert plain("```{note}\nTwo\nlines.\n```") == "> **Note**\n>\n> Two\n> lines."
    arxiv = "https://arxiv.org/abs/2010.11929"
    assert plain("{cite:t}`dosovitskiy2021image`") == f"[Dosovitskiy et al. (2021)]({arxiv})"
    assert plain("{cite:p}`dosovitskiy2021image`") == f"([Dosovitskiy et al., 2021]({arxiv}))"
    book = "https://someone.github.io/Clip"
    assert (
        plain("[next](02_attention.ipynb#heads)")
        == f"[next]({book}/notebooks/02_attention.html#heads)"
    )
    assert plain("{py:mod}`distilclip.vit`").endswith(
        f"({book}/book/api/vit.html#module-distilclip.vit)"
    )
    assert plain("{py:class}`distilclip.runs.watch.Recalls`").endswith(
        f"({book}/book/api/runs.watch.html#distilclip.runs.watch.Recalls)"
    )
    assert plain.references().count("\n- ") == 1
    assert plain("$a[i](x)$ and [here](#below)").endswith("[here](#below)")


# A wheel, an empty folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds what the wheel installs, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "distilclip", source / "distilclip", ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", folder, source], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "packages")
    return folder / "packages"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_patches", "05_loss"])
def test_a_chapter_runs_alone_from_the_wheel(name, installed, tmp_path):
    cells = nbformat.read(ROOT / "colab" / f"{name}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    code[0] = code[0].replace("    %pip", "    raise SystemExit('not installed')  # %pip")
    script = "\n\n".join(code)
    ast.parse(script)
    (tmp_path / "chapter.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(installed), "MPLBACKEND": "agg"}
    command = [sys.executable, "chapter.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("distilclip ") and "No answer yet" in done.stdout

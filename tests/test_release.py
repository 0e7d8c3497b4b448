"""What a release consists of: one version everywhere, a changelog, packages with all that is ours.

And what a visitor is told of the repository's contents.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import distilclip

ROOT = Path(__file__).parents[1]
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
BUILT = {"_build", "build", "dist", "runs"}  # folders that `make` and a release write


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# Versions


def releases() -> list[tuple[Version, date, list[str]]]:
    """Version, date and sections of each entry of the changelog."""
    entries = re.split(r"^## ", read("CHANGELOG.md"), flags=re.MULTILINE)[1:]
    found = []
    for entry in entries:
        version, day = re.fullmatch(r"(\S+) - (\S+)", entry.splitlines()[0]).groups()
        sections = re.findall(r"^### (.+)$", entry, flags=re.MULTILINE)
        found.append((Version(version), date.fromisoformat(day), sections))
    return found


def test_the_version_and_its_date_are_the_same_everywhere():
    version, day, _ = releases()[0]
    assert str(version) == distilclip.__version__
    citation = yaml.safe_load(read("CITATION.cff"))
    assert (str(citation["version"]), citation["date-released"]) == (str(version), day)
    assert "\nversion =" not in read("pyproject.toml").split("[tool.")[0]  # it has one home


def test_the_changelog_is_one():
    entries = releases()
    for order in ([version for version, _, _ in entries], [day for _, day, _ in entries]):
        assert order == sorted(order, reverse=True)
    assert len({version for version, _, _ in entries}) == len(entries)
    for _, _, sections in entries:
        assert sections and len(sections) == len(set(sections)) and set(sections) <= SECTIONS


# Packages


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The repository without what was built in it, so that building leaves nothing behind."""
    folder = tmp_path_factory.mktemp("release") / "checkout"
    everywhere = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info")

    def left_out(place: str, names: list[str]) -> set[str]:
        return everywhere(place, names) | (BUILT if Path(place) == ROOT else set())

    shutil.copytree(ROOT, folder, ignore=left_out)
    return folder


def build_wheel(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(out), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    return build_wheel(checkout, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_a_wheel_holds_the_package_and_nothing_else(wheel, checkout):
    assert wheel.name == f"distilclip-{distilclip.__version__}-py3-none-any.whl"
    files = files_of(wheel)
    inside = {name for name in files if name.startswith("distilclip/")}
    sources = [path for path in (checkout / "distilclip").rglob("*") if path.is_file()]
    wanted = {path.relative_to(checkout).as_posix() for path in sources}
    assert inside == wanted - {"distilclip/ruff.toml"}  # which only we need
    assert "distilclip/py.typed" in inside and "distilclip/emoji/model/model.safetensors" in inside
    for name in inside:
        assert files[name] == (checkout / name).read_bytes()
    about = f"distilclip-{distilclip.__version__}.dist-info/"
    others = {name.removeprefix(about) for name in files.keys() - inside}
    licences = {path.relative_to(ROOT).as_posix() for path in (ROOT / "distilclip").rglob("*.txt")}
    licences |= {"LICENSE", "distilclip/emoji/LICENSES.md"}
    tables = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
    assert others == tables | {f"licenses/{name}" for name in licences}


@pytest.fixture(scope="module")
def opened_source(checkout, tmp_path_factory):
    """The folder of the source distribution, unpacked."""
    place = tmp_path_factory.mktemp("source")
    code = f"from setuptools.build_meta import build_sdist; print(build_sdist({str(place)!r}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(place / "opened", filter="data")
    (source,) = (place / "opened").iterdir()
    assert source.name == f"distilclip-{distilclip.__version__}"
    return source


@pytest.mark.slow
def test_a_source_distribution_builds_the_same_wheel(wheel, opened_source, tmp_path):
    assert files_of(build_wheel(opened_source, tmp_path)) == files_of(wheel)


@pytest.mark.slow
def test_a_source_distribution_has_what_its_tests_look_at(opened_source, checkout):
    missing = [
        path.relative_to(checkout).as_posix()
        for path in checkout.rglob("*")
        if path.is_file() and not (opened_source / path.relative_to(checkout)).is_file()
    ]
    assert not [name for name in missing if ".egg-info/" not in name and "build/" not in name]


def test_the_licence_of_the_package_names_that_of_all_it_holds():
    about = read("pyproject.toml")
    named = set(re.search(r'^license = "(.+)"$', about, re.MULTILINE)[1].split(" AND "))
    spdx = {
        "MIT": "MIT",
        "Apache License 2.0": "Apache-2.0",
        "CC BY 4.0": "CC-BY-4.0",
        "CC BY-SA 4.0": "CC-BY-SA-4.0",
        "Unicode License V3": "Unicode-3.0",
    }
    rows = [r for r in read("distilclip/emoji/LICENSES.md").splitlines() if "](licenses/" in r]
    found = {short for row in rows for long, short in spdx.items() if long in row.split("|")[-2]}
    assert len(rows) >= 9 and all(any(n in r.split("|")[-2] for n in spdx) for r in rows)
    assert named == found | {"MIT"}  # ours


@pytest.mark.slow
def test_an_installed_wheel_is_the_package(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import distilclip, importlib.metadata as m; from distilclip.command.cli import main\n"
        "from distilclip import load_pairs\n"
        "print(distilclip.__file__, m.version('distilclip'), len(load_pairs('emoji')['test']))\n"
        "(command,) = m.distribution('distilclip').entry_points\n"
        "assert command.load() is main"
    )
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", path + code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    file, version, rows = done.stdout.rsplit(maxsplit=2)
    assert Path(file) == tmp_path / "distilclip" / "__init__.py"
    assert version == distilclip.__version__ and int(rows) > 1000


# What a visitor is told


def tree_of(text: str) -> set[str]:
    """The paths that the tree in a page of Markdown shows, a line each with what it is for."""
    (block,) = re.findall(r"^```\n(distilclip/ .*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    paths, parents = set(), []
    for line in block.splitlines():
        drawn, names, _ = re.fullmatch(r"([│├└─ ]*)((?:\S+ )*?\S+) {2,}(\S.*)", line).groups()
        depth = len(drawn) // 4
        for name in names.split(" "):
            parents[depth:] = [name]
            paths.add("".join(parents))
    return paths


def test_the_readme_shows_the_tree():
    shown = tree_of(read("README.md"))
    assert all((ROOT / name).exists() for name in shown)
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "distilclip").rglob("*.py")}
    assert {name for name in modules if not name.endswith("__init__.py")} <= shown
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name.isalpha()}
    assert {f"{name}/" for name in folders - BUILT} <= shown


def test_every_module_has_a_page_of_the_reference():
    pages = {path.stem: path.read_text() for path in (ROOT / "book/api").glob("*.md")}
    documented = [re.findall(r"automodule:: (\S+)", text)[0] for text in pages.values()]
    assert documented == [f"distilclip.{name}" for name in pages]
    files = [path.relative_to(ROOT) for path in (ROOT / "distilclip").rglob("*.py")]
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files}
    assert len(documented) == len(set(documented))
    assert set(documented) == modules - {"distilclip", "distilclip.cli"}  # an old address


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_commands_and_files_that_a_page_names_are_there(name):
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), flags=re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b(?=`|\n| {2,}#| BENCH)", read(name)))
    assert named and named <= targets
    places = (
        r"`(?:\.venv/bin/python )?((?:distilclip|notebooks|tests|tools|benchmarks|book)/[\w./]*)`"
    )
    for place in re.findall(places, read(name)):
        assert (ROOT / place).exists(), place
    for link in re.findall(r"\]\((?!http)([\w./]+)(?:#[\w-]*)?\)", read(name)):
        assert (ROOT / link).exists(), link

"""What is left out where the versions are tried is there to be left out."""

import ast
import importlib.util
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("try_versions", ROOT / "tools" / "try_versions.py")
try_versions = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(try_versions)
BOOK_TESTS, POSIX_TESTS = try_versions.BOOK_TESTS, try_versions.POSIX_TESTS
left_out, wanted = try_versions.left_out, try_versions.wanted


@pytest.mark.parametrize("place", BOOK_TESTS + POSIX_TESTS)
def test_what_is_left_out_is_there(place):
    file, _, name = place.partition("::")
    path = ROOT / "tests" / file
    assert path.exists()
    if name:
        functions = ast.parse(path.read_text(encoding="utf-8")).body
        assert name in {getattr(node, "name", None) for node in functions}


def test_files_are_ignored_and_tests_deselected():
    assert "--ignore=tests/test_faults.py" in left_out(windows=True)
    assert "--deselect=tests/test_data.py::test_a_cache_survives_a_kill" in left_out(windows=True)
    assert left_out(windows=False) == [f"--ignore=tests/{name}" for name in BOOK_TESTS]


def test_the_oldest_are_the_lower_bounds_and_the_newest_the_ranges():
    oldest = {r.name: r for r in map(Requirement, wanted("oldest"))}
    newest = {r.name: r for r in map(Requirement, wanted("newest"))}
    assert oldest.keys() == newest.keys() >= {"torch", "transformers", "onnx", "faiss-cpu"}
    for name, requirement in oldest.items():
        (pin,) = requirement.specifier
        assert pin.operator == "==" and pin.version in newest[name].specifier
    assert [line for line in wanted("newest", torch="2.13.0") if line.startswith("torch")] == [
        "torch<=2.13.0,>=2.13.0"
    ]

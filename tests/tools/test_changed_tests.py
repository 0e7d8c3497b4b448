"""The tests of what has changed lie where the house says."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import changed_tests


def test_each_file_leads_to_its_tests_once():
    changed = ["distilclip/vit.py", "distilclip/book/stored.py", "tools/mirror.py", "README.md"]
    assert changed_tests.tests_of([*changed, "tests/test_vit.py", "distilclip/__init__.py"]) == [
        "tests/test_house.py",
        "tests/test_vit.py",
        "tests/book/test_stored.py",
        "tests/tools/test_mirror.py",
    ]

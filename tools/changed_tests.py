"""Run the quick tests of the files that differ from the last commit, and those of the house.

python tools/changed_tests.py
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALWAYS = ("tests/test_house.py",)


def tests_of(changed: list[str], root: Path = ROOT) -> list[str]:
    """The files of tests for files that have changed, as paths from the root."""
    wanted = []
    for name in changed:
        path = Path(name)
        if path.parts[0] == "tests" and path.name.startswith("test_"):
            wanted.append(path)
        elif path.suffix == ".py":
            inside = path.parts[1:] if path.parts[0] == "distilclip" else path.parts
            wanted.append(Path("tests", *inside[:-1], f"test_{path.name}"))
    found = [path.as_posix() for path in wanted if (root / path).is_file()]
    return list(dict.fromkeys([*(name for name in ALWAYS if (root / name).is_file()), *found]))


def main() -> int:
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args()
    listed = ["git", "ls-files", "--modified", "--others", "--exclude-standard"]
    staged = ["git", "diff", "--cached", "--name-only"]
    changed = []
    for command in (listed, staged):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        changed += done.stdout.splitlines()
    names = tests_of([name for name in changed if (ROOT / name).is_file()])
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *names]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())

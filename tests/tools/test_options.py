"""Every tool reads its options before it does anything: none ignores one that it does not know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("name", ["fresh_cache", "run_notebooks"])
def test_an_unknown_option_ends_with_a_sentence(name: str) -> None:
    command = [sys.executable, f"tools/{name}.py", "--no-such-option"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "unrecognized arguments" in done.stderr

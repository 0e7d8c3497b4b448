"""The command's old address leads to the one module, imported or run."""

import subprocess
import sys

import distilclip.cli
import distilclip.command.cli


def test_both_names_are_one_module():
    assert distilclip.cli is distilclip.command.cli
    done = subprocess.run(
        [sys.executable, "-m", "distilclip.cli", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("distilclip 0.")

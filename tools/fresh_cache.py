"""Throw away cached notebook outputs when the package has changed since they were made.

The book's cache knows whether a notebook changed, not whether the code that it imports did.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / "_build" / ".jupyter_cache"
READ = ROOT / "_build" / ".doctrees"  # pages as Sphinx has read them, with their outputs
STAMP = ROOT / "_build" / "package.sha256"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args()
    files = [ROOT / "requirements.txt", *sorted((ROOT / "distilclip").rglob("*"))]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(ROOT)}\0".encode())
            digest.update(file.read_bytes())
    stamp = digest.hexdigest()
    if not STAMP.is_file() or STAMP.read_text() != stamp:
        for made in (CACHE, READ):
            shutil.rmtree(made, ignore_errors=True)
        STAMP.parent.mkdir(exist_ok=True)
        STAMP.write_text(stamp)


if __name__ == "__main__":
    main()

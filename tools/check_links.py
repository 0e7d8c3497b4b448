"""Ask every external link of the book and of the repository's own pages whether it leads somewhere.

    python tools/check_links.py                 both; needs a network, some minutes
    python tools/check_links.py README.md       only these pages, outside the book

Sphinx follows the links: of the book as Jupyter Book sees it, without running a notebook, and of
`PAGES`, which GitHub shows. Links inside the book are the business of `make book` and
`tools/check_book.py`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "distilclip/emoji/LICENSES.md")
PATIENCE = {  # a server that is slow, or busy for a minute, is not a link that is broken
    "linkcheck_timeout": 30,
    "linkcheck_retries": 3,
    "linkcheck_report_timeouts_as_broken": True,
    "linkcheck_anchors": False,
}


def check_book(folder: Path) -> list[dict]:
    """What Sphinx found of every link on the pages of the book, working in `folder`."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["execute_notebooks"] = "off"
    config["sphinx"]["config"] |= PATIENCE
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [Path(sys.executable).with_name("jupyter-book"), "build", ROOT, "-qq"]
    command += ["--config", folder / "_config.yml", "--path-output", folder]
    return run([*command, "--builder", "linkcheck"], folder / "_build" / "html")


def check_pages(names: list[str], folder: Path, root: Path = ROOT) -> list[dict]:
    """What Sphinx found of every link on single pages of Markdown, working in `folder`."""
    first = names[0].removesuffix(".md")
    settings = PATIENCE | {"extensions": "myst_parser", "root_doc": first}
    settings |= {"include_patterns": ",".join(names), "suppress_warnings": "toc,myst.xref_missing"}
    options = [f"-D{name}={int(v) if v in (0, 1) else v}" for name, v in settings.items()]
    out = folder / "pages"
    command = [sys.executable, "-m", "sphinx", "-b", "linkcheck", "-Q", "-C", *options]
    return run([*command, "-d", folder / "read", root, out], out)


def run(command: list[str | Path], out: Path) -> list[dict]:
    """Run a builder of Sphinx and read what it wrote about the links."""
    ours = os.pathsep.join([str(ROOT), str(ROOT / "book" / "_ext")])
    environment = os.environ | {"PYTHONPATH": ours}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    written = out / "output.json"
    if not written.is_file():
        raise SystemExit(f"The links could not be looked at: {done.stderr[-2000:]}")
    return [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]


def broken(links: list[dict]) -> list[str]:
    """A line for each link that does not lead anywhere."""
    return [
        f"{link['filename']}: {link['uri']} ({link['info']})"
        for link in links
        if link["status"] in ("broken", "timeout")
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", help="pages of Markdown (default: PAGES and the book)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        links = check_pages(options.pages or list(PAGES), Path(place))
        if not options.pages:
            links += check_book(Path(place))
    external = [link for link in links if link["uri"].startswith("http")]
    problems = broken(external)
    for problem in problems:
        print(problem)
    print(f"{len(external)} links, {len(problems) or 'none'} broken")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

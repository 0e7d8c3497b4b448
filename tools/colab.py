"""Write colab/NN_name.ipynb from each chapter: the same notebook without MyST.

Colab, JupyterLab and GitHub show plain Markdown. Citations become links to the papers, with a list
at the end; figures and links become absolute; admonitions become quoted blocks; cross-references
lead to the page of the published book. Cells that draw are folded under a title, and so is one
under each section's heading with what the section needs from those above (`start_here.py`), so
that a reader may begin at any of them. Outputs are left out. All addresses follow from the
repository's, which stands in pyproject.toml.

    python tools/colab.py            write
    python tools/colab.py --check    only say what differs; status 1 if anything does
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from mirror import EXTRAS, ROOT, SETUP_TAG, notebooks, published, repository
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pybtex.database import Entry, parse_file
from start_here import start_cells

WANTS_GPU = ("08_train",)
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
BIBLIOGRAPHY = ROOT / "book" / "references.bib"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?://)([^)\s]+)\)")
ROLE = re.compile(r"\{py:(mod|func|class|meth)\}`~?([^`]+)`")
CITATION = re.compile(r"\{cite:(t|p)\}`([^`]+)`")
BLOCK = re.compile(
    r"^(?P<fence>:{3,}|`{3,})\{(?P<kind>\w+)\} ?(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=fence)$",
    flags=re.MULTILINE | re.DOTALL,
)


class Plain:
    """Turns a chapter's Markdown into plain Markdown, and remembers what it cites."""

    def __init__(self, address: str):
        self.address, self.book = address, published(address)
        self.raw = address.replace("github.com", "raw.githubusercontent.com", 1) + "/main"
        self.entries = parse_file(BIBLIOGRAPHY).entries
        self.cited: list[str] = []

    def __call__(self, source: str) -> str:
        source = BLOCK.sub(self.block, source)
        source = ROLE.sub(self.role, source)
        source = CITATION.sub(self.citation, source)
        return LINK.sub(self.link, source)

    def block(self, found: re.Match) -> str:
        kind, title, body = found["kind"], found["title"].strip(), found["body"].strip()
        if kind == "figure":
            options = dict(re.findall(r"^:(\w+): ?(.*)$", body, flags=re.MULTILINE))
            caption = re.sub(r"^:\w+:.*\n?", "", body, flags=re.MULTILINE).strip()
            caption = " ".join(caption.split())
            image = f"![{options.get('alt', '')}]({title})"
            return f"{image}\n\n*{caption}*" if caption else image
        head = title if kind == "admonition" else kind.capitalize()
        lines = [f"**{head}**", "", *body.split("\n")]
        return "\n".join(f"> {line}".rstrip() for line in lines)

    def role(self, found: re.Match) -> str:
        kind, name = found.groups()
        module, anchor = name, f"module-{name}"
        if kind != "mod":
            parts, anchor = name.split("."), name
            while not (ROOT / "/".join(parts)).with_suffix(".py").is_file():
                parts.pop()  # a class, and the module that holds it
            module = ".".join(parts)
        page = module.removeprefix("distilclip.")
        return f"[`{name}`]({self.book}/book/api/{page}.html#{anchor})"

    def citation(self, found: re.Match) -> str:
        kind, keys = found[1], [key.strip() for key in found[2].split(",")]
        self.cited += [key for key in keys if key not in self.cited]
        texts = []
        for key in keys:
            entry = self.entries[key]
            who, year = authors(entry), entry.fields["year"]
            text = f"{who} ({year})" if kind == "t" else f"{who}, {year}"
            texts.append(f"[{text}]({paper(entry, self.book)})")
        return " and ".join(texts) if kind == "t" else f"({'; '.join(texts)})"

    def link(self, found: re.Match) -> str:
        mark, text, target = found.groups()
        path, _, anchor = target.partition("#")
        place = (ROOT / "notebooks" / path).resolve()
        if target.startswith("#"):
            return found[0]
        name = place.relative_to(ROOT).as_posix()
        if name.startswith("solutions/") and (number := re.fullmatch(r"Solution (\d+)", text)):
            anchor = f"exercise-{number[1]}"  # Sphinx knows no headings of notebooks
        anchor = f"#{anchor}" if anchor else ""
        if mark or place.suffix in (".svg", ".png"):
            text = LINK.sub(self.link, text)
            return f"{mark}[{text}]({self.raw}/{name})"
        if name.split("/")[0] in ("notebooks", "solutions", "book"):
            page = re.sub(r"\.(ipynb|md)$", ".html", name)
            return f"[{text}]({self.book}/{page}{anchor})"
        return f"[{text}]({self.address}/blob/main/{name}{anchor})"

    def references(self) -> str:
        lines = [reference(self.entries[key], self.book) for key in sorted(self.cited)]
        return "\n".join(["## References", "", *(f"- {line}" for line in lines)])


def plain_text(value: str) -> str:
    """A field of BibTeX without its braces and escapes."""
    value = re.sub(r"\{?\\[\"'`^~]\{?(\w)\}?\}?", r"\1", value).replace("{\\L}", "Ł")
    return re.sub(r"\\(\w+) ?", "", re.sub(r"[{}]", "", value.replace("\\&", "&")))


def authors(entry: Entry) -> str:
    names = [plain_text(" ".join(p.prelast_names + p.last_names)) for p in entry.persons["author"]]
    if len(names) > 2:
        return f"{names[0]} et al."
    return " and ".join(names)


def paper(entry: Entry, book: str) -> str:
    """The address of a paper: arXiv, DOI, what the entry says, or the book's bibliography."""
    fields = entry.fields
    if "eprint" in fields:
        return f"https://arxiv.org/abs/{fields['eprint']}"
    if "doi" in fields:
        return f"https://doi.org/{fields['doi']}"
    return fields.get("url", f"{book}/book/bibliography.html")


def reference(entry: Entry, book: str) -> str:
    fields = entry.fields
    where = fields.get("booktitle") or fields.get("journal") or fields.get("publisher") or ""
    where = f" {plain_text(where)}." if where else ""
    title = plain_text(fields["title"]).rstrip(".")
    return f"{authors(entry)} ({fields['year']}). [{title}]({paper(entry, book)}).{where}"


def setup_cell(address: str, extra: str) -> str:
    """Installs the package where it is missing, and says what is there."""
    return (
        "# Installs the book's package where it is missing; Colab's own torch stays as it is.\n"
        "import importlib.util\n"
        "import sys\n"
        "\n"
        'if "google.colab" in sys.modules or not importlib.util.find_spec("distilclip"):\n'
        f'    %pip install --quiet "distilclip{extra} @ git+{address}"\n'
        "\n"
        "from distilclip.book.place import describe_place\n"
        "\n"
        "print(describe_place())"
    )


def title_of(alt: str) -> str:
    """The first sentence of a picture's description, as the title of its folded cell."""
    return "# @title Figure: " + re.split(r"(?<=[a-z)])[.:;] ", alt)[0].rstrip(".")[:110]


def convert(path: Path, address: str) -> str:
    """The text of a chapter's notebook in plain Markdown."""
    source, plain, cells = nbformat.read(path, as_version=4), Plain(address), []
    starts = start_cells(source)
    for number, cell in enumerate(source.cells):
        tags = cell.metadata.get("tags", [])
        about = cell.metadata.get("mystnb", {})
        alt = about.get("image", {}).get("alt")
        prompt = about.get("code_prompt_show", "Code that only draws")
        cell.metadata = nbformat.NotebookNode()
        if cell.cell_type == "markdown":
            cell.source = plain(cell.source)
        else:
            cell.outputs, cell.execution_count = [], None
            if SETUP_TAG in tags:
                cell.source = setup_cell(address, EXTRAS.get(path.stem, ""))
            elif alt or "hide-input" in tags:
                title = title_of(alt) if alt else f"# @title {prompt}"
                cell.source = f"{title}\n{cell.source}"
                cell.metadata |= FOLDED
        cells.append(cell)
        if number in starts:
            start = new_code_cell(starts[number], id=f"start-{number}")
            start.metadata |= FOLDED
            cells.append(start)
    if plain.cited:
        cells.append(new_markdown_cell(plain.references(), id="references"))
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "colab": {"toc_visible": True},
    }
    if path.stem in WANTS_GPU:
        about |= {"accelerator": "GPU", "colab": {"toc_visible": True, "gpuType": "T4"}}
    return nbformat.writes(new_notebook(cells=cells, metadata=about)) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="only say what differs")
    check = parser.parse_args().check
    address, stale = repository(), []
    for path in notebooks():
        target = ROOT / "colab" / path.name
        text = convert(path, address)
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            stale.append(target.relative_to(ROOT).as_posix())
            if not check:
                target.parent.mkdir(exist_ok=True)
                target.write_text(text, encoding="utf-8")
    if not check:
        print("\n".join(f"{name}: written" for name in stale))
        return 0
    for name in stale:
        print(f"{name} is not what its chapter says: run 'make colab'.", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

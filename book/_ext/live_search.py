"""The page that searches: its box, its examples, and the files that both need.

`tools/build_search_page.py` makes the files, in `_build/search/`. Where they are missing, the two
directives say so in a sentence and the book is rendered all the same.

    ```{live-search}            the box
    ```{live-search-examples}   what the model finds for the queries of queries.json
    ```{live-search-facts}      which model, which pictures
"""

import json
import shutil
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

MISSING = (
    "The files of the live search are not part of this build of the book. The command make book "
    "makes them, or python tools/build_search_page.py alone."
)
STYLE_NAMES = {"blob": "the older Noto", "emojione": "EmojiOne", "openmoji": "OpenMoji"}


def search_files(app) -> Path:
    return Path(app.srcdir) / "_build" / "search"


class SearchDirective(SphinxDirective):
    """Render HTML from the generated files, or a note where there are none."""

    def run(self) -> list[nodes.Node]:
        folder = search_files(self.env.app)
        for name in ("manifest.json", "gallery.json"):
            self.env.note_dependency(str(folder / name))
        if not (folder / "manifest.json").is_file():
            return self.without_files()
        manifest, gallery = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("manifest.json", "gallery.json")
        )
        static = "../" * self.env.docname.count("/") + "_static/search/"
        return [nodes.raw("", self.html(manifest, gallery, static), format="html")]

    def without_files(self) -> list[nodes.Node]:
        return []

    def html(self, manifest: dict, gallery: list[dict], static: str) -> str:
        raise NotImplementedError


class LiveSearch(SearchDirective):
    """The box. The script shows it; without JavaScript a sentence stands in its place."""

    def without_files(self) -> list[nodes.Node]:
        return [nodes.note("", nodes.paragraph("", MISSING))]

    def html(self, manifest, gallery, static):
        settings = json.dumps(manifest).replace("<", "\\u003c")
        size = f"{download_bytes(manifest) / 1e6:.1f}"
        return f"""
<div class="live-search">
<script type="application/json">{settings}</script>
<noscript><p><strong>The box needs JavaScript, which is switched off here.</strong> The examples
further down need none.</p></noscript>
<div class="live-search-box" hidden>
<form class="live-search-form" role="search" aria-label="Pictures">
<label for="live-search-input">Describe a picture</label>
<input id="live-search-input" type="search" placeholder="a dog that wants to play" maxlength="500"
 autocomplete="off" autocapitalize="none" enterkeyhint="search">
<button class="live-search-start" type="submit">Load the model ({size} MB)</button>
</form>
<p class="live-search-status" role="status">Nothing is loaded yet. The button, or the first letter
that you type, downloads {size} MB.</p>
<progress class="live-search-progress" aria-label="Download of the model" value="0" hidden>
</progress>
<span class="live-search-count" aria-hidden="true"></span>
<ol class="live-search-hits" aria-label="Pictures found, the nearest first"></ol>
</div>
</div>
"""


class LiveSearchExamples(SearchDirective):
    """Each query with the pictures found for it when the book was made."""

    def html(self, manifest, gallery, static):
        columns = max(len(row["hits"]) for row in gallery)
        parts = []
        for y, row in enumerate(gallery):
            query = escape(row["query"], quote=True)
            hits = "".join(
                f'<li><span class="live-search-picture" style="background-image: '
                f"url('{static}data/gallery.webp'); background-size: {columns * 100}% "
                f"{len(gallery) * 100}%; background-position: {100 * x / (columns - 1):.4f}% "
                f'{100 * y / (len(gallery) - 1):.4f}%"></span><span>{escape(hit["label"])}</span>'
                f"<small>{hit['score']:.2f}</small></li>"
                for x, hit in enumerate(row["hits"])
            )
            parts.append(
                f'<p class="live-search-question" data-query="{query}">“{query}”</p>\n'
                f'<ul class="live-search-hits" aria-label="Pictures found for {query}">{hits}</ul>'
            )
        return "\n".join(parts)


class LiveSearchFacts(SearchDirective):
    """What is running, counted when the files were made."""

    def html(self, manifest, gallery, static):
        pieces = {name: piece["bytes"] for name, piece in manifest["pieces"].items()}
        styles = [STYLE_NAMES.get(s, s.capitalize()) for s in manifest["train_styles"]]
        drawn = ", ".join(styles[:-1]) + f" and {styles[-1]}" if len(styles) > 1 else styles[0]
        (style,) = (style.capitalize() for style in manifest["style"])
        return f"""
<ul>
<li><strong>The model</strong>: the one that comes with the package
(<code>DistilCLIP.from_pretrained("emoji")</code>). Only its text side runs here, a text encoder of
{manifest["text_parameters"] / 1e6:.1f} million parameters; it is {pieces["model"] / 1e6:.1f} MB of
the download. The image side ran when the book was made: each picture is
{manifest["width"]} numbers.</li>
<li><strong>The pictures</strong>: {manifest["count"]:,} emoji in the {style} style. The model was
trained on drawings in other styles ({drawn}) and saw none of these.</li>
<li><strong>The words</strong>: of the concepts shown, {manifest["known_concepts"]:,} were in the
training data in another style, with the same captions. The other {manifest["new_concepts"]:,} were
held out, pictures and captions; the results call them “new concept”.</li>
<li><strong>The rest of the download</strong>: the program that runs the model
({(pieces["runtime"] + pieces["wasm"]) / 1e6:.1f} MB, onnxruntime-web), the pictures
({manifest["sheet_bytes"] / 1e6:.1f} MB), their vectors ({pieces["vectors"] / 1e6:.1f} MB) and the
vocabulary. All of it comes from where this page comes from.</li>
</ul>
"""


def download_bytes(manifest: dict) -> int:
    """Everything that the box loads."""
    pieces = manifest["pieces"].values()
    return sum(piece["bytes"] for piece in pieces) + manifest["sheet_bytes"]


def add_scripts(app, pagename, templatename, context, doctree):
    """The scripts and the style go into the pages that have the box, no others."""
    raw = doctree.findall(nodes.raw) if doctree is not None else ()
    if any("live-search" in node.astext() for node in raw):
        app.add_css_file("search/live-search.css")
        app.add_js_file("search/wordpiece.js", loading_method="defer")
        app.add_js_file("search/live-search.js", loading_method="defer")


def copy_files(app, exception):
    source, target = search_files(app), Path(app.outdir) / "_static" / "search" / "data"
    if exception is None and app.builder.format == "html" and source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)


def setup(app):
    app.add_directive("live-search", LiveSearch)
    app.add_directive("live-search-examples", LiveSearchExamples)
    app.add_directive("live-search-facts", LiveSearchFacts)
    app.connect("html-page-context", add_scripts)
    app.connect("build-finished", copy_files)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The book's health, as a reader meets it: spelling, links, pictures, contrast, keyboard.

    python tools/check_book.py                    everything; needs the book of `make book`
    python tools/check_book.py spelling words     only what is named, or pages, or browser
    python tools/check_book.py browser --axe axe.min.js --page notebooks/05_loss.html

`spelling` reads the sources with codespell. `words` holds them to the field's terms, which stand
in book/terms.toml beside what is not said in their place. `pages` reads the rendered pages: every
internal link and anchor leads somewhere, no page is an orphan, every picture has an alternative
text.
`browser` opens every page in headless Chromium, in light and dark mode, runs axe-core (Deque's
checker of the WCAG rules) on it, and walks over it with the Tab key.
"""

import argparse
import base64
import functools
import hashlib
import html.parser
import http.server
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import tomllib
import urllib.parse
from pathlib import Path

ROOT = Path(__file__).parents[1]
AXE = "axe-core@4.14.1"
AXE_HASH = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CHROMIUM_OPTIONS += ["--disable-component-update", "--disable-sync", "--no-first-run"]
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SPELLED = (
    "*.md",
    "*.cff",
    "book/*.md",
    "distilclip/**/*.py",
    "notebooks/*.ipynb",
    "solutions/*.ipynb",
)
SPELLED += ("tests/**/*.py", "tools/*.py", "benchmarks/*.py")
TERMS = ROOT / "book" / "terms.toml"
KNOWN_WORDS = {"caf", "claus"}  # half a word in a test; Santa Claus
ALIKE = "book/api/"  # dozens of one make: these are looked at in light only, and without Tab
GENERATED = ("genindex.html", "py-modindex.html", "search.html", "_modules/")  # Sphinx's own pages


# Spelling


def sources() -> dict[Path, str]:
    """Every text that a reader may see, by its file; of notebooks not the outputs."""
    import nbformat

    texts = {}
    for path in sorted(path for pattern in SPELLED for path in ROOT.glob(pattern)):
        texts[path] = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = nbformat.reads(texts[path], as_version=4).cells
            shown = [cell.metadata.get("mystnb", {}).get("image", {}) for cell in cells]
            texts[path] = "\n\n".join(cell.source for cell in cells)
            texts[path] += "\n\n" + "\n".join(image.get("alt", "") for image in shown)
    return texts


def check_spelling(texts: dict[Path, str]) -> list[str]:
    """Words that codespell takes for misspelt, each with its place."""
    command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", ",".join(KNOWN_WORDS)]
    with tempfile.TemporaryDirectory() as folder:
        names = {}
        for number, (path, text) in enumerate(texts.items()):
            copy = Path(folder) / f"{number}.txt"
            copy.write_text(text, encoding="utf-8")
            names[str(copy)] = path
        done = subprocess.run([*command, folder], capture_output=True, text=True)
    if done.returncode and not done.stdout:
        raise SystemExit(f"codespell did not run ({done.stderr.strip()}): pip install codespell.")
    problems = []
    for line in done.stdout.splitlines():
        file, place, what = line.split(":", 2)
        problems.append(f"{names[file].relative_to(ROOT)}:{place}: spelling:{what}")
    return problems


def check_words(texts: dict[Path, str]) -> list[str]:
    """Words and phrases that book/terms.toml lists, each with its place and what to write."""
    problems = []
    for term in tomllib.loads(TERMS.read_text(encoding="utf-8"))["term"]:
        avoid = re.compile(term["avoid"].replace(" ", r"\s+"), flags=re.IGNORECASE)
        allowed = "|".join(map(re.escape, term.get("allowed", ())))
        for path, text in texts.items():
            name = path.relative_to(ROOT).as_posix()
            if name in term.get("files", ()):
                continue
            if allowed:
                text = re.sub(allowed, lambda found: "_" * len(found[0]), text, flags=re.IGNORECASE)
            for found in avoid.finditer(text):
                line = text.count("\n", 0, found.start()) + 1
                said = " ".join(found[0].split())
                problems.append(f"{name}:{line}: words: {said} ==> {term['use']}")
    return problems


# Rendered pages


class Page(html.parser.HTMLParser):
    """What a page links to, what can be linked to in it, and its pictures without text."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.anchors, self.silent = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        for key in ("href", "src", "data-src"):
            if given.get(key) and tag != "base":
                self.links.append(given[key])
        decoration = given.get("role") == "presentation" or given.get("aria-hidden") == "true"
        if tag == "img" and not given.get("alt", "").strip() and not decoration:
            self.silent.append(given.get("src", "")[:60])


def read_pages(book: Path) -> dict[str, Page]:
    """Every page of the rendered book, by its path from the book's root."""
    files = sorted(path for path in book.rglob("*.html") if "_static" not in path.parts)
    return {
        path.relative_to(book).as_posix(): Page(path.read_text(encoding="utf-8")) for path in files
    }


def check_pages(book: Path) -> list[str]:
    """Links and anchors that lead nowhere, pages that nothing leads to, pictures without text."""
    pages = read_pages(book)
    problems, reached = [], {"index.html"}
    for name, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            path = urllib.parse.unquote(parts.path)
            target = (book / name).parent / path if path else book / name
            target = target / "index.html" if target.is_dir() else target
            try:
                place = target.resolve().relative_to(book.resolve()).as_posix()
            except ValueError:
                problems.append(f"{name}: the link {link} leads out of the book")
                continue
            if not target.is_file():
                problems.append(f"{name}: the link {link} leads nowhere")
            elif place in pages:
                if place != name:
                    reached.add(place)
                anchor = urllib.parse.unquote(parts.fragment)
                if anchor and anchor not in pages[place].anchors:
                    problems.append(f"{name}: there is no anchor {anchor} in {place}")
        problems += [f"{name}: a picture without alternative text: {src}" for src in page.silent]
    orphans = [n for n in pages if n not in reached and not n.startswith(GENERATED)]
    return problems + [f"{name}: nothing links to this page" for name in orphans]


# In the browser


def axe_script(given: Path | None) -> str:
    """axe-core's code: from a file, or from npm at the pinned version and hash."""
    kept = ROOT / "_build" / f"{AXE}.min.js"
    if given or kept.is_file():
        return (given or kept).read_text(encoding="utf-8")
    if not shutil.which("npm"):
        raise SystemExit("axe-core is needed: install npm, or give its axe.min.js with --axe.")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", AXE], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        content = archive.read_bytes()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != AXE_HASH:
        raise SystemExit(f"What npm gave for {AXE} is not what was pinned in tools/check_book.py.")
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        script = opened.extractfile("package/axe.min.js").read().decode()
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(script, encoding="utf-8")
    return script


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the book without a line for every request."""

    def log_message(self, *_) -> None:
        pass


RUN_AXE = """async () => (await axe.run(document, {resultTypes: ["violations"]}))
  .violations.flatMap(v => v.nodes.map(n =>
  `${v.id} (${v.impact}): ${n.failureSummary} ${n.html}`.replace(/\\s+/g, " ").slice(0, 400)))"""

# What the Tab key must reach: everything that can have the focus and can be seen; of a group of
# radio buttons the one that is chosen, from which the arrow keys reach the others.
FOCUSABLE = """() => [...document.querySelectorAll(
  "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]")]
  .filter(e => e.tabIndex >= 0 && !e.disabled && e.checkVisibility({visibilityProperty: true})
    && (e.type !== "radio" || e.checked || !document.querySelector(
      `input[type=radio][name="${CSS.escape(e.name)}"]:checked`))
    && e.getClientRects().length
    && !e.closest("dialog:not([open]), [inert], details:not([open]) > :not(summary)"))
  .map((e, i) => { e.dataset.checkTab = i; return e.outerHTML.slice(0, 100); })"""
FOCUSED = """() => { const e = document.activeElement, s = getComputedStyle(e);
  return [e.dataset.checkTab ?? null, s.outlineStyle !== "none" || s.boxShadow !== "none"]; }"""

# What the theme's own templates break, outside of what is ours to write: axe's rule, and a class
# of the element.
KNOWN_TO_FAIL = {
    ("label-content-name-mismatch", "search-button-field"),  # "Search", and shows the keys besides
    ("label-content-name-mismatch", "theme-switch-button"),  # "Color mode", and shows an icon
    ("region", "logo__image"),  # the logo that leads home stands beside the navigation, not in it
}


def is_known(problem: str) -> bool:
    """Whether a finding of axe is one of the theme's own."""
    return any(problem.startswith(f"{rule} ") and name in problem for rule, name in KNOWN_TO_FAIL)


# Code of chapters and of the package that is wider than its place; outputs may scroll.
SCROLLED_CODE = """() => [...document.querySelectorAll(".bd-article div.highlight pre")]
  .filter(e => !e.closest(".cell_output") && e.checkVisibility() && e.scrollWidth > e.clientWidth)
  .map(e => e.innerText.split("\\n").find(line => line.length > 70) ?? e.innerText)
  .map(line => line.trim().slice(0, 80))"""
PAGE_WIDTH = "() => document.documentElement.scrollWidth"
DESK, PHONE = 1280, 390  # pixels


def check_widths(page) -> list[str]:
    """No code scrolls sideways at a desk's width, no page at a phone's."""
    page.set_viewport_size({"width": DESK, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    wide = [f"code scrolls sideways at {DESK} px: {line}" for line in page.evaluate(SCROLLED_CODE)]
    for width in (DESK, PHONE):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(100)
        if (found := page.evaluate(PAGE_WIDTH)) > width:
            wide.append(f"the page is {found} px wide in a window of {width} px")
    return wide


def check_keyboard(page) -> list[str]:
    """Walk over a page with the Tab key: everything is reached, seen, and left again."""
    wanted = page.evaluate(FOCUSABLE)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached, unseen = set(), []
    for _ in range(len(wanted) + 5):
        page.keyboard.press("Tab")
        number, visible = page.evaluate(FOCUSED)
        if number is None:
            continue
        if int(number) in reached and int(number) == 0:
            break
        reached.add(int(number))
        if not visible:
            unseen.append(wanted[int(number)])
    missed = [text for number, text in enumerate(wanted) if number not in reached]
    return [f"Tab does not reach {text}" for text in missed] + [
        f"the focus cannot be seen on {text}" for text in unseen
    ]


def check_in_browser(book: Path, axe: str, only: list[str]) -> list[str]:
    """What axe-core and the Tab key find on every page, in light and in dark mode."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit("The browser is driven by playwright: pip install playwright.") from None
    browser_path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if browser_path is None:
        raise SystemExit("A browser is needed: install chromium (apt-get install chromium).")
    pages = [name for name in read_pages(book) if not name.startswith(GENERATED)]
    pages = [name for name in only or pages if name != "index.html"]  # which only forwards
    handler = functools.partial(Quiet, directory=str(book))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=CHROMIUM_OPTIONS)
        for name in pages:
            for mode in ("light", "dark")[: 1 if name.startswith(ALIKE) else 2]:
                page = browser.new_page(color_scheme=mode, viewport={"width": DESK, "height": 900})
                page.set_default_timeout(180_000)
                remember = "localStorage.setItem('mode', '%s'); localStorage.setItem('theme', '%s')"
                page.add_init_script(remember % (mode, mode))
                errors = []
                page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
                page.goto(f"http://127.0.0.1:{server.server_port}/{name}", wait_until="load")
                page.wait_for_timeout(500)
                page.evaluate(axe)
                found = [text for text in page.evaluate(RUN_AXE) if not is_known(text)]
                if mode == "light":
                    found += [] if name.startswith(ALIKE) else check_keyboard(page)
                    found += check_widths(page)
                problems += [f"{name} ({mode}): {text}" for text in (*errors, *found)]
                page.close()
            count = sum(problem.startswith(f"{name} ") for problem in problems)
            print(f"{name}: {count or 'no'} problems", flush=True)
        browser.close()
    server.shutdown()
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checks", nargs="*", help="spelling, words, pages, browser (default: all)")
    parser.add_argument("--book", type=Path, default=ROOT / "_build" / "html")
    parser.add_argument("--axe", type=Path, metavar="FILE", help="axe.min.js, instead of npm's")
    parser.add_argument("--page", action="append", default=[], help="only this page (browser)")
    options = parser.parse_args()
    checks = options.checks or ["spelling", "words", "pages", "browser"]
    if not set(checks) <= {"spelling", "words", "pages", "browser"}:
        parser.error("give spelling, words, pages, browser, or nothing for all")
    if not set(checks) <= {"spelling", "words"} and not (options.book / "index.html").is_file():
        raise SystemExit(f"There is no rendered book in {options.book}: run 'make book' first.")
    problems = []
    if "spelling" in checks:
        problems += check_spelling(sources())
    if "words" in checks:
        problems += check_words(sources())
    if "pages" in checks:
        problems += check_pages(options.book)
    if "browser" in checks:
        problems += check_in_browser(options.book, axe_script(options.axe), options.page)
    for problem in problems:
        print(problem)
    print(f"{', '.join(checks)}: {len(problems) or 'no'} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

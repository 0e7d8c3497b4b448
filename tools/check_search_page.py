"""Use the page that searches as a reader would, in headless Chromium (authors only).

    pip install playwright && playwright install chromium
    python tools/check_search_page.py --out shots [--chromium /usr/bin/chromium]

Needs a rendered book (`make book`). It is served under a path, as on GitHub Pages, and opened as a
file as well; at the width of a desk and of a phone, in light and dark, without JavaScript and
without WebAssembly. Checked each time: nothing is downloaded before the reader asks, the ten
queries find what the package finds, nothing comes from another host, no error in the console, no
sideways scrolling. Screenshots of all of it go to the folder `--out`, to be looked at.
"""

import argparse
import functools
import http.server
import json
import sys
import threading
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

HTML = Path(__file__).parents[1] / "_build" / "html"
PAGE = "book/search.html"
PREFIX = "/Distil-CLIP/"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
WIDTHS = {"desk": 1280, "phone": 390}


class Handler(http.server.SimpleHTTPRequestHandler):
    """The book below PREFIX, nothing anywhere else, no word of it."""

    def translate_path(self, path):
        if not path.startswith(PREFIX):
            return str(HTML / "no-such-file")
        return super().translate_path("/" + path.removeprefix(PREFIX))

    def log_message(self, *_):
        pass


class Visit:
    """One browser window at the page, and all that is wrong with it."""

    def __init__(self, browser, address: str, width: int, mode: str = "light", **settings):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=mode, **settings
        )
        self.page = self.context.new_page()
        self.requests, self.problems = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed {request.url}"))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console",
            lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None,
        )
        if settings.get("java_script_enabled", True):
            self.page.add_init_script(f"localStorage.mode = localStorage.theme = '{mode}'")
        self.address, self.root = address, address.removesuffix(PAGE)

    def open(self):
        self.page.goto(self.address, wait_until="load")
        self.page.wait_for_timeout(500)
        if any("/data/" in url and "gallery" not in url for url in self.requests):
            self.problems.append("something is downloaded before the reader asks for it")
        return self

    def ask(self, query: str) -> list[str]:
        """Type as a person does; the labels that come up."""
        box = self.page.locator("#live-search-input")
        box.fill("")
        self.page.wait_for_selector(".live-search:not([data-shown])")
        box.press_sequentially(query, delay=5)
        self.page.wait_for_function(
            "text => document.querySelector('.live-search').dataset.shown === text",
            arg=query,
            timeout=300_000,
        )
        return self.page.locator("ol.live-search-hits li span:nth-child(2)").all_text_contents()

    def close(self) -> list[str]:
        if self.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            self.problems.append("the page scrolls sideways")
        self.problems += [
            f"from elsewhere: {url}"
            for url in set(self.requests)
            if not url.startswith((self.root, "data:", "blob:"))
        ]
        self.context.close()
        return self.problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("shots"))
    parser.add_argument("--html", type=Path, default=HTML)
    parser.add_argument("--chromium", help="the browser, if not playwright's own")
    options = parser.parse_args()
    html = options.html.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    gallery = json.loads((html / "_static/search/data/gallery.json").read_text())
    handler = functools.partial(Handler, directory=str(html))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}{PREFIX}{PAGE}"
    as_file = (html / PAGE).as_uri()
    problems = []

    def report(name: str, found: list[str], text: str = "") -> None:
        print(f"{name}: {text or 'seen'}; {'; '.join(dict.fromkeys(found)) or 'no problem'}")
        problems.extend(found)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
        for place, start in (("served", address), ("file", as_file)):
            for width in WIDTHS:
                for mode in ("light", "dark") if place == "served" else ("light",):
                    name = f"{place}-{width}-{mode}"
                    visit = Visit(browser, start, WIDTHS[width], mode).open()
                    shoot = functools.partial(visit.page.screenshot, animations="disabled")
                    shoot(path=options.out / f"{name}-before.png")
                    begin = time.perf_counter()
                    visit.page.locator("#live-search-input").focus()
                    visit.page.keyboard.press("Tab")
                    visit.page.keyboard.press("Enter")  # the button, without a mouse
                    visit.page.wait_for_selector(".live-search[data-ready]", timeout=300_000)
                    loaded = time.perf_counter()
                    visit.ask(gallery[0]["query"])
                    first = time.perf_counter()
                    same = 0
                    for i, row in enumerate(gallery):
                        labels = visit.ask(row["query"])
                        same += len({hit["label"] for hit in row["hits"][:5]} & set(labels[:5]))
                        if len(labels) != 12:
                            visit.problems.append(f"{len(labels)} pictures for {row['query']}")
                        if i in (0, len(gallery) // 2) or name == "served-desk-light":
                            shoot(path=options.out / f"{name}-{i}.png")
                    if same < 0.8 * 5 * len(gallery):
                        visit.problems.append("the browser and the package disagree")
                    shoot(path=options.out / f"{name}-page.png", full_page=True)
                    text = (
                        f"{loaded - begin:.2f} s to load, {first - loaded:.2f} s more to the first "
                        f"result; {same} of {5 * len(gallery)} first pictures as in the package"
                    )
                    report(name, visit.close(), text)

        visit = Visit(browser, address, WIDTHS["phone"], java_script_enabled=False).open()
        visit.page.screenshot(path=options.out / "no-javascript.png", full_page=True)
        visit.problems = [p for p in visit.problems if not p.startswith("failed")]  # its scripts
        if not visit.page.locator(".live-search noscript").bounding_box():
            visit.problems.append("no word about JavaScript")
        report("no JavaScript", visit.close())
        visit = Visit(browser, address, WIDTHS["phone"])
        visit.page.add_init_script("delete window.WebAssembly")
        visit.open()
        if not visit.page.get_by_text("WebAssembly, which is switched off").is_visible():
            visit.problems.append("no word about WebAssembly")
        visit.page.screenshot(path=options.out / "no-webassembly.png")
        report("no WebAssembly", visit.close())
        browser.close()
    print(f"Screenshots: {options.out}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())

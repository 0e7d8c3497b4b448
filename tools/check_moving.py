"""Use every figure that moves as a reader would, in headless Chromium (authors only).

    python tools/check_moving.py                      every figure of the notebooks' outputs
    python tools/check_moving.py --out shots          and keep screenshots, to be looked at
    python tools/check_moving.py --stills             draw the still pictures anew

Each figure is taken from the outputs of its chapter, put into a page of its own, and opened as a
file: at the width of a desk and of a phone, in light and dark, with and without motion. Every
control is used by keyboard and by mouse. Checked each time: the still picture gives way to the
figure, what is used changes what is shown, nothing is asked from any other place, no error in the
console, nothing for axe-core to say, no sideways scrolling; and without scripts the still stays.
"""

import argparse
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

from check_book import CHROMIUM_OPTIONS, CHROMIUMS, ROOT, axe_script

STILLS = ROOT / "distilclip" / "book" / "moving"
STILL_WIDTH = 720  # pixels, and half as many colours as a still of so many needs bytes for
COLOURS = 96
WIDTHS = {"desk": 1280, "phone": 390}
# The page around a figure: as wide as the book's column, and dark where the reader wants it.
PAGE = """<!doctype html><html lang="en" data-theme="{mode}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>A figure that moves</title>
<style>body {{ background: {ground}; margin: 0 auto; max-width: 780px; padding: 8px; }}</style>
</head><body><main><h1 style="font: 1rem sans-serif; color: {ink}">A chapter</h1>
{figure}</main></body></html>"""
GROUNDS = {"light": ("#ffffff", "#222222"), "dark": ("#14181e", "#ced6dd")}
RUN_AXE = """async () => (await axe.run(document, {resultTypes: ["violations"]}))
  .violations.flatMap(v => v.nodes.map(n =>
  `${v.id} (${v.impact}): ${n.failureSummary} ${n.html}`.replace(/\\s+/g, " ").slice(0, 300)))"""
# What a reader sees of a figure, as text: its words, places and colours, and canvases as numbers.
STATE = """(figure) => figure.querySelector(".moving-stage").outerHTML + [...figure
  .querySelectorAll("input, select")].map(e => e.value + e.checked) + [...figure
  .querySelectorAll("canvas")].map(c => c.toDataURL().length)"""
CONTROLS = ".moving-stage :is(input, select, button, [tabindex='0'])"


def figures(notebooks: list[Path]) -> dict[str, str]:
    """The HTML of every figure that moves in the outputs of the notebooks, by its name."""
    found = {}
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                text = "".join(output.get("data", {}).get("text/html", []))
                if 'data-moving="' in text:
                    found[text.split('data-moving="')[1].split('"')[0]] = text
    return found


class Visit:
    """One figure in one window, and all that is wrong with it."""

    def __init__(self, browser, page: Path, figure: str, width: int, mode: str, **settings):
        ground, ink = GROUNDS[mode]
        page.write_text(PAGE.format(figure=figure, mode=mode, ground=ground, ink=ink), "utf-8")
        viewport = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=viewport, color_scheme=mode, **settings)
        self.page, self.problems = self.context.new_page(), []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self.listen)
        self.page.on("request", self.watch)
        self.page.goto(page.as_uri(), wait_until="load")
        self.page.wait_for_timeout(100)

    def listen(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def watch(self, request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.problems.append(f"asks for {request.url}")

    def state(self) -> str:
        return self.page.eval_on_selector(".moving", STATE)

    def changes(self, what: str, *keys: str) -> None:
        """Whether one of the keys changes what is to be seen."""
        before = self.state()
        for key in keys:
            if self.state() == before:
                self.page.keyboard.press(key)
                self.page.wait_for_timeout(60)
        if self.state() == before:
            self.problems.append(f"{what} changes nothing")

    def use_by_keyboard(self) -> None:
        """Tab reaches every control, its focus is seen, and its keys do something."""
        count = self.page.locator(CONTROLS).count()
        seen = set()
        self.page.evaluate("document.activeElement.blur()")
        for _ in range(count + 2):
            self.page.keyboard.press("Tab")
            kind, name, outline = self.page.evaluate(
                """() => { const e = document.activeElement, i = e.type ?? e.getAttribute("role");
                const named = e.getAttribute("aria-label") ?? e.labels?.[0]?.innerText;
                return [i, named || e.innerText || i, getComputedStyle(e).outlineStyle]; }"""
            )
            name = name.split("\n")[0]
            if kind is None or (kind, name) in seen:
                continue
            seen.add((kind, name))
            if outline == "none":
                self.problems.append(f"the focus cannot be seen on {kind} {name}")
            if self.page.evaluate("document.activeElement.hasAttribute('aria-pressed')"):
                for key in ("ArrowDown", "End", "Home"):
                    self.changes(f"the key {key} on a grid", key)
                continue
            keys = {"button": "Enter", "submit": "Enter", "select-one": "ArrowDown"}
            self.changes(f"a key on {kind} {name}", keys.get(kind, "ArrowRight"), "ArrowLeft")
        if len(seen) < 2:
            self.problems.append("Tab reaches fewer than two controls")

    def use_by_mouse(self) -> None:
        """A click on a button of a grid, on a canvas, in the middle of a slider."""
        for what in (
            ".mv-grid button:nth-of-type(5)",
            "canvas[style*=pointer]",
            "input[type=range]",
        ):
            found = self.page.locator(what)
            if found.count() and not self.click_changes(found.first):
                self.problems.append(f"a click on {what} changes nothing")
        knob = self.page.locator("svg g[role=slider]")
        if knob.count():
            before, box = self.state(), knob.first.bounding_box()
            self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            self.page.mouse.down()
            self.page.mouse.move(box["x"] - 40, box["y"] + 60)
            self.page.mouse.up()
            if self.state() == before:
                self.problems.append("dragging changes nothing")

    def click_changes(self, found) -> bool:
        """Near the lower right, and near the upper left if that has changed nothing."""
        before, box = self.state(), found.bounding_box()
        for share in (0.8, 0.1):
            x, y = box["x"] + share * box["width"], box["y"] + share * box["height"]
            self.page.mouse.click(x, y)
            self.page.wait_for_timeout(60)
            if self.state() != before:
                return True
        return False

    def close(self, width: int) -> list[str]:
        if (found := self.page.evaluate("document.documentElement.scrollWidth")) > width:
            self.problems.append(f"the page is {found} px wide in a window of {width} px")
        self.context.close()
        return list(dict.fromkeys(self.problems))


def check_figure(browser, name: str, figure: str, page: Path, axe: str, out: Path | None):
    """All that is wrong with one figure, in every window."""
    problems = []
    for place, width in WIDTHS.items():
        for mode in GROUNDS:
            motion = "reduce" if mode == "dark" else "no-preference"
            visit = Visit(browser, page, figure, width, mode, reduced_motion=motion)
            if not visit.page.locator(".moving-stage").is_visible():
                visit.problems.append("the script does not start")
            elif visit.page.locator(".moving-still").count():
                visit.problems.append("the still picture stays beside the figure")
            else:
                keep(visit, out, f"{name}-{place}-{mode}-before")
                visit.use_by_keyboard()
                visit.use_by_mouse()
                keep(visit, out, f"{name}-{place}-{mode}-after")
            visit.page.evaluate(axe)
            visit.problems += visit.page.evaluate(RUN_AXE)
            problems += [f"{name} ({place}, {mode}): {text}" for text in visit.close(width)]
    visit = Visit(browser, page, figure, WIDTHS["phone"], "light", java_script_enabled=False)
    if not visit.page.locator(".moving-still").is_visible():
        visit.problems.append("no still picture without scripts")
    keep(visit, out, f"{name}-without-script")
    visit.context.close()
    return problems + [f"{name} (no script): {text}" for text in visit.problems]


def keep(visit: Visit, out: Path | None, name: str) -> None:
    if out:
        visit.page.screenshot(path=out / f"{name}.png", full_page=True, animations="disabled")


def draw_still(browser, name: str, figure: str, page: Path) -> int:
    """Store a picture of the figure as it is when it opens; return its size in bytes."""
    from PIL import Image

    visit = Visit(browser, page, figure, STILL_WIDTH + 60, "light", reduced_motion="reduce")
    shot = visit.page.locator(".moving-stage").screenshot(animations="disabled")
    visit.context.close()
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    few = image.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(STILLS / f"{name}.png", optimize=True)
    return (STILLS / f"{name}.png").stat().st_size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all chapters")
    parser.add_argument("--out", type=Path, help="a folder for screenshots")
    parser.add_argument("--axe", type=Path, metavar="FILE", help="axe.min.js, instead of npm's")
    parser.add_argument("--stills", action="store_true", help="draw the still pictures, no checks")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    found = figures(options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")))
    problems = [] if found else ["no notebook holds a figure that moves"]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    axe = "" if options.stills else axe_script(options.axe)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        page = Path(folder) / "figure.html"
        for name, figure in found.items():
            if options.stills:
                print(f"{name}.png: {draw_still(browser, name, figure, page) / 1024:.0f} KiB")
                continue
            wrong = check_figure(browser, name, figure, page, axe, options.out)
            print(f"{name}: {len(wrong) or 'no'} problems", flush=True)
            problems += wrong
        browser.close()
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

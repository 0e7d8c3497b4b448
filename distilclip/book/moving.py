"""Figures that move: a script, its data and a still picture, in one output.

What a cell shows is a piece of HTML that needs nothing else: no server, no other
file, no library. So it works in the rendered book, in a page that was opened as a
file, in JupyterLab and in Colab. Where no script runs, on GitHub and on paper, the
still picture stays. Scripts, data and stills lie in the folder `moving`: `NAME.js`,
`NAME.json` and `NAME.png`. `tools/moving_data.py` computes the data with the models
of the package, and `tools/check_moving.py` uses every figure in a browser, and
draws the stills.
"""

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path

PARTS = Path(__file__).with_name("moving")
LIMIT = 300 * 1024  # bytes of a figure's markup, script, data and still together


@dataclass(frozen=True)
class MovingFigure:
    """What `moving_figure` gives: Jupyter shows its HTML, or its still picture."""

    name: str
    script: str
    data: dict
    alt: str
    caption: str
    still: bytes

    def _repr_html_(self) -> str:
        picture = base64.b64encode(self.still).decode()
        source = "\n".join(part(name) for name in ("kit.js", f"{self.script}.js"))
        text = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        text = text.replace("<", "\\u003c")  # or a caption could end the script
        name, alt = html.escape(self.name), html.escape(self.alt)
        return (
            f'<figure class="moving" data-moving="{name}">\n'
            f"<style>\n{part('style.css')}</style>\n"
            f'<img class="moving-still" alt="{alt}" '
            f'src="data:image/png;base64,{picture}">\n'
            f'<div class="moving-stage" role="group" aria-label="{alt}" hidden>'
            "</div>\n"
            f"<figcaption>{html.escape(self.caption)}</figcaption>\n"
            f'<script type="application/json">{text}</script>\n'
            f'<script>\n(() => {{\n"use strict";\n{source}\n'
            f"start({json.dumps(self.name)}, build);\n}})();\n</script>\n</figure>"
        )

    def _repr_png_(self) -> bytes:
        return self.still

    def __repr__(self) -> str:
        return f"a figure that moves: {self.alt}"


def part(name: str) -> str:
    """The text of a file of the folder `moving`."""
    return (PARTS / name).read_text(encoding="utf-8")


def moving_figure(
    name: str,
    data: dict | None = None,
    *,
    alt: str,
    caption: str = "",
    script: str | None = None,
) -> MovingFigure:
    """A figure that answers to mouse, finger and keyboard, for the end of a cell.

    `data` is whatever its script reads, without it what is stored under `name`.
    `alt` says in words what is to be seen, `caption` stands below. `script` names
    the script where it is not that of `name`. Raises ValueError where there is no
    such figure, where nobody says what it shows, or where it exceeds 300 KiB.
    """
    script = script or name
    if not {f"{script}.js", f"{name}.png"} <= {
        path.name for path in PARTS.iterdir()
    }:
        known = ", ".join(sorted(path.stem for path in PARTS.glob("*.png")))
        raise ValueError(f"There is no figure {name!r}. The figures: {known}.")
    if not alt.strip():
        raise ValueError(f"Say in `alt` what the figure {name!r} shows.")
    shown = json.loads(part(f"{name}.json")) if data is None else data
    still = (PARTS / f"{name}.png").read_bytes()
    figure = MovingFigure(name, script, shown, alt, caption, still)
    size = len(figure._repr_html_().encode())
    if size > LIMIT:
        raise ValueError(
            f"The figure {name!r} has {size / 1024:.0f} KiB; it may have 300. "
            "Give it fewer data, or whole numbers."
        )
    return figure

"""Search results to look at: one HTML file that holds its pictures, or one PNG."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from distilclip.search import Hit
from distilclip.storage.files import write_text, write_whole
from distilclip.storage.pictures import fitting_name, label_font, thumbnail

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --back: #f6f7f9; --card: #fff; --ink: #1c2024;
  --dim: #5c6570; --line: #d9dde3; --accent: #0072b2; }}
@media (prefers-color-scheme: dark) {{ :root {{ --back: #14171a; --card: #1f2428;
  --ink: #eceff2; --dim: #a3adb8; --line: #343b42; --accent: #6cbcf0; }} }}
* {{ box-sizing: border-box; }}
body {{ background: var(--back); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif;
  margin: 0 auto; max-width: 80rem; padding: clamp(1rem, 4vw, 2.5rem); }}
header {{ align-items: center; display: flex; gap: 1rem; margin-bottom: 1.5rem; }}
header img {{ border-radius: 8px; height: 5.5rem; width: auto; }}
h1 {{ font-size: clamp(1.25rem, 4vw, 1.9rem); line-height: 1.2; margin: 0;
  overflow-wrap: anywhere; }}
header p {{ color: var(--dim); margin: .35rem 0 0; overflow-wrap: anywhere; }}
ol {{ display: grid; gap: clamp(.6rem, 2vw, 1.1rem); list-style: none;
  margin: 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 44%), 1fr)); }}
li {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; }}
a {{ color: inherit; display: block; height: 100%; text-decoration: none; }}
a:hover, a:focus-visible {{ outline: 3px solid var(--accent);
  outline-offset: -3px; }}
li img {{ aspect-ratio: 1; display: block; object-fit: contain; width: 100%; }}
li p {{ font-size: .9rem; margin: 0; overflow-wrap: anywhere;
  padding: .5rem .7rem .6rem; }}
small {{ color: var(--dim); display: block; font-size: .8rem;
  font-variant-numeric: tabular-nums; }}
</style>
</head>
<body>
<header>{picture}<div><h1>{title}</h1>
<p>{about}</p></div></header>
<ol>
{items}
</ol>
</body>
</html>"""

ITEM = """<li><a href="{link}"><img src="{data}" alt="">
<p>{name}<small>{rank}. cosine {score:.3f}</small></p></a></li>"""


def data_address(picture: Image.Image) -> str:
    """A picture as a data: address, for a page that needs no other file."""
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def escaped(text: str) -> str:
    """Text made harmless for a page.

    What means something in HTML is escaped, what UTF-8 cannot say is replaced.
    """
    return html.escape(text.encode("utf-8", "replace").decode())


def file_of(hit: Hit) -> Path:
    """The file of a picture found; ValueError where it comes from a data set."""
    if hit.path is None:
        raise ValueError(
            f"{hit.name} is a picture of a data set, not of a folder: a gallery "
            "shows files."
        )
    return hit.path


def write_gallery(
    query: str,
    hits: Sequence[Hit],
    folder: Path,
    file: Path,
    picture: Path | None = None,
) -> None:
    """Write hits as one page (.html) or one picture (.png).

    The page needs no other file and no network, so it can be moved; each picture
    links to its file in `folder` on this machine. `picture` is shown beside the
    query, for a search by picture. Raises ValueError for any other ending.
    """
    if file.suffix.lower() == ".png":
        return write_sheet(hits, file)
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"A gallery is a .html or .png file, not {file.name!r}.")
    items = [
        ITEM.format(
            link=html.escape(file_of(hit).resolve().as_uri()),
            data=data_address(thumbnail(file_of(hit), 320)),
            name=escaped(hit.name),
            rank=rank,
            score=hit.score,
        )
        for rank, hit in enumerate(hits, start=1)
    ]
    shown = ""
    if picture is not None:
        data = data_address(thumbnail(picture, 240))
        shown = f'<img src="{data}" alt="the query">'
    about = f"The {len(hits)} nearest pictures in {folder}, nearest first"
    page = PAGE.format(
        title=escaped(query),
        picture=shown,
        about=escaped(about),
        items="\n".join(items),
    )
    write_text(file, page)


def write_sheet(
    hits: Sequence[Hit], file: Path, columns: int = 3, size: int = 200
) -> None:
    """Write the pictures, best first, as one contact sheet with their names."""
    rows, line = -(-len(hits) // columns), 22
    height = size + line
    sheet = Image.new("RGB", (columns * size, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), label_font(13)
    for position, hit in enumerate(hits):
        picture = thumbnail(file_of(hit), size - 10)
        column, row = position % columns, position // columns
        left = column * size + (size - picture.width) // 2
        top = row * height + (size - picture.height) // 2
        sheet.paste(picture, (left, top))
        name = fitting_name(hit.name, size - 12, font)
        middle = column * size + size // 2, row * height + size + line // 2 - 3
        draw.text(middle, name, "#30363d", font, anchor="mm")
    write_whole(file, lambda path: sheet.save(path, "PNG"))

"""Search results to look at: one HTML file that holds its pictures, or one PNG."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from distilclip.data import to_rgb
from distilclip.files import write_text, write_whole
from distilclip.search import Hit

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }}
ol {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem;
  list-style: none; margin: 0; padding: 0; }}
li {{ border: 1px solid #8886; border-radius: 8px; overflow: hidden; }}
img {{ aspect-ratio: 1; background: #fff; display: block; object-fit: contain; width: 100%; }}
p {{ margin: 0; overflow-wrap: anywhere; padding: .5rem .75rem; }}
small {{ opacity: .75; }}
</style>
<h1>{title}</h1>
<ol>
{items}
</ol>
</html>"""

ITEM = """<li><img src="data:image/webp;base64,{data}" alt="{name}">
<p>{rank}. {name}<br><small>cosine {score:.3f}</small></p></li>"""


def thumbnail(path: Path, size: int) -> Image.Image:
    """The picture at `path`, no side longer than `size`."""
    with Image.open(path) as image:
        picture = to_rgb(image)
    picture.thumbnail((size, size))
    return picture


def write_gallery(query: str, hits: Sequence[Hit], folder: Path, file: Path) -> None:
    """Write hits as one page (.html) or one picture (.png); names are relative to `folder`.

    Raises ValueError for any other ending. The page needs no other file and no network.
    """
    if file.suffix.lower() == ".png":
        return write_sheet(hits, file)
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"A gallery is a .html or .png file, not {file.name!r}.")
    items = []
    for rank, hit in enumerate(hits, start=1):
        data = io.BytesIO()
        thumbnail(hit.path, 320).save(data, "WEBP", quality=85)
        name = html.escape(hit.path.relative_to(folder).as_posix())
        encoded = base64.b64encode(data.getvalue()).decode()
        items.append(ITEM.format(data=encoded, name=name, rank=rank, score=hit.score))
    write_text(file, PAGE.format(title=html.escape(query), items="\n".join(items)))


def write_sheet(hits: Sequence[Hit], file: Path, columns: int = 3, size: int = 200) -> None:
    """Write the hits' pictures, best first, as one contact sheet."""
    rows = -(-len(hits) // columns)
    sheet = Image.new("RGB", (columns * size, rows * size), "white")
    for position, hit in enumerate(hits):
        picture = thumbnail(hit.path, size - 10)
        left = position % columns * size + (size - picture.width) // 2
        top = position // columns * size + (size - picture.height) // 2
        sheet.paste(picture, (left, top))
    write_whole(file, lambda path: sheet.save(path, "PNG"))

"""A page on this machine that searches a folder: words, thumbnails, more like this.

`distilclip serve FOLDER` answers on 127.0.0.1 alone, and only at an address that
holds a token of its own. A picture is named by its row in the index, so a request
can name no file; names and queries reach the page as text, and the page may run no
script. Needs Flask: `pip install "distilclip[serve]"`.
"""

from __future__ import annotations

import hmac
import importlib.util
import io
import logging
import secrets
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distilclip.index.standing import standing
from distilclip.storage.pictures import thumbnail, why_undecodable

if TYPE_CHECKING:
    from flask import Flask, Response
    from werkzeug.serving import BaseWSGIServer

    from distilclip.search import Hit, ImageIndex

HOST = "127.0.0.1"
FIRST, MOST = 24, 480  # pictures on a page: at first, and at most
LONGEST = 500  # characters of a query
SIDES = {"small": 320, "large": 1600}  # pixels
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src "
    "'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # or a link would give the token away
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --ink: #1c2024;
  --dim: #4c5560; --line: #d9dde3; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --back: #14171a; --card: #1f2428;
  --ink: #eceff2; --dim: #b4bdc7; --line: #343b42; --accent: #6cbcf0; } }
* { box-sizing: border-box; }
body { background: var(--back); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 80rem;
  padding: clamp(1rem, 4vw, 2.5rem); }
h1 { font-size: 1.15rem; font-weight: 600; margin: 0 0 1rem;
  overflow-wrap: anywhere; }
form { display: flex; flex-wrap: wrap; gap: .6rem; margin-bottom: 1.2rem; }
label { flex: 1 1 12rem; font-size: .85rem; color: var(--dim); }
label.words { flex-grow: 3; }
input { background: var(--card); border: 1px solid var(--dim); border-radius: 8px;
  color: var(--ink); display: block; font: inherit; padding: .5rem .7rem;
  width: 100%; }
button { align-self: end; background: var(--ink); border: 0; border-radius: 8px;
  color: var(--back); cursor: pointer; font: inherit; padding: .55rem 1.1rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
[role=status] { color: var(--dim); margin: 0 0 1rem; overflow-wrap: anywhere; }
ol { display: grid; gap: clamp(.6rem, 2vw, 1.1rem); list-style: none; margin: 0;
  padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 44%), 1fr)); }
li { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; }
li img { aspect-ratio: 1; display: block; object-fit: contain; width: 100%; }
li p { font-size: .9rem; margin: 0; overflow-wrap: anywhere; padding: .5rem .7rem; }
small { color: var(--dim); display: block; font-variant-numeric: tabular-nums; }
a { color: var(--accent); }
small a { display: block; }
"""
ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 3 3">
<path fill="#0072b2" d="M0 0h1v1H0z"/><path fill="#009e73" d="M1 1h1v1H1z"/>
<path fill="#d55e00" d="M2 2h1v1H2z"/></svg>"""
FILES = {"style.css": (STYLE, "text/css"), "icon.svg": (ICON, "image/svg+xml")}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="stylesheet" href="{{ home }}style.css">
<link rel="icon" href="{{ home }}icon.svg">
</head>
<body>
<main>
<h1>{{ about }}</h1>
<form action="{{ home }}">
<label class="words">Look for
<input name="q" value="{{ q }}" maxlength="{{ longest }}" {% if not hits %}autofocus
{% endif %}placeholder="a smiling cat"></label>
<label>but without
<input name="without" value="{{ without }}" maxlength="{{ longest }}"></label>
<button>Search</button>
</form>
<p role="status">{{ said }}</p>
<ol>
{% for hit in hits %}<li><a href="{{ hit.large }}"><img src="{{ hit.small }}"
alt="{{ hit.name }}" loading="lazy"></a>
<p>{{ hit.name }}<small>{{ loop.index }}. cosine {{ "%.3f" | format(hit.score) }}
<a href="{{ hit.like }}" aria-label="more like {{ hit.name }}">more like this</a>
</small></p></li>
{% endfor %}</ol>
{% if more %}<p><a href="{{ more }}">Show more</a></p>{% endif %}
</main>
</body>
</html>"""


@dataclass
class Asked:
    """What a request asks for, as words or as a picture of the index."""

    q: str = ""
    without: str = ""
    like: int | None = None
    k: int = FIRST

    @classmethod
    def read(cls, given: Any, count: int) -> Asked:
        """The fields of an address; ValueError, in a sentence, for nonsense."""
        words = {name: given.get(name, "").strip() for name in ("q", "without")}
        if any(len(text) > LONGEST for text in words.values()):
            raise ValueError(f"Ask in at most {LONGEST} characters.")
        numbers = {}
        for name, least, most in (("like", 0, count - 1), ("k", 1, MOST)):
            if text := given.get(name):
                if not (text.isascii() and text.isdigit() and len(text) < 10):
                    raise ValueError(f"{name} must be a whole number.")
                if not least <= int(text) <= most:
                    raise ValueError(f"{name} must be from {least} to {most}.")
                numbers[name] = int(text)
        return cls(**words, **numbers)


@dataclass
class Server:
    """An index that is asked, one request after the other."""

    index: ImageIndex
    folder: Path
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def home(self) -> str:
        """The path at which the page is."""
        return f"/{self.token}/"

    def find(self, asked: Asked) -> tuple[list[dict], str]:
        """The pictures to show and what to say of them; raises ValueError."""
        if asked.like is None and not asked.q:
            return [], ""
        rows = {name: row for row, name in enumerate(self.index.names)}
        with self.lock, torch.inference_mode():
            if asked.like is None:
                query = self.index.model.encode_text(asked.q)[0].cpu()
            else:
                query = self.index.embeds[asked.like]
            k = asked.k + (asked.like is not None)
            hits = self.index.search(query, k, asked.without or None)
            apart = None
            if asked.like is None and not asked.without:
                apart = standing(self.index.embeds, query, hits[0].score)
        shown = [hit for hit in hits if rows[hit.name] != asked.like][: asked.k]
        return [self.card(hit, rows[hit.name]) for hit in shown], describe(
            asked, self.index.names, apart
        )

    def card(self, hit: Hit, row: int) -> dict:
        """What the page shows of a picture."""
        addresses = {size: f"{self.home}picture/{row}/{size}" for size in SIDES}
        like = f"{self.home}?like={row}"
        return {"name": hit.name, "score": hit.score, "like": like} | addresses

    def picture(self, row: int, size: str) -> bytes:
        """A picture of the index as WebP; ValueError where it cannot be read."""
        try:
            image = thumbnail(self.folder / self.index.names[row], SIDES[size])
        except Exception as error:  # Pillow raises many kinds for a broken file
            raise ValueError(why_undecodable(error)) from None
        data = io.BytesIO()
        image.save(data, "WEBP", quality=85)
        return data.getvalue()


def describe(asked: Asked, names: list[str], apart: float | None) -> str:
    """A sentence on what was found."""
    if asked.like is not None:
        said = f"Like {names[asked.like]}"
    else:
        said = f"Nearest to “{asked.q}”"
    said += f", without “{asked.without}”." if asked.without else "."
    if apart is not None:
        said += (
            f" The first stands {apart:.1f} standard deviations above this "
            "folder's mean cosine."
        )
    return said


def check_framework() -> None:
    """Refuse, with a ValueError that says what to do, where Flask is missing."""
    if importlib.util.find_spec("flask") is None:
        raise ValueError('The page needs Flask: pip install "distilclip[serve]".')


def make_app(server: Server) -> Flask:
    """The page as a Flask application."""
    from flask import Flask, Response, abort, render_template_string, request

    app = Flask(__name__, static_folder=None, template_folder=None)

    @app.before_request
    def only_here() -> None:
        if not is_ours(server, request.host, request.path):
            abort(404)

    @app.after_request
    def guarded(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.get(server.home)
    def page() -> tuple[str, int]:
        shown, status = answer(server, request.args)
        text = render_template_string(PAGE, **shown)
        return text.encode("utf-8", "replace").decode(), status

    @app.get(f"{server.home}<any('style.css', 'icon.svg'):name>")
    def plain(name: str) -> Response:
        text, kind = FILES[name]
        return Response(text, mimetype=kind)

    @app.get(f"{server.home}picture/<int:row>/<any({', '.join(SIDES)}):size>")
    def picture(row: int, size: str) -> Response:
        if row >= len(server.index):
            abort(404)
        try:
            return Response(server.picture(row, size), mimetype="image/webp")
        except ValueError:
            abort(404)  # it is gone, or was changed, since it was embedded

    return app


def is_ours(server: Server, host: str, path: str) -> bool:
    """Whether a request names this machine, and its address holds the token.

    A site whose name was made to lead here asks by that name, and is refused.
    """
    name, token = host.rpartition(":")[0] or host, path.split("/")[1]
    asked, right = token.encode("utf-8", "replace"), server.token.encode()
    return name in (HOST, "localhost") and hmac.compare_digest(asked, right)


def answer(server: Server, given: Any) -> tuple[dict[str, Any], int]:
    """What the page shows for the fields of an address, and the status."""
    asked, hits, status = Asked(), [], 200
    try:
        asked = Asked.read(given, len(server.index))
        hits, said = server.find(asked)
    except ValueError as error:
        said, status = str(error), 400
    about = f"{len(server.index):,} pictures in {server.folder}"
    next_k = min(2 * asked.k, MOST, len(server.index))
    fields = {
        key: value for key, value in vars(asked).items() if value or value == 0
    }
    more = f"{server.home}?{query_of(fields | {'k': next_k})}"
    return {
        "title": asked.q or about,
        "about": about,
        "home": server.home,
        "longest": LONGEST,
        "q": asked.q,
        "without": asked.without,
        "said": said,
        "hits": hits,
        "more": more if len(hits) == asked.k < next_k else "",
    }, status


def query_of(fields: dict) -> str:
    """Fields as the query of an address."""
    from urllib.parse import urlencode

    return urlencode(fields, errors="replace")


def listen(server: Server, port: int) -> tuple[BaseWSGIServer, str]:
    """Take a port of this machine (0: a free one) -> what listens, and its address.

    Raises OSError where the port is taken.
    """
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line a request
    with socket.socket() as taken:  # werkzeug would end the whole process instead
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((HOST, port))
        except OSError as error:
            raise OSError(
                f"Port {port} cannot be taken: {error.strerror}."
            ) from None
    listening = make_server(HOST, port, make_app(server), threaded=True)
    return listening, f"http://{HOST}:{listening.server_port}{server.home}"

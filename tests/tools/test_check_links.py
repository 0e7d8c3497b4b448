"""Links are followed: those that lead somewhere are fine, those that do not are named."""

import http.server
import importlib.util
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def check_links():
    spec = importlib.util.spec_from_file_location("check_links", ROOT / "tools" / "check_links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Site(http.server.BaseHTTPRequestHandler):
    """One page, at /here."""

    def do_GET(self):
        self.send_response(200 if self.path == "/here" else 404)
        self.end_headers()

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_link_that_leads_nowhere_is_named(check_links, address, tmp_path):
    page = f"# Page\n\n[here]({address}/here#part) and [gone]({address}/gone), [own](other.md)\n"
    (tmp_path / "README.md").write_text(page, encoding="utf-8")
    (tmp_path / "other.md").write_text(f"# Other\n\n<{address}/away>\n", encoding="utf-8")
    (tmp_path / "unread.md").write_text(f"# Unread\n\n<{address}/unread>\n", encoding="utf-8")
    names = ["README.md", "other.md"]
    links = check_links.check_pages(names, tmp_path / "out", root=tmp_path)
    external = {link["uri"] for link in links if link["uri"].startswith("http")}
    assert external == {f"{address}/here#part", f"{address}/gone", f"{address}/away"}
    lines = sorted(line.split(" (404")[0] for line in check_links.broken(links))
    assert lines == [f"README.md: {address}/gone", f"other.md: {address}/away"]


def test_the_pages_are_there(check_links):
    assert all((ROOT / name).is_file() for name in check_links.PAGES)

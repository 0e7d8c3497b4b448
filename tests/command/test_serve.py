"""The page that serves a folder: only here, only with the token, only what the index holds."""

import html.parser
import os
import signal
import subprocess
import sys
import urllib.request
from urllib.error import HTTPError

import pytest
from PIL import Image

from distilclip import DistilCLIP, ImageIndex
from distilclip.command import cli, serve

NASTY = ('"><img src=x onerror=alert(1)>.png', "{{ 7 * 7 }}{% raise %}.png", "a\nb.png", "&lt;.png")
TOKEN = "a-token"
HOME = f"/{TOKEN}/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("red.png", "green.png", "blue.png", *NASTY)):
        Image.new("RGB", (400 + number, 60), (60 * number % 255, 30, 200)).save(folder / name)
    undecodable = os.path.join(os.fsencode(folder), b"\xff\xfe.png")
    Image.new("RGB", (9, 9)).save(os.fsdecode(undecodable))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    model = DistilCLIP.from_pretrained("emoji")
    index = ImageIndex.from_folder(model, folder, progress=False)
    return serve.Server(index, folder, TOKEN)


@pytest.fixture
def client(server):
    return serve.make_app(server).test_client()


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag, attribute):
        return [found[attribute] for name, found in self.tags if name == tag and attribute in found]


def opened(client, path=HOME, **fields):
    answer = client.get(path, query_string=fields)
    return answer.status_code, Page(answer.text)


def test_the_page_finds_and_shows_pictures_and_asks_for_nothing_else(client, server):
    status, page = opened(client)
    assert status == 200 and page.text.count("cosine") == 0
    status, page = opened(client, q="a red square", without="a cat")
    assert status == 200 and page.text.count("cosine") == len(server.index)
    asked = [*page.all("img", "src"), *page.all("a", "href"), *page.all("link", "href")]
    assert asked and all(address.startswith(HOME) for address in asked)
    for address in asked:
        assert client.get(address).status_code == 200, address
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object"})


@pytest.mark.parametrize("words", [*NASTY, "<script>x</script>", "\ud800", "' or 1=1", "é🐈"])
def test_names_and_words_are_text(client, words):
    status, page = opened(client, q=words.encode("utf-8", "replace"))
    assert status == 200
    tags = {tag for tag, _ in page.tags}
    assert "script" not in tags and not any("onerror" in found for _, found in page.tags)
    assert (
        set(NASTY) <= set(page.all("img", "alt")) and "49" not in page.text.split("pictures in")[0]
    )


def test_more_like_one_is_others(client, server):
    row = server.index.names.index("red.png")
    status, page = opened(client, like=row)
    assert status == 200 and "Like red.png." in page.text
    shown = page.all("img", "alt")
    assert "red.png" not in shown and len(shown) == len(server.index) - 1


def test_a_long_list_is_shown_in_parts(client, server):
    _, page = opened(client, q="blue", k=3)
    (more,) = [address for address in page.all("a", "href") if "k=" in address]
    assert len(page.all("img", "alt")) == 3 and "k=6" in more and "q=blue" in more
    assert len(Page(client.get(more).text).all("img", "alt")) == 6


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"like": "99"}, "like must be from 0"),
        ({"like": "-1"}, "like must be a whole number"),
        ({"like": "²"}, "like must be a whole number"),
        ({"q": "x", "k": "0"}, "k must be from 1"),
        ({"q": "x", "k": "9" * 5000}, "k must be a whole number"),
        ({"q": "x" * 501}, "at most 500 characters"),
        ({"q": "red", "without": "red", "k": "1e3"}, "k must be a whole number"),
    ],
)
def test_nonsense_is_refused_in_a_sentence(client, fields, said):
    status, page = opened(client, **fields)
    assert status == 400 and said in page.text


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("/", "localhost"),
        ("/wrong/", "localhost"),
        ("/wröng/", "localhost"),
        (HOME, "pictures.example"),
        (HOME, "127.0.0.1.pictures.example:80"),
        (f"{HOME}picture/0/small", "pictures.example"),
        (f"{HOME}picture/9999/small", "localhost"),
        (f"{HOME}picture/-1/small", "localhost"),
        (f"{HOME}picture/0/huge", "localhost"),
        (f"{HOME}picture/../../../../etc/passwd", "localhost"),
        (f"{HOME}..%2f..%2fetc/passwd", "localhost"),
    ],
)
def test_nothing_else_is_answered(client, path, host):
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 404 and TOKEN not in answer.text
    assert client.post(HOME).status_code == 405


def test_every_answer_forbids_scripts_and_frames(client):
    for path in (HOME, f"{HOME}style.css", "/", f"{HOME}picture/0/large"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_picture_that_is_gone_is_not_found(client, server, folder):
    row = server.index.names.index("blue.png")
    hidden = (folder / "blue.png").rename(folder / "blue.away")
    try:
        assert client.get(f"{HOME}picture/{row}/small").status_code == 404
    finally:
        hidden.rename(folder / "blue.png")


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(folder, tmp_path):
    command = [sys.executable, "-m", "distilclip.cli", "serve", str(folder)]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    pipe = subprocess.PIPE
    # A background job ignores Ctrl-C, and so would what it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        address = process.stdout.readline().split()[1]
        with urllib.request.urlopen(f"{address}?q=a+cat", timeout=60) as answer:
            assert answer.status == 200 and b"cosine" in answer.read()
        with pytest.raises(HTTPError):
            urllib.request.urlopen(address.rsplit("/", 2)[0], timeout=60)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0 and "Traceback" not in process.stderr.read()


def test_what_cannot_be_served_is_said(folder, tmp_path, monkeypatch, capsys):
    assert cli.main(["serve", str(tmp_path / "none")]) == 1
    assert cli.main(["serve", str(folder), "--port", "70000"]) == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["serve", str(folder)]) == 1
    said = capsys.readouterr().err.splitlines()
    for line, part in zip(said, ("no folder", "from 0 to 65535", "distilclip[serve]"), strict=True):
        assert line.startswith("distilclip: error: ") and part in line


def test_a_port_that_is_taken_is_refused(server):
    listening, _ = serve.listen(server, 0)
    with listening.socket, pytest.raises(OSError, match="cannot be taken"):
        serve.listen(server, listening.server_port)

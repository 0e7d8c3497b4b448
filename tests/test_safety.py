"""Nothing that we load can run code, and nothing that we write is more than it should be."""

import ast
import html.parser
import json
import os
import pickle
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from distilclip import DistilCLIP, ImageIndex, TextEncoder, TrainConfig, ViT, train
from distilclip.command.cli import main
from distilclip.data import decode_pixels, load_pairs

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "distilclip").rglob("*.py"))
FOLDERS = ("notebooks", "solutions")
NOTEBOOKS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.ipynb"))]


def code_of(path):
    """The source of a module, or of all code cells of a notebook, without magics."""
    if path.suffix == ".py":
        return path.read_text()
    cells = nbformat.read(path, as_version=4).cells
    source = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.sub(r"^(\s*)[%!]", r"\1pass  # ", source, flags=re.MULTILINE)


def dangers(source):
    """Every way in which some code could run what it loads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            modules = {name.split(".")[0] for name in names}
            found += modules & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in (
                "torch.load",
                "torch.save",
                "torch.hub.load",
                "eval",
                "exec",
                "os.system",
            ):
                found.append(called)
            if called in ("yaml.load", "yaml.unsafe_load", "pd.read_pickle"):
                found.append(called)
            if (
                called in ("np.load", "numpy.load")
                and given.get("allow_pickle", "False") != "False"
            ):
                found.append(called)
            if given.get("shell", "False") != "False":
                found.append("shell=True")
            if given.get("trust_remote_code", "False") != "False":
                found.append("trust_remote_code")
    return found


@pytest.mark.parametrize(
    "path", [*PACKAGE, *NOTEBOOKS], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_no_code_can_run_what_it_loads(path):
    assert not dangers(code_of(path))


def opened_as_anything(source):
    """Calls of Pillow's `open` that do not say which formats they mean."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith("Image.open")
        and "formats" not in {keyword.arg for keyword in node.keywords}
    ]


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_formats_that_we_name_are_decoded(path):
    assert not opened_as_anything(code_of(path))


def test_the_search_for_open_doors_finds_them():
    assert opened_as_anything("PIL.Image.open(file)") and opened_as_anything("Image.open(x, 'r')")
    assert not opened_as_anything("Image.open(file, formats=names); open(file)")


def test_the_search_for_dangers_finds_them():
    for source in (
        "import pickle",
        "from joblib import load",
        "torch.load('x')",
        "np.load('x', allow_pickle=True)",
        "f('x', trust_remote_code=True)",
        "subprocess.run('x', shell=True)",
    ):
        assert dangers(source), source
    assert not dangers("np.load('x', mmap_mode='r', allow_pickle=False); load_file('x')")


# Files that would run code if anything unpickled or imported them


class Payload:
    """An object whose unpickling creates a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "was run"


def small_run(folder):
    """A complete run, from a few pictures of one colour each."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.new("RGB", (9, 9), (60 * number, 0, 0)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"number {number}")
    shape = {"image_size": 16, "patch_size": 8, "dim": 16, "depth": 1, "num_heads": 2}
    config = TrainConfig(
        data=str(pictures), out=str(folder / "run"), batch_size=2, epochs=1, **shape
    )
    train(config, progress=False)
    return folder / "run", config


def test_a_pickle_in_place_of_weights_is_refused_and_not_run(tmp_path, mark):
    run, config = small_run(tmp_path)
    weights = pickle.dumps(Payload(mark))
    for name in ("model.safetensors", "training_state.safetensors"):
        (run / name).write_bytes(weights)
    torch.save({"weights": Payload(mark)}, tmp_path / "torch.bin")
    config.resume = True
    attempts = [lambda: DistilCLIP.from_pretrained(run), lambda: train(config, progress=False)]
    for attempt in attempts:
        with pytest.raises(ValueError, match="damaged"):
            attempt()
    assert not mark.exists()
    assert main(["evaluate", str(run)]) == 1


def test_a_checkpoint_of_pickles_is_no_checkpoint(tmp_path, mark, small_text):
    small_text.model.config.save_pretrained(tmp_path)
    small_text.tokenizer.save_pretrained(tmp_path)
    torch.save({"weights": Payload(mark)}, tmp_path / "pytorch_model.bin")
    with pytest.raises((FileNotFoundError, ValueError)):
        TextEncoder.from_pretrained(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError)):
        ViT.from_pretrained(tmp_path)
    assert not mark.exists()


def test_an_index_that_is_a_pickle_is_refused_and_not_run(tmp_path, mark, small_model):
    (tmp_path / "index").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(ValueError):
        ImageIndex.load(small_model, tmp_path / "index")
    assert not mark.exists()


def test_a_pickle_in_the_cache_is_replaced_and_not_run(tmp_path, mark):
    rows = load_pairs("emoji")["validation"].select(range(3))
    expected = decode_pixels(rows, 8, cache=tmp_path / "cache").clone()
    (file,) = (tmp_path / "cache").iterdir()
    with open(file, "wb") as opened:
        np.save(opened, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    assert torch.equal(decode_pixels(rows, 8, cache=tmp_path / "cache"), expected)
    assert not mark.exists()


def test_code_beside_a_checkpoint_is_not_run(tmp_path, mark, small_text):
    small_text.tokenizer.save_pretrained(tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass Own: pass\n"
    (tmp_path / "own.py").write_text(code)
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (TextEncoder.from_pretrained, ViT.from_pretrained, DistilCLIP.from_pretrained):
        with pytest.raises((ValueError, FileNotFoundError)):
            load(tmp_path)
    assert not mark.exists()


# What is written


class Tags(html.parser.HTMLParser):
    """Every element and attribute of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_data(self, data):
        self.text.append(data)


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "'onmouseover='alert(3)",
    "{title}{0}%s${x}",
    "</style></title><b>",
    "&lt;i&gt; &amp;",
    "javascript:alert(4)",
    "--><iframe>",
]


def search_page(model, folder, query, monkeypatch):
    """The parsed page that the command writes for a query."""
    monkeypatch.setattr("distilclip.command.cli.load_run", lambda name: model)
    page = folder.parent / "page.html"
    assert main(["search", "-k", "50", "--html", str(page), "--", "run", query, str(folder)]) == 0
    tags = Tags()
    tags.feed(page.read_text(encoding="utf-8"))
    return tags


def test_a_gallery_escapes_names_and_queries(tmp_path, small_model, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in HOSTILE:
        Image.new("RGB", (9, 9)).save(folder / f"{name.replace('/', '∕')}.png")
    plain = tmp_path / "plain" / "pictures"
    plain.mkdir(parents=True)
    for number in range(len(HOSTILE)):
        Image.new("RGB", (9, 9)).save(plain / f"{number}.png")
    expected = search_page(small_model, plain, "a cat", monkeypatch)
    kinds = sorted({(tag, name) for tag, name, _ in expected.attributes})
    for query in HOSTILE:
        tags = search_page(small_model, folder, query, monkeypatch)
        assert tags.tags == expected.tags  # not one element more
        assert sorted({(tag, name) for tag, name, _ in tags.attributes}) == kinds
        for _, name, value in tags.attributes:
            assert not name.startswith("on")
            assert name not in ("href", "src") or not (value or "").startswith("javascript")
        text = "".join(tags.text)
        assert query in text and all(name.replace("/", "∕") in text for name in HOSTILE)


def tree(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def test_the_cache_writes_only_into_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = load_pairs("emoji")["validation"].select(range(3))
    rows = rows.remove_columns("image_id").add_column("image_id", ["../../up", "/etc/x", "a\0b"])
    decode_pixels(rows, 8, cache=tmp_path / "cache")
    assert {path.parent for path in tree(tmp_path)} == {tmp_path / "cache"}


def test_an_index_writes_only_its_own_file(tmp_path, small_model):
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png", "..c.png"):
        Image.new("RGB", (9, 9)).save(pictures / name)
    index = ImageIndex.from_folder(small_model, pictures)
    before = tree(tmp_path)
    index.save(tmp_path / "index.safetensors")
    after = tree(tmp_path)
    new = {path.name for path in after.keys() - before.keys()}
    assert all(name.startswith("index") for name in new)
    assert {path: after[path] for path in before} == before


def test_a_search_leaves_the_pictures_as_they_were(tmp_path, small_model, monkeypatch):
    home = tmp_path / "home"
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home))
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    before = tree(folder)
    os.utime(folder / "a.png", ns=(0, before[folder / "a.png"][0]))
    search_page(small_model, folder, "a cat", monkeypatch)
    after = tree(tmp_path)
    assert {path: after[path] for path in before} == before
    others = [p for p in after.keys() - before.keys() if p.name != "page.html"]
    assert all(home in path.parents or folder in path.parents for path in others)


# Workflows


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")))
def test_actions_are_pinned_and_may_do_little(path):
    text = path.read_text()
    used = re.findall(r"uses:\s*(\S+)(.*)", text)
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{action} can be changed"
        assert re.match(r"\s+# v\d", comment), f"{action}: say which version that is"
    assert "permissions:\n  contents: read\n" in text
    assert "pull_request_target" not in text and "secrets." not in text

"""The page that searches: tokenizer, shrunken model and files do what the package does."""

import gzip
import importlib.util
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distilclip import DistilCLIP, load_pairs
from distilclip.search import caption_bank, expand_queries
from distilclip.storage.words import NAMES_FILE, with_known_words

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "book" / "_static" / "search"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="runs JavaScript, which needs node")

TEXTS = [
    "a dog that wants to play",
    "",
    "   ",
    "UPPER, lower; Title-Case!",
    "it's 5 o'clock... isn't it?",
    "crème brûlée, naïve façade, Ångström, İstanbul, ŁÓDŹ",
    "e\u0301 and é are one",
    "東京 tower, 한국어, 日本語テキスト, 漢字x漢字",
    "😀 grinning, 👩‍🚀 astronaut, ❤️ heart, ☀ sun",
    "antidisestablishmentarianism floccinaucinihilipilification",
    "zzzzqqqqxxxx \u0394\u03a3 \u03a3\u03a3 Straße ẞ",
    "tab\tnew\nline\rreturn\x0bform\x0cnull\x00nbsp\u00a0zero\u200bwidth\u2003em",
    "[MASK] [CLS] [mask] [unused5] [SEP]x",
    "$100+20%=<tag>^`|~ #hash @at {brace} \\back",
    "«guillemets» “quotes” — dash … ellipsis ¿qué? ¡olé!",
    "مرحبا שלום привет नमस्ते",
    "x" * 100,
    "x" * 101,
    "word " * 200,
    "\U0001d54f\U0001f600\ufffd",
]


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("builder", ROOT / "tools/build_search_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(builder):
    """The page's files, made now if they are not there or are old."""
    pytest.importorskip("onnxruntime")
    builder.main([])
    return builder.OUT


@pytest.fixture(scope="module")
def model():
    return DistilCLIP.from_pretrained("emoji")


def run_node(code: str, data: object, folder: Path) -> object:
    """What `code` prints as JSON; `data` reaches it under that name."""
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "run.mjs").write_text(
        'import fs from "node:fs";\nimport { createRequire } from "node:module";\n'
        f"const {{ makeWordPiece }} = createRequire(import.meta.url)"
        f"({json.dumps(str(STATIC / 'wordpiece.js'))});\n"
        f"const data = JSON.parse(fs.readFileSync({json.dumps(str(folder / 'data.json'))}));\n"
        "const send = (result) => fs.writeSync(1, JSON.stringify(result));\n" + code
    )
    command = [NODE, str(folder / "run.mjs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def tokens_in_node(tokenizer, texts: list[str], folder: Path) -> list[list[int]]:
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    code = "const encode = makeWordPiece(data.vocabulary, 64);\nsend(data.texts.map(encode));"
    return run_node(code, {"vocabulary": vocabulary, "texts": texts}, folder)


@pytest.mark.slow
@needs_node
def test_tokenizer_is_that_of_transformers(tokenizer, tmp_path):
    draw = random.Random(0)
    pairs = load_pairs("emoji")
    captions = [text for row in pairs["test"]["captions"][::5] for text in row]
    letters = [chr(c) for c in range(32, 0x530)] + list("漢字かな한글😀👍🏽\u200d\u0301 ,.-'")
    noise = ["".join(draw.choices(letters, k=draw.randint(1, 40))) for _ in range(2000)]
    texts = TEXTS + captions + noise
    theirs = tokenizer(texts, truncation=True, max_length=64)["input_ids"]
    ours = tokens_in_node(tokenizer, texts, tmp_path)
    wrong = [t for t, a, b in zip(texts, ours, theirs, strict=True) if a != b]
    assert not wrong, wrong[:5]


@pytest.mark.slow
@needs_node
def test_emoji_are_named_as_the_package_names_them(model, tmp_path):
    """Every emoji alone, with selectors and skin tones, joined at random, and in sentences."""
    draw, names = random.Random(0), json.loads(NAMES_FILE.read_text(encoding="utf-8"))
    emoji, marks = sorted(names), ["", "\u200d", "\ufe0f", "\U0001f3fd", "\u20e3", " a cat "]
    joined = [
        "".join(draw.choice(emoji) + draw.choice(marks) for _ in range(draw.randint(1, 5)))
        for _ in range(3000)
    ]
    texts = [*emoji, *(f"{each}\ufe0f" for each in emoji), *joined, *TEXTS[:-1]]
    tokenizer = model.text.tokenizer
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    code = "const encode = makeWordPiece(data.vocabulary, 64, data.names);\n"
    data = {"vocabulary": vocabulary, "texts": texts, "names": names}
    ours = run_node(code + "send(data.texts.map(encode));", data, tmp_path)
    theirs = tokenizer(with_known_words(texts, tokenizer), truncation=True, max_length=64)
    wrong = [t for t, a, b in zip(texts, ours, theirs["input_ids"], strict=True) if a != b]
    assert not wrong, (len(wrong), wrong[:5])
    unknown = [t for t, ids in zip(emoji, ours, strict=False) if tokenizer.unk_token_id in ids]
    assert not unknown


@pytest.mark.slow
@needs_node
def test_tokenizer_agrees_on_every_character(tokenizer, tmp_path):
    """But for characters younger than one of the two Unicode tables, all unknown to BERT."""
    codes = [*range(1, 0xD800), *range(0xE000, 0x10000), *range(0x1F000, 0x1FB00)]
    texts = [f"a{chr(c)}b {chr(c)}" for c in codes]
    theirs = tokenizer(texts)["input_ids"]
    ours = tokens_in_node(tokenizer, texts, tmp_path)
    differ = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    assert len(differ) < 0.005 * len(codes)
    assert all(tokenizer.unk_token_id in a + b for a, b in differ)


def queries_of(pairs) -> list[str]:
    """The ten of the page, and captions of every kind."""
    own = json.loads((STATIC / "queries.json").read_text())["queries"]
    return own + [text for row in pairs["test"]["captions"][::40] for text in row]


def ids_of(model, text: str) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.tokenize([text]).items()}


def shrunken_embeds(files: Path, model, queries: list[str]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        gzip.decompress((files / "text.onnx.gz").read_bytes()), providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(None, ids_of(model, query))[0] for query in queries])


@pytest.mark.slow
def test_shrunken_model_finds_what_the_package_finds(files, model, builder):
    pairs = load_pairs("emoji")
    manifest = json.loads((files / "manifest.json").read_text())
    queries = queries_of(pairs)
    exact = model.encode_text(queries).numpy()
    shrunken = shrunken_embeds(files, model, queries)
    assert np.abs(exact - shrunken).max() < 1e-2
    bank = np.frombuffer(gzip.decompress((files / "bank.int8.gz").read_bytes()), np.int8)
    bank = bank.reshape(manifest["bank_count"], manifest["width"]) * manifest["bank_scale"]
    bank = torch.from_numpy(bank.astype(np.float32))
    known = list(dict.fromkeys(map(tuple, pairs["train"]["captions"])))
    assert len(known) == len(bank)
    assert (caption_bank(model, known[::5]) - bank[::5]).abs().max() < 1e-2
    exact = expand_queries(torch.from_numpy(exact), bank, manifest["sharpness"]).numpy()
    shrunken = expand_queries(torch.from_numpy(shrunken), bank, manifest["sharpness"]).numpy()
    assert np.abs(exact - shrunken).max() < 2e-2
    vectors = np.frombuffer(gzip.decompress((files / "vectors.int8.gz").read_bytes()), np.int8)
    vectors = vectors.reshape(manifest["count"], manifest["width"]) * manifest["scale"]
    pictures = [image for split in builder.SPLITS for image in pairs[split]["image"]]
    assert len(pictures) == manifest["count"]
    embeds = model.encode_image(pictures[::5]).numpy()
    assert np.abs(embeds - vectors[::5]).max() < 1e-2

    def first_five(scores):
        return np.argsort(-scores, axis=1, kind="stable")[:, :5]

    ours, theirs = first_five(shrunken @ vectors[::5].T), first_five(exact @ embeds.T)
    shared = [len(set(a) & set(b)) / 5 for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(shared) > 0.9
    gallery = json.loads((files / "gallery.json").read_text())
    for row, scores in zip(gallery, exact @ vectors.T, strict=False):
        assert all(abs(scores[hit["row"]] - hit["score"]) < 1e-2 for hit in row["hits"])
        assert scores.max() < row["hits"][0]["score"] + 1e-2


@pytest.mark.slow
def test_eight_of_the_ten_questions_have_a_fitting_picture_among_the_first_five(files):
    asked = json.loads((STATIC / "queries.json").read_text())
    gallery = json.loads((files / "gallery.json").read_text())
    assert [row["query"] for row in gallery] == asked["queries"] and len(gallery) == 10
    missed = [
        row["query"]
        for row in gallery
        if not any(re.search(asked["fits"][row["query"]], hit["label"]) for hit in row["hits"][:5])
    ]
    assert len(missed) <= 2, missed


@pytest.mark.slow
@needs_node
def test_the_browser_s_runtime_computes_the_same(files, model, tmp_path):
    """The same file, run by the WebAssembly that the page ships."""
    queries = queries_of(load_pairs("emoji"))[:12]
    runtime = STATIC / "onnxruntime-web"
    code = """
    import zlib from "node:zlib";
    const ort = await import(data.runtime);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = zlib.gunzipSync(fs.readFileSync(data.wasm));
    const model = zlib.gunzipSync(fs.readFileSync(data.model));
    const session = await ort.InferenceSession.create(new Uint8Array(model));
    const results = [];
    for (const ids of data.ids) {
      const tensor = (numbers) =>
        new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]);
      const inputs = { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
      results.push(Array.from((await session.run(inputs)).text_embeds.data));
    }
    send(results);
    """
    data = {
        "runtime": (runtime / "ort.wasm.bundle.min.mjs").as_uri(),
        "wasm": str(runtime / "ort-wasm-simd-threaded.wasm.gz"),
        "model": str(files / "text.onnx.gz"),
        "ids": [ids_of(model, query)["input_ids"][0].tolist() for query in queries],
    }
    in_browser = np.array(run_node(code, data, tmp_path))
    assert np.abs(in_browser - shrunken_embeds(files, model, queries)).max() < 1e-3


@pytest.mark.slow
def test_files_are_what_the_manifest_says(files, builder):
    manifest = json.loads((files / "manifest.json").read_text())
    for name, piece in manifest["pieces"].items():
        folder, file = piece["file"].split("/")
        path = (files if folder == "data" else STATIC / folder) / file
        assert path.stat().st_size == piece["bytes"]
        script = (files / "as-scripts" / f"{name}.js").read_text()
        assert script.startswith(f'liveSearchPiece("{name}", "')
    labels, new = json.loads(gzip.decompress((files / "pictures.json.gz").read_bytes()))
    assert len(labels) == len(new) == manifest["count"]
    assert sum(new) == manifest["new_concepts"]
    with Image.open(files / "pictures.webp") as sheet:
        assert sheet.width == manifest["columns"] * builder.THUMBNAIL
        assert sheet.height * manifest["columns"] >= manifest["count"] * builder.THUMBNAIL
    total = sum(piece["bytes"] for piece in manifest["pieces"].values()) + manifest["sheet_bytes"]
    assert total < 26e6
    assert builder.up_to_date(files, builder.stamp_of_inputs())
    assert not builder.up_to_date(files, "another stamp")


def test_runtime_is_complete_and_licensed(builder):
    folder = STATIC / "onnxruntime-web"
    assert gzip.decompress((folder / builder.RUNTIME[1]).read_bytes()).startswith(b"\0asm")
    assert "Permission is hereby granted" in (folder / "LICENSE").read_text()
    assert (folder / "ThirdPartyNotices.txt").is_file()


def render(folder: Path) -> str:
    """A book of this page alone, warnings as errors."""
    source = folder / "source"
    (source / "book").mkdir(parents=True, exist_ok=True)
    page = "# Search\n\n```{live-search}\n```\n\n```{live-search-facts}\n```\n\n"
    (source / "index.md").write_text("# Book\n\n```{toctree}\nbook/search\n```\n")
    (source / "book" / "search.md").write_text(page + "```{live-search-examples}\n```\n")
    (source / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'book' / '_ext')!r})\n"
        "extensions = ['myst_parser', 'live_search']\nexclude_patterns = ['_build']\n"
    )
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "-q", str(source), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return (folder / "html" / "book" / "search.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_page_is_rendered_with_and_without_the_files(tmp_path):
    html = render(tmp_path)
    assert "not part of this build" in html and "live-search.js" not in html
    files = tmp_path / "source" / "_build" / "search"
    files.mkdir(parents=True)
    manifest = {
        "pieces": {
            name: {"file": f"data/{name}", "bytes": 1_000_000}
            for name in ("runtime", "wasm", "model", "vectors", "vocabulary", "pictures")
        },
        "sheet_bytes": 500_000,
        "count": 1234,
        "width": 8,
        "text_parameters": 22_000_000,
        "train_styles": ["noto", "twemoji"],
        "style": ["fluent"],
        "known_concepts": 1200,
        "new_concepts": 34,
    }
    hits = [{"row": i, "label": f"picture <{i}>", "score": 0.5} for i in range(3)]
    gallery = [{"query": query, "hits": hits} for query in ('"one" & two', "three")]
    (files / "manifest.json").write_text(json.dumps(manifest))
    (files / "gallery.json").write_text(json.dumps(gallery))
    html = render(tmp_path)
    assert "not part of this build" not in html
    assert 'src="../_static/search/live-search.js' in html
    assert "Load the model (6.5 MB)" in html
    assert "1,234 emoji in the Fluent style" in html and "Noto and Twemoji" in html
    assert html.count("picture &lt;0&gt;") == 2 and "<0>" not in html
    assert "&quot;one&quot; &amp; two" in html
    assert (tmp_path / "html" / "_static" / "search" / "data" / "gallery.json").is_file()
    assert "live-search.js" not in (tmp_path / "html" / "index.html").read_text()

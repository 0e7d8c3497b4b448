"""Make what the page "Search in your browser" runs: model, pictures and vocabulary, small enough
to download.

In: the packaged emoji model, the Fluent drawings of the emoji data, `book/_static/search/`. Out:
`_build/search/`, which `book/_ext/live_search.py` puts into the rendered book. `make book` runs
this first; where nothing has changed since the last time, it does nothing. It prints what the
model finds for the ten queries of `book/_static/search/queries.json`, so that anyone can judge.

The text tower shrinks from 91 to about 20 MB: a weight of its matrices becomes 8 bits, with a scale
for each 64 of them, and the word embeddings become fewer. Only weights are rounded; the sums stay
in float32. With the model of November 2026 and 340 queries, 97 % of the first five pictures were
the float model's; with the activations rounded as well ("dynamic" quantisation) 83 % were.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "book" / "_static" / "search"
OUT = ROOT / "_build" / "search"
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm.gz")
SPLITS = ("test", "test_concepts")
THUMBNAIL = 64
COLUMNS = 40
GALLERY_HITS = 6
WORD_STEPS = 12  # to a standard deviation of a word's embedding; see `shrink_word_embeddings`
BLOCK = 64  # this many weights of a matrix share a scale
SHARPNESS = 30.0  # of `expand_queries`


def main(arguments: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args(arguments)
    stamp = stamp_of_inputs()
    if up_to_date(OUT, stamp):
        print(f"The search page's files are up to date: {OUT.relative_to(ROOT)}")
        return
    print("Exporting the model and the pictures for the page that searches")
    OUT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUT.parent, prefix=".search") as temporary:
        folder = Path(temporary) / OUT.name
        folder.mkdir()
        gallery = build(folder, stamp)
        shutil.rmtree(OUT, ignore_errors=True)
        folder.rename(OUT)
    for row in gallery:
        print(f"  {row['query']}: {', '.join(hit['label'] for hit in row['hits'][:5])}")


def stamp_of_inputs() -> str:
    """Changes whenever something changes that the files are made from."""
    package = ROOT / "distilclip"
    code = ("attention", "data", "export", "model", "patches", "search", "text", "vit")
    code += ("sources/emoji", "storage/pictures", "storage/weights", "storage/words")
    files = [
        Path(__file__),
        ROOT / "requirements.txt",
        package / "emoji" / "emoji.parquet",
        package / "emoji" / "names.json",
        *sorted((package / "emoji" / "model").iterdir()),
        *(package / f"{name}.py" for name in code),
        STATIC / "queries.json",
        *(STATIC / "onnxruntime-web" / name for name in RUNTIME),
    ]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def up_to_date(folder: Path, stamp: str) -> bool:
    manifest = folder / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["stamp"] == stamp


def build(folder: Path, stamp: str) -> list[dict]:
    """Fill `folder`; return the ten queries with what the float model finds for each."""
    import datasets
    import torch

    from distilclip import DistilCLIP, load_pairs
    from distilclip.data import decode_pixels
    from distilclip.search import caption_bank, expand_queries
    from distilclip.storage.words import NAMES_FILE

    model = DistilCLIP.from_pretrained("emoji")
    pairs = load_pairs("emoji")
    rows = datasets.concatenate_datasets([pairs[split] for split in SPLITS])
    labels, seen = list(rows["label"]), set(pairs["train"]["label"])
    new = [label not in seen for label in labels]
    embeds = model.encode_image(
        decode_pixels(rows, model.config.vision.image_size, progress=False)
    ).numpy()
    vocabulary = vocabulary_of(model)

    whole_numbers, scale = as_int8(embeds)
    write_compressed(folder / "text.onnx.gz", small_text_tower(model, vocabulary))
    write_compressed(folder / "vectors.int8.gz", whole_numbers.tobytes())
    bank = caption_bank(model, pairs["train"]["captions"])
    bank_numbers, bank_scale = as_int8(bank.numpy())
    write_compressed(folder / "bank.int8.gz", bank_numbers.tobytes())
    write_compressed(folder / "vocabulary.txt.gz", "\n".join(vocabulary).encode())
    write_compressed(folder / "emoji-names.json.gz", NAMES_FILE.read_bytes())
    write_compressed(folder / "pictures.json.gz", json.dumps([labels, new]).encode())
    draw_sheet([row["image"] for row in rows], folder / "pictures.webp")

    queries = json.loads((STATIC / "queries.json").read_text())["queries"]
    expanded = expand_queries(model.encode_text(queries), bank, SHARPNESS)
    scores = (expanded @ torch.from_numpy(embeds).T).numpy()
    gallery = [
        {
            "query": query,
            "hits": [
                {"row": int(row), "label": labels[row], "score": round(float(score[row]), 3)}
                for row in (-score).argsort(kind="stable")[:GALLERY_HITS]
            ],
        }
        for query, score in zip(queries, scores, strict=True)
    ]
    shown = [hit["row"] for row in gallery for hit in row["hits"]]
    draw_sheet([rows[i]["image"] for i in shown], folder / "gallery.webp", GALLERY_HITS)
    write_json(folder / "gallery.json", gallery)

    runtime, wasm = (STATIC / "onnxruntime-web" / name for name in RUNTIME)
    pieces = {
        "runtime": runtime,
        "wasm": wasm,
        "model": folder / "text.onnx.gz",
        "vectors": folder / "vectors.int8.gz",
        "bank": folder / "bank.int8.gz",
        "vocabulary": folder / "vocabulary.txt.gz",
        "emoji_names": folder / "emoji-names.json.gz",
        "pictures": folder / "pictures.json.gz",
    }
    write_as_scripts(pieces, folder / "as-scripts")
    write_json(
        folder / "manifest.json",
        {
            "stamp": stamp,
            "pieces": {
                name: {
                    "file": f"{'data' if file.parent == folder else file.parent.name}/{file.name}",
                    "bytes": file.stat().st_size,
                }
                for name, file in pieces.items()
            },
            "sheet_bytes": (folder / "pictures.webp").stat().st_size,
            "columns": COLUMNS,
            "count": len(rows),
            "width": embeds.shape[1],
            "scale": scale,
            "bank_count": len(bank),
            "bank_scale": bank_scale,
            "sharpness": SHARPNESS,
            "max_text_length": model.config.max_text_length,
            "text_parameters": sum(p.numel() for p in model.text.parameters()),
            "train_styles": sorted(set(pairs["train"]["style"])),
            "style": sorted(set(rows["style"])),
            "known_concepts": new.count(False),
            "new_concepts": new.count(True),
        },
    )
    return gallery


def vocabulary_of(model) -> list[str]:
    """Every word piece, in the order of its id."""
    ids = model.text.tokenizer.get_vocab()
    return sorted(ids, key=ids.get)


def as_int8(embeds: np.ndarray) -> tuple[np.ndarray, float]:
    """Unit vectors as whole numbers of one step: (N, E) int8, and the step."""
    scale = float(np.abs(embeds).max() / 127)
    return np.round(embeds / scale).astype(np.int8), scale


def small_text_tower(model, vocabulary: list[str]) -> bytes:
    """The ONNX file of the text tower, with about a byte a weight."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    from distilclip.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        tower = onnx.load(export_onnx(model, folder) / "text.onnx")
    cut_positions(tower, model.config.max_text_length)
    shrink_word_embeddings(tower, [token.startswith("[unused") for token in vocabulary])
    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
    quantiser = MatMulNBitsQuantizer(
        tower, bits=8, block_size=BLOCK, is_symmetric=True, op_types_to_quantize=("MatMul",)
    )
    quantiser.process()
    return quantiser.model.model.SerializeToString()


def looked_up(tower, rows: int):
    """The table of `rows` vectors in an ONNX model, and the node that looks vectors up in it."""
    (table,) = (t for t in tower.graph.initializer if len(t.dims) == 2 and t.dims[0] == rows)
    (lookup,) = (n for n in tower.graph.node if n.input and n.input[0] == table.name)
    return table, lookup


def cut_positions(tower, length: int) -> None:
    """Positions that no text reaches become zero, which gzip makes nothing of."""
    from onnx import numpy_helper

    table, _ = looked_up(tower, 512)
    positions = numpy_helper.to_array(table).copy()
    positions[length:] = 0
    table.CopyFrom(numpy_helper.from_array(positions, table.name))


def shrink_word_embeddings(tower, never_used: list[bool]) -> None:
    """Store the word embeddings as whole numbers of steps, a step a row, in place.

    Most of these numbers are small, so gzip stores them in 5 to 6 bits each. The rows are looked
    up first and scaled then. Those that no text can ask for (`never_used`) become zero.
    """
    from onnx import helper, numpy_helper

    table, lookup = looked_up(tower, len(never_used))
    name, ids = table.name, lookup.input[1]
    words = np.where(np.array(never_used)[:, None], 0, numpy_helper.to_array(table))
    step = np.maximum(
        words.std(axis=1, keepdims=True) / WORD_STEPS,
        np.abs(words).max(axis=1, keepdims=True) / 127,
    )
    step = np.maximum(step, 1e-9).astype(np.float32)
    numbers = np.round(words / step).astype(np.int8)
    tower.graph.initializer.remove(table)
    tower.graph.initializer.extend(
        [numpy_helper.from_array(numbers, name), numpy_helper.from_array(step, f"{name}.step")]
    )
    place = list(tower.graph.node).index(lookup)
    tower.graph.node.remove(lookup)
    for i, (kind, inputs, output, settings) in enumerate(
        [
            ("Gather", [name, ids], f"{name}.rows", {"axis": 0}),
            ("Gather", [f"{name}.step", ids], f"{name}.row_steps", {"axis": 0}),
            ("Cast", [f"{name}.rows"], f"{name}.floats", {"to": 1}),
            ("Mul", [f"{name}.floats", f"{name}.row_steps"], lookup.output[0], {}),
        ]
    ):
        node = helper.make_node(kind, inputs, [output], name=output, **settings)
        tower.graph.node.insert(place + i, node)


def write_compressed(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def draw_sheet(images: list, path: Path, columns: int = COLUMNS) -> None:
    """All pictures in one file, `columns` to a row."""
    from PIL import Image

    from distilclip.storage.pictures import square

    size = (columns * THUMBNAIL, -(-len(images) // columns) * THUMBNAIL)
    sheet = Image.new("RGB", size, "white")
    for i, image in enumerate(images):
        place = (i % columns * THUMBNAIL, i // columns * THUMBNAIL)
        sheet.paste(square(image, THUMBNAIL), place)
    content = io.BytesIO()
    sheet.save(content, "WEBP", quality=80, method=6)
    path.write_bytes(content.getvalue())


def write_as_scripts(pieces: dict[str, Path], folder: Path) -> None:
    """The same pieces as scripts, for a page that is opened as a file: there a browser lets a page
    load a script, but not data."""
    folder.mkdir()
    for name, file in pieces.items():
        content = base64.b64encode(file.read_bytes()).decode()
        (folder / f"{name}.js").write_text(f'liveSearchPiece("{name}", "{content}");\n')


if __name__ == "__main__":
    sys.exit(main())

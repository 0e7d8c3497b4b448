"""Compute what the figures that move show: `distilclip/book/moving/*.json`.

    python tools/moving_data.py            write the files
    python tools/moving_data.py query      only this one
    python tools/moving_data.py --check    compare them with what the models say today

The numbers come from the packaged emoji model, from MiniLM, and from two pictures that are at
hand. They are stored, and not computed in the chapters, because a rounded weight in ten thousand
falls to the other side on another machine, and a chapter's output must be the same everywhere.
`--check` allows for that: two steps of a rounded number, and the pictures to the letter.
"""

import argparse
import base64
import io
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
OUT = ROOT / "distilclip" / "book" / "moving"
STEPS = 2  # by which a stored number may differ from one that is computed elsewhere
SIZES = [4, 7, 8, 14, 16, 28, 32, 56, 112, 224]
PICTURES = ("cat", "bicycle", "sailboat", "clown face")
SENTENCES = (
    "The dog chased the cat because it was hungry.",
    "a red circle left of a blue square",
    "a blue circle left of a red square",
    "The bank by the river was full of flowers.",
    "Nobody saw the photograph that she had taken.",
)
QUERIES = (
    "fresh fruit from the garden",
    "something to make music with",
    "it is raining on the road",
    "laughing until I cry",
    "a big fish in the sea",
    "a train to the city",
    "a vehicle with two wheels",
    "what I wear when it is cold",
)
SUBGROUPS = ("animal-mammal", "animal-marine", "food-fruit", "transport-ground", "sky-weather")
SUBGROUPS += ("musical-instrument", "face-smiling", "clothing")
PER_SUBGROUP, COLUMNS, CELL = 14, 14, 44


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MAKERS)}; default: all")
    parser.add_argument("--check", action="store_true", help="only say what differs")
    options = parser.parse_args(arguments)
    check, problems = options.check, []
    if unknown := set(options.names) - set(MAKERS):
        parser.error(f"there is no figure {min(unknown)!r}")
    for name in options.names or MAKERS:
        path, data = OUT / f"{name}.json", MAKERS[name]()
        if check:
            problems += [f"{path.name}: {text}" for text in differences(read(path), data)]
        else:
            path.write_text(json.dumps(data, ensure_ascii=False, indent=None) + "\n", "utf-8")
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    return 1 if problems else 0


def read(path: Path):
    return json.loads(path.read_text("utf-8"))


def differences(old, new, place: str = "") -> list[str]:
    """Where two pieces of data differ by more than the rounding of another machine."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return [t for key in old for t in differences(old[key], new[key], f"{place}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [t for i, (a, b) in pairs for t in differences(a, b, f"{place}[{i}]")]
    if isinstance(old, int) and isinstance(new, int):
        near = abs(old - new) <= STEPS
    elif place.endswith(".weights"):
        before, now = (np.frombuffer(base64.b64decode(t), np.uint8).astype(int) for t in (old, new))
        near = len(before) == len(now) and np.abs(before - now).max() <= STEPS
    elif place.endswith((".image", ".sheet")):  # another library packs the same pixels otherwise
        near = str(old).split(",")[0] == str(new).split(",")[0]
    else:
        near = old == new
    return [] if near else [f"{place} is {str(old)[:60]}, now {str(new)[:60]}"]


def as_address(image, quality: int = 80) -> str:
    """A PIL image as a data address that holds it as WebP."""
    content = io.BytesIO()
    image.save(content, "WEBP", quality=quality, method=6)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()


def as_bytes(weights: np.ndarray) -> str:
    """Shares as the square roots in 255 steps: small ones keep their digits."""
    return base64.b64encode(np.round(255 * np.sqrt(weights)).astype(np.uint8).tobytes()).decode()


def as_whole(values, factor: int) -> list:
    return np.round(factor * np.asarray(values, dtype=np.float64)).astype(int).tolist()


def portrait():
    """The photograph of chapters 1 and 2, as they cut it."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    with get_sample_data("grace_hopper.jpg") as file:
        square = Image.open(file).convert("RGB").crop((0, 0, 512, 512))
    return square.resize((224, 224), Image.Resampling.BILINEAR)


def patches() -> dict:
    return {"image": as_address(portrait()), "size": 224, "sizes": SIZES, "first": 16, "dim": 768}


def attention_by_hand() -> dict:
    """The mean colours of the 196 patches, and the questions of four heads."""
    square = portrait()
    colours = np.asarray(square, dtype=np.float64).reshape(14, 16, 14, 16, 3).mean(axis=(1, 3))
    kinds = {"colour": "my colour", "near": "near me", "below": "four rows below me"}
    kinds |= {"both": "my colour, near me"}
    picture = {"image": as_address(square), "colours": as_whole(colours.reshape(196, 3), 1)}
    heads = [{"kind": kind, "name": name} for kind, name in kinds.items()]
    return {"side": 14, "first": 51, "pictures": [picture], "kinds": heads}


def emoji_model():
    from distilclip import DistilCLIP

    return DistilCLIP.from_pretrained("emoji")


def emoji_test():
    from distilclip import load_pairs

    return load_pairs("emoji")["test"]


def attention_trained() -> dict:
    """All attention weights of the packaged model for some drawings of the test split."""
    from distilclip.data import decode_pixels
    from distilclip.explain import attention_maps

    model, rows = emoji_model(), emoji_test()
    labels = list(rows["label"])
    rows = rows.select([labels.index(name) for name in PICTURES])
    pixels = model.normalise(decode_pixels(rows, model.config.vision.image_size, progress=False))
    maps = attention_maps(model.vision, pixels).numpy()  # (layers, B, heads, N, N)
    pictures = [
        {"name": name, "image": as_address(row["image"], 85), "weights": as_bytes(maps[:, i])}
        for i, (name, row) in enumerate(zip(PICTURES, rows, strict=True))
    ]
    side, (layers, _, heads) = model.vision.config.patches_a_side, maps.shape[:3]
    about = {"side": side, "first": 14, "layers": layers, "heads": heads}
    return about | {"pictures": pictures}


def positions() -> dict:
    """Cosines of the packaged model's position embeddings, before and after training."""
    import torch.nn.functional as F

    from distilclip.vit import position_waves

    vision = emoji_model().vision
    side, dim = vision.config.patches_a_side, vision.config.dim
    after = vision.position_embedding.detach()[0, 1:]
    before = position_waves(side, dim)
    tables = []
    for name, rows in (
        ("before training", before),
        ("after training", after),
        ("what training added", after - before),
    ):
        unit = F.normalize(rows, dim=-1)
        tables.append({"name": name, "cosines": as_whole((unit @ unit.T).flatten(), 100)})
    return {"side": side, "first": 14, "tables": tables}


def sentence() -> dict:
    """All attention weights of MiniLM for some sentences."""
    import torch

    from distilclip import TextEncoder

    encoder = TextEncoder.from_pretrained("minilm")
    encoder.model.set_attn_implementation("eager")
    entries = []
    for text in SENTENCES:
        tokens = encoder.tokenize([text])
        with torch.no_grad():
            maps = encoder.model(**tokens, output_attentions=True).attentions
        table = torch.stack(maps)[:, 0].numpy()  # (layers, heads, T, T)
        words = encoder.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0].tolist())
        entries.append({"text": text, "tokens": words, "weights": as_bytes(table)})
    layers, heads = table.shape[:2]
    first = {"layer": 1, "head": 0, "token": 7}
    return {"layers": layers, "heads": heads, "first": first, "sentences": entries}


def spread_rows(subgroups: list[str]) -> list[int]:
    """Some rows of each of SUBGROUPS, from its first to its last at equal distances."""
    chosen = []
    for wanted in SUBGROUPS:
        own = [i for i, name in enumerate(subgroups) if name == wanted]
        few = min(PER_SUBGROUP, len(own))
        chosen += [own[round(k * (len(own) - 1) / (few - 1))] for k in range(few)]
    return chosen


def query() -> dict:
    """Some pictures and queries, word by word: cosines, and places on a map."""
    from PIL import Image

    from distilclip import load_pairs
    from distilclip.data import decode_pixels
    from distilclip.explain import principal_axes
    from distilclip.search import caption_bank, expand_queries
    from distilclip.storage.pictures import square

    model, rows = emoji_model(), emoji_test()
    rows = rows.select(spread_rows(rows["subgroup"]))
    pixels = decode_pixels(rows, model.config.vision.image_size, progress=False)
    images = model.encode_image(pixels)
    bank = caption_bank(model, load_pairs("emoji")["train"]["captions"])
    starts = [[" ".join(q.split()[: n + 1]) for n in range(len(q.split()))] for q in QUERIES]
    texts = expand_queries(model.encode_text([t for group in starts for t in group]), bank)
    labels = expand_queries(model.encode_text(list(rows["label"])), bank)
    middle, axes = principal_axes(images, 2)
    on_map = ((images - middle) @ axes.T).numpy()
    # Texts lie apart from pictures, and closer together: same centre, same spread along each axis.
    of_labels = ((labels - labels.mean(dim=0)) @ axes.T).numpy()
    of_texts = ((texts - labels.mean(dim=0)) @ axes.T).numpy()
    of_texts *= on_map.std(axis=0) / of_labels.std(axis=0)
    both = np.concatenate([on_map, of_texts])
    low, high = both.min(axis=0), both.max(axis=0)
    picture_places = as_whole((on_map - low) / (high - low), 1000)
    text_places = iter(as_whole((of_texts - low) / (high - low), 1000))
    cosines = iter(as_whole((texts @ images.T).numpy(), 1000))
    sheet = Image.new("RGB", (COLUMNS * CELL, -(-len(rows) // COLUMNS) * CELL), "white")
    for i, row in enumerate(rows):
        place = (i % COLUMNS * CELL, i // COLUMNS * CELL)
        sheet.paste(square(row["image"], CELL), place)
    pictures = [
        {"name": name, "x": x, "y": y}
        for name, (x, y) in zip(rows["label"], picture_places, strict=True)
    ]
    queries = []
    for text, group in zip(QUERIES, starts, strict=True):
        steps = []
        for start in group:
            x, y = next(text_places)
            steps.append({"text": start, "x": x, "y": y, "cosines": next(cosines)})
        queries.append({"text": text, "steps": steps})
    about = {"columns": COLUMNS, "cell": CELL, "width": images.shape[1]}
    return about | {"sheet": as_address(sheet), "pictures": pictures, "queries": queries}


MAKERS = {
    make.__name__: make
    for make in (patches, attention_by_hand, attention_trained, positions, sentence, query)
}

if __name__ == "__main__":
    sys.exit(main())

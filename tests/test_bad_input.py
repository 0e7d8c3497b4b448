"""What people will point this at: every kind of trouble ends in the right result or one sentence.

Pictures, captions, tables and names are made here, by a list of known troubles and by
`hypothesis`, and sent through every entry point and the command.
"""

import csv
import io
import json
import logging
import os
import random
import re
import shutil
import socket
import struct
import tempfile
import time
import zlib
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from distilclip import (
    DistilCLIP,
    DistilCLIPConfig,
    ImageIndex,
    TextEncoder,
    TrainConfig,
    ViT,
    load_pairs,
    train,
    zero_shot_classify,
)
from distilclip.command.cli import main
from distilclip.data import decode_pixels
from distilclip.search import evaluate_retrieval
from distilclip.sources.captions import clean_captions, is_blank_text, is_visible
from distilclip.sources.hub import load_hub
from distilclip.sources.splits import SPLITS
from distilclip.storage.hub import find_file, network_is_missing, offline_without_network
from distilclip.storage.pictures import decode_image, pixels_of, read_picture, square, to_rgb

FEW = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def is_one_sentence(text):
    """A message for a person: one line that ends, and nothing of the program's insides."""
    return (
        0 < len(text) < 600
        and "\n" not in text
        and text.rstrip().endswith((".", "'", ")"))
        and not re.search(r"Traceback|0x[0-9a-f]{6}|object at|site-packages", text)
    )


def photograph(size=(40, 30), seed=0):
    """Noise that no codec can shorten much: cut in half, a file of it is really broken."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width, height):
    """A few bytes that claim to be a picture of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def text_bomb():
    """A PNG whose comment unpacks to 300 MB."""
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    picture = encoded(photograph(), "PNG")
    return picture[:33] + png_chunk(b"zTXt", b"Comment\0\0" + packed) + picture[33:]


def animation(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


def turned():
    """Red on the left, blue on the right; lying on its side, with an EXIF tag that says so."""
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (20, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100, exif=exif)


def palette_with_transparency():
    image = Image.new("P", (20, 20), 1)
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.paste(0, (0, 0, 20, 10))
    return encoded(image, "PNG", transparency=0)


# What can be read, and the colours that a row below the middle must have left and right.
RED, BLUE, WHITE, GREY = (255, 0, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)
READABLE = {
    "cmyk.jpg": (lambda: encoded(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG"), RED, RED),
    "deep.png": (
        lambda: encoded(Image.fromarray(np.full((20, 20), 0x8080, np.uint16)), "PNG"),
        GREY,
        GREY,
    ),
    "deep.tif": (
        lambda: encoded(Image.fromarray(np.full((20, 20), 0x8080, ">u2")), "TIFF"),
        GREY,
        GREY,
    ),
    "palette.png": (palette_with_transparency, RED, RED),
    "clear.png": (lambda: encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)), "PNG"), WHITE, WHITE),
    "grey.png": (lambda: encoded(Image.new("LA", (20, 20), (128, 255)), "PNG"), GREY, GREY),
    "bits.tif": (lambda: encoded(Image.new("1", (20, 20), 1), "TIFF"), WHITE, WHITE),
    "moving.gif": (lambda: animation("GIF"), RED, RED),
    "moving.webp": (lambda: animation("WEBP"), RED, RED),
    "pages.tif": (lambda: animation("TIFF"), RED, RED),
    "turned.jpg": (turned, RED, BLUE),
    "named wrongly.jpg": (lambda: encoded(Image.new("RGB", (9, 9), "red"), "PNG"), RED, RED),
    "dot.png": (lambda: encoded(Image.new("RGB", (1, 1), "red"), "PNG"), RED, RED),
    "long.png": (lambda: encoded(Image.new("RGB", (20_000, 10), "red"), "PNG"), RED, RED),
    "tall.jpg": (lambda: encoded(Image.new("RGB", (10, 20_000), "red"), "JPEG"), RED, RED),
}
BROKEN = {
    "cut.jpg": lambda: encoded(photograph(), "JPEG")[:700],
    "cut.png": lambda: encoded(photograph(), "PNG")[:1000],
    "cut.webp": lambda: encoded(photograph(), "WEBP")[:300],
    "header.png": lambda: b"\x89PNG\r\n\x1a\n",
    "empty.png": lambda: b"",
    "text.jpg": lambda: b"This is not a picture.\n" * 20,
    "bomb.png": lambda: png_of_size(50_000, 50_000),
    "comment bomb.png": text_bomb,
}


@pytest.fixture(scope="module")
def broken_files():
    return {name: make() for name, make in BROKEN.items()}


def captioned(folder, pictures, count=10):
    """A folder of `count` good pictures beside the given ones, all with captions.

    The pictures differ, from each other and from those of a folder of another name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        seed = zlib.crc32(f"{folder.name}/{number}".encode())
        pictures = {**pictures, f"good {number}.png": encoded(photograph(seed=seed), "PNG")}
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text(f"what {name} shows")
    return folder


# Pictures


@pytest.mark.parametrize("name", READABLE)
def test_unusual_pictures_are_read_rightly(name, tmp_path, small_model):
    make, left, right = READABLE[name]
    folder = captioned(tmp_path, {name: make()}, count=2)
    pairs = load_pairs(folder)
    (rows,) = [rows for rows in pairs.values() if name in rows["image_id"]]
    pixels = decode_pixels(rows, 16)[list(rows["image_id"]).index(name)]
    for column, colour in ((1, left), (14, right)):
        assert (pixels[:, 12, column] - torch.tensor(colour)).abs().max() <= 3
    index = ImageIndex.from_folder(small_model, folder)
    with Image.open(folder / name) as image:
        assert index.search(image, 1)[0].path == folder / name


@pytest.mark.parametrize("name", READABLE)
def test_every_way_in_sees_the_same_picture(name, tmp_path):
    (tmp_path / name).write_bytes(READABLE[name][0]())
    with Image.open(tmp_path / name) as image:
        given = pixels_of([image], 16)[0].int()
    kept = square(decode_image({"path": str(tmp_path / name), "bytes": None}), 16)
    for other in (kept, read_picture(tmp_path / name, 16)):
        assert (torch.from_numpy(np.array(other)).permute(2, 0, 1) - given).abs().max() <= 3


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_refused_in_one_sentence(name, tmp_path, small_model, broken_files):
    folder = captioned(tmp_path / "pictures", {name: broken_files[name]}, count=2)
    rows = next(rows for rows in load_pairs(folder).values() if name in rows["image_id"])
    for attempt in (
        lambda: decode_pixels(rows, 16),
        lambda: decode_pixels(rows, 16, cache=tmp_path / "cache"),
        lambda: ImageIndex.from_folder(small_model, folder),
    ):
        with pytest.raises(ValueError, match=re.escape(name)) as refused:
            attempt()
        assert is_one_sentence(str(refused.value)), refused.value
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("name", ["cut.jpg", "bomb.png"])
def test_the_command_refuses_a_broken_picture(name, tmp_path, capsys, broken_files):
    folder = captioned(tmp_path / "pictures", {name: broken_files[name]}, count=4)
    for split in SPLITS:  # wherever it lies, before anything is trained or written
        folder.rename(tmp_path / split)
        folder = tmp_path / split
    for split in SPLITS[:-1]:
        captioned(tmp_path / split, {}, count=4)
    command = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--dim", "16"]
    command += ["--depth", "1", "--num-heads", "2", "--batch-size", "2", "--epochs", "1"]
    assert main(command) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1 and name in error[0] and is_one_sentence(error[0])


def test_broken_pictures_are_skipped_on_request_and_all_are_listed(
    tmp_path, small_model, broken_files, caplog
):
    folder = captioned(tmp_path / "pictures", broken_files)
    (folder / "mute.png").write_bytes(encoded(photograph(), "PNG"))
    captioned(folder, {"blank.png": encoded(photograph(), "PNG")}, count=0)
    (folder / "blank.txt").write_text("\u200b\n")
    lost = {*broken_files, "mute.png", "blank.png"}
    with caplog.at_level(logging.WARNING):
        pairs = load_pairs(folder, skip_broken=True)
    kept = [name for rows in pairs.values() for name in rows["image_id"]]
    assert sorted(kept) == [f"good {number}.png" for number in range(10)]
    first, *lines = [record.getMessage() for record in caplog.records]
    assert f"Skipped {len(lost)} of" in first and len(lines) == len(lost)
    for name in lost:
        stem = name.rsplit(".", 1)[0]
        assert sum(f"/{name}" in line or f"/{stem}.txt" in line for line in lines) == 1
    (folder / "mute.png").unlink()
    (folder / "blank.png").unlink()
    index = ImageIndex.from_folder(small_model, folder, skip_broken=True)
    assert {path.name for path, _ in index.skipped} == set(broken_files)
    assert {path.name for path in index.paths} == set(kept)


def test_a_folder_without_one_whole_picture_is_refused(tmp_path, small_model, broken_files, caplog):
    folder = captioned(tmp_path, broken_files, count=0)
    for attempt in (
        lambda: load_pairs(folder, skip_broken=True),
        lambda: ImageIndex.from_folder(small_model, folder, skip_broken=True),
    ):
        with pytest.raises(ValueError, match=r"No captioned pictures|None of the 8 pictures"):
            attempt()
    assert "Skipped 8 of" in caplog.text


def test_a_folder_of_oddities_is_trained_on_evaluated_and_searched(
    tmp_path, tiny_text, broken_files, capsys, caplog
):
    """Every readable oddity in one run, and every broken one: refused, or skipped and listed."""
    odd = {name: make() for name, (make, _, _) in READABLE.items()}
    folder = captioned(tmp_path / "pictures", odd | broken_files)
    for name, text in zip(odd, [*TROUBLED_CAPTIONS.values()] * 3, strict=False):
        (folder / name).with_suffix(".txt").write_text(f"{text}\n{name}\n", encoding="utf-8")
    run, shape = str(tmp_path / "run"), "--image-size 16 --patch-size 8 --dim 16 --depth 1"
    command = f"train --out {run} --data {folder} --text-model {tiny_text} --num-heads 2 --epochs 1"
    commands = [
        [*command.split(), *shape.split(), "--text-lr", "0.001", "--batch-size", "8"],
        ["evaluate", run, "--data", str(folder), "--split", "train"],
        ["search", run, "what is odd", str(folder), "-k", "99"],
    ]
    for arguments in commands:
        assert main(arguments) == 1
        error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(error) == 1 and is_one_sentence(error[0]), error
        assert any(name in error[0] for name in broken_files)
        caplog.clear()
        assert main([*arguments, "--skip-broken"]) == 0
        output = capsys.readouterr()
        told = caplog.text + output.err
        assert f"Skipped {len(broken_files)} " in told and all(n in told for n in broken_files)
    assert sum("/pictures/" in line for line in output.out.splitlines()) == len(odd) + 10


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")


@FEW
@given(
    mode=st.sampled_from(MODES),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    orientation=st.integers(0, 9),
    side=st.integers(1, 40),
)
def test_any_image_becomes_an_upright_square(mode, size, orientation, side):
    image = Image.new(mode, size)
    image.getexif()[0x0112] = orientation
    upright = to_rgb(image)
    assert upright.mode == "RGB"
    assert upright.size == (size[::-1] if orientation in (5, 6, 7, 8) else size)
    assert square(image, side).size == (side, side)
    assert pixels_of([image, image], side).shape == (2, 3, side, side)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@FEW
@given(places=st.lists(st.tuples(st.integers(6, 60), st.integers(0, 255)), min_size=1, max_size=3))
@example(places=[(8, 0xD7)])  # Pillow raises a SyntaxError
@example(places=[(19, 0x4A), (45, 0x80)])  # and here a struct.error
def test_damaged_exif_costs_no_more_than_the_rotation(places):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    content = bytearray(exif.tobytes())
    for place, value in places:
        content[place % len(content)] = value
    with Image.open(
        io.BytesIO(encoded(Image.new("RGB", (8, 4)), "PNG", exif=bytes(content)))
    ) as image:
        assert to_rgb(image).size in ((8, 4), (4, 8))


@FEW
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]),
    cut=st.floats(0, 1),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
)
def test_damage_anywhere_gives_a_picture_or_one_sentence(kind, cut, places):
    content = bytearray(encoded(photograph((16, 12)), kind))
    for place, value in places:
        content[int(place * (len(content) - 1))] = value
    content = bytes(content[: round(cut * len(content))])
    try:
        image = decode_image({"bytes": content, "path": None})
        assert square(image, 8).size == (8, 8)
    except ValueError as error:
        assert is_one_sentence(f"{error}.")


@pytest.mark.parametrize("thing", [None, 3, b"bytes", {"path": "a.png"}])
def test_what_is_no_image_is_refused(thing, small_model):
    with pytest.raises(ValueError, match="Expected a PIL image"):
        small_model.encode_image([thing])


# Captions

ANY_TEXT = st.text(max_size=60)
TROUBLED_CAPTIONS = {
    "long": "word " * 10_000,
    "one long word": "x" * 50_000,
    "control": "a\x00b\x07c\x1b[31m",
    "right to left": "\u202eقطة تنام على السرير",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 a family",
    "combined": "e" + "\u0301" * 300,
    "tags": "<script>alert(1)</script> [CLS] [SEP] [MASK]",
}


@pytest.mark.parametrize("name", TROUBLED_CAPTIONS)
def test_unusual_captions_are_read_and_encoded(name, tmp_path, small_model):
    text = TROUBLED_CAPTIONS[name]
    folder = captioned(tmp_path, {}, count=3)
    for number in range(3):
        (folder / f"good {number}.txt").write_text(f"{text} {number}", encoding="utf-8")
    captions = load_pairs(folder)["train"]["captions"][0]
    words = " ".join(re.sub(r"[\x00-\x1f]", " ", text).split())
    assert captions[0].rsplit(" ", 1)[0] == words
    embeds = small_model.encode_text([*captions, text])
    assert embeds.isfinite().all() and torch.allclose(embeds.norm(dim=1), torch.ones(2))


def test_captions_beside_a_picture_must_be_utf8(tmp_path, caplog):
    folder = captioned(tmp_path, {}, count=4)
    (folder / "good 2.txt").write_bytes("ein Käfer".encode("latin-1"))
    with pytest.raises(ValueError, match=r"good 2\.txt is not UTF-8 text") as refused:
        load_pairs(folder)
    assert is_one_sentence(str(refused.value))
    assert sum(map(len, load_pairs(folder, skip_broken=True).values())) == 3
    assert "Skipped 1 of" in caplog.text and "good 2.txt" in caplog.text


@FEW
@given(st.lists(st.one_of(st.none(), ANY_TEXT), max_size=4))
@example(["\ud83d"])
@example(["\x00\x07"])
@example(["\u200b\u200d\ufeff"])
def test_cleaned_captions_are_visible_and_stay_clean(captions):
    try:
        cleaned = clean_captions(captions, "here")
    except ValueError as error:
        assert is_one_sentence(str(error))
        visible = [c for c in captions if c and is_visible(c)]
        assert all(map(is_blank_text, visible)) or "half" in str(error)
        return
    assert 0 < len(cleaned) == len(set(cleaned)) <= sum(bool(c and is_visible(c)) for c in captions)
    assert all(is_visible(text) and text == text.strip() for text in cleaned)
    assert clean_captions(cleaned, "here") == cleaned


@FEW
@given(text=ANY_TEXT)
@example(text="")
@example(text="\x00")
def test_any_text_has_a_unit_vector(small_model, text):
    embeds = small_model.encode_text(text)
    assert embeds.isfinite().all() and abs(embeds.norm().item() - 1) < 1e-5


@pytest.mark.parametrize("thing", [None, 3, b"bytes", ["a"], "half \ud83d"])
def test_what_is_no_text_is_refused(thing, small_model):
    small_model.train()
    for encode in (small_model.encode_text, small_model.text.encode):
        with pytest.raises(ValueError, match=r"Expected a text|half a character") as refused:
            encode([thing])
        assert is_one_sentence(str(refused.value))
    assert small_model.training and small_model.text.training


# Tables of captions


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three pictures without captions, a secret one outside, and links to it."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.png").write_bytes(encoded(photograph(seed=9), "PNG"))
    folder = outside / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png"):
        (folder / name).write_bytes(encoded(photograph(seed=ord(name[-5])), "PNG"))
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "inner.png").symlink_to(folder / "a.png")
    (folder / "away").symlink_to(outside)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    return folder


def with_metadata(folder, name, content):
    """Load `folder` with this metadata and no other."""
    for old in folder.glob("metadata.*"):
        old.unlink()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_pairs(folder)


def lines_of(*entries):
    return "\n".join(map(json.dumps, entries))


def entry(name, text="a caption"):
    return {"file_name": name, "text": text}


REST = [entry("b.png"), entry("sub/c.png"), entry("a.png", "again")]
OUTSIDE = ["../secret.png", "sub/../../secret.png", "link.png", "away/secret.png", "/etc/hostname"]
BAD_ENTRIES = {
    "absent": (entry("no.png"), "does not exist"),
    "a folder": (entry("sub"), "is a folder"),
    "a circle": (entry("loop.png"), "does not exist|leads nowhere"),
    "no name": ({"text": "x"}, "No file_name"),
    "a number": (entry(5), "No file_name"),
    "a list": ([1, 2], "No file_name"),
    "nothing": (None, "No file_name"),
    "half a character": (entry("\ud83d.png"), "not valid text"),
    "a zero byte": (entry("a\0.png"), "not valid text"),
    "no caption": ({"file_name": "a.png"}, "No caption"),
    "a caption that is none": (
        entry("a.png", {"en": "x"}),
        "A caption is an object with the keys en",
    ),
    "a lone surrogate": (entry("a.png", "x \ud83d"), "half a character"),
} | {f"outside: {name}": (entry(name), "lies outside") for name in OUTSIDE}


BLANKS = {
    "empty": entry("a.png", ""),
    "only spaces": entry("a.png", " \t\u3000 "),
    "null": entry("a.png", None),
    "none": {"file_name": "a.png", "captions": []},
    "not a number": entry("a.png", "NaN"),
}


@pytest.mark.parametrize("kind", BLANKS)
def test_a_blank_entry_counts_where_its_picture_has_no_other(kind, three, caplog):
    with pytest.raises(ValueError, match=r"Empty caption.*: entry 3 of") as refused:
        with_metadata(three, "metadata.jsonl", lines_of(*REST[:2], BLANKS[kind]))
    assert is_one_sentence(str(refused.value))
    for entries in ([*REST, BLANKS[kind]], [BLANKS[kind], *REST]):
        caplog.clear()
        pairs = with_metadata(three, "metadata.jsonl", lines_of(*entries))
        found = {row["image_id"]: row["captions"] for rows in pairs.values() for row in rows}
        assert found["a.png"] == ["again"] and len(found) == 3
        assert "1 row without a caption was left out" in caplog.text


@pytest.mark.parametrize("fault", BAD_ENTRIES)
def test_a_bad_entry_is_refused_or_skipped(fault, three, caplog):
    bad, message = BAD_ENTRIES[fault]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        with_metadata(three, "metadata.jsonl", lines_of(*REST, bad))
    assert is_one_sentence(str(refused.value)) and "entry 4 of" in str(refused.value)
    pairs = load_pairs(three, skip_broken=True)
    ids = sorted(name for rows in pairs.values() for name in rows["image_id"])
    assert ids == ["a.png", "b.png", "sub/c.png"]
    assert "Skipped 1 of" in caplog.text and "entry 4 of" in caplog.text


def test_a_picture_named_twice_keeps_all_its_captions(three):
    entries = [entry("a.png", "one"), entry("./a.png", "two"), entry("inner.png", "one")]
    entries += [entry(str(three / "a.png"), "three"), *REST[:2]]
    pairs = with_metadata(three, "metadata.jsonl", lines_of(*entries))
    found = {row["image_id"]: row["captions"] for rows in pairs.values() for row in rows}
    assert found["a.png"] == ["one", "two", "three"] and len(found) == 3


def test_an_absolute_name_in_a_relative_folder(three, monkeypatch):
    monkeypatch.chdir(three.parent)
    inside = [entry(str(three / name)) for name in ("a.png", "b.png", "sub/c.png")]
    (three / "metadata.jsonl").write_text(lines_of(*inside))
    pairs = load_pairs(three.name)
    assert sorted(i for rows in pairs.values() for i in rows["image_id"]) == [
        "a.png",
        "b.png",
        "sub/c.png",
    ]


BAD_TABLES = {
    "not UTF-8": ("metadata.csv", b"file_name,text\na.png,caf\xe9\n", "is not UTF-8"),
    "UTF-16": ("metadata.csv", "file_name,text\na.png,x\n".encode("utf-16"), "is not UTF-8"),
    "an endless field": ("metadata.csv", 'file_name,text\na.png,"' + "x" * 200_000, "as a table"),
    "no rows": ("metadata.csv", "file_name,text\n", "No captioned pictures"),
    "nothing": ("metadata.csv", "", "No captioned pictures"),
    "not JSON": ("metadata.jsonl", '{"file_name": "a.png"', "not JSON"),
    "too deep": ("metadata.jsonl", "[" * 100_000, "not valid JSON"),
    "binary": ("metadata.jsonl", bytes(range(256)), "is not UTF-8"),
}


@pytest.mark.parametrize("fault", BAD_TABLES)
def test_a_bad_table_is_refused(fault, three):
    name, content, message = BAD_TABLES[fault]
    with pytest.raises(ValueError, match=message) as refused:
        with_metadata(three, name, content)
    assert is_one_sentence(str(refused.value))


@FEW
@given(texts=st.lists(ANY_TEXT, min_size=3, max_size=3))
@example(texts=['say "hi"\nand go', "a, b; c", "x\u2028y\x85z\x0cw"])
def test_tables_keep_what_was_written_into_them(three, texts):
    texts = ["x " + text.encode("utf-8", "ignore").decode() for text in texts]
    table = io.StringIO(newline="")
    names = ["a.png", "b.png", "sub/c.png"]
    csv.writer(table).writerows([["file_name", "text"], *zip(names, texts, strict=True)])
    entries = [entry(name, text) for name, text in zip(names, texts, strict=True)]
    raw = "\n".join(json.dumps(e, ensure_ascii=False) for e in entries)
    expected = dict(zip(names, (clean_captions([text], "") for text in texts), strict=True))
    for name, content in (("metadata.csv", table.getvalue()), ("metadata.jsonl", raw)):
        pairs = with_metadata(three, name, content)
        found = {row["image_id"]: row["captions"] for rows in pairs.values() for row in rows}
        assert found == expected


PARTS = st.sampled_from(["a.png", "b.png", "sub", "c.png", "..", ".", "away", "link.png", "", "/"])


@FEW
@given(st.lists(PARTS, min_size=1, max_size=5).map("/".join))
def test_no_name_leads_outside_the_folder(three, name):
    try:
        pairs = with_metadata(three, "metadata.jsonl", lines_of(*REST, entry(name)))
    except (ValueError, FileNotFoundError) as error:
        assert is_one_sentence(str(error))
        return
    for rows in pairs.values():
        for row in rows.cast_column("image", datasets.Image(decode=False)):
            assert three in Path(row["image"]["path"]).resolve().parents


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["file_name", "text", "captions", "caption_0", "caption_1", "other"])
VALUES = JSON | st.sampled_from(["a.png", "b.png", ["one", "two"]])


@FEW
@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4) | JSON, max_size=4))
def test_any_metadata_is_read_or_refused_in_one_sentence(three, entries):
    try:
        pairs = with_metadata(three, "metadata.jsonl", lines_of(*REST, *entries))
    except (ValueError, FileNotFoundError) as error:
        assert is_one_sentence(str(error)), error
    else:
        assert all(
            map(is_visible, (t for rows in pairs.values() for c in rows["captions"] for t in c))
        )


@FEW
@given(st.binary(max_size=200))
def test_any_bytes_as_a_table_are_read_or_refused(three, content):
    for name in ("metadata.csv", "metadata.jsonl"):
        with pytest.raises((ValueError, FileNotFoundError)) as refused:
            with_metadata(three, name, content)
        assert is_one_sentence(str(refused.value)), refused.value


# Names of files


HOSTILE_NAMES = [
    "a b.png",
    "new\nline.png",
    "<img src=x onerror=alert(1)>.png",
    "'; DROP TABLE.png",
    "\u202egnp.exe.png",
    "猫🐱.png",
    "%00%2e%2e.png",
    "{0}{name}.png",
    "x" * 240 + ".png",
    "-rf.png",
]


def test_hostile_names_are_only_names(tmp_path, small_model):
    different = [encoded(photograph(seed=n), "PNG") for n in range(len(HOSTILE_NAMES))]
    folder = captioned(tmp_path, dict(zip(HOSTILE_NAMES, different, strict=True)), count=3)
    pairs = load_pairs(folder)
    ids = {name for rows in pairs.values() for name in rows["image_id"]}
    assert ids >= set(HOSTILE_NAMES)
    assert len(decode_pixels(pairs["train"], 8)) == len(pairs["train"])
    assert {p.name for p in ImageIndex.from_folder(small_model, folder).paths} == ids


def test_a_name_that_is_no_text_is_refused_or_skipped(tmp_path, caplog):
    folder = captioned(tmp_path, {}, count=3)
    odd = os.fsencode(folder) + b"/caf\xe9"
    for ending in (b".png", b".txt"):
        try:
            Path(os.fsdecode(odd + ending)).write_bytes(encoded(photograph(), "PNG"))
        except OSError:
            pytest.skip("this file system takes only names that are text")
    with pytest.raises(ValueError, match="not valid text: rename the file") as refused:
        load_pairs(folder)
    str(refused.value).encode()  # can be printed anywhere
    assert sum(map(len, load_pairs(folder, skip_broken=True).values())) == 3
    assert "Skipped 1 of" in caplog.text


# Sizes of splits


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_pictures_are_refused(count, tmp_path):
    with pytest.raises(ValueError, match=f"has {count} captioned picture") as refused:
        load_pairs(captioned(tmp_path, {}, count))
    assert is_one_sentence(str(refused.value))


@settings(max_examples=8, deadline=None)
@given(count=st.integers(3, 40))
def test_drawn_splits_share_out_every_picture_once(count):
    with tempfile.TemporaryDirectory() as folder:
        pairs = load_pairs(captioned(Path(folder), {}, count))
        ids = [name for rows in pairs.values() for name in rows["image_id"]]
        assert len(ids) == len(set(ids)) == count and all(map(len, pairs.values()))


@pytest.mark.parametrize("broken", [1, 5])
def test_a_broken_picture_moves_no_other_into_another_split(broken, tmp_path):
    """What one run trained on, no later reading of the folder may call its test pictures."""
    folder = captioned(tmp_path, {}, count=60)
    whole = {split: set(rows["image_id"]) for split, rows in load_pairs(folder).items()}
    assert min(map(len, whole.values())) > broken
    for number in range(broken):
        (folder / f"good {number}.png").write_bytes(b"")
    left = {s: set(r["image_id"]) for s, r in load_pairs(folder, skip_broken=True).items()}
    assert sum(map(len, left.values())) == 60 - broken
    assert all(left[split] <= whole[split] for split in whole)


def test_an_empty_split_is_refused(tmp_path):
    captioned(tmp_path / "train", {}, count=4)
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"No captioned pictures in .*test"):
        load_pairs(tmp_path)


def test_fewer_pictures_than_a_batch_are_refused(tmp_path):
    folder = captioned(tmp_path / "pictures", {}, count=5)
    config = TrainConfig(data=str(folder), out=str(tmp_path / "run"), batch_size=4)
    with pytest.raises(ValueError, match="fewer than one batch of 4") as refused:
        train(config, progress=False)
    assert is_one_sentence(str(refused.value)) and not (tmp_path / "run").exists()


def test_one_picture_is_enough_to_search_and_to_measure(tmp_path, small_model):
    folder = captioned(tmp_path, {}, count=1)
    index = ImageIndex.from_folder(small_model, folder)
    assert [hit.name for hit in index.search("anything", 9)] == ["good 0.png"]
    rows = datasets.Dataset.from_dict(
        {"image": [str(folder / "good 0.png")], "captions": [["one"]], "image_id": ["0"]}
    ).cast_column("image", datasets.Image())
    assert set(evaluate_retrieval(small_model, rows).values()) == {1.0}
    assert zero_shot_classify(small_model, list(rows["image"]), ["a cat"]).tolist() == [[1.0]]


def test_no_picture_at_all_has_no_vectors_and_no_recall(small_model):
    rows = load_pairs("emoji")["validation"].select([])
    with pytest.raises(ValueError, match="at least one image and one text") as refused:
        evaluate_retrieval(small_model, rows)
    assert is_one_sentence(str(refused.value))
    with pytest.raises(ValueError, match="The index is empty"):
        ImageIndex.from_dataset(small_model, rows).search("a cat")
    assert small_model.encode_image([]).shape == small_model.encode_text([]).shape == (0, 16)
    assert zero_shot_classify(small_model, [], ["a cat", "a dog"]).shape == (0, 2)


# Models


CONFIG_FAULTS = {
    "another version's setting": {"rotary": True},
    "a setting of no value": {"temperature": None},
    "a word for a number": {"embed_dim": "many"},
    "no list of numbers": {"image_mean": 0.5},
    "no ViT": {"vision": None},
    "a list for a ViT": {"vision": [1]},
    "another version's ViT": {"vision": {"registers": 4}},
    "a word in the ViT": {"vision": {"depth": "two"}},
    "no text encoder": {"text_config": 5},
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_model_of_another_version_is_refused_in_one_sentence(fault, tmp_path, small_model):
    small_model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | CONFIG_FAULTS[fault]))
    with pytest.raises(ValueError, match="damaged, or of another version of distilclip") as refused:
        DistilCLIP.from_pretrained(tmp_path)
    assert is_one_sentence(str(refused.value))


def test_any_cut_of_a_models_files_is_refused_in_one_sentence(tmp_path, small_model):
    small_model.save_pretrained(tmp_path)
    draw = random.Random(0)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        whole = (tmp_path / name).read_bytes()
        for size in (0, 1, 7, 8, 9, *draw.sample(range(len(whole) - 2), 12)):
            (tmp_path / name).write_bytes(whole[:size])
            fault = r"The tokenizer in .* is damaged" if "tokenizer" in name else re.escape(name)
            with pytest.raises(ValueError, match=fault) as refused:
                DistilCLIP.from_pretrained(tmp_path)
            assert is_one_sentence(str(refused.value)), refused.value
        (tmp_path / name).write_bytes(whole)
    DistilCLIP.from_pretrained(tmp_path)


def test_damaged_checkpoints_are_refused_in_one_sentence(tmp_path, tiny_text):
    text, vit = tmp_path / "text", tmp_path / "vit"
    shutil.copytree(tiny_text, text)
    (text / "tokenizer.json").write_text('{"version": "1.0", "truncation": {"stride": 0}}')
    vit.mkdir()
    (vit / "model.safetensors").touch()
    (vit / "config.json").write_text('{"model_type": "vi')
    for load, folder in ((TextEncoder.from_pretrained, text), (ViT.from_pretrained, vit)):
        with pytest.raises(ValueError, match="is damaged") as refused:
            load(folder)
        assert is_one_sentence(str(refused.value)) and str(folder) in str(refused.value)


def test_checkpoints_of_other_kinds_are_refused_in_one_sentence(tmp_path):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
    sizes |= {"intermediate_size": 48}
    eyes = {"image_size": 32, "patch_size": 16}
    cases = {
        "has no biases": (transformers.ViTModel, {**eyes, "qkv_bias": False}, ViT),
        "with activation 'relu'": (transformers.ViTModel, {**eyes, "hidden_act": "relu"}, ViT),
        "lacks the tensor": (transformers.ViTModel, eyes, ViT),
        "GELU activations": (transformers.BertModel, {"hidden_act": "relu"}, TextEncoder),
    }
    for number, (message, (kind, settings_, ours)) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        kind(kind.config_class(**sizes, **settings_)).save_pretrained(folder)
        if message == "lacks the tensor":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
        if ours is TextEncoder:
            tokenizer = TextEncoder.from_pretrained("minilm").tokenizer
            tokenizer.save_pretrained(folder)
        with pytest.raises(ValueError, match=message) as refused:
            ours.from_pretrained(folder)
        assert is_one_sentence(str(refused.value)), refused.value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistilCLIPConfig(image_pool="last"), "image_pool must be"),
        (lambda: DistilCLIPConfig(temperature=0), "temperature must be positive"),
        (lambda: TextEncoder(None, None, "last"), "pool must be 'cls' or 'mean'"),
        (lambda: TrainConfig(augmentation=-1), "augmentation must not be negative"),
        (lambda: train(TrainConfig(device="tpu", out="nowhere")), "Unknown device 'tpu'"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as refused:
        make()
    assert is_one_sentence(str(refused.value))
    assert not Path("nowhere").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="here there is one")
def test_a_gpu_that_is_not_there_is_said(tmp_path, capsys):
    assert main(["train", "--device", "cuda", "--out", str(tmp_path / "run")]) == 1
    assert "No CUDA device was found: use --device cpu." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_names_and_vectors_must_pair_up(small_model):
    with pytest.raises(ValueError, match="1 names, but 2 vectors"):
        ImageIndex(small_model, ["a"], torch.zeros(2, 16))


def test_links_that_lead_nowhere_are_no_pictures(tmp_path, small_model):
    folder = captioned(tmp_path, {}, count=2)
    (folder / "gone.png").symlink_to(folder / "never was.png")
    assert len(ImageIndex.from_folder(small_model, folder)) == 2


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt("Stopped at step 3 of 9; add --resume."), 130, "Stopped at step 3 of 9"),
        (KeyboardInterrupt(), 130, "Stopped."),
        (OSError(28, "No space left on device", "a/file"), 1, "No space left on device: a/file"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device"),
        (FloatingPointError("The loss became nan."), 1, "error: The loss became nan."),
    ],
)
def test_whatever_ends_a_command_is_said_in_one_line(error, status, said, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("distilclip.command.cli.run_evaluate", fail)
    assert main(["evaluate", "run"]) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"x": "../y"}}', "\xff"]
)
def test_a_list_of_weights_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "model.safetensors.index.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"index\.json") as refused:
        ViT.from_pretrained(tmp_path)
    assert is_one_sentence(str(refused.value))


# Data sets in parquet


def parquet(folder, split="train", **columns):
    (folder / "data").mkdir(parents=True, exist_ok=True)
    features = {name: datasets.Value("string") for name in columns}
    features |= {"image": datasets.Image()} if "image" in columns else {}
    rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_bad_rows_of_a_data_set_are_refused_or_skipped(tmp_path, broken_files, caplog):
    good = [encoded(photograph(seed=n), "PNG") for n in range(6)]
    images = [{"bytes": content, "path": None} for content in good]
    images[1] = None
    images[2] = {"bytes": broken_files["cut.png"], "path": None}
    folder = parquet(tmp_path, image=images, text=["a", "b", "c", None, "e", "f"])
    with pytest.raises(ValueError, match="There is no picture in row 1 of train"):
        load_pairs(folder)
    pairs = load_pairs(folder, skip_broken=True)
    ids = sorted(name for rows in pairs.values() for name in rows["image_id"])
    assert ids == ["train/0", "train/4", "train/5"]
    assert "Skipped 3 of" in caplog.text and "no picture in row 1 of train" in caplog.text
    rows = datasets.Dataset.from_dict({"image": images, "image_id": list("abcdef")})
    rows = rows.cast_column("image", datasets.Image())
    with pytest.raises(ValueError, match="'b': there is no image"):
        decode_pixels(rows, 8, cache=tmp_path / "cache")


def test_captions_of_a_data_set_must_be_utf8(tmp_path):
    """Arrow does not look into the bytes that a writer calls text."""
    folder = parquet(tmp_path, image=[photograph()] * 4, text=["a", "cafe!", "c", "d"])
    (file,) = (folder / "data").iterdir()
    file.write_bytes(file.read_bytes().replace(b"cafe!", b"caf\xe9!"))
    with pytest.raises(ValueError, match="captions that are not UTF-8 text") as refused:
        load_pairs(folder)
    assert is_one_sentence(str(refused.value))


def test_a_split_with_nothing_but_broken_rows_is_refused(tmp_path):
    image = [{"bytes": encoded(photograph(seed=n), "PNG"), "path": None} for n in range(4)]
    folder = parquet(tmp_path, image=image, text=list("abcd"))
    parquet(tmp_path, "test", image=[None, None], text=["e", ""])
    with pytest.raises(ValueError, match=r"The split 'test' of .* is empty") as refused:
        load_pairs(folder, skip_broken=True)
    assert is_one_sentence(str(refused.value))


def test_data_sets_at_fault_are_named(tmp_path):
    image = [{"bytes": encoded(photograph(seed=n), "PNG"), "path": None} for n in range(4)]
    text = list("abcd")
    cases = {
        "no column of images": parquet(tmp_path / "a", text=text),
        "has no captions": parquet(tmp_path / "b", image=image, words=text),
        "Cannot read the data set": parquet(tmp_path / "d", image=image, text=text),
        "no data|is empty": parquet(tmp_path / "e", image=image, text=text),
    }
    parquet(tmp_path / "e", "test", image=[], text=[])
    (file,) = (tmp_path / "d" / "data").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    for message, folder in cases.items():
        with pytest.raises(ValueError, match=message) as refused:
            load_pairs(folder)
        assert is_one_sentence(str(refused.value)), refused.value


# Names on the Hub, without a network


@pytest.fixture
def online(monkeypatch):
    """The libraries as they are for a user, who has not said that there is no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)


def test_without_a_network_the_sentence_comes_at_once(online, monkeypatch, tmp_path):
    def no_name(*_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", no_name)
    start = time.monotonic()
    for attempt in (lambda: find_file("no/run", "config.json"), lambda: load_hub("no/data")):
        with pytest.raises(FileNotFoundError, match="Cannot get") as refused:
            attempt()
        assert is_one_sentence(str(refused.value))
    assert time.monotonic() - start < 8
    assert not huggingface_hub.constants.HF_HUB_OFFLINE  # a network that comes back is used
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_folder_needs_no_network(online, monkeypatch, tmp_path):
    def fail(*_):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(socket, "create_connection", fail)
    with offline_without_network(tmp_path):
        assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_slow_network_is_a_network(online, monkeypatch):
    with socket.socket() as listener:  # accepts nothing, answers nothing
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        assert not network_is_missing()
    assert network_is_missing()  # the same address, now closed
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy:3128"})
    assert not network_is_missing()

    def too_slow(*_):
        raise TimeoutError

    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", too_slow)
    assert not network_is_missing()


# The command


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(query=ANY_TEXT)
@example(query="\x00")
@example(query="word " * 10_000)
@example(query="<b>")
@example(query="\udce9")
def test_any_query_is_answered_or_refused(query, small_model, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("distilclip.command.cli.load_run", lambda name: small_model)
    folder = captioned(tmp_path / "pictures", {}, count=3)
    try:
        status = main(
            ["search", "run", "--html", str(tmp_path / "x.html"), "--", query, str(folder)]
        )
    except SystemExit as stopped:
        status = stopped.code
    output = capsys.readouterr()
    assert status in (0, 1, 2) and "Traceback" not in output.err
    if status == 0:
        assert len([line for line in output.out.splitlines() if ".png" in line]) == 3
    else:
        assert query.strip() == "" or query.startswith("-") or max(query) >= "\ud800"


def test_random_arguments_never_end_in_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "evaluate", "search", "--data", "--out", "--preset", "cpu", "x", "--resume"]
    words += ["--epochs", "-1", "1e99", "nan", "--lr", "--image-size", "0", "", "\u202e", "-k", "9"]
    words += ["--batch-size", "1", "--device", "cuda:99", "tpu", "--precision", "float8"]
    generator = random.Random(0)
    for _ in range(60):
        arguments = generator.choices(words, k=generator.randint(0, 6))
        try:
            status = main([*arguments, "--data", "nowhere"])
        except SystemExit as stopped:
            status = stopped.code
        assert status in (1, 2), arguments
    assert "Traceback" not in capsys.readouterr().err
    assert PngImagePlugin.MAX_TEXT_CHUNK  # Pillow's own limit is still what stops a comment bomb

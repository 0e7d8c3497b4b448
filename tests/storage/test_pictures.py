"""A picture of any kind is found, is what it is, and becomes upright RGB and pixels."""

import importlib
import io
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from distilclip.storage import pictures as pictures_module
from distilclip.storage.pictures import (
    FORMATS,
    IMAGE_SUFFIXES,
    decode_image,
    describe_others,
    find_fault,
    find_pictures,
    normalise_pixels,
    open_picture,
    read_picture,
    read_pictures,
    square,
    thumbnail,
    to_rgb,
)

Image.init()
WRITTEN = [name for name in FORMATS if name in Image.SAVE]


def drawn(format_name):
    """A picture, black above and white below, as a file of this format."""
    picture = Image.new("L", (16, 16))
    picture.paste(255, (0, 8, 16, 16))
    for mode in ("RGB", "1", "P"):
        try:
            picture.convert(mode).save(file := io.BytesIO(), format_name)
        except (OSError, ValueError):  # the format has other modes
            continue
        return file.getvalue()
    raise AssertionError(format_name)


@pytest.mark.parametrize("kind", WRITTEN)
def test_every_format_that_pillow_writes_and_reads_is_read_whatever_it_is_called(kind, tmp_path):
    names = [f"a{suffix}" for suffix in (*FORMATS[kind], FORMATS[kind][0].upper(), ".jpg")]
    for name in names:
        (tmp_path / name).write_bytes(drawn(kind))
    assert set(find_pictures(tmp_path).pictures) == {*names}
    for batch, _, errors in read_pictures(tmp_path, names, 16, 64):
        assert batch == list(dict.fromkeys(names)) and not errors
    for picture in (
        read_picture(tmp_path / names[0], 16),
        thumbnail(tmp_path / names[0], 16),
        to_rgb(decode_image({"bytes": drawn(kind), "path": None})),
    ):
        pixels = np.asarray(square(picture, 16))  # ICNS makes it larger
        assert pixels[:6].mean() < 20 and pixels[10:].mean() > 235


def test_every_suffix_that_pillow_knows_is_one_of_ours_or_left_out_on_purpose():
    others = {kind for suffix, kind in Image.EXTENSION.items() if suffix not in IMAGE_SUFFIXES}
    run_a_program, only_known = {"EPS", "PDF", "WMF"}, {"BUFR", "GRIB", "HDF5", "MPEG", "PALM"}
    measured, taken = {"FITS"}, {"GBR", "IPTC", "PCD"}
    assert others <= run_a_program | only_known | measured | taken | {"HEIF"}
    assert not run_a_program & set(FORMATS)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps"])
def test_no_other_program_is_started_whatever_a_drawing_is_called(suffix, tmp_path, monkeypatch):
    def start(*arguments, **options):
        raise AssertionError("started a program")

    monkeypatch.setattr("subprocess.Popen.__init__", start)
    file = tmp_path / f"drawing{suffix}"
    Image.new("RGB", (8, 8)).save(file, "EPS")
    for read in (open_picture, lambda f: read_picture(f, 8), lambda f: thumbnail(f, 8)):
        with pytest.raises(ValueError, match="an EPS or PostScript drawing"):
            read(file)
    assert "EPS" in find_fault({"bytes": file.read_bytes(), "path": None})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"\xef\xbb\xbf <svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 99, "a HEIC picture: install pillow-heif"),
        (b"", "it is empty"),
        (b"once upon a time" * 9, "in no image format"),
    ],
)
def test_what_is_no_picture_is_named(content, said):
    assert said in find_fault({"bytes": content, "path": None})


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_a_picture_or_refused(content):
    try:
        picture = decode_image({"bytes": content, "path": None})
    except ValueError as error:
        assert str(error)
    else:
        assert picture.size


def test_heic_is_read_where_there_is_a_reader(monkeypatch, tmp_path):
    registered = []

    class Reader:
        @staticmethod
        def register_heif_opener():
            registered.append(True)

    monkeypatch.setattr(pictures_module, "HAS_HEIC", True)
    monkeypatch.setitem(importlib.sys.modules, "pillow_heif", Reader)
    monkeypatch.setitem(
        Image.OPEN, "HEIF", (lambda file, name: Image.new("RGB", (3, 5)), lambda start: True)
    )
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"no picture" * 9), formats=["PNG"])
    assert open_picture(io.BytesIO(b"no picture" * 9)).size == (3, 5) and registered


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path):
    for name in ("a.png", "b.JPEG", "a.txt", "b.TXT", "c.heic", "README", ".hidden", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.txt").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "e.xyz").write_bytes(b"")
    found = find_pictures(tmp_path)
    assert set(found.pictures) == {"a.png", "b.JPEG"} and not found.closed
    assert found.others == {".txt": 3, "": 1, ".heic": 1}
    line = describe_others(found.others)
    assert line.startswith("5 files are of kinds that are not read: 3 .txt, 1 without a suffix")
    assert "1 .heic" in line and "distilclip[heic]" in line
    assert describe_others({".pdf": 1}) == "1 file is of a kind that is not read: 1 .pdf"


def test_floats_count_to_one_or_to_255():
    shades = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    for values in (shades, shades * 255):
        pixels = np.asarray(to_rgb(Image.fromarray(values)))[..., 0]
        assert np.abs(pixels - shades * 255).max() <= 1
    shades[0, 0] = np.nan
    assert to_rgb(Image.fromarray(shades)).getpixel((0, 0)) == (0, 0, 0)


def test_images_become_upright_rgb_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.full((4, 4), 65535, np.uint16))
    assert to_rgb(deep).getpixel((0, 0)) == (255, 255, 255)
    tall = Image.new("RGB", (2, 6), "red")
    tall.getexif()[0x0112] = 6  # turned by a quarter
    assert to_rgb(tall).size == (6, 2)
    for mode in ("1", "L", "P", "CMYK", "LA", "F"):
        assert to_rgb(Image.new(mode, (3, 3))).mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (5, 900), (33, 32)])
def test_any_size_becomes_a_square(size):
    assert square(Image.new("RGB", size), 16).size == (16, 16)


def test_normalising_bytes_is_normalising_what_they_stand_for():
    pixels = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4) * 5
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    expected = normalise_pixels(pixels.float() / 255, mean, std)
    assert torch.equal(normalise_pixels(pixels, mean, std), expected)
    assert pixels.dtype == torch.uint8 and pixels.max() == 235  # not changed themselves


# What takes too much


def encoded(image, format_name):
    image.save(file := io.BytesIO(), format_name)
    return file.getvalue()


def progressive(scans):
    """A JPEG with a header that says how many scans follow; the last is repeated."""
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * scans + content[-2:]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (lambda: encoded(Image.new("1", (16_384, 8_193)), "PNG"), "134,234,112 pixels, more than"),
        (lambda: encoded(Image.new("1", (8_193, 16_384)), "TIFF"), "134,234,112 pixels, more than"),
        (lambda: progressive(300), "scans, more than the 200"),
        (lambda: progressive(3), None),
        (lambda: encoded(Image.new("1", (10_000, 9_500)), "PNG"), None),
    ],
)
def test_what_would_take_too_much_is_refused_in_words(content, fault, tmp_path):
    """And below the limit nothing is said, not by Pillow either."""
    content = content()
    file = tmp_path / "picture.png"
    file.write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        found = find_fault({"bytes": content, "path": None})
        assert (found is None) if fault is None else fault in found
        if fault:
            with pytest.raises(ValueError, match=fault):
                read_picture(file, 16)
        else:
            assert read_picture(file, 16).size == (16, 16)
    assert not said


@pytest.mark.slow
def test_no_warning_of_pillow_s_about_size_is_shown(tmp_path):
    """In a process of its own, whose filters are those that a user has."""
    Image.new("1", (10_000, 9_500)).save(tmp_path / "large.png")
    code = "import pathlib, sys; from distilclip.storage.pictures import read_picture; "
    code += "read_picture(pathlib.Path(sys.argv[1]), 16)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        [*command, tmp_path / "large.png"], capture_output=True, text=True, check=True
    )
    assert "Bomb" not in done.stderr


def test_one_large_picture_is_decoded_at_a_time(tmp_path, monkeypatch):
    """Small ones meanwhile, and as many as there are threads."""
    monkeypatch.setattr(pictures_module, "LARGE", 1000)
    inside = {True: [0, 0], False: [0, 0]}  # now, and the most
    both = threading.Barrier(2, timeout=20)
    original = pictures_module.square

    def square(image, size):
        count = inside[image.width > 30]
        count[0] += 1
        count[1] = max(count)
        if image.width <= 30:
            both.wait()
        time.sleep(0.01)
        count[0] -= 1
        return original(image, size)

    monkeypatch.setattr(pictures_module, "square", square)
    for number in range(6):
        Image.new("RGB", (40, 40)).save(tmp_path / f"large{number}.png")
    for number in range(2):
        Image.new("RGB", (9, 9)).save(tmp_path / f"small{number}.png")
    names = sorted(file.name for file in tmp_path.iterdir())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: pictures_module.read_picture(tmp_path / name, 8), names))
    assert inside == {True: [0, 1], False: [0, 2]}

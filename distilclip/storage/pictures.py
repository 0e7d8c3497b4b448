"""Pictures: which files are some, how one is decoded, and the pixels for a model.

The one walk over a folder of pictures, the one way to decode a file, and what
follows: upright RGB, the middle square, uint8 pixels, normalised pixels. Training,
search and galleries all read pictures through here, so that a model is shown later
what it was shown before.
"""

import contextlib
import errno
import importlib
import importlib.util
import io
import logging
import os
import re
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from distilclip.storage.spare import threads
from distilclip.storage.terminal import printable

LOG = logging.getLogger("distilclip.pictures")
Picture = Image.Image | str | os.PathLike | np.ndarray | Tensor
Pictures = Picture | Sequence[Picture]
AS_NUMBERS = "as uint8, or as floats in [0, 1]"
LARGEST = (
    2**27
)  # pixels of a picture that is read: a file of a few KB can ask for more
LARGE = 2**24  # of such pictures one is in memory at a time
MOST_SCANS = 200  # of a progressive JPEG, each of which takes as long as the first
ONE_LARGE = threading.Lock()
# Pillow's warning comes below our own limit, which has a sentence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
PIXELS_VERSION = 2  # to be raised when `square` gives other pixels than before

# The formats that Pillow decodes by itself, and the endings of their files. Not
# those that it hands to another program (EPS to Ghostscript, WMF and EMF to
# Windows), that it only recognises (BUFR, GRIB, HDF5, MPEG), or that hold
# measurements (FITS, MCIDAS, SPIDER). Of the rest, GBR, IPTC and PCD are missing,
# whose endings are now those of other files. TGA has no mark by which to know it,
# so it is tried last.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "PSD": (".psd",),
    "ICO": (".ico",),
    "CUR": (".cur",),
    "ICNS": (".icns",),
    "QOI": (".qoi",),
    "DDS": (".dds",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "PCX": (".pcx",),
    "DCX": (".dcx",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
    "SUN": (".ras",),
    "BLP": (".blp",),
    "FLI": (".fli", ".flc"),
    "FTEX": (".ftc", ".ftu"),
    "IM": (".im",),
    "MSP": (".msp",),
    "PIXAR": (".pxr",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
TEXT_SUFFIXES = (".txt", ".md")  # captions and notes, which a search does not need
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
HEIC_ADVICE = "install pillow-heif, or distilclip[heic], to read HEIC"
HAS_HEIC = importlib.util.find_spec("pillow_heif") is not None
IMAGE_SUFFIXES = {suffix for suffixes in FORMATS.values() for suffix in suffixes}
IMAGE_SUFFIXES.update(HEIC_SUFFIXES if HAS_HEIC else ())
# What files that are no pictures begin with, though they may be called so
NO_PICTURES = {
    b"%!PS": "an EPS or PostScript drawing",
    b"\xc5\xd0\xd3\xc6": "an EPS drawing",
    b"%PDF": "a PDF document",
    b"\xd7\xcd\xc6\x9a": "a WMF drawing",
    b"<svg": "an SVG drawing",
    b"<?xml": "an SVG drawing, or other XML",
}


class PictureSize(int):
    """The side of a square in pixels, and another way to it than `square` has.

    With `way` "shortest" the shorter side is resized to `edge` pixels, and the
    middle is cut out; with "squash" both sides are, whatever the shape, and what is
    beyond this size is cut off at the right and below. `resample` is Pillow's
    number of a filter. It is a number like any other, so that it goes wherever a
    size is asked for.
    """

    way: str
    edge: int
    resample: int

    def __new__(
        cls, side: int, way: str = "shortest", edge: int = 0, resample: int = 3
    ):
        size = super().__new__(cls, side)
        size.way, size.edge, size.resample = way, edge or side, resample
        return size

    def cut(self, image: Image.Image) -> Image.Image:
        """An RGB image brought to this size, as `transformers` does it."""
        left, top, target = 0, 0, (self.edge, self.edge)
        if self.way == "shortest":
            short, long = sorted(image.size)
            longer = int(self.edge * long / short)
            upright = image.width == short
            target = (self.edge, longer) if upright else (longer, self.edge)
            left, top = (target[0] - self) // 2, (target[1] - self) // 2
        image = image.resize(target, Image.Resampling(self.resample))
        return image.crop((left, top, left + self, top + self))


OF_PYTHON = re.compile(
    "invalid literal|codec can't|unpack|out of range|not enough values|unsupported "
    "operand|not subscriptable|required argument"
)
LEADS_OUT = "A link that leads out of the folder"


class FoundPictures(NamedTuple):
    """What `find_pictures` has found in a folder.

    - pictures: the path of each within the folder, with slashes, and its status.
    - closed: why folders or links were not followed.
    - others: how many files are no pictures, by suffix, the commonest first.
    """

    pictures: dict[str, os.stat_result]
    closed: list[OSError]
    others: dict[str, int]


def find_pictures(folder: Path) -> FoundPictures:
    """Every picture below `folder`, in the order of their paths.

    Hidden files and folders are left out. Links that lead nowhere or out of the
    folder, and what is no plain file, are no pictures.
    """
    root = os.path.join(os.path.realpath(folder), "")
    found: dict[str, os.stat_result] = {}
    closed: list[OSError] = []
    others: Counter[str] = Counter()
    for place, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            suffix = path.suffix.lower()
            if name.startswith("."):
                continue
            if suffix not in IMAGE_SUFFIXES:
                others[suffix] += 1
                continue
            try:
                status = path.lstat()
                if stat.S_ISLNK(status.st_mode):
                    status = path.stat()
                    if not os.path.realpath(path).startswith(root):
                        raise OSError(errno.EXDEV, LEADS_OUT, str(path))
            except FileNotFoundError:
                if path.is_symlink():  # else it is gone since
                    others[f"{suffix} that leads nowhere"] += 1
                continue
            except OSError as error:  # a link to itself, or into a closed folder
                closed.append(error)
                continue
            if stat.S_ISREG(status.st_mode):
                found[path.relative_to(folder).as_posix()] = status
            elif not stat.S_ISDIR(status.st_mode):  # a pipe, a device
                closed.append(OSError(errno.EINVAL, "No plain file", str(path)))
    in_order = sorted(found, key=lambda name: name.split("/"))
    counted = dict(sorted(others.items(), key=lambda item: (-item[1], item[0])))
    return FoundPictures({name: found[name] for name in in_order}, closed, counted)


def describe_others(others: dict[str, int]) -> str:
    """Files that are no pictures, by their number and suffix, in one line.

    "12 files are of kinds that are not read: 8 .txt, 3 .pdf, 1 without a suffix".
    """
    total = sum(others.values())
    kinds = [f"{n} {suffix or 'without a suffix'}" for suffix, n in others.items()]
    more = f", and {len(kinds) - 8} more kinds" if len(kinds) > 8 else ""
    start = "1 file is" if total == 1 else f"{total} files are"
    kind = "a kind that is" if len(kinds) == 1 else "kinds that are"
    advice = f" ({HEIC_ADVICE})" if others.keys() & set(HEIC_SUFFIXES) else ""
    return f"{start} of {kind} not read: {', '.join(kinds[:8])}{more}{advice}"


def open_picture(file: str | Path | BinaryIO) -> Image.Image:
    """A picture that is not decoded yet: what it is, whatever it is called.

    Only the formats of `FORMATS` are tried, and HEIC where pillow-heif is
    installed. Raises ValueError, a part of a sentence, for other kinds of files
    that are known by their first bytes and for pictures that would take too much
    memory or time, UnidentifiedImageError for the rest.
    """
    Image.init()  # every format of this Pillow; older ones lack the newest
    formats = [name for name in FORMATS if name in Image.OPEN]
    if HAS_HEIC:
        importlib.import_module("pillow_heif").register_heif_opener()
        formats.append("HEIF")
    try:
        image = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        if kind := kind_of(file):
            raise ValueError(kind) from None
        raise
    if too_much := why_too_much(image):
        image.close()
        raise ValueError(too_much)
    return image


def why_too_much(image: Image.Image) -> str:
    """Why decoding a picture would take too much memory or time; "" if not."""
    pixels = image.width * image.height
    if pixels > LARGEST:
        return f"it has {pixels:,} pixels, more than the {LARGEST:,} that are read"
    file = getattr(image, "fp", None)
    if file is None or not image.info.get("progressive"):
        return ""
    place = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    file.seek(place)
    if scans > MOST_SCANS:
        return f"it has {scans:,} scans, more than the {MOST_SCANS} that are read"
    return ""


@contextlib.contextmanager
def room_for(image: Image.Image) -> Iterator[None]:
    """Wait until no other large picture is being decoded, if this one is large."""
    if image.width * image.height < LARGE:
        yield
    else:
        with ONE_LARGE:
            yield


def kind_of(file: str | Path | BinaryIO) -> str:
    """Why a file that is no picture is none, by its first bytes; "" if unknown."""
    if isinstance(file, str | Path):
        with open(file, "rb") as opened:
            start = opened.read(32)
    else:
        file.seek(0)
        start = file.read(32)
    brands = (
        b"heic",
        b"heix",
        b"heim",
        b"heis",
        b"hevc",
        b"hevx",
        b"mif1",
        b"msf1",
    )
    if start[4:8] == b"ftyp" and start[8:12] in brands:
        return f"it is a HEIC picture: {HEIC_ADVICE}"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for mark, kind in NO_PICTURES.items():
        if start.startswith(mark) or text.startswith(mark):
            return f"it is {kind}, no picture made of pixels"
    return ""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as upright RGB, on white where it is transparent."""
    if not isinstance(image, Image.Image):
        raise ValueError(
            "Expected a PIL image, a path, an array (H, W, 3) or a tensor "
            f"(3, H, W), got a {type(image).__name__}."
        )
    image.load()  # a truncated file is an error here, and none of those below
    with contextlib.suppress(Exception):  # damaged EXIF, of many kinds
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a channel
        high_bytes = np.asarray(image).clip(0, 65535) >> 8
        image = Image.fromarray(high_bytes.astype(np.uint8))
    if image.mode == "F":  # a file of floats counts to 1, or to 255
        values = np.nan_to_num(np.asarray(image))
        top = 255 if values.max(initial=0) <= 1 else 1
        image = Image.fromarray((values * top).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an image, resized to `size` pixels.

    Where `size` is a `PictureSize`, in its way.
    """
    if isinstance(size, PictureSize):
        return size.cut(to_rgb(image))
    return ImageOps.fit(to_rgb(image), (size, size), Image.Resampling.BICUBIC)


def in_a_list(images: Pictures) -> Any:
    """Pictures as a sequence of some: one alone becomes a sequence of one.

    A batch in a tensor or in an array is a sequence already.
    """
    if isinstance(images, Tensor | np.ndarray):
        return images if images.ndim > 3 else [images]
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return images
    if isinstance(images, str | bytes | Mapping) or not isinstance(
        images, Iterable
    ):
        return [images]
    return list(images)


def pixels_of(images: Pictures, size: int) -> Tensor:
    """Pictures -> pixels (B, 3, size, size), uint8, or floats in [0, 1].

    PIL images, paths, arrays (H, W, 3) and tensors (3, H, W), uint8 or floats in
    [0, 1], one or many, or a batch as one tensor or array. Floats that have the
    size stay floats; all else is made uint8 and brought to it by `square`, as a
    file is. Raises ValueError for what is no picture or cannot be decoded,
    FileNotFoundError for a path where there is none.
    """
    pictures = in_a_list(images)
    if isinstance(pictures, Tensor) and pictures.shape[2:] == (size, size):
        return checked_pixels(pictures)
    made = [one_picture(picture, size) for picture in pictures]
    if not all(pixels.dtype == torch.uint8 for pixels in made):
        made = [p / 255 if p.dtype == torch.uint8 else p.float() for p in made]
    shape = (0, 3, size, size)
    return torch.stack(made) if made else torch.empty(shape, dtype=torch.uint8)


def one_picture(image: Picture, size: int) -> Tensor:
    """A picture of any kind -> (3, size, size); see `pixels_of`."""
    if isinstance(image, np.ndarray):
        image = tensor_of_array(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) not in (1, 3, 4):
            raise ValueError(
                "Expected pixels as a tensor (3, H, W) or (B, 3, H, W), got the "
                f"shape {tuple(image.shape)}."
            )
        image = checked_pixels(image)
        if image.shape == (3, size, size):
            return image
        if image.dtype != torch.uint8:
            image = image.float().mul(255).round().byte()
        array = image.permute(1, 2, 0).cpu().numpy()
        image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    elif isinstance(image, str | os.PathLike):
        image = picture_at(Path(image).expanduser(), size)
    array = np.array(square(image, size))
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def tensor_of_array(array: np.ndarray) -> Tensor:
    """An array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as a tensor (C, H, W)."""
    array = array[:, :, np.newaxis] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ValueError(
            "Expected pixels as an array (H, W, 3) or (B, H, W, 3), got the shape "
            f"{array.shape}."
        )
    if array.dtype.kind not in "fu":
        raise ValueError(f"Expected pixels {AS_NUMBERS}, got {array.dtype}.")
    return torch.from_numpy(np.array(array, order="C")).permute(2, 0, 1)


def checked_pixels(pixels: Tensor) -> Tensor:
    """The same pixels, if they are uint8, or floats in [0, 1].

    Raises ValueError for other numbers: whether they count to 255, or are
    normalised already, cannot be told from them.
    """
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise ValueError(f"Expected pixels {AS_NUMBERS}, got {pixels.dtype}.")
    if pixels.numel():
        low, high = (value.item() for value in pixels.aminmax())
        if not (low >= -0.01 and high <= 1.01):  # some, of resizing, is no fault
            raise ValueError(
                f"Expected pixels {AS_NUMBERS}, got floats from {low:.3g} to "
                f"{high:.3g}. Pixels that are normalised are for embed_image."
            )
    return pixels.clamp(0, 1)


def picture_at(path: Path, size: int) -> Image.Image:
    """The picture in a file, for a model of that size; raises as `pixels_of`."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no picture {path}.")
    try:
        return read_picture(path, size)
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise ValueError(
            f"Cannot decode {path}: {why_undecodable(error)}."
        ) from None


def normalise_pixels(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Pixels, uint8 or float in [0, 1], less `mean` and over `std`, as float."""
    device, shape = pixels.device, (1, -1, 1, 1)
    means = torch.tensor(mean, device=device).view(shape)
    stds = torch.tensor(std, device=device).view(shape)
    if pixels.dtype != torch.uint8:
        return (pixels - means) / stds
    # In place: on a CPU, fresh memory for a batch costs more than the arithmetic.
    return pixels.float().div_(255).sub_(means).div_(stds)


def decode_image(image: dict | None) -> Image.Image:
    """An image from its `bytes`, or the file at its `path`, as `datasets` has them.

    Raises ValueError that says, as a part of a sentence, why it cannot be decoded.
    """
    content, path = (image or {}).get("bytes"), (image or {}).get("path")
    if content is None and path is None:
        raise ValueError("there is no image")
    try:
        content = Path(str(path)).read_bytes() if content is None else content
        opened = open_picture(io.BytesIO(content))
        with room_for(opened):
            opened.load()
    except Exception as error:  # Pillow raises many kinds for a broken file
        raise ValueError(why_undecodable(error)) from None
    return opened


def find_fault(image: dict | None) -> str | None:
    """Why an image, as `datasets` has it, cannot be decoded; None where it can."""
    try:
        decode_image(image)
    except ValueError as error:
        return str(error)
    return None


def refusal(name: str, fault: object) -> str:
    """The sentence for a picture of a data set that cannot be decoded."""
    return (
        f"Cannot decode the image {name!r}: {fault}. Repair it, take it out, or "
        "skip such pictures (--skip-broken, in Python skip_broken)."
    )


def why_undecodable(error: Exception) -> str:
    """What an error of Pillow means, as a part of a sentence."""
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, or in no image format that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return "it is so large (a decompression bomb?) that Pillow refuses it"
    reason = " ".join(str(error).split()).rstrip(".")
    if OF_PYTHON.search(reason):  # what a reader stumbles over, not what is wrong
        return "it is damaged"
    return reason or type(error).__name__


def read_picture(path: Path, size: int) -> Image.Image:
    """The picture at `path` as a model sees it: upright RGB, `size` x `size`.

    A large JPEG is decoded at a fraction of its size, never below twice `size`:
    several times as fast, and the result is as good as the same.
    """
    with open_picture(path) as image:
        image.draft("RGB", (2 * size, 2 * size))
        with room_for(image):
            return square(image, size)


def read_pictures(
    folder: Path, names: Sequence[str], size: int, batch_size: int
) -> Iterator[tuple[list[str], Tensor, list[tuple[str, Exception]]]]:
    """Batches of pictures: their names, their pixels, and what could not be read.

    The pixels are uint8 (B, 3, size, size); a failure is a name with its error.
    Several pictures are decoded at once, and no more than these are in memory at
    their full size.
    """

    def attempt(name: str) -> Tensor | Exception:
        try:
            image = np.array(read_picture(folder / name, size))
        except Exception as error:  # Pillow raises many kinds for a broken file
            return error
        return torch.from_numpy(image).permute(2, 0, 1)

    with threads(min(8, (os.cpu_count() or 1) + 1)) as spread:
        for start in range(0, len(names), batch_size):
            batch = names[start : start + batch_size]
            results = dict(zip(batch, spread(attempt, batch), strict=True))
            pixels = {n: p for n, p in results.items() if isinstance(p, Tensor)}
            errors = [
                (n, e) for n, e in results.items() if isinstance(e, Exception)
            ]
            stacked = torch.empty(0, 3, size, size)
            if pixels:
                stacked = torch.stack(list(pixels.values()))
            yield list(pixels), stacked, errors


def label_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, as it comes with matplotlib, for words in a picture."""
    from matplotlib import get_data_path  # whoever draws no words need not wait

    letters = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    try:
        return ImageFont.truetype(letters, size)
    except OSError:  # as FreeType says that it lacks memory
        raise MemoryError from None


def fitting_name(name: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """A name no wider than `width` pixels: what is cut is in its middle."""
    text, cut = printable(name), 0
    shown = text
    while font.getlength(shown) > width and cut < len(text):
        cut += 1
        start = (len(text) - cut) // 2
        shown = f"{text[:start]}…{text[start + cut :]}"
    return shown


def thumbnail(path: Path, size: int) -> Image.Image:
    """The picture at `path`, no side longer than `size`."""
    with open_picture(path) as image:
        # A large JPEG need not be decoded in full.
        image.draft("RGB", (2 * size, 2 * size))
        with room_for(image):
            picture = to_rgb(image)
            picture.thumbnail((size, size))
    return picture

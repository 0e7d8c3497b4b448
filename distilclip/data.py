"""Image-caption pairs: a name or a folder goes in, batches of pixels and captions come out.

Every source becomes a `datasets.DatasetDict` with the columns `image`, `captions` and
`image_id`; images are decoded and resized once and kept as uint8; whole batches are augmented as
tensors. Built in chapter 7.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from distilclip.files import write_whole
from distilclip.sources import decode_image, load_emoji, load_folder, load_hub, load_scenes

HUB_SOURCES = {"flickr8k": "jxie/flickr8k", "naruto": "lambda/naruto-blip-captions"}
CACHE_VERSION = 1  # to be raised when `square` gives other pixels than before


def load_pairs(source: str | Path, skip_broken: bool = False) -> datasets.DatasetDict:
    """Image-caption pairs with the splits train, validation and test.

    Every split has the columns `image` (decoded by PIL when read), `captions` (a list of one or
    more strings) and `image_id`. The sources:

    - "emoji": real drawings inside this package, offline. `train` holds five styles (Noto,
      Twemoji, OpenMoji, the older Noto blobs, EmojiOne); `test` shows the same concepts in a
      style never seen (Fluent); `test_concepts` shows, in that style, concepts never seen in
      any; `validation` holds Twemoji drawings of concepts that `train` shows in other styles.
    - "scenes": composed drawings made by code; `test_combinations` pairs colours and shapes
      that never meet in `train`.
    - "flickr8k", "naruto": photographs and anime images from the Hugging Face Hub.
    - a folder: pictures with a `metadata.csv` or `metadata.jsonl`, or a `.txt` of captions (one
      a line) beside each picture; or parquet files as the Hub has them.
    - a Hub id "owner/name": any data set with an image column and caption columns.

    Splits that a source does not have are drawn from its `train`, the same ones each time.
    Raises ValueError for a source that is not one of these or whose contents are at fault, and
    FileNotFoundError for one that cannot be reached. With `skip_broken`, each picture is decoded
    once to see whether it can be; the ones that cannot, or that have no caption, are left out,
    counted and listed in a warning.
    """
    name = str(source)
    if name == "emoji":
        return load_emoji()
    if name == "scenes":
        return load_scenes()
    if name in HUB_SOURCES:
        return load_hub(HUB_SOURCES[name], skip_broken)
    folder = Path(source).expanduser()
    if folder.is_dir():
        load = load_hub if any(folder.rglob("*.parquet")) else load_folder
        return load(folder, skip_broken)
    if name.count("/") == 1 and all(name.split("/")) and not name.startswith((".", "~")):
        return load_hub(name, skip_broken)
    raise ValueError(
        f"Unknown data source {name!r}: give emoji, scenes, flickr8k, naruto, a folder of pictures "
        "with captions, or a Hub id such as jxie/flickr8k."
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as upright RGB, on white where it is transparent."""
    if not isinstance(image, Image.Image):
        raise ValueError(f"Expected a PIL image, got a {type(image).__name__}.")
    image.load()  # a truncated file is an error here, and none of those below
    with contextlib.suppress(Exception):  # damaged EXIF, of many kinds: nobody knows what is up
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bits a channel
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an image, resized to `size` pixels."""
    return ImageOps.fit(to_rgb(image), (size, size), Image.Resampling.BICUBIC)


def pixels_of(images: Sequence[Image.Image], size: int) -> Tensor:
    """PIL images -> uint8 pixels (B, 3, size, size)."""
    arrays = np.stack([np.asarray(square(image, size)) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous()


def normalise_pixels(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 in [0, 255], or float in [0, 1], -> float with `mean` taken off and over `std`."""
    shape = (1, -1, 1, 1)
    mean, std = (torch.tensor(v, device=pixels.device).view(shape) for v in (mean, std))
    if pixels.dtype != torch.uint8:
        return (pixels - mean) / std
    # In place: on a CPU, fresh memory for a batch of pixels costs more than the arithmetic.
    return pixels.float().div_(255).sub_(mean).div_(std)


def decode_pixels(
    rows: datasets.Dataset, size: int, cache: str | Path | None = None, progress: bool = True
) -> Tensor:
    """Every image of a split, decoded and resized once -> uint8 (N, 3, size, size).

    With a `cache` folder the pixels are kept there, in a file named after the images' contents
    and the size, and mapped into memory: the next run starts at once and needs no RAM for them.
    A file that is damaged is made again. Raises ValueError that names an image that cannot be
    decoded.
    """
    if cache is None or len(rows) == 0:
        pixels = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
        fill_pixels(pixels.numpy(), rows, size, progress)
        return pixels
    file = Path(cache).expanduser() / f"{fingerprint(rows)}-{size}-v{CACHE_VERSION}.npy"
    shape = (len(rows), 3, size, size)

    def write(path: Path) -> None:
        array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        _reserve(path)  # a full disk ends in an error here, in a crash later
        fill_pixels(array, rows, size, progress)
        array.flush()

    if not _holds_array(file, shape):
        write_whole(file, write)
    return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))


def _holds_array(file: Path, shape: tuple[int, ...]) -> bool:
    """Whether `file` is a whole array of uint8 in this shape."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return array.shape == shape and array.dtype == np.uint8


def _reserve(file: Path) -> None:
    """Take the disk space that a new file will need; OSError where there is not enough."""
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def fill_pixels(array: np.ndarray, rows: datasets.Dataset, size: int, progress: bool) -> None:
    """Decode each image of `rows` into its place in `array` (N, 3, size, size)."""
    undecoded = rows.cast_column("image", datasets.Image(decode=False))
    bar = tqdm(undecoded, desc="decoding images", disable=not progress or len(rows) < 500)
    for position, row in enumerate(bar):
        try:
            image = square(decode_image(row["image"]), size)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"Cannot decode the image {row['image_id']!r}: {error}. Repair it, take it out, "
                "or skip such pictures (skip_broken)."
            ) from None
        array[position] = np.asarray(image).transpose(2, 0, 1)


def fingerprint(rows: datasets.Dataset) -> str:
    """A hash of the images of a split: of their bytes, or of path, size and time of their files."""
    digest = hashlib.sha256()
    for row in rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False)):
        image = row["image"] or {"bytes": None, "path": None}
        content = image["bytes"] or b""
        if not content and image["path"]:
            status = Path(image["path"]).stat()
            content = f"{image['path']} {status.st_size} {status.st_mtime_ns}".encode()
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


@dataclass
class Batch:
    """One training batch.

    `pixels` is uint8 (B, 3, S, S); `caption_ids` (B) says which caption was drawn for each
    image; `positives` (B, B) marks in row i each drawn caption that is also one of image i's.
    """

    pixels: Tensor
    caption_ids: Tensor
    positives: Tensor


class TrainingPairs:
    """A split ready for training: pixels, and every different caption once.

    `captions` lists the strings, `caption_ids` (N, K) holds each image's captions as positions
    in that list, filled up with -1. Two images that share a caption share its number: that is
    how a batch knows which off-diagonal pairs are no negatives.
    """

    def __init__(self, pixels: Tensor, captions_of_images: Sequence[Sequence[str]]):
        self.pixels = pixels
        self.captions = sorted({text for texts in captions_of_images for text in texts})
        number = {text: position for position, text in enumerate(self.captions)}
        self.counts = torch.tensor([len(texts) for texts in captions_of_images])
        self.caption_ids = torch.full((len(pixels), int(self.counts.max())), -1)
        for row, texts in enumerate(captions_of_images):
            self.caption_ids[row, : len(texts)] = torch.tensor([number[text] for text in texts])
        lengths = torch.tensor([*map(len, self.captions), 2**31])  # the last: of no caption, -1
        by_length = lengths[self.caption_ids].argsort(dim=1, stable=True)
        self.sorted_ids = self.caption_ids.gather(1, by_length)

    def __len__(self) -> int:
        return len(self.pixels)

    def draw(self, rows: Tensor, generator: torch.Generator, like_length: bool = False) -> Batch:
        """The images at `rows` (B), with one caption drawn at random for each.

        With `like_length` there is one draw for all: each image's shortest caption, or each one's
        second, up to the longest. Every caption has the chance that it had, but those of a batch
        are of like length, and little of it is padding.
        """
        draws = torch.rand(len(rows), generator=generator)
        own = self.caption_ids[rows]
        if like_length:
            draws, own = draws[0], self.sorted_ids[rows]
        choice = (draws * self.counts[rows]).long()
        drawn = own.gather(1, choice.unsqueeze(1)).squeeze(1)
        positives = (own.unsqueeze(1) == drawn.view(1, -1, 1)).any(dim=-1)
        return Batch(self.pixels.index_select(0, rows), drawn, positives)

    def epoch(self, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
        """Rows (B) of each batch of an epoch, shuffled; the incomplete last batch is left out.

        The order follows from `seed` and `epoch` alone, so that a resumed run finds its place.
        """
        order = torch.randperm(len(self), generator=seeded(seed, epoch))
        for start in range(0, len(self) - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def seeded(*numbers: int) -> torch.Generator:
    """A CPU random generator that depends on all of `numbers`, and on nothing else."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def augment(
    pixels: Tensor,
    generator: torch.Generator,
    shift: float = 0.1,
    scale: float = 0.25,
    turn: float = 15.0,
    colour: float = 0.4,
    grey: float = 0.1,
    flip: bool = False,
    texture: float = 0.0,
    shade: float = 0.0,
) -> Tensor:
    """A batch of random views: uint8 (B, 3, S, S) -> float in [0, 1], the same shape.

    Each image is moved by up to `shift` of its width, scaled by up to 1 ± `scale`, turned by up
    to `turn` degrees, mirrored if `flip`; its hue, saturation, brightness and contrast change by
    up to `colour`; a share `grey` loses its colour. `texture` and `shade` are those of
    `restyle`. The whole batch is done at once.
    """
    images = pixels.float() / 255
    batch = len(images)

    def uniform(width: float) -> Tensor:
        return (torch.rand(batch, generator=generator) * 2 - 1) * width

    angle = uniform(turn) * torch.pi / 180
    zoom = 1 / (1 + uniform(scale))
    mirror = torch.ones(batch)
    if flip:
        mirror = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = [cosine * mirror, -sine, uniform(2 * shift), sine * mirror, cosine, uniform(2 * shift)]
    affine = torch.stack(rows, dim=1).view(batch, 2, 3).to(images.device)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    matrix, offset = colour_change(
        uniform(colour), uniform(colour), uniform(colour), uniform(0.5 * colour)
    )
    is_grey = (torch.rand(batch, generator=generator) < grey).view(-1, 1, 1)
    matrix = torch.where(is_grey, LUMA.expand(3, 3) @ matrix, matrix).to(images.device)
    mixed = torch.einsum("bij,bjhw->bihw", matrix, images)
    images = (mixed + offset.view(-1, 1, 1, 1).to(images.device)).clamp(0, 1)
    return restyle(images, generator, texture, shade) if texture or shade else images


def restyle(images: Tensor, generator: torch.Generator, texture: float, shade: float) -> Tensor:
    """The same things, as if drawn by somebody else: float (B, 3, S, S) in [0, 1] -> the same.

    A share `texture` of the images is blended with what a random 3 x 3 convolution makes of it,
    by up to 60 %: outlines stay where they are, surfaces change (Xu et al., 2021). Then soft
    light and shadow, of up to `shade`, fall on all that is not white.
    """
    batch, channels, height, width = images.shape
    kernels = torch.randn(batch, channels, channels, 3, 3, generator=generator)
    blend = 0.6 * torch.rand(batch, 1, 1, 1, generator=generator)
    chosen = (torch.rand(batch, generator=generator) < texture).nonzero().squeeze(1)
    if len(chosen):
        kernels = kernels[chosen].flatten(0, 1).to(images.device) / math.sqrt(9 * channels)
        blend, chosen = blend[chosen].to(images.device), chosen.to(images.device)
        some = images[chosen]
        flat = F.pad(some.reshape(1, -1, height, width) - 0.5, (1, 1, 1, 1), mode="replicate")
        other = F.conv2d(flat, kernels, groups=len(chosen)).view_as(some) + 0.5
        images = images.index_copy(0, chosen, torch.lerp(some, other, blend).clamp(0, 1))

    light = (torch.rand(batch, 1, 3, 3, generator=generator) * 2 - 1) * shade
    light = F.interpolate(light, (height, width), mode="bicubic", align_corners=True)
    is_white = images.amin(dim=1, keepdim=True) > 0.97
    return (images + light.to(images.device) * ~is_white).clamp(0, 1)


LUMA = torch.tensor([[0.299, 0.587, 0.114]])  # how bright the eye sees red, green and blue
HUE_AXES = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def colour_change(
    hue: Tensor, saturation: Tensor, contrast: Tensor, brightness: Tensor
) -> tuple[Tensor, Tensor]:
    """A colour matrix (B, 3, 3) and an offset (B) for each image: new = matrix @ rgb + offset.

    The hue turns by `hue` (a share of a half turn) in the YIQ plane; saturation and contrast
    are multiplied by 1 + their value; brightness is added.
    """
    angle = hue * torch.pi
    turn = torch.zeros(len(hue), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = (1 + saturation) * angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -(1 + saturation) * angle.sin(), (1 + saturation) * angle.sin()
    matrix = HUE_AXES.inverse() @ turn @ HUE_AXES * (1 + contrast).view(-1, 1, 1)
    return matrix, brightness - 0.5 * contrast

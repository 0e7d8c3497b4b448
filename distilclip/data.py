"""Image-caption pairs: a name or a folder goes in, batches for training come out.

Every source becomes a `datasets.DatasetDict` with the columns `image`, `captions`
and `image_id`; images are decoded and resized once and kept as uint8; whole batches
are augmented as tensors. Built in chapter 7.
"""

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
from torch import Tensor
from tqdm import tqdm

from distilclip.sources.columns import asked_for
from distilclip.sources.hub import load_hub, load_memory
from distilclip.sources.recognise import (
    OWN_SOURCES,
    Source,
    load_own,
    load_path,
)
from distilclip.storage.files import holds_array, reserve_space, write_whole
from distilclip.storage.pictures import (
    PIXELS_VERSION,
    decode_image,
    refusal,
    square,
)

HUB_SOURCES = {"flickr8k": "jxie/flickr8k", "naruto": "lambda/naruto-blip-captions"}


def load_pairs(
    source: Source,
    skip_broken: bool = False,
    image_column: str | None = None,
    caption_column: str | Sequence[str] | None = None,
    split_column: str | None = None,
    delimiter: str | None = None,
) -> datasets.DatasetDict:
    """Image-caption pairs: one row a picture, in the splits that the source names.

    Every split has the columns `image` (decoded by PIL when read), `captions` (a
    list of one or more strings, all that the source has for the picture) and
    `image_id`. The sources:

    - "emoji", "scenes": real drawings inside this package, and composed ones.
    - "flickr8k", "naruto", a Hub id "owner/name": data sets of the Hub.
    - a folder, in one of the layouts of `distilclip.sources`, or a table in a file.
    - a `datasets.Dataset` or `DatasetDict`, a pandas `DataFrame`.

    Columns that their names do not give away are named by `image_column`,
    `caption_column` (one, or several) and `split_column`. A `validation` and a
    `test` that are missing are drawn from `train`, the same ones each time. Raises
    ValueError for an unknown source or one whose contents are at fault,
    FileNotFoundError where it cannot be reached. With `skip_broken`, what is at
    fault is left out and listed in a warning.
    """
    skipped = [] if skip_broken else None
    asked = asked_for(
        image_column, caption_column, split_column, delimiter, skipped
    )
    if not isinstance(source, str | Path):
        return load_memory(source, asked)
    name, path = str(source), Path(source).expanduser()
    if name in OWN_SOURCES:
        return load_own(name, asked)
    if name not in HUB_SOURCES and name.strip() and os.path.exists(path):
        return load_path(path, asked)
    return load_hub(HUB_SOURCES.get(name, name), asked)


def decode_pixels(
    rows: datasets.Dataset,
    size: int,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Tensor:
    """Every image of a split, decoded and resized once -> uint8 (N, 3, size, size).

    With a `cache` folder the pixels are kept there, in a file named after the
    images' contents and the size, and mapped into memory: the next run starts at
    once and needs no RAM for them. A file that is damaged is made again. Raises
    ValueError that names an image that cannot be decoded.
    """
    if cache is None or len(rows) == 0:
        pixels = torch.empty(len(rows), 3, size, size, dtype=torch.uint8)
        fill_pixels(pixels.numpy(), rows, size, progress)
        return pixels
    name = f"{fingerprint(rows)}-{size}-v{PIXELS_VERSION}.npy"
    file = Path(cache).expanduser() / name
    shape = (len(rows), 3, size, size)

    def write(path: Path) -> None:
        array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        reserve_space(path)  # a full disk ends in an error here, in a crash later
        fill_pixels(array, rows, size, progress)
        array.flush()

    if not holds_array(file, shape):
        write_whole(file, write)
    return torch.from_numpy(np.load(file, mmap_mode="c", allow_pickle=False))


def fill_pixels(
    array: np.ndarray, rows: datasets.Dataset, size: int, progress: bool
) -> None:
    """Decode each image of `rows` into its place in `array` (N, 3, size, size)."""
    undecoded = rows.cast_column("image", datasets.Image(decode=False))
    silent = not progress or len(rows) < 500
    bar = tqdm(undecoded["image"], desc="decoding images", disable=silent)
    for position, value in enumerate(bar):
        try:
            image = square(decode_image(value), size)
        except (ValueError, OSError) as error:
            name = rows["image_id"][position]
            raise ValueError(refusal(name, error)) from None
        array[position] = np.asarray(image).transpose(2, 0, 1)


def fingerprint(rows: datasets.Dataset) -> str:
    """A hash of a split's images: of their bytes, or else of their files.

    A file goes by its path, its size, the times of its last changes and its inode.
    """
    digest = hashlib.sha256()
    undecoded = rows.cast_column("image", datasets.Image(decode=False))
    for value in undecoded["image"]:
        image = value or {"bytes": None, "path": None}
        content, path = image["bytes"], image["path"]
        if content is None and path:
            status = Path(path).stat()
            times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
            content = f"{path} {status.st_size} {times} {status.st_ino}".encode()
        digest.update(hashlib.sha256(content or b"").digest())
    return digest.hexdigest()[:32]


@dataclass
class Batch:
    """What is drawn from `TrainingPairs` for a step, before it is made ready.

    `pixels` is uint8 (B, 3, S, S); `caption_ids` (B * K) says which K captions were
    drawn for each image, those of the first image first; `positives` (B, B * K)
    marks in row i each drawn caption that is also one of image i's.
    """

    pixels: Tensor
    caption_ids: Tensor
    positives: Tensor


class TrainingPairs:
    """A split ready for training: pixels, and every different caption once.

    `captions` lists the strings, `caption_ids` (N, K) holds each image's captions
    as positions in that list, filled up with -1. Two images that share a caption
    share its number, so a batch knows which off-diagonal pairs are no negatives.
    """

    def __init__(self, pixels: Tensor, captions_of_images: Sequence[Sequence[str]]):
        self.pixels = pixels
        different = {text for texts in captions_of_images for text in texts}
        self.captions = sorted(different)
        number = {text: position for position, text in enumerate(self.captions)}
        self.counts = torch.tensor([len(texts) for texts in captions_of_images])
        self.caption_ids = torch.full((len(pixels), int(self.counts.max())), -1)
        for row, texts in enumerate(captions_of_images):
            ids = torch.tensor([number[text] for text in texts])
            self.caption_ids[row, : len(texts)] = ids
        # The last length is that of "no caption", -1: it comes after all others.
        lengths = torch.tensor([*map(len, self.captions), 2**31])
        by_length = lengths[self.caption_ids].argsort(dim=1, stable=True)
        self.sorted_ids = self.caption_ids.gather(1, by_length)

    def __len__(self) -> int:
        return len(self.pixels)

    def draw(
        self,
        rows: Tensor,
        generator: torch.Generator,
        like_length: bool = False,
        each: int = 1,
    ) -> Batch:
        """The images at `rows` (B), with `each` captions drawn at random for each.

        None comes twice, unless an image has fewer. With `like_length` there is one
        draw for all: each image's shortest caption, or each one's second, up to the
        longest. Every caption has the chance that it had, but those of a batch are
        of like length, with little padding.
        """
        # In float64, in which no product rounds up to the next caption
        draws = torch.rand(len(rows), 1, generator=generator).double()
        own = self.caption_ids[rows]
        if like_length:
            draws, own = draws[0], self.sorted_ids[rows]
        # One draw, and from there in equal strides through the image's captions
        shares = (draws + torch.arange(each)) / each
        choice = (shares * self.counts[rows].unsqueeze(1)).long()
        drawn = own.gather(1, choice).flatten()
        positives = (own.unsqueeze(1) == drawn.view(1, -1, 1)).any(dim=-1)
        return Batch(self.pixels.index_select(0, rows), drawn, positives)

    def epoch(self, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
        """The rows (B) of each batch of an epoch, shuffled.

        The incomplete last batch is left out. The order follows from `seed` and
        `epoch` alone, so that a resumed run finds its place.
        """
        order = torch.randperm(len(self), generator=seeded(seed, epoch))
        for start in range(0, len(self) - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def seeded(*numbers: int) -> torch.Generator:
    """A random generator on the CPU that depends on `numbers` and nothing else."""
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
    """A batch of random views: (B, 3, S, S) -> float in [0, 1], same shape.

    The images are uint8, or float in [0, 1]. Each one is moved by up to `shift` of
    its width, scaled by up to 1 ± `scale`, turned by up to `turn` degrees, mirrored
    if `flip`; its hue, saturation, brightness and contrast change by up to
    `colour`; a share `grey` loses its colour. `texture` and `shade` are those of
    `restyle`. All of it is done at once, where the pixels are, from small random
    numbers drawn on the CPU: a GPU sees the views that a CPU sees.
    """
    images = pixels if pixels.is_floating_point() else pixels.float() / 255
    affine = random_moves(len(images), generator, shift, scale, turn, flip)
    grid = F.affine_grid(affine.to(images.device), list(images.shape), False)
    images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    matrix, offset = random_colours(len(images), generator, colour, grey)
    mixed = torch.einsum("bij,bjhw->bihw", matrix.to(images.device), images)
    images = (mixed + offset.view(-1, 1, 1, 1).to(images.device)).clamp(0, 1)
    if texture or shade:
        return restyle(images, generator, texture, shade)
    return images


def uniform(batch: int, generator: torch.Generator, width: float) -> Tensor:
    """Random numbers (B) from -`width` to `width`."""
    return (torch.rand(batch, generator=generator) * 2 - 1) * width


def random_crops(
    pixels: Tensor, generator: torch.Generator, scale: float
) -> Tensor:
    """A random part of each image, as large as the whole was: -> float in [0, 1].

    The images are uint8 (B, 3, S, S). A part has between `scale` and all of its
    image's area, and sides in a ratio between 3:4 and 4:3, or nearer to 1:1 where
    it would not fit (Szegedy et al., 2015).
    """
    batch = len(pixels)
    area = scale + (1 - scale) * torch.rand(batch, generator=generator)
    ratio = torch.exp(uniform(batch, generator, math.log(4 / 3)))
    ratio = ratio.clamp(area, 1 / area)
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    across = (1 - width) * uniform(batch, generator, 1)
    down = (1 - height) * uniform(batch, generator, 1)
    nothing = torch.zeros(batch)
    rows = [width, nothing, across, nothing, height, down]
    affine = torch.stack(rows, dim=1).view(batch, 2, 3).to(pixels.device)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    images = pixels.float() / 255
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def random_moves(
    batch: int,
    generator: torch.Generator,
    shift: float,
    scale: float,
    turn: float,
    flip: bool,
) -> Tensor:
    """Where a view's pixels come from: affine matrices (B, 2, 3); see `augment`."""
    angle = uniform(batch, generator, turn) * torch.pi / 180
    zoom = 1 / (1 + uniform(batch, generator, scale))
    mirror = torch.ones(batch)
    if flip:
        is_mirrored = torch.rand(batch, generator=generator) < 0.5
        mirror = torch.where(is_mirrored, -1.0, 1.0)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    across, down = (uniform(batch, generator, 2 * shift) for _ in range(2))
    rows = [cosine * mirror, -sine, across, sine * mirror, cosine, down]
    return torch.stack(rows, dim=1).view(batch, 2, 3)


def random_colours(
    batch: int, generator: torch.Generator, colour: float, grey: float
) -> tuple[Tensor, Tensor]:
    """Colour matrices (B, 3, 3) and offsets (B) of random views; see `augment`."""
    widths = colour, colour, colour, 0.5 * colour
    changes = [uniform(batch, generator, width) for width in widths]
    matrix, offset = colour_change(*changes)
    is_grey = (torch.rand(batch, generator=generator) < grey).view(-1, 1, 1)
    return torch.where(is_grey, LUMA.expand(3, 3) @ matrix, matrix), offset


def restyle(
    images: Tensor, generator: torch.Generator, texture: float, shade: float
) -> Tensor:
    """The same things, as if drawn by somebody else: (B, 3, S, S), float in [0, 1].

    A share `texture` of the images is blended with what a random 3 x 3 convolution
    makes of it, by up to 60 %: outlines stay where they are, surfaces change
    (Xu et al., 2021). Then soft light and shadow, of up to `shade`, fall on all
    that is not white.
    """
    batch, channels, height, width = images.shape
    kernels = torch.randn(batch, channels, channels, 3, 3, generator=generator)
    blend = 0.6 * torch.rand(batch, 1, 1, 1, generator=generator)
    chosen = (torch.rand(batch, generator=generator) < texture).nonzero().squeeze(1)
    kernels, images = kernels / math.sqrt(9 * channels), images.clone()
    for start in range(0, len(chosen), 16):  # all at once takes twice the memory
        some = chosen[start : start + 16]
        weight = kernels[some].flatten(0, 1).to(images.device)
        mix, some = blend[some].to(images.device), some.to(images.device)
        flat = images[some].reshape(1, -1, height, width) - 0.5
        flat = F.pad(flat, (1, 1, 1, 1), mode="replicate")
        other = F.conv2d(flat, weight, groups=len(some)) + 0.5
        other = other.view(-1, channels, height, width)
        images[some] = torch.lerp(images[some], other, mix).clamp(0, 1)

    size = (height, width)
    light = (torch.rand(batch, 1, 3, 3, generator=generator) * 2 - 1) * shade
    light = light.to(images.device)
    light = F.interpolate(light, size, mode="bicubic", align_corners=True)
    is_white = images.amin(dim=1, keepdim=True) > 0.97
    return (images + light * ~is_white).clamp(0, 1)


# How bright the eye sees red, green and blue
LUMA = torch.tensor([[0.299, 0.587, 0.114]])
HUE_AXES = torch.tensor(
    [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
)


def colour_change(
    hue: Tensor, saturation: Tensor, contrast: Tensor, brightness: Tensor
) -> tuple[Tensor, Tensor]:
    """A colour matrix (B, 3, 3) and an offset (B): new = matrix @ rgb + offset.

    The hue turns by `hue` (a share of a half turn) in the YIQ plane; saturation and
    contrast are multiplied by 1 + their value; brightness is added.
    """
    angle = hue * torch.pi
    cosine = (1 + saturation) * angle.cos()
    sine = (1 + saturation) * angle.sin()
    turn = torch.zeros(len(hue), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = cosine
    turn[:, 1, 2], turn[:, 2, 1] = -sine, sine
    matrix = HUE_AXES.inverse() @ turn @ HUE_AXES * (1 + contrast).view(-1, 1, 1)
    return matrix, brightness - 0.5 * contrast

"""What an index of pictures needs from the disk: which files there are, and small copies of them.

`ImageIndex` of chapter 9 stands on these; none of them knows about searching.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distilclip.data import CACHE_VERSION, square
from distilclip.files import save_tensors
from distilclip.model import DistilCLIP
from distilclip.sources import IMAGE_SUFFIXES

INDEX_VERSION = 2
Stamp = tuple[int, int]  # size in bytes, and time of the last change in nanoseconds


def stamps_of_pictures(folder: Path) -> tuple[dict[str, Stamp], list[OSError]]:
    """Every picture below `folder` by its path in it, sorted, and the folders that cannot be read.

    Hidden files and folders are left out. A picture whose size or time differs from an earlier
    look has changed.
    """
    stamps, errors = {}, []
    for place, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(place, name)
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            try:
                status = path.stat()
            except FileNotFoundError:  # gone since it was listed, or a link to nowhere
                continue
            if path.is_file():
                relative = path.relative_to(folder).as_posix()
                stamps[relative] = (status.st_size, status.st_mtime_ns)
    return dict(sorted(stamps.items())), errors


def read_picture(path: Path, size: int) -> Image.Image:
    """The picture at `path` as a model sees it: upright RGB, `size` x `size`.

    A large JPEG is decoded at a fraction of its size, never below twice `size`: several times
    as fast, and the result is as good as the same.
    """
    with Image.open(path) as image:
        image.draft("RGB", (2 * size, 2 * size))
        return square(image, size)


def read_pictures(
    folder: Path, names: Sequence[str], size: int, batch_size: int
) -> Iterator[tuple[list[str], Tensor, list[tuple[str, Exception]]]]:
    """Batches of (names, pixels (B, 3, size, size) as uint8, the failures with their reasons).

    Several pictures are decoded at once; of no more than that many is the full size in memory.
    """

    def attempt(name: str) -> Tensor | Exception:
        try:
            image = read_picture(folder / name, size)
        except Exception as error:  # PIL raises many kinds for a broken file
            return error
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return pixels.view(size, size, 3).permute(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), batch_size):
            batch = names[start : start + batch_size]
            results = dict(zip(batch, pool.map(attempt, batch), strict=True))
            pixels = {name: p for name, p in results.items() if isinstance(p, Tensor)}
            failures = [(name, e) for name, e in results.items() if name not in pixels]
            stacked = (
                torch.stack(list(pixels.values())) if pixels else torch.empty(0, 3, size, size)
            )
            yield list(pixels), stacked, failures


def image_side_key(model: DistilCLIP) -> str:
    """A hash of everything that decides a picture's vector: two models with one key agree."""
    config = model.config
    settings = [asdict(config.vision), config.image_pool, config.projection_norm]
    settings += [config.image_mean, config.image_std, CACHE_VERSION]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("vision.", "image_projection.")):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write_index(file: Path, embeds: Tensor, entries: dict, key: str) -> None:
    """Write vectors, and anything that JSON can say about them, to one file, whole or not at all.

    The entries are a tensor of bytes, not metadata: a safetensors header ends at 100 MB.
    """
    packed = torch.frombuffer(bytearray(json.dumps(entries).encode()), dtype=torch.uint8)
    metadata = {"index_version": str(INDEX_VERSION), "image_side": key}
    save_tensors({"embeds": embeds, "entries": packed}, file, metadata)


def read_index(file: Path, key: str) -> tuple[Tensor, dict]:
    """What `write_index` wrote; ValueError where it is damaged, or of another version or model."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no index {file}.")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("index_version") != str(INDEX_VERSION):
                raise ValueError(f"{file} is not an index of this version; build it again.")
            if metadata.get("image_side") != key:
                raise ValueError(f"{file} was made by another model; build it again.")
            embeds, packed = opened.get_tensor("embeds"), opened.get_tensor("entries")
        entries = json.loads(packed.numpy().tobytes())
        if not embeds.ndim == 2 or {len(embeds)} != {len(entries[n]) for n in ("names", "stamps")}:
            raise ValueError(f"{file} is damaged; build it again.")
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is not an index, or is damaged: {error}.") from None
    return embeds, entries

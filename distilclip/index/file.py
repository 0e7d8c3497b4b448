"""The file that keeps an index of pictures, and the model that it belongs to.

`ImageIndex` of chapter 9 stands on these; none of them knows about searching.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distilclip.storage.pictures import PIXELS_VERSION, PictureSize
from distilclip.storage.weights import bytes_of, checksum, save_tensors

if TYPE_CHECKING:
    from distilclip.model import DistilCLIP

INDEX_VERSION = 2
# Of a file: its size in bytes, when its content and when its place last changed, in
# nanoseconds, and its inode. Two files that change places have other stamps.
Stamp = tuple[int, ...]


def image_side_key(model: DistilCLIP) -> str:
    """A hash of all that decides a picture's vector: models with one key agree."""
    config = model.config
    settings = [asdict(config.vision), config.image_pool, config.projection_norm]
    settings += [config.image_mean, config.image_std, PIXELS_VERSION]
    size = config.vision.image_size
    if isinstance(size, PictureSize):  # of a checkpoint with a way of its own
        settings.append([size.way, size.edge, size.resample])
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(("vision.", "image_projection.")):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(bytes_of(tensor))
    return digest.hexdigest()


def write_index(file: Path, embeds: Tensor, entries: dict, key: str) -> None:
    """Write vectors, and what JSON can say about them, to one file, whole.

    The entries are a tensor of bytes, not metadata: a safetensors header ends at
    100 MB.
    """
    content = bytearray(json.dumps(entries).encode())
    packed = torch.frombuffer(content, dtype=torch.uint8)
    metadata = {"index_version": str(INDEX_VERSION), "image_side": key}
    tensors = {"embeds": embeds, "entries": packed}
    metadata["checksum"] = checksum(key, tensors)
    save_tensors(tensors, file, metadata)


def read_index(file: Path, key: str, width: int) -> tuple[Tensor, dict]:
    """The vectors (N, width) and the entries that `write_index` wrote.

    Raises FileNotFoundError where there is no file, ValueError where it is damaged,
    or of another version or model.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no index {file}.")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("index_version") != str(INDEX_VERSION):
                raise ValueError(
                    f"{file} is not an index of this version; build it again."
                )
            if metadata.get("image_side") != key:
                raise ValueError(
                    f"{file} was made by another model, or by a version that reads "
                    "pictures otherwise; build it again."
                )
            embeds = opened.get_tensor("embeds")
            packed = opened.get_tensor("entries")
        summed = checksum(key, {"embeds": embeds, "entries": packed})
        if metadata.get("checksum", summed) != summed:  # older ones have none
            raise ValueError("its checksum says that it has changed since")
        entries = json.loads(packed.numpy().tobytes())
    except (SafetensorError, ValueError, RuntimeError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(
            f"{file} is not an index, or is damaged: {reason}."
        ) from None
    if not (are_vectors(embeds, width) and are_entries(entries, len(embeds))):
        raise ValueError(f"{file} is damaged; build it again.")
    return embeds, entries


def are_vectors(embeds: Tensor, width: int) -> bool:
    """Whether a tensor is a table of vectors (N, width) in float32, all finite."""
    if embeds.dtype != torch.float32 or embeds.shape[1:] != (width,):
        return False
    return bool(torch.linalg.vector_norm(embeds, dim=1).isfinite().all())


def are_entries(entries: object, count: int) -> bool:
    """Whether this says the names, stamps and folder of so many pictures."""
    if not isinstance(entries, dict):
        return False
    names, stamps, folder = map(entries.get, ("names", "stamps", "folder"))
    return (
        isinstance(names, list)
        and isinstance(stamps, list)
        and len(names) == len(stamps) == count
        and all(isinstance(name, str) for name in names)
        and all(stamp is None or is_stamp(stamp) for stamp in stamps)
        and (folder is None or isinstance(folder, str))
    )


def is_stamp(stamp: object) -> bool:
    """Whether this is a list of whole numbers, as JSON has a stamp."""
    return isinstance(stamp, list) and all(type(each) is int for each in stamp)

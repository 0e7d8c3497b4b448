"""What the space is for: embeddings go in, rankings, classes and pictures come out.

Retrieval metrics, zero-shot classification and an index over a folder of pictures. Built in
chapter 9; the metrics are those of Radford et al. (2021) and of the caption-retrieval papers
before it.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from distilclip.data import decode_pixels, to_rgb
from distilclip.files import save_tensors
from distilclip.model import DistilCLIP
from distilclip.sources import picture_files

INDEX_VERSION = 1


def retrieval_metrics(
    image_embeds: Tensor,
    text_embeds: Tensor,
    image_ids_of_texts: Tensor | Sequence[int],
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, float]:
    """Recall at k in both directions: {"i2t_r1": ..., "t2i_r10": ...}, shares between 0 and 1.

    `image_embeds` (N, E) and `text_embeds` (M, E) are unit vectors; `image_ids_of_texts` (M)
    gives for each text the row of its image. t2i: the share of texts whose image is among the k
    nearest images. i2t: the share of images (that have a text) with at least one of their texts
    among the k nearest. Ties count against: a model that puts everything in one place finds
    nothing. At most `chunk` rows of the table are in memory at once.
    """
    owners = torch.as_tensor(image_ids_of_texts, device=text_embeds.device)
    if len(owners) != len(text_embeds):
        raise ValueError(f"{len(text_embeds)} texts, but {len(owners)} image ids for them.")
    if len(owners) == 0 or len(image_embeds) == 0:
        raise ValueError("Retrieval needs at least one image and one text.")
    if owners.min() < 0 or owners.max() >= len(image_embeds):
        raise ValueError(f"image ids must lie between 0 and {len(image_embeds) - 1}.")
    text_ranks = torch.empty(len(owners), dtype=torch.long)
    for start in range(0, len(owners), chunk):
        rows = slice(start, start + chunk)
        scores = text_embeds[rows] @ image_embeds.T
        own = scores.gather(1, owners[rows].unsqueeze(1))
        text_ranks[rows] = ((scores >= own).sum(dim=1) - 1).cpu()

    with_text, order = owners.unique(), owners.argsort(stable=True)
    counts = owners.bincount(minlength=len(image_embeds))
    firsts = counts.cumsum(0) - counts
    image_ranks = torch.empty(len(with_text), dtype=torch.long)
    for start in range(0, len(with_text), chunk):
        images = with_text[start : start + chunk]
        scores = image_embeds[images] @ text_embeds.T
        # The best of an image's own texts; a column number past its last text repeats that one.
        column = torch.arange(int(counts[images].max()), device=owners.device)
        column = column.minimum(counts[images].unsqueeze(1) - 1) + firsts[images].unsqueeze(1)
        own_texts = order[column]
        own = scores.gather(1, own_texts)
        best = own.amax(dim=1, keepdim=True)
        # Texts at least as near as the best own one, less the own ones among them.
        repeats = torch.arange(own.shape[1], device=owners.device) >= counts[images].unsqueeze(1)
        own_near = ((own >= best) & ~repeats).sum(dim=1)
        image_ranks[start : start + chunk] = ((scores >= best).sum(dim=1) - own_near).cpu()

    metrics = {f"i2t_r{k}": (image_ranks < k).double().mean().item() for k in ks}
    return metrics | {f"t2i_r{k}": (text_ranks < k).double().mean().item() for k in ks}


def evaluate_retrieval(
    model: DistilCLIP, rows: datasets.Dataset, batch_size: int = 64, progress: bool = False
) -> dict[str, float]:
    """`retrieval_metrics` of a model on a split of `load_pairs`, every caption a query."""
    pixels = decode_pixels(rows, model.config.vision.image_size, progress=progress)
    texts = [text for captions in rows["captions"] for text in captions]
    owners = [row for row, captions in enumerate(rows["captions"]) for _ in captions]
    images = model.encode_image(pixels, batch_size)
    return retrieval_metrics(images, model.encode_text(texts, batch_size), owners)


def zero_shot_classify(
    model: DistilCLIP,
    images: Tensor | Sequence[Image.Image],
    class_names: Sequence[str],
    templates: Sequence[str] = ("a picture of {}",),
) -> Tensor:
    """How probable each class is for each image: (B, classes), rows that sum to 1.

    Each class is the mean of its name in every template ("a picture of {}"), as Radford et al.
    (2021, section 3.1.4) do. Raises ValueError for a template without {}.
    """
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"The template {template!r} has no {{}} for the name of the class.")
    if not class_names or not templates:
        raise ValueError("Zero-shot classification needs at least one class and one template.")
    prompts = [template.format(name) for name in class_names for template in templates]
    embeds = model.encode_text(prompts).view(len(class_names), len(templates), -1).mean(dim=1)
    classes = torch.nn.functional.normalize(embeds, dim=-1)
    scale = model.logit_scale.detach()
    return (scale * model.encode_image(images) @ classes.T).softmax(dim=-1)


@dataclass
class Hit:
    """One picture found: where it is, and the cosine of picture and query."""

    path: Path
    score: float


class ImageIndex:
    """Unit vectors of a folder's pictures, searched with words or with a picture.

    `embeds` (N, E) belongs to `paths` (N). `skipped` lists the pictures that could not be read,
    each with the reason, where skipping was asked for.
    """

    def __init__(self, model: DistilCLIP, paths: Sequence[Path], embeds: Tensor):
        self.model = model
        self.paths = list(paths)
        self.embeds = embeds
        self.skipped: list[tuple[Path, str]] = []

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def from_folder(
        cls,
        model: DistilCLIP,
        folder: str | Path,
        batch_size: int = 64,
        skip_broken: bool = False,
        progress: bool = True,
    ) -> "ImageIndex":
        """Embed every picture below `folder`.

        Raises FileNotFoundError for a folder that does not exist and ValueError for one without
        pictures, or for a picture that cannot be decoded, unless `skip_broken`.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
        files = picture_files(folder)
        if not files:
            raise ValueError(f"No pictures in {folder}.")
        paths, skipped, embeds, batch = [], [], [], []
        bar = tqdm(files, desc="embedding pictures", disable=not progress or len(files) < 200)
        for path in bar:
            try:
                with Image.open(path) as image:
                    batch.append(to_rgb(image))
                paths.append(path)
            except Exception as error:  # PIL raises many kinds for a broken file
                if not skip_broken:
                    raise ValueError(
                        f"Cannot decode {path}: {error}. Repair it, remove it, or skip such files."
                    ) from None
                skipped.append((path, str(error)))
            if len(batch) == batch_size:
                embeds.append(model.encode_image(batch))
                batch = []
        if batch:
            embeds.append(model.encode_image(batch))
        if not embeds:
            raise ValueError(f"None of the {len(files)} pictures in {folder} could be decoded.")
        index = cls(model, paths, torch.cat(embeds).cpu())
        index.skipped = skipped
        return index

    def search(self, query: str | Image.Image, k: int = 9) -> list[Hit]:
        """The `k` pictures nearest to some words or to a picture, best first."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        if isinstance(query, str):
            if not query.strip():
                raise ValueError("The query is empty: say what to look for.")
            wanted = self.model.encode_text(query)
        else:
            wanted = self.model.encode_image([query])
        scores = self.embeds @ wanted[0].cpu()
        best = scores.topk(min(k, len(self))).indices.tolist()
        return [Hit(self.paths[row], scores[row].item()) for row in best]

    def save(self, file: str | Path) -> None:
        """Write embeddings and paths to one safetensors file, whole or not at all."""
        file = Path(file)
        paths = [os.path.relpath(path.resolve(), file.resolve().parent) for path in self.paths]
        metadata = {"version": str(INDEX_VERSION), "paths": json.dumps(paths)}
        save_tensors({"embeds": self.embeds}, file, metadata)

    @classmethod
    def load(cls, model: DistilCLIP, file: str | Path) -> "ImageIndex":
        """Read what `save` wrote; `model` must be the one that made it."""
        from safetensors import SafetensorError, safe_open

        file = Path(file)
        if not file.is_file():
            raise FileNotFoundError(f"There is no index {file}.")
        try:
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata() or {}
        except SafetensorError as error:
            raise ValueError(f"{file} is not an index, or is damaged: {error}.") from None
        if metadata.get("version") != str(INDEX_VERSION):
            raise ValueError(f"{file} is not an index of this version; build it again.")
        paths = [file.parent / path for path in json.loads(metadata["paths"])]
        embeds = load_file(file)["embeds"]
        if embeds.shape != (len(paths), model.config.embed_dim):
            raise ValueError(f"{file} was made by another model; build it again.")
        return cls(model, paths, embeds)

"""What the space is for: embeddings go in, rankings, classes and pictures come out.

Retrieval metrics, zero-shot classification and an index of pictures. Built in
chapter 9; the metrics are those of Radford et al. (2021) and of the
caption-retrieval papers before it.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from distilclip.index.file import Stamp, image_side_key, read_index, write_index
from distilclip.index.given import checked_embeds, checked_ids
from distilclip.index.neighbours import faiss_neighbours
from distilclip.loss import cosines
from distilclip.storage.pictures import (
    LOG,
    TEXT_SUFFIXES,
    Pictures,
    describe_others,
    find_pictures,
    read_pictures,
    why_undecodable,
)
from distilclip.storage.terminal import shown

if TYPE_CHECKING:  # a search in an index that is there needs neither
    import datasets

    from distilclip.model import DistilCLIP

TIE = 1e-6  # cosines this near to each other count as equal; float32 rounds by less
Template = str | Callable[[str], str]  # "a picture of {}", or what writes it


@torch.no_grad()
def retrieval_metrics(
    image_embeds: Tensor | np.ndarray,
    text_embeds: Tensor | np.ndarray,
    image_ids_of_texts: Tensor | np.ndarray | Sequence[int],
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 512,
    texts: Sequence[str] | None = None,
    strict: bool = False,
) -> dict[str, float]:
    """Recall at k both ways: {"i2t_r1": ..., "t2i_r10": ...}, shares from 0 to 1.

    `image_embeds` (N, E) and `text_embeds` (M, E) are unit vectors, in tensors or
    arrays; `image_ids_of_texts` (M) gives for each text the row of its image. t2i:
    the share of texts with a right image among the k nearest images. i2t: the share
    of images (that have a text) with a right caption among the k nearest captions.

    A text is right for its image. With `texts`, the strings themselves, equal ones
    are one caption: right for the images of all of them, one rival to every other
    image, and with the vector of the first. `strict` gives the protocol of the
    papers, in which only an image's own texts count.

    Ties are counted pessimistically: a rival within 1e-6 of the best right answer
    stands before it, so a model that puts everything in one place finds nothing.
    Raises ValueError for image ids, texts, shapes or ks that do not fit, and for
    embeddings that are not finite.
    """
    image_embeds, text_embeds, ks = checked_embeds(image_embeds, text_embeds, ks)
    owners, order = texts_by_image(
        image_ids_of_texts, len(image_embeds), text_embeds
    )
    right = pair_captions(owners, order, None if strict else texts)
    images_before, captions_before = count_nearer(
        image_embeds, text_embeds, right, chunk
    )
    # Whole numbers as far as they go: exact, and every device has them.
    images, times = len(captions_before), right.times
    metrics = {f"i2t_r{k}": int((captions_before < k).sum()) / images for k in ks}
    return metrics | {
        f"t2i_r{k}": int((times * (images_before < k)).sum()) / len(order)
        for k in ks
    }


@dataclass
class RightPairs:
    """Which captions are right for which images, each pair once.

    The pairs (P) are caption `captions[p]` with image `images[p]`, sorted by
    captions, which are numbered by their first images. Caption c is the text
    `rows[c]`, which was given `times[c]` times: both (C).
    """

    captions: Tensor
    images: Tensor
    rows: Tensor
    times: Tensor


def pair_captions(
    owners: Tensor, order: Tensor, texts: Sequence[str] | None = None
) -> RightPairs:
    """The captions among texts, and for which images each is right.

    `owners` and `order` (M) are those of `texts_by_image`. Equal `texts` (M) are
    one caption, right for all of its images; without `texts` each is its own.
    Raises ValueError for texts that do not fit.
    """
    rows = order.tolist()
    names: list = rows
    if texts is not None:
        texts = text_list(texts, "texts")
        if len(texts) != len(rows):
            raise ValueError(
                f"{len(rows)} vectors of texts, but {len(texts)} texts."
            )
        names = [texts[row] for row in rows]
    first = dict(zip(reversed(names), reversed(rows), strict=True))
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    captions = torch.tensor([number[name] for name in names])
    images = int(owners.max()) + 1
    pairs = (captions * images + owners.cpu()).unique()
    tensors = (
        pairs // images,
        pairs % images,
        torch.tensor([first[name] for name in number]),
        captions.bincount(),
    )
    return RightPairs(*(tensor.to(owners.device) for tensor in tensors))


def right_cosines(
    image_embeds: Tensor, text_embeds: Tensor, right: RightPairs, chunk: int
) -> Tensor:
    """The cosine of each right pair: (P)."""
    pairs = zip(
        right.rows[right.captions].split(chunk),
        right.images.split(chunk),
        strict=True,
    )
    own = torch.cat(
        [(text_embeds[t] * image_embeds[i]).sum(dim=1) for t, i in pairs]
    )
    if not own.isfinite().all():
        raise ValueError(
            "Some embeddings are not finite numbers: has the training gone wrong?"
        )
    return own


def best_of(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """The largest of values (P) in each of `count` groups; infinite for none."""
    best = values.new_full((count,), math.inf)
    return best.scatter_reduce_(0, groups, values, "amax", include_self=False)


def count_nearer(
    image_embeds: Tensor, text_embeds: Tensor, right: RightPairs, chunk: int
) -> tuple[Tensor, Tensor]:
    """How many rivals stand before the best right answer: (C), (images with one).

    Images before each caption's, and captions before each image's. Each block of
    chunk x chunk cosines is computed once, serves both directions, and is
    forgotten.
    """
    dtype = torch.promote_types(image_embeds.dtype, torch.float32)
    image_embeds, text_embeds = image_embeds.to(dtype), text_embeds.to(dtype)
    own = right_cosines(image_embeds, text_embeds, right, chunk)
    best_image = best_of(own, right.captions, len(right.rows)) - TIE
    best_caption = best_of(own, right.images, len(image_embeds)) - TIE
    images_before = torch.zeros_like(best_image, dtype=torch.long)
    captions_before = torch.zeros_like(best_caption, dtype=torch.long)
    edges = torch.arange(0, len(image_embeds) + chunk, chunk, device=own.device)
    for top in range(0, len(right.rows), chunk):
        rows = slice(top, top + chunk)
        texts = text_embeds[right.rows[rows]]
        ends = edges.new_tensor([top, top + chunk])
        inside = slice(*torch.searchsorted(right.captions, ends).tolist())
        images, order = right.images[inside].sort()
        captions = right.captions[inside][order] - top
        starts = torch.searchsorted(images, edges).tolist()
        for number, left in enumerate(range(0, len(image_embeds), chunk)):
            columns = slice(left, left + chunk)
            scores = cosines(texts, image_embeds[columns])
            here = slice(*starts[number : number + 2])  # the right pairs: no rivals
            scores[captions[here], images[here] - left] = -math.inf
            # As numbers: sums of floats are much faster than those of booleans.
            bar = best_image[rows].unsqueeze(1)
            nearer = torch.ge(scores, bar, out=torch.empty_like(scores))
            images_before[rows] += nearer.sum(dim=1).long()
            nearer = scores.ge_(best_caption[columns])
            captions_before[columns] += nearer.sum(dim=0).long()
    return images_before, captions_before[best_caption < math.inf]


def texts_by_image(
    owners: Tensor | np.ndarray | Sequence[int], images: int, text_embeds: Tensor
) -> tuple[Tensor, Tensor]:
    """The image of each text, sorted, and the texts in that order.

    Raises ValueError for images that are not there.
    """
    owners = checked_ids(owners, text_embeds.device)
    if len(owners) != len(text_embeds):
        raise ValueError(
            f"{len(text_embeds)} texts, but {len(owners)} image ids for them."
        )
    if len(owners) == 0 or images == 0:
        raise ValueError("Retrieval needs at least one image and one text.")
    if owners.min() < 0 or owners.max() >= images:
        raise ValueError(f"image ids must lie between 0 and {images - 1}.")
    return owners.sort(stable=True)


def text_list(texts: Iterable[str], what: str) -> list[str]:
    """Texts as a list; ValueError where they are one string, or no strings.

    To Python a string is a list of letters, and a set has no order. `what` names
    the texts in the sentence.
    """
    if isinstance(texts, str | bytes | set | frozenset) or not isinstance(
        texts, Iterable
    ):
        raise ValueError(f"{what} must be a list of strings, got {shown(texts)}.")
    texts = list(texts)
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(
                f"{what} must be strings, got {shown(text)} in the list."
            )
    return texts


def flatten_captions(
    captions_of_images: Iterable[Sequence[str]],
) -> tuple[list[str], list[int]]:
    """All captions of all images, and for each the row of its image: (M), (M).

    Raises ValueError for an image whose captions are one string.
    """
    texts, owners = [], []
    for row, captions in enumerate(captions_of_images):
        texts += text_list(captions, f"The captions of image {row}")
        owners += [row] * (len(texts) - len(owners))
    return texts, owners


def count_shared(captions_of_images: Iterable[Sequence[str]]) -> int:
    """How many different captions belong to more than one image."""
    images_of = Counter(
        text for captions in captions_of_images for text in set(captions)
    )
    return sum(images > 1 for images in images_of.values())


def evaluate_retrieval(
    model: DistilCLIP,
    rows: datasets.Dataset,
    batch_size: int = 64,
    progress: bool = False,
    encode_text: Callable[[Sequence[str]], Tensor] | None = None,
    strict: bool = False,
) -> dict[str, float]:
    """`retrieval_metrics` of a model on a split, with every caption as a query.

    A caption that several images share is right for each of them, unless `strict`.
    `encode_text` stands in for the model's own where there is a shorter way to the
    same vectors.
    """
    from distilclip.data import decode_pixels  # searches need no data sets

    pixels = decode_pixels(rows, model.config.vision.image_size, progress=progress)
    texts, owners = flatten_captions(rows["captions"])
    images = model.encode_image(pixels, batch_size)
    encode = encode_text or partial(model.encode_text, batch_size=batch_size)
    place = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    embeds = encode(list(place))[[place[text] for text in texts]]
    return retrieval_metrics(images, embeds, owners, texts=texts, strict=strict)


def caption_bank(
    model: DistilCLIP,
    captions_of_images: Sequence[Sequence[str]],
    batch_size: int = 64,
    encode_text: Callable[[Sequence[str]], Tensor] | None = None,
) -> Tensor:
    """What known pictures are called, for `expand_queries`: unit vectors (C, E).

    One for each different list of captions: the direction of their mean.
    `encode_text` as for `evaluate_retrieval`. Raises ValueError for no images, for
    one without captions, and for captions that are one string.
    """
    of_images = [
        tuple(text_list(captions, "The captions of an image"))
        for captions in captions_of_images
    ]
    if not of_images or () in of_images:
        raise ValueError("A bank needs images, and a caption for each.")
    known = list(dict.fromkeys(of_images))
    texts = [text for captions in known for text in captions]
    embeds = (
        encode_text(texts) if encode_text else model.encode_text(texts, batch_size)
    )
    parts = embeds.split([len(captions) for captions in known])
    return F.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=-1)


def expand_queries(
    queries: Tensor, bank: Tensor, sharpness: float = 30.0
) -> Tensor:
    """Say queries (Q, E) in the words of known captions: unit vectors (Q, E).

    Each becomes the mean of the vectors in `bank` (C, E), weighted by the softmax
    of `sharpness` times its cosine with each. The pictures of a space were put
    beside captions; a sentence that is none has parts that no picture answers to,
    and loses them here.
    """
    weights = (sharpness * cosines(queries, bank)).softmax(dim=-1)
    return F.normalize(weights @ bank, dim=-1)


def zero_shot_classify(
    model: DistilCLIP,
    images: Pictures,
    class_names: Sequence[str],
    templates: Template | Sequence[Template] = ("a picture of {}",),
) -> Tensor:
    """How probable each class is for each image: (B, classes), rows that sum to 1.

    `images` as for `encode_image`, or the unit vectors (B, E) that it gave. Each
    class is the mean of its name in every template, as Radford et al. (2021,
    section 3.1.4) do. A template is a string, of which every {} is replaced and
    nothing else ("a picture of {}"), or a function from the name to the words.
    Raises ValueError for a template in which the name has no place, for class names
    that are one string, and for vectors of another length.
    """
    classes = embed_classes(model, class_names, templates)
    if isinstance(images, Tensor) and images.ndim == 2:
        if images.shape[1] != classes.shape[1]:
            raise ValueError(
                f"Vectors of {images.shape[1]} numbers; the model's have "
                f"{classes.shape[1]}."
            )
        embeds = images.to(classes)
    else:
        embeds = model.encode_image(images)
    return (model.logit_scale.detach() * embeds @ classes.T).softmax(dim=-1)


def fill_template(template: Template, names: Sequence[str]) -> list[str]:
    """A template's words for each class; ValueError if they leave the name out."""
    if isinstance(template, str):
        if "{}" not in template:
            raise ValueError(
                f"The template {template!r} has no {{}} for the name of the class."
            )
        return [template.replace("{}", name) for name in names]
    if not callable(template):
        raise ValueError(
            "A template is a string with {} or a function, got "
            f"{shown(template)}."
        )
    words = text_list(map(template, names), "What a template makes of the names")
    if len(set(names)) > 1 and len(set(words)) == 1:
        raise ValueError(
            f"A template says {words[0]!r} for every class: its function must use "
            "the name that it is given."
        )
    return words


def embed_classes(
    model: DistilCLIP,
    class_names: Sequence[str],
    templates: Template | Sequence[Template],
) -> Tensor:
    """A unit vector a class: the mean of its name in all templates -> (C, E)."""
    names = text_list(class_names, "class_names")
    if isinstance(templates, str) or not isinstance(templates, Iterable):
        templates = [templates]
    filled = [fill_template(template, names) for template in templates]
    if not names or not filled:
        raise ValueError(
            "Zero-shot classification needs at least one class and one template."
        )
    prompts = [
        words for of_class in zip(*filled, strict=True) for words in of_class
    ]
    embeds = model.encode_text(prompts).view(len(names), len(filled), -1)
    return F.normalize(embeds.mean(dim=1), dim=-1)


@dataclass
class Hit:
    """A picture found: its name in the index, its cosine, and its file if any."""

    name: str
    score: float
    path: Path | None = None


class ImageIndex:
    """Unit vectors of many pictures, searched with words, a picture or a vector.

    Row i of `embeds` (N, E) belongs to `names[i]`: the path of a file within
    `folder`, or the image id of a data set. `skipped` lists what could not be read
    in the folder, each with the reason, where skipping was asked for.
    """

    def __init__(
        self,
        model: DistilCLIP,
        names: Sequence[str] = (),
        embeds: Tensor | None = None,
        folder: str | Path | None = None,
    ):
        if isinstance(names, str):
            raise ValueError(f"names must be a list, got the string {names!r}.")
        self.model = model
        self.names = list(names)
        self.embeds = (
            torch.empty(0, model.config.embed_dim) if embeds is None else embeds
        )
        self.folder = None if folder is None else Path(folder).expanduser()
        self.stamps: dict[str, Stamp] = {}
        self.skipped: list[tuple[Path, str]] = []
        self._neighbours: Callable | None = None
        if len(self.names) != len(self.embeds):
            raise ValueError(
                f"{len(self.names)} names, but {len(self.embeds)} vectors."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def paths(self) -> list[Path]:
        """The files of a folder's pictures."""
        return [self.folder / name for name in self.names] if self.folder else []

    @classmethod
    def from_dataset(
        cls,
        model: DistilCLIP,
        rows: datasets.Dataset,
        batch_size: int = 64,
        progress: bool = True,
    ) -> ImageIndex:
        """Embed every picture of a split of `load_pairs`, a batch at a time."""
        from distilclip.data import decode_pixels

        quiet = not progress or len(rows) < 500
        embeds = [torch.empty(0, model.config.embed_dim)]
        for start in tqdm(
            range(0, len(rows), batch_size), "embedding pictures", disable=quiet
        ):
            batch = rows.select(range(start, min(start + batch_size, len(rows))))
            pixels = decode_pixels(
                batch, model.config.vision.image_size, progress=False
            )
            embeds.append(model.encode_image(pixels).cpu())
        return cls(model, rows["image_id"], torch.cat(embeds))

    def add(self, names: Sequence[str], images: Pictures) -> None:
        """Embed more pictures, as for `encode_image`; a known name is replaced."""
        if isinstance(names, str):
            raise ValueError(f"names must be a list, got the string {names!r}.")
        names, embeds = list(names), self.model.encode_image(images).cpu()
        if len(set(names)) != len(embeds):
            raise ValueError(
                f"{len(embeds)} pictures, but {len(set(names))} different names."
            )
        others = [
            row for row, name in enumerate(self.names) if name not in set(names)
        ]
        self._keep(others)
        self.names += names
        self.embeds = torch.cat([self.embeds, embeds])

    def _keep(self, rows: Sequence[int]) -> None:
        """Reduce the index to these rows, in this order."""
        self.names = [self.names[row] for row in rows]
        self.embeds = self.embeds[list(rows)]
        self.stamps = {
            name: self.stamps[name] for name in self.names if name in self.stamps
        }
        self._neighbours = None

    def _vector(self, query: str | Image.Image | Tensor) -> Tensor:
        """The vector (E) of words, of a picture, or of itself."""
        if isinstance(query, str):
            if not query.strip():
                raise ValueError("The query is empty: say what to look for.")
            return self.model.encode_text(query)[0].cpu()
        if isinstance(query, Image.Image):
            return self.model.encode_image(query)[0].cpu()
        if not isinstance(query, Tensor):
            raise ValueError(
                "A query is words, a picture or a vector, one at a time; got "
                f"{shown(query)}."
            )
        if query.shape != self.embeds.shape[1:]:
            raise ValueError(
                f"The query has the shape {tuple(query.shape)}, not one vector's."
            )
        return query.detach().cpu()

    def nearest(self, vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Cosines and rows (Q, k) of what is nearest to unit vectors (Q, E)."""
        k = min(k, len(self))
        if self._neighbours:
            return self._neighbours(vectors, k)
        best = [
            cosines(part, self.embeds).topk(k) for part in vectors.cpu().split(256)
        ]
        return torch.cat([part.values for part in best]), torch.cat(
            [part.indices for part in best]
        )

    def search(
        self,
        query: str | Image.Image | Tensor,
        k: int = 9,
        without: str | Image.Image | Tensor | None = None,
        weight: float = 0.5,
    ) -> list[Hit]:
        """The `k` pictures nearest to words, a picture or a vector (E), best first.

        `without` points away from other words, a picture or a vector: `weight`
        times its unit vector is subtracted from the query's.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        if not self.names:
            raise ValueError("The index is empty: there is nothing to find in it.")
        wanted = self._vector(query)
        if without is not None:
            wanted = wanted - weight * self._vector(without)
            if wanted.norm() < 1e-3:
                raise ValueError(
                    "Nothing is left of the query when the other one is subtracted."
                )
        cosines_found, rows = self.nearest(
            F.normalize(wanted, dim=0).unsqueeze(0), k
        )
        found = zip(rows[0].tolist(), cosines_found[0].tolist(), strict=True)
        names = [(self.names[row], score) for row, score in found if row >= 0]
        return [
            Hit(name, score, self.folder and self.folder / name)
            for name, score in names
        ]

    @property
    def _place(self) -> Path:
        """The index's folder; FileNotFoundError where there is none."""
        if self.folder is None or not self.folder.is_dir():
            raise FileNotFoundError(
                f"There is no folder {self.folder or 'behind this index'}."
            )
        return self.folder

    def _find_files(self, skip_broken: bool) -> dict[str, Stamp]:
        """The folder's pictures as they are now; raises what `refresh` raises."""
        pictures, closed, others = find_pictures(self._place)
        if closed and not (skip_broken and pictures):
            raise closed[0]
        if not pictures:
            raise ValueError(
                f"No pictures in {self.folder}."
                + (f" There, {describe_others(others)}." if others else "")
            )
        kinds = others.keys() - set(TEXT_SUFFIXES)
        unread = {kind: n for kind, n in others.items() if kind in kinds}
        if unread:
            LOG.warning("In %s, %s.", self.folder, describe_others(unread))
        self.skipped = [
            (Path(error.filename), str(error.strerror)) for error in closed
        ]
        return {
            name: (s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
            for name, s in pictures.items()
        }

    def _embed_files(
        self, wanted: list[str], found: dict[str, Stamp], batch_size: int
    ) -> Iterator[tuple[list[str], list[tuple[str, Exception]]]]:
        """Embed these files batch by batch -> what was embedded, what failed."""
        room = self.embeds.new_empty(len(wanted), self.embeds.shape[1])
        table, size = (
            torch.cat([self.embeds, room]),
            self.model.config.vision.image_size,
        )
        batches = read_pictures(self._place, wanted, size, batch_size)
        for names, pixels, failures in batches:
            rows = slice(len(self), len(self) + len(names))
            table[rows] = self.model.encode_image(pixels)
            self.names += names
            self.embeds = table[: len(self)]
            self.stamps |= {name: found[name] for name in names}
            yield names, failures

    def _note_failures(
        self, failures: list[tuple[str, Exception]], skip_broken: bool
    ) -> None:
        """List files that cannot be decoded, or refuse the first of them."""
        for name, error in failures:
            path, reason = self._place / name, why_undecodable(error)
            self.skipped.append((path, reason))
            if not skip_broken:
                raise ValueError(
                    f"Cannot decode {path}: {reason}. Repair it, remove it, or "
                    "skip such files."
                )

    def refresh(
        self,
        batch_size: int = 64,
        skip_broken: bool = False,
        progress: bool = True,
        after_batch: Callable[[], None] | None = None,
    ) -> tuple[int, int]:
        """Follow the folder's changes -> the numbers embedded and forgotten.

        A file is embedded if it is new, or if its size or time is not what it was.
        After each batch the index is complete as far as it goes, and `after_batch`
        is called.

        Raises FileNotFoundError where there is no folder, ValueError for no
        pictures. One that cannot be decoded (ValueError) or a folder inside that
        cannot be read (OSError) is listed in `skipped` with `skip_broken`.
        """
        found = self._find_files(skip_broken)
        forgotten = sum(name not in found for name in self.names)
        stamps = [self.stamps.get(name, "none") for name in self.names]
        same = [
            found.get(name) == s for name, s in zip(self.names, stamps, strict=True)
        ]
        self._keep([row for row, is_same in enumerate(same) if is_same])
        kept, wanted = len(self), sorted(found.keys() - set(self.names))
        quiet = not progress or len(wanted) < 200
        bar = tqdm(total=len(wanted), desc="embedding pictures", disable=quiet)
        with bar:
            for names, failures in self._embed_files(wanted, found, batch_size):
                bar.update(len(names) + len(failures))
                if after_batch:
                    after_batch()
                self._note_failures(failures, skip_broken)
        if not self.names:
            raise ValueError(
                f"None of the {len(found)} pictures in {self.folder} can be "
                "decoded."
            )
        embedded = len(self) - kept
        self._keep(sorted(range(len(self)), key=self.names.__getitem__))
        return embedded, forgotten

    @classmethod
    def from_folder(
        cls,
        model: DistilCLIP,
        folder: str | Path,
        batch_size: int = 64,
        skip_broken: bool = False,
        progress: bool = True,
    ) -> ImageIndex:
        """Embed every picture below `folder`; raises what `refresh` raises."""
        index = cls(model, folder=folder)
        index.refresh(batch_size, skip_broken, progress)
        return index

    def save(self, file: str | Path) -> None:
        """Write the index to one safetensors file, whole or not at all."""
        file = Path(file)
        folder = self.folder and os.path.relpath(
            os.path.realpath(self.folder), os.path.dirname(os.path.realpath(file))
        )
        stamps = [self.stamps.get(name) for name in self.names]
        entries = {"names": self.names, "stamps": stamps, "folder": folder}
        write_index(file, self.embeds, entries, image_side_key(self.model))

    @classmethod
    def load(cls, model: DistilCLIP, file: str | Path) -> ImageIndex:
        """Read what `save` wrote; ValueError if damaged or another model's."""
        file = Path(file)
        width = model.config.embed_dim
        embeds, entries = read_index(file, image_side_key(model), width)
        folder = entries["folder"] and file.parent / entries["folder"]
        index = cls(model, entries["names"], embeds, folder)
        stamped = zip(index.names, entries["stamps"], strict=True)
        index.stamps = {name: tuple(stamp) for name, stamp in stamped if stamp}
        return index

    def duplicates(
        self, threshold: float = 0.95, chunk: int = 1024, limit: int = 100_000
    ) -> list[tuple[str, str, float]]:
        """Pairs of pictures whose cosine is at least `threshold`, nearest first.

        Each is two names and the cosine. A block of chunk x chunk cosines is in
        memory at once. Raises ValueError for more than `limit` pairs: then the
        threshold is too low to mean anything.
        """
        if not 0 < threshold <= 1:
            raise ValueError(
                f"threshold must lie above 0 and not above 1, got {threshold}."
            )
        found = []
        for top in range(0, len(self), chunk):
            for left in range(top, len(self), chunk):
                scores = cosines(
                    self.embeds[top : top + chunk], self.embeds[left : left + chunk]
                )
                scores = scores.triu(1) if left == top else scores  # each pair once
                rows, columns = (scores >= threshold - TIE).nonzero(as_tuple=True)
                found += zip(
                    scores[rows, columns].tolist(),
                    (rows + top).tolist(),
                    (columns + left).tolist(),
                    strict=True,
                )
                if len(found) > limit:
                    raise ValueError(
                        f"More than {limit:,} pairs have a cosine of {threshold} "
                        "or more: raise the threshold."
                    )
        found.sort(key=lambda pair: (-pair[0], pair[1:]))
        return [
            (self.names[row], self.names[column], score)
            for score, row, column in found
        ]

    def accelerate(self, kind: str = "hnsw", effort: int = 128) -> None:
        """Search through FAISS until the index changes.

        "flat" is exact, "ivf" and "hnsw" nearly so. For a million pictures and many
        queries; see `distilclip.index.neighbours`.
        """
        self._neighbours = faiss_neighbours(self.embeds, kind, effort)

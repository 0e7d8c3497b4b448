"""What chance would find: the recalls of rankings drawn at random.

A recall says little alone: among ten pictures, the right one is always among the
first ten.
"""

import logging
from collections.abc import Sequence

import datasets
import torch
from torch import Tensor

from distilclip.runs.watch import format_metrics
from distilclip.search import flatten_captions, pair_captions, texts_by_image

LOG = logging.getLogger("distilclip.training")
FEW = 50  # pictures in a split; with fewer, one of them is more than two points


def chance_metrics(
    captions_of_images: Sequence[Sequence[str]],
    ks: Sequence[int] = (1, 5, 10),
    strict: bool = False,
) -> dict[str, float]:
    """The expected recalls of random rankings, under the names of the true ones.

    What is right for what is as in `retrieval_metrics`.
    """
    texts, owners = flatten_captions(captions_of_images)
    count = len(captions_of_images)
    sorted_owners, order = texts_by_image(owners, count, torch.zeros(len(texts), 1))
    right = pair_captions(sorted_owners, order, None if strict else texts)
    images_of_caption = right.captions.bincount()
    captions_of_image = right.images.bincount(minlength=count)
    captions_of_image = captions_of_image[captions_of_image > 0]
    every = torch.ones_like(captions_of_image)
    metrics = {}
    for name, rights, among, times in (
        ("i2t", captions_of_image, len(right.rows), every),
        ("t2i", images_of_caption, count, right.times),
    ):
        for k in ks:
            found = found_by_chance(rights, among, k)
            metrics[f"{name}_r{k}"] = float((found * times).sum() / times.sum())
    return metrics


def found_by_chance(rights: Tensor, among: int, k: int) -> Tensor:
    """How likely a right one is among the first k of a random order."""
    missed = torch.ones(len(rights), dtype=torch.float64)
    for place in range(min(k, among)):
        missed *= ((among - rights - place) / (among - place)).clamp(min=0)
    return 1 - missed


def say_chance(splits: datasets.DatasetDict) -> None:
    """Say what chance finds in each split but `train`; warn of small ones."""
    for name, rows in splits.items():
        if name == "train":
            continue
        chance = chance_metrics(list(rows["captions"]))
        LOG.info("By chance, %s would have %s.", name, format_metrics(chance))
        warn_of_few(len(rows), str(name))


def warn_of_few(pictures: int, split: str) -> None:
    """Warn where a split has so few pictures that its recalls mean little."""
    if pictures < FEW:
        text = "%s has %d pictures, one of which is %.1f points of its recalls: "
        text += "they say little."
        LOG.info(text, split, pictures, 100 / pictures)

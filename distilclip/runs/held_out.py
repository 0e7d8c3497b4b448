"""Every picture that a run will measure is known to decode before it begins."""

import os

import datasets
from tqdm import tqdm

from distilclip.runs.chance import say_chance
from distilclip.storage.pictures import find_fault, refusal
from distilclip.storage.spare import threads

BLOCK = 256  # pictures that are in memory at a time, undecoded


def check_held_out(splits: datasets.DatasetDict, progress: bool = False) -> None:
    """Decode every picture of every split but `train`, and keep none.

    It is also said what chance would find there, and where there are few.
    Raises ValueError that names the first that cannot be decoded. Those of `train`
    are decoded before the first step anyway.
    """
    held_out = {name: rows for name, rows in splits.items() if name != "train"}
    count = sum(map(len, held_out.values()))
    silent = not progress or count < 500
    with (
        tqdm(total=count, desc="checking images", disable=silent) as bar,
        threads(min(8, os.cpu_count() or 1)) as spread,
    ):
        for rows in held_out.values():
            undecoded = rows.cast_column("image", datasets.Image(decode=False))
            for start in range(0, len(rows), BLOCK):
                images = undecoded[start : start + BLOCK]["image"]
                faults = spread(find_fault, images)
                for position, fault in enumerate(faults, start):
                    if fault:
                        name = rows["image_id"][position]
                        raise ValueError(refusal(name, fault))
                bar.update(len(images))
    say_chance(splits)

"""The splits train, validation and test; what a source lacks comes from `train`."""

import bisect
import hashlib
from pathlib import Path

import datasets

SPLITS = ("train", "validation", "test")


def with_all_splits(
    pairs: datasets.DatasetDict, name: str | Path
) -> datasets.DatasetDict:
    """Draw the splits that are missing from `train`, about a tenth of it each.

    A hash of a picture's own id decides: it falls into the same split on every
    machine, and also when other pictures join the data set or are left out as
    broken. (A split that would get none takes the picture whose hash is nearest.)
    """
    missing = [split for split in ("validation", "test") if split not in pairs]
    if "train" not in pairs:
        raise ValueError(
            f"{name} has no split called train, only {', '.join(map(str, pairs))}."
        )
    for split, rows in pairs.items():
        if len(rows) == 0:
            raise ValueError(
                f"The split {split!r} of {name} is empty: "
                "no captioned picture in it."
            )
    rows = pairs["train"]
    if len(rows) <= len(missing):
        noun = "picture" if len(rows) == 1 else "pictures"
        raise ValueError(
            f"{name} has {len(rows)} captioned {noun}; at least {len(missing) + 1} "
            f"are needed to set some aside for {' and '.join(missing)}."
        )
    places = [hash_of_id(image_id) for image_id in rows["image_id"]]
    order = sorted(range(len(rows)), key=places.__getitem__)
    taken = 0
    for number, split in enumerate(missing, start=1):
        end = bisect.bisect_left(order, number / 10, key=places.__getitem__)
        end = min(max(end, taken + 1), len(rows) - 1 - len(missing) + number)
        pairs[split] = rows.select(sorted(order[taken:end]))
        taken = end
    pairs["train"] = rows.select(sorted(order[taken:])) if missing else rows
    return pairs


def hash_of_id(image_id: str) -> float:
    """A number in [0, 1) that looks random but depends on a picture's id alone."""
    digest = hashlib.sha256(image_id.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48

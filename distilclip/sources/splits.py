"""The splits train, validation and test; what a source lacks comes from `train`."""

import bisect
import hashlib
import re
from pathlib import Path

import datasets

SPLITS = ("train", "validation", "test")
# What people call the splits, in lower case
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainset", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "dev", "eval"), "validation"),
    **dict.fromkeys(("valset", "devset", "validate"), "validation"),
    **dict.fromkeys(("validation", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
# What may stand beside such a word in the name of a folder: train_images, val2017
BESIDE = {"image", "images", "img", "imgs", "picture", "pictures", "photos", "data"}
BESIDE |= {"set", "split"}


def split_name(word: object) -> str:
    """The split that a source's own word means, or that very word."""
    text = " ".join(str(word).split())
    return SPLIT_WORDS.get(text.lower(), text)


def split_of_folder(name: str) -> str:
    """The split that a folder's name means, such as Val, train_images or test2017.

    "" for any other name.
    """
    words = re.findall(r"[^\W\d_]+", name.lower())
    words = [word for word in words if word not in BESIDE]
    return SPLIT_WORDS.get(words[0], "") if len(words) == 1 else ""


def looks_like_split(name: str) -> bool:
    """Whether a name begins or ends with a word for a split."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    return bool(words) and (words[0] in SPLIT_WORDS or words[-1] in SPLIT_WORDS)


def unclear_split(place: Path) -> str:
    """The sentence for a folder or file that could be a split, and does not say."""
    return (
        f"{place} looks like a split, or lies beside some, but its name does not "
        "say which one it is: call it train, validation or test, or move it "
        "elsewhere."
    )


def split_order(split: str) -> int:
    """Of two splits that hold the same picture, the one of lower order keeps it."""
    return {"test": 0, "validation": 1, "train": 3}.get(split, 2)


def take_split(
    pairs: datasets.DatasetDict, split: str, name: str | Path
) -> datasets.Dataset:
    """A split of a source; ValueError that says what there is where it lacks it."""
    if split not in pairs:
        there = ", ".join(map(str, pairs))
        only = f"only {there}" if len(pairs) == 1 else f"but {there}"
        raise ValueError(f"{name} has no split {split!r}, {only}.")
    return pairs[split]


def with_all_splits(
    pairs: datasets.DatasetDict, name: str | Path
) -> datasets.DatasetDict:
    """Draw the splits that are missing from `train`, about a tenth of it each.

    A hash of a picture's own id decides: it falls into the same split on every
    machine, and also when other pictures join the data set or are left out as
    broken. (A split that would get none takes the picture whose hash is nearest.)
    Where there is no `train`, what is there stays alone.
    """
    for split, rows in pairs.items():
        if len(rows) == 0:
            raise ValueError(
                f"The split {split!r} of {name} is empty: "
                "no captioned picture in it that is not in another."
            )
    if "train" not in pairs:
        return pairs
    missing = [split for split in ("validation", "test") if split not in pairs]
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

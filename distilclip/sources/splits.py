"""The splits train, validation and test; what a source lacks comes from `train`."""

import bisect
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import datasets

from distilclip.sources.skipping import LOG

SPLITS = ("train", "validation", "test")
# What people call the splits, in lower case
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainset", "restval", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "dev", "eval", "vld"), "validation"),
    **dict.fromkeys(("valset", "devset", "validate", "minival"), "validation"),
    **dict.fromkeys(("validation", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "testset", "tst"), "test"),
}
# What may be one or another, and is no part of `train`
UNCLEAR_WORDS: dict[str, str] = {"holdout": "test", "heldout": "test"}
# Words that say no split where the split should be
NO_SPLIT = re.compile(r"\d+(\.\d+)?|true|false|yes|no", re.IGNORECASE)
# What may stand beside such a word in the name of a folder: train_images, val2017
BESIDE = {"image", "images", "img", "imgs", "picture", "pictures", "photos", "data"}
BESIDE |= {"set", "split"}


def split_name(word: object) -> str:
    """The split that a source's own word means, or that very word.

    Test Set, train2017 and ['val'] are understood.
    """
    text = " ".join(str(word).split()).strip("[]'\"")
    plain = re.sub(r"[\s_-]+", " ", text.lower())
    return SPLIT_WORDS.get(plain) or split_of_folder(text) or text


def words_in(name: str) -> list[str]:
    """The words in a name, in lower case: testA is "test" and "a"."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return re.findall(r"[^\W\d_]+", name.lower())


def split_of_folder(name: str) -> str:
    """The split that a folder's name means, such as Val, train_images or test2017.

    "" for any other name, and for one that is hidden.
    """
    if name.startswith("."):
        return ""
    words = re.findall(r"[^\W\d_]+", name.lower())
    words = [word for word in words if word not in BESIDE]
    return SPLIT_WORDS.get(words[0], "") if len(words) == 1 else ""


def looks_like_split(name: str) -> bool:
    """Whether a name begins or ends with a word for a split."""
    return bool(splits_like(name))


def splits_like(name: str) -> set[str]:
    """The splits that a name which begins or ends with a word for one may mean."""
    words = words_in(name)
    found = [SPLIT_WORDS.get(word) for word in words[:1] + words[-1:]]
    found.append(UNCLEAR_WORDS.get("".join(words[:2])))
    return {split for split in found if split}


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
        raise ValueError(f"{name} has no split {split[:80]!a}, {only}.")
    return pairs[split]


def with_all_splits(
    pairs: datasets.DatasetDict, name: str | Path
) -> datasets.DatasetDict:
    """Draw the splits that are missing from `train`, about a tenth of it each.

    A hash of a picture's own id decides: it falls into the same split on every
    machine, and also when other pictures join the data set or are left out as
    broken. (A split that would get none takes the picture whose hash is nearest.)
    Where there is no `train`, what is there stays alone; and none is drawn for one
    that the source has under a name of its own, such as testA.
    """
    names = list(map(str, pairs))
    refuse_meaningless(names, name)
    for split, rows in pairs.items():
        if len(rows) == 0:
            raise ValueError(
                f"The split {split!r} of {name} is empty: "
                "no captioned picture in it that is not in another."
            )
    if "train" not in pairs:
        return pairs
    own = {n: splits_like(n) for n in names if n not in SPLITS}
    stood_for = set().union(*own.values()) - set(names)
    if stood_for:
        LOG.warning(
            "%s: %s stay under their own names, and no %s is drawn from train.",
            name,
            ", ".join(n for n, splits in own.items() if splits),
            " and no ".join(sorted(stood_for)),
        )
    missing = [
        split
        for split in ("validation", "test")
        if split not in pairs and split not in stood_for
    ]
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


def refuse_meaningless(splits: Iterable[str], name: str | Path) -> None:
    """Raise ValueError where what should name a split is a number or a truth."""
    found = sorted(split for split in splits if NO_SPLIT.fullmatch(split))
    if found:
        raise ValueError(
            f"The splits of {name} are called {', '.join(found)}, which does not "
            "say which is which: call them train, validation and test."
        )


def hash_of_id(image_id: str) -> float:
    """A number in [0, 1) that looks random but depends on a picture's id alone."""
    digest = hashlib.sha256(image_id.encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48

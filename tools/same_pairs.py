"""The same pairs in any layout: writes a source in twelve ways and reads each one back.

    python tools/same_pairs.py ~/pictures
    python tools/same_pairs.py flickr8k --limit 200      at most 200 pictures of each split

Loads SOURCE, which is whatever `load_pairs` takes by name, and writes its pictures, byte for byte,
with their captions into a temporary folder, once for every layout below. Each is loaded again and
must hold the same pictures (by their bytes), each with the same captions (as a set) and in the
same split. Kaggle's two layouts cannot say which picture is in which split: theirs are drawn, and
must be those that are drawn for a plain folder with the same file names. Prints a line a layout
with two hashes; the status is 1 if any differs. Splits other than train, validation and test are
left out. Pictures are held in memory, and a few times on the disk, one layout after the other.
"""

import argparse
import csv
import hashlib
import io
import json
import logging
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from distilclip import load_pairs
from distilclip.sources.splits import SPLITS
from distilclip.storage.pictures import FORMATS, open_picture

SHARD_SIZE = 1000  # pictures in a shard


@dataclass(frozen=True)
class Pair:
    """A picture's file name, its bytes, its captions and its split."""

    name: str
    content: bytes
    captions: tuple[str, ...]
    split: str


def contents_of(rows: datasets.Dataset) -> Iterator[tuple[bytes, list[str]]]:
    """The bytes of each picture of a split, as they are stored, and its captions."""
    rows = rows.cast_column("image", datasets.Image(decode=False))
    for row in rows:
        image = row["image"]
        content = image["bytes"]
        yield Path(image["path"]).read_bytes() if content is None else content, row["captions"]


def load(source: str, limit: int | None) -> list[Pair]:
    """The pairs of a source, under new names that say nothing."""
    pairs, number = [], count()
    loaded = load_pairs(source)
    for split in (split for split in SPLITS if split in loaded):
        rows = loaded[split]
        for content, captions in contents_of(
            rows.select(range(min(len(rows), limit or len(rows))))
        ):
            suffix = FORMATS.get(open_picture(io.BytesIO(content)).format or "", (".png",))[0]
            pairs.append(Pair(f"{next(number):09}{suffix}", content, tuple(captions), split))
    return pairs


def splits_in(pairs: list[Pair]) -> dict[str, list[Pair]]:
    splits = dict.fromkeys(pair.split for pair in pairs)
    return {split: [pair for pair in pairs if pair.split == split] for split in splits}


def shards_in(pairs: list[Pair]) -> Iterator[tuple[int, list[Pair]]]:
    for start in range(0, len(pairs), SHARD_SIZE):
        yield start // SHARD_SIZE, pairs[start : start + SHARD_SIZE]


def write_pictures(folder: Path, pairs: list[Pair]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        (folder / pair.name).write_bytes(pair.content)


def write_text(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_table(file: Path, header: list[str], rows: list[list[object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([header, *rows])


# The layouts: each writes pairs into a folder, and gives what `load_pairs` is to be told


def texts_beside(folder: Path, pairs: list[Pair]) -> Path:
    for split, some in splits_in(pairs).items():
        write_plain_folder(folder / split, some)
    return folder


def write_plain_folder(folder: Path, pairs: list[Pair]) -> Path:
    """Pictures in one heap, with a text beside each: the splits are drawn."""
    write_pictures(folder, pairs)
    for pair in pairs:
        write_text((folder / pair.name).with_suffix(".txt"), list(pair.captions))
    return folder


def metadata_csv(folder: Path, pairs: list[Pair]) -> Path:
    for split, some in splits_in(pairs).items():
        write_pictures(folder / split, some)
        rows = [[pair.name, caption] for pair in some for caption in pair.captions]
        write_table(folder / split / "metadata.csv", ["file_name", "text"], rows)
    return folder


def metadata_jsonl(folder: Path, pairs: list[Pair]) -> Path:
    write_pictures(folder / "pictures", pairs)
    lines = [
        json.dumps(
            {"file_name": f"pictures/{p.name}", "captions": list(p.captions), "split": p.split}
        )
        for p in pairs
    ]
    write_text(folder / "metadata.jsonl", lines)
    return folder


def named_table(folder: Path, pairs: list[Pair]) -> Path:
    write_pictures(folder / "pictures", pairs)
    rows = [[f"pictures/{p.name}", caption, p.split] for p in pairs for caption in p.captions]
    write_table(folder / "captions.csv", ["image", "caption", "split"], rows)
    return folder / "captions.csv"


def kaggle_flickr8k(folder: Path, pairs: list[Pair]) -> Path:
    write_pictures(folder / "Images", pairs)
    rows = [[pair.name, caption] for pair in pairs for caption in pair.captions]
    write_table(folder / "captions.txt", ["image", "caption"], rows)
    return folder


def kaggle_flickr30k(folder: Path, pairs: list[Pair]) -> Path:
    write_pictures(folder / "flickr30k_images" / "flickr30k_images", pairs)
    lines = [f"{p.name}| {n}| {text}" for p in pairs for n, text in enumerate(p.captions)]
    header = "image_name| comment_number| comment"
    write_text(folder / "flickr30k_images" / "results.csv", [header, *lines])
    return folder


def flickr8k_tokens(folder: Path, pairs: list[Pair]) -> Path:
    write_pictures(folder / "Flicker8k_Dataset", pairs)
    lines = [f"{p.name}#{n}\t{text}" for p in pairs for n, text in enumerate(p.captions)]
    write_text(folder / "Flickr8k_text" / "Flickr8k.token.txt", lines)
    for split, some in splits_in(pairs).items():
        file = f"Flickr_8k.{'dev' if split == 'validation' else split}Images.txt"
        write_text(folder / "Flickr8k_text" / file, [pair.name for pair in some])
    return folder


def coco_captions(folder: Path, pairs: list[Pair]) -> Path:
    numbers = count(1)
    for split, some in splits_in(pairs).items():
        name = f"{'val' if split == 'validation' else split}2017"
        write_pictures(folder / name, some)
        images = [{"id": number, "file_name": pair.name} for number, pair in enumerate(some)]
        annotations = [
            {"id": next(numbers), "image_id": number, "caption": caption}
            for number, pair in enumerate(some)
            for caption in pair.captions
        ]
        content = json.dumps({"info": {}, "images": images, "annotations": annotations})
        write_text(folder / "annotations" / f"captions_{name}.json", [content])
    return folder


def webdataset_tars(folder: Path, pairs: list[Pair]) -> Path:
    folder.mkdir(parents=True)
    for split, some in splits_in(pairs).items():
        for number, shard in shards_in(some):
            with tarfile.open(folder / f"{split}-{number:05}.tar", "w") as tar:
                for pair in shard:
                    text = "\n".join(pair.captions).encode()
                    stem = Path(pair.name).stem
                    for name, content in ((pair.name, pair.content), (f"{stem}.txt", text)):
                        member = tarfile.TarInfo(name)
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    return folder


def img2dataset_files(folder: Path, pairs: list[Pair]) -> Path:
    """A key, and a copy of the picture, for every caption, as from a list of addresses."""
    for split, some in splits_in(pairs).items():
        for number, shard in shards_in(some):
            place = folder / split / f"{number:05}"
            place.mkdir(parents=True)
            rows = []
            for pair in shard:
                for caption in pair.captions:
                    key = f"{number:05}{len(rows):04}"
                    file = place / f"{key}{Path(pair.name).suffix}"
                    file.write_bytes(pair.content)
                    file.with_suffix(".txt").write_text(caption, encoding="utf-8")
                    rows.append({"key": key, "caption": caption, "status": "success"})
                    file.with_suffix(".json").write_text(json.dumps(rows[-1]))
            pq.write_table(pa.Table.from_pylist(rows), place.with_suffix(".parquet"))
            stats = json.dumps({"count": len(rows), "successes": len(rows)})
            place.with_name(f"{place.name}_stats.json").write_text(stats)
    return folder


def parquet_files(folder: Path, pairs: list[Pair]) -> Path:
    folder.mkdir(parents=True)
    most = max(len(pair.captions) for pair in pairs)
    for split, some in splits_in(pairs).items():
        columns: dict[str, list] = {"image": [{"bytes": p.content, "path": None} for p in some]}
        for n in range(most):
            columns[f"caption_{n}"] = [[*p.captions, *[None] * most][n] for p in some]
        pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")
    return folder


def saved_to_disk(folder: Path, pairs: list[Pair]) -> Path:
    saved = datasets.DatasetDict()
    for split, some in splits_in(pairs).items():
        columns = {
            "image": [{"bytes": pair.content, "path": None} for pair in some],
            "captions": [list(pair.captions) for pair in some],
        }
        rows = datasets.Dataset.from_dict(columns)
        saved[split] = rows.cast_column("image", datasets.Image())
    saved.save_to_disk(folder)
    return folder


LAYOUTS: dict[str, Callable[[Path, list[Pair]], Path]] = {
    "a .txt beside each picture": texts_beside,
    "metadata.csv": metadata_csv,
    "metadata.jsonl": metadata_jsonl,
    "captions.csv, one caption a row": named_table,
    "Kaggle's Flickr8k": kaggle_flickr8k,
    "Kaggle's Flickr30k": kaggle_flickr30k,
    "Flickr8k.token.txt": flickr8k_tokens,
    "COCO's captions_*.json": coco_captions,
    "WebDataset's .tar": webdataset_tars,
    "img2dataset's files": img2dataset_files,
    "parquet": parquet_files,
    "save_to_disk": saved_to_disk,
}
DRAWN = (kaggle_flickr8k, kaggle_flickr30k)  # no place for a split


# Comparing

Found = dict[str, tuple[tuple[str, ...], str]]  # a picture's hash: its captions, its split


def found_in(source: Path) -> Found:
    """What `load_pairs` finds; ValueError where a picture is in two rows."""
    found: Found = {}
    for split, rows in load_pairs(source).items():
        for content, captions in contents_of(rows):
            key = hashlib.sha256(content).hexdigest()
            if key in found:
                raise ValueError(f"one picture in two rows, of {found[key][1]} and {split}")
            found[key] = (tuple(sorted(set(captions))), str(split))
    return found


def short_hash(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:12]


def hashes_of(found: Found) -> tuple[str, str]:
    """The hash of the pairs and that of the splits."""
    pairs = sorted((key, captions) for key, (captions, _) in found.items())
    splits = sorted((key, split) for key, (_, split) in found.items())
    return short_hash(pairs), short_hash(splits)


def read_back(write: Callable[[Path, list[Pair]], Path], pairs: list[Pair]) -> Found:
    """What is found in a layout, in a folder of its own, which is removed again."""
    # On Windows a table that is mapped into memory cannot be removed.
    with tempfile.TemporaryDirectory(prefix="same-pairs-", ignore_cleanup_errors=True) as place:
        datasets.config.HF_DATASETS_CACHE = Path(place, "cache")
        return found_in(write(Path(place, "pairs"), pairs))


def main(arguments: list[str] | None = None) -> int:
    """Write, read back, print the table -> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", help="what `load_pairs` takes: a folder, a table, a name")
    parser.add_argument("--limit", type=int, help="at most so many pictures of each split")
    given = parser.parse_args(arguments)
    pairs = load(given.source, given.limit)
    captions = sum(len(pair.captions) for pair in pairs)
    sizes = ", ".join(f"{len(some)} {split}" for split, some in splits_in(pairs).items())
    print(f"{len(pairs)} pictures ({sizes}), {captions} captions\n")
    named: Found = {
        hashlib.sha256(pair.content).hexdigest(): (tuple(sorted(set(pair.captions))), pair.split)
        for pair in pairs
    }
    if len(named) < len(pairs):
        print(f"{len(pairs) - len(named)} of the pictures are in two rows of the source.")
        return 1
    row = "{:<33}{:<14}{:<14}{:<7}{}".format
    print(row("layout", "pairs", "splits", "", "").rstrip())
    print(row("the source", *hashes_of(named), "named", "").rstrip())
    drawn = read_back(write_plain_folder, pairs)
    print(row("the source in one heap", *hashes_of(drawn), "drawn", "").rstrip())
    wrong = 0
    for name, write in LAYOUTS.items():
        wanted, kind = (drawn, "drawn") if write in DRAWN else (named, "named")
        try:
            hashes = hashes_of(read_back(write, pairs))
        except Exception as error:
            hashes, verdict = ("-", "-"), f"{type(error).__name__}: {error}"
        else:
            is_same = hashes == (hashes_of(named)[0], hashes_of(wanted)[1])
            verdict = "same" if is_same else "DIFFERS"
        wrong += verdict != "same"
        print(row(name, *hashes, kind, verdict), flush=True)
    print(f"\n{len(LAYOUTS) - wrong} of {len(LAYOUTS)} layouts give the same pairs and splits.")
    return 1 if wrong else 0


if __name__ == "__main__":
    logging.getLogger("distilclip").setLevel(logging.ERROR)  # joined rows are expected here
    datasets.disable_progress_bars()
    sys.exit(main())

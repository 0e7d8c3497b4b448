"""Training on a stream: batches that are read and decoded ahead of the steps.

What chapter 8b's run leans on where data are larger than memory: chapter 11's
`ShuffledStream` says which rows come; here their pictures are decoded in threads,
and the place behind each batch is kept until the run's state is saved.
"""

import contextlib
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import datasets
import numpy as np
import torch
from torch import Tensor

from distilclip.data import HUB_SOURCES, TrainingPairs
from distilclip.runs.checkpoint import pairs_hash
from distilclip.runs.settings import READING, TrainConfig
from distilclip.scale import ShuffledStream
from distilclip.sources.columns import asked_for
from distilclip.sources.entries import Asked
from distilclip.sources.streams import (
    Row,
    Skips,
    Stream,
    captions_of_alike,
    held_out_of,
    join_block,
    open_stream,
)
from distilclip.storage.pictures import decode_image, square
from distilclip.storage.spare import A_THREAD, check_spare

Item = TypeVar("Item")
AHEAD = 2  # batches that are ready before they are asked for
KEPT = 16  # places of batches that no step may have learned from yet
Picture = np.ndarray | ValueError  # (S, S, 3), or why it cannot be decoded


class StreamedPairs(TrainingPairs):
    """The training pairs of a stream, which come batch by batch.

    It has the length of an epoch, and no pictures of its own. Of each batch, only
    the pictures of `share`, this process's rows of it, are decoded.
    """

    def __init__(
        self,
        stream: ShuffledStream,
        length: int,
        config: TrainConfig,
        share: slice,
        skips: Skips | None,
        threads: int,
    ):
        self.stream, self.length, self.name = stream, length, str(config.data)
        self.batch_size, self.size = config.batch_size, config.image_size
        self.share = share if skips is None else slice(None)
        self.skips, self.captions = skips, []
        check_spare((threads + 1) * A_THREAD)
        self.pool = ThreadPoolExecutor(threads)
        self.places: dict[int, dict] = {}
        self.start = stream.place
        self.ready = ahead(self.batches(), AHEAD)

    def __len__(self) -> int:
        return self.length

    def take(
        self, steps: Iterable[int]
    ) -> Iterator[tuple[int, TrainingPairs, list[list[str]]]]:
        """The batch of each of `steps`, which follow each other, and its captions.

        Raises OSError where the stream breaks off, ValueError where a picture or a
        caption is at fault.
        """
        for step in steps:
            start, behind, pixels, captions = next(self.ready)
            self.places.setdefault(step, start)
            self.places[step + 1] = behind
            self.places.pop(step - KEPT, None)
            yield step, TrainingPairs(pixels, captions), captions

    def place(self, step: int) -> dict:
        """Where the batch of `step` begins, for a run's state."""
        return self.places[step] if self.places else self.start

    def batches(self) -> Iterator[tuple[dict, dict, Tensor, list[list[str]]]]:
        """Places before and behind each batch, its pixels, its captions."""
        rows = iter(self.stream)
        while True:
            start, chosen, pictures = self.stream.place, [], []
            while len(chosen) < self.batch_size:
                some = list(islice(rows, self.batch_size - len(chosen)))
                decoded = self.decode(some)
                for row, picture in zip(some, decoded, strict=True):
                    if not isinstance(picture, ValueError):
                        chosen.append(row)
                        pictures.append(picture)
                    elif self.skips is None:
                        raise picture
                    else:
                        self.skips.append(str(picture))
            shape = len(chosen), 3, self.size, self.size
            pixels = torch.zeros(shape, dtype=torch.uint8)
            for position, picture in enumerate(pictures):
                if picture is not None:
                    pixels.numpy()[position] = picture.transpose(2, 0, 1)
            yield start, self.stream.place, pixels, captions_of_alike(chosen)

    def decode(self, rows: Sequence[Row]) -> list[Picture | None]:
        """The pictures of a batch's rows; None for those of other processes."""
        mine = range(self.batch_size)[self.share]
        tasks = [
            self.pool.submit(decode_row, row, self.size) if number in mine else None
            for number, row in enumerate(rows)
        ]
        return [task and task.result() for task in tasks]

    def close(self) -> None:
        """Stop reading, and say what was left out."""
        self.ready.close()
        self.pool.shutdown(cancel_futures=True)
        if self.skips is not None:
            self.skips.report(self.name)


def decode_row(row: Row, size: int) -> Picture:
    """The pixels of a row, or the sentence that says why there are none."""
    try:
        image = decode_image({"bytes": row.content, "path": None})
        return np.asarray(square(image, size))
    except (ValueError, OSError) as error:
        return ValueError(
            f"Cannot decode the image {row.image_id!r}: {error}. "
            "Repair it, take it out, or skip such pictures (skip_broken)."
        )


def ahead(items: Iterator[Item], count: int) -> Generator[Item]:
    """The same items, at most `count` of them made in a thread before they are due.

    What goes wrong while one is made is raised where it was due.
    """
    made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()
    room, stopped = threading.Semaphore(count), threading.Event()

    def make() -> None:
        try:
            while room.acquire() and not stopped.is_set():
                made.put((next(items), None))
        except BaseException as error:
            made.put((None, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item
    finally:
        stopped.set()
        room.release()
        thread.join()
        close = getattr(items, "close", None)
        if close is not None:
            close()


class Sparing(logging.Filter):
    """Lets through the first message of a logger, the second, the fourth, ...

    A stream has captions that its text encoder does not read in every other batch.
    """

    count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the number of this message is a power of two."""
        self.count += 1
        return self.count & (self.count - 1) == 0


@contextlib.contextmanager
def open_streamed(
    config: TrainConfig,
    saved: dict | None,
    group: tuple[int, int],
    device: torch.device,
    data: Any = None,
) -> Iterator[tuple[datasets.DatasetDict, str]]:
    """The splits of a stream while the block runs, and a hash of what it is.

    `train` is a `StreamedPairs` that goes on where the `saved` run was; the others
    are as `load_pairs` has them. Raises ValueError where another stream is at the
    source now, and what `open_stream` raises.
    """
    skips = Skips() if config.skip_broken else None
    asked = asked_of(config, skips)
    source = config.data if data is None else data
    if isinstance(source, str):
        source = HUB_SOURCES.get(source, source)
    stream = open_stream(source, asked)
    held_out, keys = held_out_of(stream, asked)
    identity = identity_of(stream, held_out)
    if saved and saved["data"] != identity:
        raise ValueError(
            f"The stream {config.data} has changed since the run in {config.out} "
            "was started: put its shards back as they were, or start a new run in "
            "another folder."
        )
    rank, world = group
    shares = [number * config.batch_size // world for number in (rank, rank + 1)]
    shuffled = ShuffledStream(
        stream.shards["train"],
        config.shuffle_buffer,
        config.seed,
        saved["stream"] if saved else None,
        join=partial(join_block, left_out=keys),
        fetch=partial(ahead, count=1),
        at_least=config.batch_size,
    )
    length = length_of_epoch(stream, config, keys)
    threads = os.cpu_count() or 1
    if device.type == "cpu":  # which has the steps to take as well
        threads = max(1, threads - torch.get_num_threads())
    pairs = StreamedPairs(shuffled, length, config, slice(*shares), skips, threads)
    held_out["train"] = pairs  # type: ignore[assignment]
    about_texts, sparing = logging.getLogger("distilclip.text"), Sparing()
    about_texts.addFilter(sparing)
    try:
        yield held_out, identity
    finally:
        about_texts.removeFilter(sparing)
        pairs.close()


def asked_of(config: TrainConfig, skips: Skips | None) -> Asked:
    """How a run's data are to be read."""
    reading = {name: getattr(config, name) for name in READING}
    return asked_for(**reading, skipped=skips)


def identity_of(stream: Stream, held_out: datasets.DatasetDict) -> str:
    """A hash of what a stream says about itself, and of what is held out of it."""
    parts = [stream.identity, *map(pairs_hash, held_out.values())]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:32]


def length_of_epoch(stream: Stream, config: TrainConfig, keys: set[bytes]) -> int:
    """How many pictures make an epoch: as many as asked for, or as there are rows.

    Raises ValueError where neither is known, and for less than a batch.
    """
    length = config.epoch_pictures
    if not length:
        rows = stream.counts.get("train") or stream.look("train")
        if not rows:
            raise ValueError(
                f"{config.data} does not say how many pictures it has: say how "
                "many make an epoch, with --epoch-pictures."
            )
        named = "validation" in stream.shards and "test" in stream.shards
        length = rows if named else max(1, rows - len(keys))
    if length < config.batch_size:
        raise ValueError(
            f"{config.data} has {length} training pictures an epoch, fewer than "
            f"one batch of {config.batch_size}: choose a smaller batch size."
        )
    return length

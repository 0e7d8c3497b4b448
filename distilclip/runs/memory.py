"""What the C library does with memory that tensors give back.

That matters for the speed of training on a CPU, where a step makes and drops large
tensors by the hundred. glibc, the C library of most Linux systems, returns each
large block to the kernel when it is dropped, and the next one comes back as fresh
pages, which the kernel clears, 4 KiB at a time. `benchmarks/freed_memory.py`
measures what that costs. And a sentence for when there is no memory left, and a
place on the disk for pictures that would take too much of it.
"""

import contextlib
import ctypes
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from distilclip.runs.checkpoint import STATE_FILE
from distilclip.runs.settings import TrainConfig
from distilclip.storage.files import make_private

LOG = logging.getLogger("distilclip.memory")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's names and numbers, from malloc.h


def keep_freed_memory() -> None:
    """Have this process keep the memory of freed tensors for the next step.

    The process then holds the most that it ever used until it ends. Without glibc,
    nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap, too
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # and stay there


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device, or this machine, has no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    phrases = (
        "out of memory",
        "not enough memory",
        "allocate memory",
        "alloc_failed",
        "bad_alloc",
        "could not create a primitive",  # of oneDNN
        "start new thread",
        "return without exception set",  # of Python, that could not make one
    )
    text = str(error).lower()
    kinds = RuntimeError, SystemError
    return isinstance(error, kinds) and any(p in text for p in phrases)


def explain_out_of_memory(error: BaseException) -> str:
    """The sentence for an error that `is_out_of_memory`, in any command."""
    text = str(error)
    if text.startswith("Out of memory"):  # says it already
        return text
    asked = re.search(r"ried to allocate ([\d.]+ \w+)", text)
    amount = f" ({asked[1]} more were asked for)" if asked else ""
    return (
        f"Out of memory{amount}: in training, choose a smaller batch_size, or a "
        "micro_batch (--batch-size, --micro-batch); elsewhere, end other programs."
    )


@contextlib.contextmanager
def explained_out_of_memory(config: TrainConfig) -> Iterator[None]:
    """Where a run needs more memory than there is, name what to make smaller.

    Raises torch.OutOfMemoryError with one sentence, whatever the kind of the error.
    """
    try:
        yield
    except (RuntimeError, MemoryError, SystemError) as error:
        if not is_out_of_memory(error):
            raise
        start = explain_out_of_memory(error).partition(": ")[0]
        half = max(1, (config.micro_batch or config.batch_size) // 2)
        advice = (
            f"a smaller batch_size than {config.batch_size}, or the same with a "
            f"micro_batch such as {half}"
        )
        if config.micro_batch:
            advice = f"a smaller micro_batch than {config.micro_batch}"
        is_saved = (Path(config.out).expanduser() / STATE_FILE).is_file()
        kept = (
            f" The last saved state in {config.out} is intact." if is_saved else ""
        )
        raise torch.OutOfMemoryError(f"{start}: choose {advice}.{kept}") from None


def free_memory(files: Path = Path("/")) -> int | None:
    """How many bytes this process can still have; None where nobody says.

    That is what the system calls available, or less in a container with a limit of
    its own. `files` is where the system's own files are.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (files / "proc/meminfo").read_text()
        found.append(int(text.split("MemAvailable:")[1].split()[0]) * 1024)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        place = files / "sys/fs/cgroup"
        with contextlib.suppress(OSError, ValueError):  # there is none, or "max"
            numbers = [int((place / name).read_text()) for name in (limit, used)]
            found.append(max(0, numbers[0] - numbers[1]))
    if not found:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            found.append(pages // 2)
    return min(found, default=None)


def cache_folder(config: TrainConfig, pictures: int) -> Path | None:
    """Where the decoded pixels of so many pictures go; None for into memory.

    Into the folder that the configuration names, or, where they would take more
    than the share `pixel_memory` of the free memory, into a folder of our own.
    """
    if config.cache:
        return Path(config.cache)
    size = pictures * 3 * config.image_size**2
    free = free_memory()
    if free is None or size <= config.pixel_memory * free:
        return None
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(home).expanduser() / "distilclip" / "pixels"
    LOG.warning(
        "The decoded pictures take %.1f GiB, more than %.0f %% of the %.1f GiB of "
        "memory that are free: they go to a file in %s (another place: --cache).",
        *(size / 2**30, 100 * config.pixel_memory, free / 2**30, folder),
    )
    make_private(folder)
    return folder

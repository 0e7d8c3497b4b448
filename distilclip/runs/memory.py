"""What the C library does with memory that tensors give back.

That matters for the speed of training on a CPU, where a step makes and drops large
tensors by the hundred. glibc, the C library of most Linux systems, returns each
large block to the kernel when it is dropped, and the next one comes back as fresh
pages, which the kernel clears, 4 KiB at a time. `benchmarks/freed_memory.py`
measures what that costs. And a sentence for when there is no memory left.
"""

import contextlib
import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from distilclip.runs.checkpoint import STATE_FILE
from distilclip.runs.settings import TrainConfig

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
    )
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(p in text for p in phrases)


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
    except (RuntimeError, MemoryError) as error:
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

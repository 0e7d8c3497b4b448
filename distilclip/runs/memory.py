"""What the C library does with memory that tensors give back.

That matters for the speed of training on a CPU, where a step makes and drops large
tensors by the hundred. glibc, the C library of most Linux systems, returns each
large block to the kernel when it is dropped, and the next one comes back as fresh
pages, which the kernel clears, 4 KiB at a time. `benchmarks/freed_memory.py`
measures what that costs.
"""

import contextlib
import ctypes

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

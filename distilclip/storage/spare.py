"""Memory that must be there before work begins that cannot say that it lacks it.

Python raises MemoryError, and a command turns that into a sentence. Native code may
end the whole process instead: Rust where a buffer cannot be had, glibc where a
thread's own data cannot, and a thread that Python cannot finish starting is waited
for without end. Such work is asked about first.
"""

import contextlib
import mmap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ANY_WORK = 64 << 20  # what every command takes beyond its libraries
# Its stack, what glibc sets aside for its blocks, and a picture
A_THREAD = 96 << 20


def has_spare(count: int) -> bool:
    """Whether this process may have `count` bytes more, which it does not keep."""
    try:
        mmap.mmap(-1, max(count, 1)).close()
    except (OSError, OverflowError):
        return False
    return True


def check_spare(count: int) -> None:
    """Raise MemoryError where this process may not have `count` bytes more."""
    if not has_spare(count):
        raise MemoryError


@contextlib.contextmanager
def threads(count: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A `map` whose calls are spread over `count` threads, or what memory allows.

    Where it allows none, the calls are made one after another.
    """
    while count and not has_spare(count * A_THREAD):
        count //= 2
    if not count:
        yield map
        return
    with ThreadPoolExecutor(count) as pool:
        yield pool.map

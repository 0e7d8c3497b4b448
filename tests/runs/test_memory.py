"""Freed memory is kept where there is a glibc to be told so."""

from types import SimpleNamespace

from distilclip.runs.memory import keep_freed_memory


def test_memory_is_kept_where_there_is_a_glibc_and_nothing_happens_elsewhere(monkeypatch):
    asked = []
    libc = SimpleNamespace(mallopt=lambda name, value: asked.append((name, value)))
    monkeypatch.setattr("ctypes.CDLL", lambda name: libc)
    keep_freed_memory()
    assert asked == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace())  # no glibc
    keep_freed_memory()

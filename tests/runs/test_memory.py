"""Freed memory is kept where there is a glibc; a lack of it ends in one sentence."""

from types import SimpleNamespace

import pytest
import torch

from distilclip.runs.memory import (
    explain_out_of_memory,
    explained_out_of_memory,
    is_out_of_memory,
    keep_freed_memory,
)
from distilclip.runs.settings import TrainConfig


def test_memory_is_kept_where_there_is_a_glibc_and_nothing_happens_elsewhere(monkeypatch):
    asked = []
    libc = SimpleNamespace(mallopt=lambda name, value: asked.append((name, value)))
    monkeypatch.setattr("ctypes.CDLL", lambda name: libc)
    keep_freed_memory()
    assert asked == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace())  # no glibc
    keep_freed_memory()


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0"),
            "2.00 GiB",
        ),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), ""),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), ""),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            ),
            "9 bytes",
        ),
        (MemoryError(), ""),
    ],
)
@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (
            {"batch_size": 64},
            "a smaller batch_size than 64, or the same with a micro_batch such as 32",
        ),
        ({"micro_batch": 16}, "a smaller micro_batch than 16"),
    ],
)
def test_lacking_memory_ends_in_one_sentence(error, amount, settings, advice, tmp_path):
    config = TrainConfig(out=str(tmp_path), **settings)
    with pytest.raises(torch.OutOfMemoryError) as caught, explained_out_of_memory(config):
        raise error
    text = str(caught.value)
    assert is_out_of_memory(caught.value) and explain_out_of_memory(caught.value) == text
    assert advice in text and amount in text and "\n" not in text and "intact" not in text
    assert "batch_size" in explain_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), ValueError("out of memory")])
def test_other_errors_are_left_alone(error, tmp_path):
    with pytest.raises(type(error)) as caught, explained_out_of_memory(TrainConfig(out="x")):
        raise error
    assert caught.value is error

"""Freed memory is kept where there is a glibc; a lack of it ends in one sentence."""

from types import SimpleNamespace

import pytest
import torch

from distilclip import train
from distilclip.runs import memory
from distilclip.runs.memory import (
    cache_folder,
    explain_out_of_memory,
    explained_out_of_memory,
    free_memory,
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


MEMINFO = "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n"
SYSTEMS = {
    "no container": ({}, 8000 * 1024),
    "no limit": ({"memory.max": "max\n", "memory.current": "5\n"}, 8000 * 1024),
    "a limit": ({"memory.max": "1000\n", "memory.current": "400\n"}, 600),
    "over the limit": ({"memory.max": "1000\n", "memory.current": "1400\n"}, 0),
    "an old limit": (
        {"memory/memory.limit_in_bytes": "900\n", "memory/memory.usage_in_bytes": "100\n"},
        800,
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_free_memory_heeds_a_containers_limit(system, tmp_path):
    files, expected = SYSTEMS[system]
    contents = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (contents | {"proc/meminfo": MEMINFO}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == expected


def test_free_memory_is_guessed_where_there_are_no_such_files(tmp_path, monkeypatch):
    assert (free_memory(tmp_path) or 2**21) > 2**20
    monkeypatch.setattr("os.sysconf", lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert free_memory(tmp_path) is None


def test_pictures_that_would_fill_the_memory_go_to_a_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = TrainConfig(image_size=16, patch_size=8)
    size = 3 * 16 * 16
    for free, pictures, goes in (
        (200 * size, 100, False),
        (200 * size, 101, True),
        (None, 9, False),
    ):
        monkeypatch.setattr(memory, "free_memory", lambda free=free: free)
        folder = tmp_path / "distilclip" / "pixels"
        assert cache_folder(config, pictures) == (folder if goes else None)
    (said,) = caplog.messages
    assert "more than 50 %" in said and str(folder) in said
    monkeypatch.setattr(memory, "free_memory", lambda: 10**15)
    named = TrainConfig(image_size=16, patch_size=8, cache=str(tmp_path / "mine"))
    assert cache_folder(named, 1) == tmp_path / "mine"


def test_a_run_over_the_budget_is_the_same_run(config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = {"epochs": 1, "evaluations": 1}
    plain = train(config(tmp_path / "plain", **settings), progress=False)
    assert not (tmp_path / "cache").exists()
    mapped = train(config(tmp_path / "mapped", pixel_memory=1e-9, **settings), progress=False)
    assert len(list((tmp_path / "cache" / "distilclip" / "pixels").glob("*.npy"))) == 2
    for one, other in zip(plain.model.parameters(), mapped.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        SystemError("error return without exception set"),
    ],
)
def test_what_only_a_lack_of_memory_brings_about_is_known_as_one(error):
    assert is_out_of_memory(error)

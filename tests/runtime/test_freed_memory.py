"""Freed memory that stays with the process for a while: where it does, that it ends, and that it is given back."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import mlx.core as mx
import pytest

from mlx_personal.runtime import memory
from mlx_personal.runtime.memory import freed_memory_kept

GB = 2**30
# As <malloc.h> has them.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


class Library:
    """Records what glibc is told."""

    def __init__(self) -> None:
        self.told: dict[int, int] = {}
        self.most = GB
        self.trimmed = 0

    def mallopt(self, parameter: int, value: int) -> int:
        if parameter == MMAP_THRESHOLD and value > self.most:
            return 0
        self.told[parameter] = value
        return 1

    def malloc_trim(self, pad: int) -> int:
        assert pad == 0
        self.trimmed += 1
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: found)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory, "device_name", lambda: "cpu")
    return found


def test_inside_a_gb_is_kept_and_given_back_afterwards_even_after_an_error(library: Library) -> None:
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        assert library.told == {TRIM_THRESHOLD: GB, MMAP_THRESHOLD: GB}
        assert library.trimmed == 0
        raise ZeroDivisionError
    assert set(library.told) == {TRIM_THRESHOLD, MMAP_THRESHOLD}
    assert all(2**20 <= usual <= 2**26 for usual in library.told.values())
    assert library.trimmed == 1


def test_an_older_glibc_is_told_the_most_it_takes(library: Library) -> None:
    """Before 2.35 it refuses more than 32 MB, and would stay at 128 kB once the other threshold is set."""
    library.most = 32 * 2**20
    with freed_memory_kept():
        assert library.told == {TRIM_THRESHOLD: GB, MMAP_THRESHOLD: 32 * 2**20}
    assert library.trimmed == 1


@pytest.mark.parametrize(("platform", "device"), [("linux", "cuda"), ("darwin", "cpu"), ("darwin", "metal")])
def test_elsewhere_nothing_is_told(
    platform: str, device: str, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(memory, "device_name", lambda: device)
    with freed_memory_kept():
        pass
    assert library.told == {} and library.trimmed == 0


def test_a_system_without_these_settings_does_without(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """As musl's."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    entered = False
    with freed_memory_kept():
        entered = True
    assert entered


def test_arrays_are_computed_inside_and_after() -> None:
    with freed_memory_kept():
        x = mx.arange(1000.0) * 2
        mx.eval(x)
    assert x.sum().item() == 999_000
    assert (mx.ones((1000, 1000)) * 3).sum().item() == 3_000_000


MEASURED = """
import mlx_personal
import mlx.core as mx
from mlx_personal.runtime.memory import freed_memory_kept


def held() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def use() -> None:
    arrays = [mx.ones((1024, 1024)) + i for i in range(50)]
    mx.eval(arrays)


use()
print(held())
with freed_memory_kept():
    use()
    print(held())
print(held())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or memory.device_name() != "cpu" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="a setting of Linux's CPUs, and of glibc",
)
def test_the_process_has_it_inside_and_not_afterwards() -> None:
    """200 MB are computed and freed."""
    command: list[Any] = [sys.executable, "-c", MEASURED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, inside, after = map(int, done.stdout.split())
    assert inside - before > 150
    assert after - before < 50

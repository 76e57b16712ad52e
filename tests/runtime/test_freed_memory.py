"""Freed memory is kept in the process inside the `with` block and returned to the system afterwards."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import mlx.core as mx
import pytest

from mlx_personal.runtime import memory
from mlx_personal.runtime.device import device_name
from mlx_personal.runtime.memory import keep_freed_memory

GB = 2**30
# Constants of <malloc.h>.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


class FakeLibrary:
    """A glibc that records its settings."""

    def __init__(self) -> None:
        self.settings: dict[int, int] = {}
        self.largest_threshold = GB
        self.trimmed = 0

    def mallopt(self, parameter: int, value: int) -> int:
        if parameter == MMAP_THRESHOLD and value > self.largest_threshold:
            return 0
        self.settings[parameter] = value
        return 1

    def malloc_trim(self, pad: int) -> int:
        assert pad == 0
        self.trimmed += 1
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    fake = FakeLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory, "device_name", lambda: "cpu")
    return fake


def test_a_gigabyte_is_kept_inside_and_released_after_an_error(library: FakeLibrary) -> None:
    with pytest.raises(ZeroDivisionError), keep_freed_memory():
        assert library.settings == {TRIM_THRESHOLD: GB, MMAP_THRESHOLD: GB}
        assert library.trimmed == 0
        raise ZeroDivisionError
    assert set(library.settings) == {TRIM_THRESHOLD, MMAP_THRESHOLD}
    assert all(2**20 <= usual <= 2**26 for usual in library.settings.values())
    assert library.trimmed == 1


def test_an_older_glibc_gets_its_largest_threshold(library: FakeLibrary) -> None:
    """Before 2.35 it refuses more than 32 MB, and would stay at 128 kB once the other threshold is set."""
    library.largest_threshold = 32 * 2**20
    with keep_freed_memory():
        assert library.settings == {TRIM_THRESHOLD: GB, MMAP_THRESHOLD: 32 * 2**20}
    assert library.trimmed == 1


@pytest.mark.parametrize(("platform", "device"), [("linux", "cuda"), ("darwin", "cpu"), ("darwin", "metal")])
def test_nothing_is_set_on_other_platforms(
    platform: str, device: str, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(memory, "device_name", lambda: device)
    with keep_freed_memory():
        pass
    assert library.settings == {} and library.trimmed == 0


def test_a_c_library_without_these_settings_is_left_alone(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as musl."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    entered = False
    with keep_freed_memory():
        entered = True
    assert entered


def test_arrays_are_computed_inside_and_afterwards() -> None:
    with keep_freed_memory():
        x = mx.arange(1000.0) * 2
        mx.eval(x)
    assert x.sum().item() == 999_000
    assert (mx.ones((1000, 1000)) * 3).sum().item() == 3_000_000


PROGRAM = """
import mlx_personal
import mlx.core as mx
from mlx_personal.runtime.memory import keep_freed_memory


def resident_mb() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def allocate_and_free() -> None:
    arrays = [mx.ones((1024, 1024)) + i for i in range(50)]
    mx.eval(arrays)


allocate_and_free()
print(resident_mb())
with keep_freed_memory():
    allocate_and_free()
    print(resident_mb())
print(resident_mb())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or device_name() != "cpu" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="glibc on Linux CPUs only",
)
def test_the_process_keeps_the_memory_inside_only() -> None:
    """200 MB are computed and freed."""
    command: list[Any] = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    before, inside, after = map(int, done.stdout.split())
    assert inside - before > 150
    assert after - before < 50

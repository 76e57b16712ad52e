"""The number of BLAS threads for a load of the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_personal.runtime import blas, blas_threads
from mlx_personal.runtime.cpu_load import CpuTimes, OtherLoad, read_cpu_times

LARGE, SMALL = 135_000_000, 500_000


class FakeBlas:
    """An OpenBLAS with a number of processors."""

    def __init__(self, processors: int):
        self.processors = self.threads = processors


class FakeLoad:
    """A load of the machine that a test sets."""

    def __init__(self) -> None:
        self.value: float | None = 0.0

    def processors(self) -> float | None:
        return self.value


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> FakeLoad:
    fake = FakeLoad()
    monkeypatch.setattr(blas_threads, "_other_load", fake)
    return fake


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> FakeBlas:
    """A fake library with 4 processors, without OPENBLAS_NUM_THREADS."""
    fake = FakeBlas(4)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(blas_threads, "_model_is_small", False)
    monkeypatch.setattr(blas, "processor_count", lambda: fake.processors)
    monkeypatch.setattr(blas, "thread_count", lambda: fake.threads)
    monkeypatch.setattr(blas, "set_thread_count", lambda count: setattr(fake, "threads", count))
    return fake


@pytest.mark.parametrize(
    ("others", "threads"), [(0.0, 4), (0.2, 4), (0.3, 3), (1.0, 3), (1.2, 3), (2.5, 1), (3.9, 1), (9.0, 1), (None, 4)]
)
def test_one_thread_for_each_processor_that_others_leave_idle(
    others: float | None, threads: int, load: FakeLoad, library: FakeBlas
) -> None:
    load.value = others
    choice = blas_threads.use_threads_for(LARGE)
    assert (choice.threads, library.threads, choice.other_load) == (threads, threads, others)


def test_the_number_follows_the_load_between_batches(load: FakeLoad, library: FakeBlas) -> None:
    blas_threads.use_threads_for(LARGE)
    counts = []
    for load.value in (0.0, 1.1, 3.0, 0.1):
        blas_threads.adapt_threads()
        counts.append(library.threads)
    assert counts == [4, 3, 1, 4]


def test_a_small_model_computes_with_one_thread(load: FakeLoad, library: FakeBlas) -> None:
    assert blas_threads.use_threads_for(SMALL).reason == "since the model is small"
    assert library.threads == 1
    blas_threads.use_threads_for(LARGE)
    assert library.threads == 4


def test_a_number_in_the_environment_is_kept(
    load: FakeLoad, library: FakeBlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    library.threads, load.value = 3, 4.0
    for parameters in (LARGE, SMALL):
        choice = blas_threads.use_threads_for(parameters)
        assert (choice.threads, library.threads) == (3, 3)
        assert choice.reason == "set by OPENBLAS_NUM_THREADS"


def test_another_library_is_left_alone(load: FakeLoad, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "processor_count", lambda: None)
    monkeypatch.setattr(blas, "preload", lambda: blas.Blas("Accelerate", True))
    choice = blas_threads.use_threads_for(LARGE)
    assert (choice.threads, choice.reason) == (None, "chosen by the library Accelerate")


def test_the_load_of_the_other_processes_is_all_time_but_our_own() -> None:
    readings = iter([CpuTimes(100.0, 50.0, 3.0), CpuTimes(102.0, 53.5, 4.5), CpuTimes(103.0, 53.6, 4.6)])
    other = OtherLoad(lambda: next(readings))
    assert other.processors() == pytest.approx(1.0)
    # The system counts in hundredths of a second, so the difference may be negative.
    assert other.processors() == pytest.approx(0.0, abs=1e-9)


def test_a_short_time_says_nothing_and_keeps_the_last_measurement() -> None:
    readings = iter([CpuTimes(0.0, 0.0, 0.0), CpuTimes(0.1, 9.0, 0.0), CpuTimes(1.0, 1.5, 0.0), CpuTimes(1.1, 9, 0.0)])
    other = OtherLoad(lambda: next(readings))
    assert [other.processors() for _ in range(3)] == [None, 1.5, 1.5]


def test_a_system_without_times_has_no_load() -> None:
    other = OtherLoad(lambda: None)
    assert other.processors() is None


STAT = """cpu  100 0 100 9000 50 0 0 0 0 0
cpu0 40 5 30 4000 20 2 3 1 7 7
cpu1 60 0 70 5000 30 0 0 0 0 0
intr 5 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_only_the_processors_that_this_process_may_use_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stat").write_text(STAT)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    times = read_cpu_times(tmp_path / "stat")
    assert times is not None
    assert times.busy_s * os.sysconf("SC_CLK_TCK") == 40 + 5 + 30 + 2 + 3 + 1
    assert read_cpu_times(tmp_path / "missing") is None


@pytest.mark.parametrize("line", ["cpu0", "cpu0 1 2 3", "cpu0 a b c d e f g h", "", "\x00"])
def test_a_file_of_another_form_has_no_load(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stat").write_text(line)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert read_cpu_times(tmp_path / "stat") is None


@pytest.fixture
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_busy_process_is_seen_and_our_own_work_is_not(busy_process: subprocess.Popen[bytes]) -> None:
    other, deadline = OtherLoad(), time.monotonic() + 0.5
    while time.monotonic() < deadline:
        pass
    load = other.processors()
    # Other programs of this machine may be busy too.
    assert load is not None and 0.2 < load <= (os.cpu_count() or 1)

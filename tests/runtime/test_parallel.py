"""Batches that are computed side by side on the idle processors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from mlx_personal import LanguageModel
from mlx_personal.embedding import HiddenStateEmbedder
from mlx_personal.runtime import blas, blas_threads, parallel
from mlx_personal.runtime.parallel import map_on_idle_processors

TEXTS = [f"How do I cook {i} eggs? " * (1 + i % 9) for i in range(120)]


@pytest.fixture
def processors(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Three idle processors of a CPU."""
    monkeypatch.setattr(blas_threads, "idle_processors", lambda: 3)
    monkeypatch.setattr(parallel, "device_name", lambda: "cpu")
    yield 3


def test_the_results_are_in_order_and_computed_at_the_same_time(processors: int) -> None:
    together = threading.Barrier(processors, timeout=20)

    def compute(number: int) -> tuple[int, int]:
        together.wait()  # fails unless three threads get here
        return number, threading.get_ident()

    results = list(map_on_idle_processors(compute, range(6)))
    assert [number for number, _ in results] == list(range(6))
    assert threading.get_ident() not in {thread for _, thread in results}


def test_each_thread_multiplies_with_one_blas_thread(processors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [2]
    monkeypatch.setattr(blas, "thread_count", lambda: counts[-1])
    monkeypatch.setattr(blas, "set_thread_count", counts.append)

    def compute(_: int) -> int:
        blas_threads.adapt_threads()  # as a model that is loaded at the same time would
        return counts[-1]

    assert list(map_on_idle_processors(compute, range(4))) == [1] * 4
    assert counts == [2, 1, 2]


def test_an_error_ends_the_work_and_restores_the_number_of_threads(
    processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [2]
    monkeypatch.setattr(blas, "thread_count", lambda: counts[-1])
    monkeypatch.setattr(blas, "set_thread_count", counts.append)

    def fail(number: int) -> int:
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        list(map_on_idle_processors(fail, range(5)))
    assert counts[-1] == 2


@pytest.mark.parametrize(("device", "count"), [("cpu", 1), ("metal", 5)])
def test_a_gpu_and_a_single_item_need_no_thread(
    device: str, count: int, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "device_name", lambda: device)
    threads = set(map_on_idle_processors(lambda _: threading.get_ident(), range(count)))
    assert threads == {threading.get_ident()}


def test_embeddings_are_the_same_bit_for_bit(
    tiny_model: LanguageModel, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = HiddenStateEmbedder(tiny_model).embed(TEXTS)
    monkeypatch.setattr(blas_threads, "idle_processors", lambda: 1)
    for one, other in zip(HiddenStateEmbedder(tiny_model).embed(TEXTS), together, strict=True):
        np.testing.assert_array_equal(one.states, other.states)


def test_the_environment_limits_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert blas_threads.idle_processors() == 2
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setattr(blas_threads, "_processor_count", lambda: 8)
    monkeypatch.setattr(blas_threads, "_load", lambda: 5.1)
    assert blas_threads.idle_processors() == 3
    monkeypatch.setattr(blas_threads, "_load", lambda: None)
    assert blas_threads.idle_processors() == 8

"""The number of threads that OpenBLAS computes matrix products with: as many as there are idle processors.

OpenBLAS's threads wait for each other at every product. If another process uses one of the processors, each wait takes
a time slice of the system: on 2 processors, the products of a small model were 6 to 12 times slower with two threads
than with one. So the number is chosen when a model is loaded, from the load since the program started, and again
between the batches of long work. OPENBLAS_NUM_THREADS, if it is set, is kept. A Mac's Accelerate chooses by itself.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from mlx_personal.runtime import blas
from mlx_personal.runtime.cpu_load import OtherLoad

logger = logging.getLogger(__name__)

# Number of parameters below which a model's matrix products are too small to gain from a second thread.
_SMALL_MODEL_PARAMETERS = 50_000_000

# Fraction of a processor that others may use without costing a thread: what a desktop does in the background.
_TOLERATED_LOAD = 0.25


@dataclass(frozen=True)
class ThreadChoice:
    """A number of threads, and why it was chosen.

    Attributes:
        threads: Number of threads; None if another library than OpenBLAS chooses it.
        reason: The reason, as part of a sentence.
        other_load: Number of processors that other processes use; None if it is not known or does not matter.
    """

    threads: int | None
    reason: str
    other_load: float | None = None


def start_measuring() -> None:
    """Start to measure the load of the machine, once; called before MLX is imported."""
    global _other_load
    if _other_load is None:
        _other_load = OtherLoad()


_other_load: OtherLoad | None = None
_model_is_small = False


def use_threads_for(parameter_count: int) -> ThreadChoice:
    """Set the number of threads for a model that has just been loaded.

    Args:
        parameter_count: Number of the model's parameters.

    Returns:
        The choice.
    """
    global _model_is_small
    _model_is_small = parameter_count < _SMALL_MODEL_PARAMETERS
    return adapt_threads()


def adapt_threads() -> ThreadChoice:
    """Set the number of threads by the present load. It takes microseconds, so it may be called for every batch.

    Returns:
        The choice.
    """
    choice = choose_threads()
    if choice.threads is not None and choice.threads != blas.thread_count():
        logger.info("BLAS threads: %d, %s", choice.threads, choice.reason)
        blas.set_thread_count(choice.threads)
    return choice


def choose_threads() -> ThreadChoice:
    """Return the number of threads for the present load without setting it."""
    processors, present = blas.processor_count(), blas.thread_count()
    if processors is None or present is None:
        return ThreadChoice(None, f"chosen by the library {blas.preload().name}")
    load = _load()
    if "OPENBLAS_NUM_THREADS" in os.environ:
        return ThreadChoice(present, "set by OPENBLAS_NUM_THREADS", load)
    if _model_is_small:
        return ThreadChoice(1, "since the model is small", load)
    if load is None:
        return ThreadChoice(processors, "one for each processor; the load is not known")
    threads = _idle(processors, load)
    if threads == processors:
        return ThreadChoice(processors, "one for each processor, since other processes use none", load)
    return ThreadChoice(threads, f"since other processes use {load:.1f} of {processors} processors", load)


def _load() -> float | None:
    start_measuring()
    assert _other_load is not None
    return _other_load.processors()


def _idle(processors: int, load: float) -> int:
    return min(processors, max(1, int(processors - load + _TOLERATED_LOAD)))

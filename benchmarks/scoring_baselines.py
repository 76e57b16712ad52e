"""The baselines of the scoring kernels: the same results with NumPy, torch and plain Python.

Plain MLX operations are not here: the module of each kernel has them as its reference.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_personal.kernels.spectral_entropy import WINDOW, window_starts
from mlx_personal.runtime import device
from mlx_personal.scoring import entropy_of_embedding, in_domain_dissimilarity
from mlx_personal.scoring.dissimilarity import in_domain_dissimilarity_reference


def as_numpy(array: mx.array) -> np.ndarray:
    """Return an array for NumPy: on a CPU the same memory, so that all methods find it in the cache alike."""
    return np.array(array, copy=device.device_name() != "cpu")


class ScoringProblem:
    """Random queries and a bank of vectors, with the domain of each.

    The vectors have different norms and a direction in common, like those of a language model.

    Args:
        rows: Number of vectors in the bank, R.
        dim: Dimension of the vectors, D.
        num_queries: Number of queries, B.
        domains: Number of domains.

    Attributes:
        arrays: Queries [B, D] and their domains [B], bank [R, D] and its domains [R]; float32 and int32.
    """

    def __init__(self, rows: int, dim: int, num_queries: int, domains: int):
        rng = np.random.default_rng([rows, dim, num_queries])

        def vectors(count: int) -> mx.array:
            return mx.array(rng.standard_normal((count, dim), np.float32) + np.float32(0.5))

        def labels(count: int) -> mx.array:
            return mx.array(rng.integers(0, domains, count, dtype=np.int32))

        self.arrays = (vectors(num_queries), labels(num_queries), vectors(rows), labels(rows))
        mx.eval(self.arrays)
        self.queries, self.query_domains, self.bank, self.bank_domains = map(as_numpy, self.arrays)


def numpy_distances(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Return all cosine distances [B, R]; the norms divide the product, which is smaller than the bank."""
    norms = np.sqrt(np.einsum("bd,bd->b", queries, queries))[:, None] * np.sqrt(np.einsum("rd,rd->r", bank, bank))
    return 1 - queries @ bank.T / norms


def numpy_in_domain_distance(problem: ScoringProblem) -> np.ndarray:
    """Return the mean distance [B] of each query to the bank's vectors of its domain."""
    distances = numpy_distances(problem.queries, problem.bank)
    same = problem.query_domains[:, None] == problem.bank_domains
    counts = same.sum(axis=1)
    return np.where(counts > 0, (distances * same).sum(axis=1) / np.maximum(counts, 1), 1)


def numpy_nearest(problem: ScoringProblem) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance and the index of each query's nearest vector, both [B]."""
    distances = numpy_distances(problem.queries, problem.bank)
    index = distances.argmin(axis=1)
    return distances[np.arange(len(index)), index], index


def loop_over_bins(problem: ScoringProblem) -> list[float]:
    """Compute IDD as [Qin24 §3.2] defines it: for each query, bin by bin."""
    bins = list(zip(problem.bank, problem.bank_domains, strict=True))
    return [
        in_domain_dissimilarity_reference(query, [vector for vector, other in bins if other == domain])
        for query, domain in zip(problem.queries, problem.query_domains, strict=True)
    ]


def running_sum(problem: ScoringProblem) -> Callable[[], list[float]]:
    """Return a function that scores as the selector does: with the sums of each domain's unit vectors."""
    queries, bank = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (problem.queries, problem.bank)
    )
    domains = problem.query_domains.tolist()
    members = {domain: bank[problem.bank_domains == domain] for domain in set(domains)}
    sums = {domain: (rows.sum(axis=0, dtype=np.float64), len(rows)) for domain, rows in members.items()}
    return lambda: [in_domain_dissimilarity(q, *sums[domain]) for q, domain in zip(queries, domains, strict=True)]


class TorchBaseline:
    """`sentence_transformers.util.cos_sim` on the device that MLX uses, if torch supports it.

    Raises:
        ImportError: If torch or sentence-transformers is not installed.

    Attributes:
        device: Name of torch's device.
    """

    def __init__(self) -> None:
        import torch
        from sentence_transformers.util import cos_sim

        torch.set_num_threads(int(os.environ["OPENBLAS_NUM_THREADS"]))
        self._torch, self._cos_sim = torch, cos_sim
        self.device = "cpu"
        if device.device_name() == "cuda" and torch.cuda.is_available():
            self.device = "cuda"
        if device.device_name() == "metal" and torch.backends.mps.is_available():
            self.device = "mps"

    def in_domain_distance(self, problem: ScoringProblem) -> Callable[[], Any]:
        """Return a function that computes the mean distance of each query to its domain."""
        queries, bank = self._tensor(problem.queries), self._tensor(problem.bank)
        query_domains, bank_domains = self._tensor(problem.query_domains), self._tensor(problem.bank_domains)

        def compute() -> Any:
            distances = 1 - self._cos_sim(queries, bank)
            same = query_domains[:, None] == bank_domains
            counts = same.sum(dim=1)
            mean = (distances * same).sum(dim=1) / counts.clamp(min=1)
            return self._wait_for(self._torch.where(counts > 0, mean, 1.0))

        return compute

    def nearest(self, problem: ScoringProblem) -> Callable[[], Any]:
        """Return a function that computes the distance and the index of each query's nearest vector."""
        queries, bank = self._tensor(problem.queries), self._tensor(problem.bank)

        def compute() -> Any:
            cosines, index = self._cos_sim(queries, bank).max(dim=1)
            return self._wait_for((1 - cosines, index))

        return compute

    def _tensor(self, array: np.ndarray) -> Any:
        return self._torch.from_numpy(array).to(self.device)

    def _wait_for(self, result: Any) -> Any:
        if self.device != "cpu":
            getattr(self._torch, self.device).synchronize()
        return result


def numpy_entropies(states: np.ndarray) -> list[float]:
    """Return the spectral entropy of whole dialogues [B, T, D], in float64."""
    return [entropy_of_embedding(dialogue) for dialogue in states]


def order2_entropies(states: mx.array) -> mx.array:
    """Return -log(sum p^2) / log 64 of the same eigenvalue shares p, which needs no eigenvalues.

    The sum of p^2 is |K|_F^2 / tr(K)^2.

    Args:
        states: Token states of dialogues with at least 64 tokens, [B, T, D].

    Returns:
        float32 [B].
    """
    index = mx.array(window_starts(states.shape[1]))[:, None] + mx.arange(WINDOW)
    windows = states[:, index].astype(mx.float32)
    centered = windows - windows.mean(axis=2, keepdims=True)
    gram = centered @ centered.swapaxes(2, 3)
    trace = mx.square(centered).sum(axis=(2, 3))
    entropies = -mx.log(mx.square(gram).sum(axis=(2, 3)) / mx.square(trace))
    return entropies.mean(axis=1) / math.log(WINDOW)

"""What the scoring kernels are compared with: the same results by the means that one has anyway.

Plain MLX ops are not here: each kernel's module has them, as its reference.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from mlx_personal.kernels.spectral_entropy import WINDOW, window_starts
from mlx_personal.runtime import device
from mlx_personal.scoring import entropy_of_embedding, in_domain_dissimilarity
from mlx_personal.scoring.dissimilarity import in_domain_dissimilarity_reference


def as_numpy(array: mx.array) -> np.ndarray:
    """On a CPU the same memory, so that no method finds more of it in the cache than the others; elsewhere a copy."""
    return np.array(array, copy=device.device_name() != "cpu")


class Problem:
    """Queries [B, D] and a bank [R, D], float32, and the domain of each, int32; for MLX all of them in `arrays`.

    The vectors have no particular norm, and a direction in common, as a language model's have.
    """

    def __init__(self, rows: int, dim: int, queries: int, domains: int):
        rng = np.random.default_rng([rows, dim, queries])

        def vectors(count: int) -> mx.array:
            return mx.array(rng.standard_normal((count, dim), np.float32) + np.float32(0.5))

        def labels(count: int) -> mx.array:
            return mx.array(rng.integers(0, domains, count, dtype=np.int32))

        self.arrays = (vectors(queries), labels(queries), vectors(rows), labels(rows))
        mx.eval(self.arrays)
        self.queries, self.query_domains, self.bank, self.bank_domains = map(as_numpy, self.arrays)


def numpy_distances(queries: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """All cosine distances [B, R]. The norms divide the product, which is small, and not the bank."""
    norms = np.sqrt(np.einsum("bd,bd->b", queries, queries))[:, None] * np.sqrt(np.einsum("rd,rd->r", bank, bank))
    return 1 - queries @ bank.T / norms


def numpy_in_domain_distance(problem: Problem) -> np.ndarray:
    distances = numpy_distances(problem.queries, problem.bank)
    same = problem.query_domains[:, None] == problem.bank_domains
    counts = same.sum(axis=1)
    return np.where(counts > 0, (distances * same).sum(axis=1) / np.maximum(counts, 1), 1)


def numpy_nearest(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    distances = numpy_distances(problem.queries, problem.bank)
    index = distances.argmin(axis=1)
    return distances[np.arange(len(index)), index], index


def loop_over_bins(problem: Problem) -> list[float]:
    """The paper's formula as it stands: for each query, bin by bin."""
    bins = list(zip(problem.bank, problem.bank_domains, strict=True))
    return [
        in_domain_dissimilarity_reference(query, [vector for vector, other in bins if other == domain])
        for query, domain in zip(problem.queries, problem.query_domains, strict=True)
    ]


def running_sum(problem: Problem) -> Callable[[], list[float]]:
    """How a stream is scored: against sums a domain that are there already, of vectors that have unit norm."""
    queries, bank = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (problem.queries, problem.bank)
    )
    domains = problem.query_domains.tolist()
    members = {domain: bank[problem.bank_domains == domain] for domain in set(domains)}
    sums = {domain: (rows.sum(axis=0, dtype=np.float64), len(rows)) for domain, rows in members.items()}
    return lambda: [in_domain_dissimilarity(q, *sums[domain]) for q, domain in zip(queries, domains, strict=True)]


class Torch:
    """`sentence_transformers.util.cos_sim` on the device that MLX uses, as far as torch has it.

    ImportError where torch or sentence-transformers is not installed.
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

    def in_domain_distance(self, problem: Problem) -> Callable[[], object]:
        queries, bank = self._tensor(problem.queries), self._tensor(problem.bank)
        query_domains, bank_domains = self._tensor(problem.query_domains), self._tensor(problem.bank_domains)

        def measured() -> object:
            distances = 1 - self._cos_sim(queries, bank)
            same = query_domains[:, None] == bank_domains
            counts = same.sum(dim=1)
            mean = (distances * same).sum(dim=1) / counts.clamp(min=1)
            return self._finished(self._torch.where(counts > 0, mean, 1.0))

        return measured

    def nearest(self, problem: Problem) -> Callable[[], object]:
        queries, bank = self._tensor(problem.queries), self._tensor(problem.bank)

        def measured() -> object:
            cosines, index = self._cos_sim(queries, bank).max(dim=1)
            return self._finished((1 - cosines, index))

        return measured

    def _tensor(self, array: np.ndarray) -> object:
        return self._torch.from_numpy(array).to(self.device)

    def _finished(self, result: object) -> object:
        if self.device != "cpu":
            getattr(self._torch, self.device).synchronize()
        return result


def numpy_entropies(states: np.ndarray) -> list[float]:
    """Spectral entropy of whole dialogues [B, T, D], in float64."""
    return [entropy_of_embedding(dialogue) for dialogue in states]


def order2_entropies(states: mx.array) -> mx.array:
    """-log sum p^2 / log 64 of the same eigenvalue shares p, float32 [B]: sum p^2 = |K|_F^2 / tr(K)^2 needs none of
    them. For dialogues of at least 64 tokens, all of which count."""
    index = mx.array(window_starts(states.shape[1]))[:, None] + mx.arange(WINDOW)
    windows = states[:, index].astype(mx.float32)
    centered = windows - windows.mean(axis=2, keepdims=True)
    gram = centered @ centered.swapaxes(2, 3)
    trace = mx.square(centered).sum(axis=(2, 3))
    entropies = -mx.log(mx.square(gram).sum(axis=(2, 3)) / mx.square(trace))
    return entropies.mean(axis=1) / math.log(WINDOW)

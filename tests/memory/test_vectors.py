"""Whitened vectors: similarities against dense float64 matrices, and vectors that say nothing about nearness."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_personal.memory import vectors as module
from mlx_personal.memory.vectors import WhitenedVectors


def question_vectors(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors that lie close to each other and vary most in a few directions, as hidden states do."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=dimensions) * 5 + rng.normal(size=(count, dimensions)) * 0.8 ** np.arange(dimensions)
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def dense_similarities(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the similarities by the inverse square root of the whole covariance matrix."""
    data = vectors.astype(np.float64)
    count, dimensions = data.shape
    mean = data.mean(axis=0)
    covariance = (data - mean).T @ (data - mean) / count
    trace, squares = np.trace(covariance), np.trace(covariance @ covariance)
    numerator = (1 - 2 / dimensions) * squares + trace**2
    rho = min(1.0, numerator / ((count + 1 - 2 / dimensions) * (squares - trace**2 / dimensions)))
    shrunk = (1 - rho) * covariance + rho * trace / dimensions * np.eye(dimensions)
    values, axes = np.linalg.eigh(shrunk)
    whitening = axes @ np.diag(values**-0.5) @ axes.T
    entries, other = (data - mean) @ whitening, (query - mean) @ whitening
    return np.asarray(entries @ other / (np.linalg.norm(entries, axis=1) * np.linalg.norm(other)))


@pytest.mark.parametrize("count", [2, 5, 24, 60])
def test_similarities_are_those_of_the_whole_matrix_for_fewer_and_more_vectors_than_dimensions(count: int) -> None:
    vectors, (query,) = question_vectors(count, 24), question_vectors(1, 24, seed=1)
    similarities = WhitenedVectors(vectors).similarities(query)
    np.testing.assert_allclose(similarities, dense_similarities(vectors, query), atol=2e-5)


def test_a_vector_has_a_similarity_of_1_to_itself_and_whitening_tells_others_apart() -> None:
    vectors = question_vectors(40, 24)
    assert (vectors @ vectors.T).min() > 0.9  # raw, all of them are nearly parallel
    whitened = WhitenedVectors(vectors)
    for index, vector in enumerate(vectors):
        similarities = whitened.similarities(vector)
        assert similarities[index] == pytest.approx(1, abs=1e-5)
        assert np.delete(similarities, index).max() < 0.9


@pytest.mark.parametrize("count", [1, 2, 30])
def test_equal_vectors_are_near_nothing(count: int) -> None:
    vectors = np.repeat(question_vectors(1, 24), count, axis=0)
    vectors[-1] *= 1 + 3e-7  # a rounding error
    whitened = WhitenedVectors(vectors)
    assert not whitened.similarities(vectors[0]).any()
    assert not whitened.similarities(question_vectors(1, 24, seed=1)[0]).any()


def test_a_vector_that_occurs_often_is_found_each_time() -> None:
    vectors = question_vectors(6, 24)[[0, 1, 2, 3, 4, 5, 0, 0]]
    similarities = WhitenedVectors(vectors).similarities(vectors[0])
    np.testing.assert_allclose(similarities[[0, 6, 7]], 1, atol=1e-5)


def test_many_vectors_are_compared_in_the_directions_of_the_largest_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT", 50)
    monkeypatch.setattr(module, "_REDUCED_DIMENSIONS", 8)
    vectors = question_vectors(60, 24)
    similarities = WhitenedVectors(vectors).similarities(vectors[17])
    assert similarities.argmax() == 17 and similarities[17] == pytest.approx(1, abs=1e-5)
    data = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    axes = np.linalg.eigh(data.T @ data)[1][:, -8:]
    inside = data @ axes
    # Shrinkage aside, whitening divides each of the 8 coordinates by its standard deviation.
    rough = inside / inside.std(axis=0)
    rough /= np.linalg.norm(rough, axis=1, keepdims=True)
    assert np.corrcoef(similarities, rough @ rough[17])[0, 1] > 0.9


def test_the_covariance_of_many_vectors_is_estimated_on_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, (query,) = question_vectors(60, 24), question_vectors(1, 24, seed=1)
    monkeypatch.setattr(module, "_MAX_FITTED", 30)
    similarities = WhitenedVectors(vectors).similarities(query)
    assert np.corrcoef(similarities, dense_similarities(vectors, query))[0, 1] > 0.8
    fitted = np.linspace(0, 59, 30).astype(int)
    np.testing.assert_allclose(similarities[fitted], dense_similarities(vectors[fitted], query), atol=2e-5)

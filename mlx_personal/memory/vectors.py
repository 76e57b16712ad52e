"""Compare questions by their embeddings, centered and whitened on those of the profile.

Mean-pooled hidden states of any two texts lie within a few degrees of each other, because a few directions that all
texts share outweigh the others. Centering removes what all of them share, and whitening gives each direction the same
variance [Su21]. The covariance is shrunk towards a multiple of the identity, by the weight of the oracle approximating
shrinkage [Chen10], so that it can be inverted for fewer vectors than dimensions, too:

    S = the covariance of the vectors, m = tr(S) / D, covariance = (1 - rho) * S + rho * m * I
    similarity(a, b) = cosine of covariance^(-1/2) (a - mean) and covariance^(-1/2) (b - mean)
"""

from __future__ import annotations

from typing import Final

import numpy as np

# The covariance is estimated on at most this many vectors, because its cost is cubic in their number.
_MAX_FITTED: Final = 1024
# With more vectors only the directions of the largest variance are compared, so that a search stays fast [Su21].
_MAX_EXACT: Final = 10_000
_REDUCED_DIMENSIONS: Final = 128
# Variances below this share of the vectors' mean square are rounding errors: equal vectors have none.
_TOLERANCE: Final = 1e-10


class WhitenedVectors:
    """Vectors among which those similar to another one are found.

    If all vectors are equal, or there is only one, they say nothing about what is near: all similarities are 0.

    Args:
        vectors: The N vectors, float32 [N, D], all finite.
    """

    def __init__(self, vectors: np.ndarray):
        data = np.asarray(vectors, np.float32)
        fitted = data[np.linspace(0, len(data) - 1, min(len(data), _MAX_FITTED)).astype(int)].astype(np.float64)
        mean = fitted.mean(axis=0) if len(fitted) else np.zeros(data.shape[1])
        noise = _TOLERANCE * float((fitted**2).sum()) / max(len(fitted), 1)
        eigenvalues, directions = _principal_directions(fitted - mean, noise)
        dimensions = data.shape[1]
        mean_variance = float(eigenvalues.sum()) / dimensions
        shrinkage = oas_shrinkage(eigenvalues, dimensions, len(fitted))
        self._is_reduced = len(data) > _MAX_EXACT
        if self._is_reduced:
            eigenvalues, directions = eigenvalues[:_REDUCED_DIMENSIONS], directions[:_REDUCED_DIMENSIONS]
        # What each direction, and all directions without variance, are multiplied by.
        scales = 1 / np.sqrt((1 - shrinkage) * eigenvalues + shrinkage * mean_variance)
        other_scale = 1 / np.sqrt(shrinkage * mean_variance) if mean_variance > 0 else 0.0
        self._mean, self._directions = mean.astype(np.float32), directions.astype(np.float32)
        self._scales, self._other_scale = scales.astype(np.float32), np.float32(other_scale)
        self._whitened = self._whiten(data)

    def similarities(self, vector: np.ndarray) -> np.ndarray:
        """Return the similarity of each vector to another one, float32 [N] in -1..1.

        Args:
            vector: The other vector, float32 [D].
        """
        return np.clip(self._whitened @ self._whiten(vector[None])[0], -1, 1)

    def _whiten(self, vectors: np.ndarray) -> np.ndarray:
        """Return whitened vectors of unit norm, or zeros for those at the mean: [N, D] -> float32 [N, K]."""
        centered = vectors - self._mean
        coordinates = centered @ self._directions.T
        if self._is_reduced:
            whitened = coordinates * self._scales
        else:
            inside = (coordinates * (self._scales - self._other_scale)) @ self._directions
            whitened = centered * self._other_scale + inside
        norms = np.linalg.norm(whitened, axis=1, keepdims=True)
        return np.asarray(np.divide(whitened, norms, out=np.zeros_like(whitened), where=norms > 0), np.float32)


def oas_shrinkage(eigenvalues: np.ndarray, dimensions: int, count: int) -> float:
    """Return the weight of the identity in a shrunk covariance, above 0 and at most 1.

    Args:
        eigenvalues: The eigenvalues of the covariance that are above 0, [K].
        dimensions: Its number D of rows.
        count: Number N of vectors that it was estimated on.

    References:
        [Chen10 eq. 23]
    """
    trace, squares = float(eigenvalues.sum()), float((eigenvalues**2).sum())
    numerator = (1 - 2 / dimensions) * squares + trace**2
    denominator = (count + 1 - 2 / dimensions) * (squares - trace**2 / dimensions)
    return min(1.0, numerator / denominator) if denominator > 0 else 1.0


def _principal_directions(centered: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances above `noise` and their directions, largest first: float64 [N, D] -> [K], [K, D]."""
    count, dimensions = centered.shape
    if count == 0:
        return np.zeros(0), np.zeros((0, dimensions))
    # Of the two products with the same eigenvalues the smaller one.
    if count <= dimensions:
        eigenvalues, left = np.linalg.eigh(centered @ centered.T / count)
        kept = np.flatnonzero(eigenvalues > noise)[::-1]
        return eigenvalues[kept], (left[:, kept].T @ centered) / np.sqrt(count * eigenvalues[kept])[:, None]
    eigenvalues, right = np.linalg.eigh(centered.T @ centered / count)
    kept = np.flatnonzero(eigenvalues > noise)[::-1]
    return eigenvalues[kept], right[:, kept].T

"""Similarity of the hidden-state embeddings of a text and its rewrite, with a threshold from the texts themselves.

How similar two embeddings are depends on the model more than on the texts, so that no fixed threshold fits: the mean of
all vectors is subtracted, and the similarities of texts that ask different things say what similarity is accidental.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mlx_personal.embedding import Embedder
from mlx_personal.synthesis.languages import KINDS, detect_language, opening_of

# Share of the pairs of different texts that are less similar than a rewrite has to be to its original.
_QUANTILE: Final = 0.9
# Fewer texts do not show what similarity is accidental.
_MIN_TEXTS: Final = 8


class SimilarityCheck:
    """Finds rewrites that are less similar to their originals than different texts are to each other.

    Args:
        embedder: Computes the embeddings.
        originals: The texts that are rewritten. Texts of the worked examples in their languages are added as different
            ones, since a profile may have few of its own.

    Attributes:
        threshold: The lowest similarity of a kept rewrite to its original, -1..1; None with too few texts.
    """

    def __init__(self, embedder: Embedder, originals: Sequence[str]):
        self._embedder = embedder
        languages = {found for text in originals if (found := detect_language(text)) is not None}
        examples = sorted(text for lang in languages for kind in KINDS for text, _ in lang.examples[kind])
        vectors = self._embed([*originals, *examples])
        self._mean = vectors.mean(axis=0) if len(vectors) else np.zeros(0)
        centered = _unit(vectors - self._mean)
        self._originals = centered[: len(originals)]
        similarities = (centered @ centered.T)[np.triu_indices(len(centered), 1)]
        enough = len(centered) >= _MIN_TEXTS
        self.threshold = float(np.quantile(similarities, _QUANTILE)) if enough else None

    def passes(self, indices: Sequence[int], rewrites: Sequence[str]) -> list[bool]:
        """Return whether each rewrite is similar enough to its original, or at least to no other text more.

        Args:
            indices: Index of the original of each rewrite.
            rewrites: The rewrites.
        """
        if self.threshold is None or not rewrites:
            return [True] * len(rewrites)
        vectors = _unit(self._embed(rewrites) - self._mean)
        similarities = vectors @ self._originals.T
        own = similarities[np.arange(len(rewrites)), list(indices)]
        return [bool(value >= min(self.threshold, row.max())) for value, row in zip(own, similarities, strict=True)]

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        # Without their openings, which would outweigh the rest of a short text.
        bodies = [text[len(opening_of(text, detect_language(text))) :] or text for text in texts]
        return np.array([embedding.vector for embedding in self._embedder.embed(bodies)], np.float64)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return the rows scaled to unit norm; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)

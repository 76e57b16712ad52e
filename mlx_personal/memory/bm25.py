"""Okapi BM25 [Robertson09 §3] over an inverted index, with scores relative to those of the query itself.

The score of a document for a query is

    sum over the words w of the query, with repetitions, of  idf(w) * saturation(tf(w), length)
    idf(w) = log(1 + (N - n(w) + 0.5) / (n(w) + 0.5))
    saturation(tf, length) = tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean length))

for N documents of which n(w) contain the word. The 1 in the logarithm keeps the weight of words positive that most
documents contain.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mlx_personal.dialogue import words

# The saturation of the term frequency, within the range of 1.2 to 2 that [Robertson09 §3.4.4] recommends, and the
# length normalization, within that of 0.5 to 0.8.
K1: Final = 1.2
B: Final = 0.75


class BM25Index:
    """Texts among which those with the words of a query are found.

    A search reads only the entries of the query's words, not all texts.

    Args:
        texts: The N texts.
    """

    def __init__(self, texts: Sequence[str]):
        counts = [Counter(words(text)) for text in texts]
        lengths = np.array([count.total() for count in counts], np.float64)
        self._count = len(texts)
        self._mean_length = float(lengths.mean()) if lengths.any() else 1.0
        ids: dict[str, list[int]] = {}
        frequencies: dict[str, list[int]] = {}
        for text_id, count in enumerate(counts):
            for word, frequency in count.items():
                ids.setdefault(word, []).append(text_id)
                frequencies.setdefault(word, []).append(frequency)
        # For each word the texts that contain it, and what it adds to the score of each of them.
        self._postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for word, text_ids in ids.items():
            index = np.array(text_ids, np.int32)
            weights = self._saturation(np.array(frequencies[word], np.float64), lengths[index])
            self._postings[word] = index, (self._idf(len(index)) * weights).astype(np.float32)

    def scores(self, query: str) -> np.ndarray:
        """Return the BM25 score of each text for a query, float32 [N].

        Args:
            query: The query.
        """
        scores = np.zeros(self._count, np.float32)
        for word, frequency in Counter(words(query)).items():
            if word in self._postings:
                index, weights = self._postings[word]
                scores[index] += frequency * weights
        return scores

    def similarities(self, query: str) -> np.ndarray:
        """Return the score of each text relative to the query's own, float32 [N] in 0..1.

        The query's own score is the one it would have as a text of this index, so that a text of the same words has a
        similarity of 1. Words that no text contains count in it, and make every text less similar.

        Args:
            query: The query.
        """
        counts = Counter(words(query))
        own_score = 0.0
        for word, frequency in counts.items():
            containing = len(self._postings[word][0]) if word in self._postings else 0
            own_score += frequency * self._idf(containing) * self._saturation(frequency, counts.total())
        if own_score == 0:
            return np.zeros(self._count, np.float32)
        return np.minimum(self.scores(query) / np.float32(own_score), np.float32(1))

    def _idf(self, containing: int) -> float:
        return math.log1p((self._count - containing + 0.5) / (containing + 0.5))

    def _saturation(self, frequency: Any, length: Any) -> Any:
        """Return the saturated term frequency, of numbers or arrays."""
        return frequency * (K1 + 1) / (frequency + K1 * (1 - B + B * length / self._mean_length))

"""What each dialogue set is about, where its data set does not say: clusters of texts with words in common.

The lexicons' dominant domain would not do: it is what DSS and IDD are made of, and one domain may hold nearly all of a
data set, as health does with MedDialog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from mlx_personal.dialogue import words
from mlx_personal.research.study.schemas import Sample

CLUSTERS: Final = 16
# The words that are looked at: those in most texts, but for those in more than a tenth of them, which tell nothing.
_WORDS, _COMMON = 2000, 0.1
_ROUNDS: Final = 20


def topics_of(samples: Sequence[Sample]) -> list[str]:
    """A topic for each sample: the data set's own label, else the cluster it falls into; always the same ones."""
    unlabelled = [i for i, sample in enumerate(samples) if not sample.topic]
    clusters = clustered([samples[i].dialogue.text for i in unlabelled])
    of = dict(zip(unlabelled, clusters, strict=True))
    return [sample.topic or f"cluster {of[i]}" for i, sample in enumerate(samples)]


def clustered(texts: Sequence[str]) -> list[int]:
    """The cluster of each text, 0 to `CLUSTERS` - 1: spherical k-means over TF-IDF of their words."""
    if not texts:
        return []
    vectors, rng = _tf_idf(texts), np.random.default_rng(0)
    centers = vectors[rng.integers(len(vectors))][None]
    while len(centers) < min(CLUSTERS, len(vectors)):
        # k-means++: the next center is drawn by how far texts are from those there are.
        distance = np.clip(1 - (vectors @ centers.T).max(axis=1), 1e-6, None)
        centers = np.vstack([centers, vectors[rng.choice(len(vectors), p=distance / distance.sum())]])
    for _ in range(_ROUNDS):
        nearest = (vectors @ centers.T).argmax(axis=1)
        sums = np.stack([vectors[nearest == i].sum(axis=0) for i in range(len(centers))])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        # A cluster that has lost all its texts keeps its center.
        centers = np.where(norms > 0, sums / np.where(norms > 0, norms, 1), centers)
    return [int(i) for i in (vectors @ centers.T).argmax(axis=1)]


def _tf_idf(texts: Sequence[str]) -> np.ndarray:
    """float32 [N, W] of unit norm; zeros for a text without any of the words."""
    counts = [Counter(words(text)) for text in texts]
    found = Counter(word for count in counts for word in count)
    telling = {word: n for word, n in found.items() if n <= max(1, _COMMON * len(texts))}
    chosen = sorted(telling, key=lambda word: (-telling[word], word))[:_WORDS]
    place = {word: i for i, word in enumerate(chosen)}
    table = np.zeros((len(texts), len(chosen)), np.float32)
    for row, count in enumerate(counts):
        for word, n in count.items():
            if word in place:
                table[row, place[word]] = (1 + np.log(n)) * np.log(len(texts) / telling[word])
    norms = np.linalg.norm(table, axis=1, keepdims=True)
    return np.asarray(table / np.where(norms > 0, norms, 1))

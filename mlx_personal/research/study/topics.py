"""Assign topics to dialogues whose data set has no labels: clusters of texts that share words.

The dominant domain of the lexicons is not used, because DSS and IDD are computed from it, and because one domain can
cover almost a whole data set, as health does with MedDialog.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from mlx_personal.dialogue import words
from mlx_personal.research.study.schemas import LabeledDialogue

NUM_CLUSTERS: Final = 16
# The vocabulary: the most frequent words, without those that occur in more than a tenth of the texts.
_MAX_WORDS, _MAX_DOCUMENT_SHARE = 2000, 0.1
_ITERATIONS: Final = 20


def assign_topics(dialogues: Sequence[LabeledDialogue]) -> list[str]:
    """Return a topic for each dialogue: the data set's label, or otherwise a cluster. The result is deterministic."""
    unlabeled = [i for i, labeled in enumerate(dialogues) if not labeled.topic]
    clusters = dict(zip(unlabeled, cluster_texts([dialogues[i].dialogue.text for i in unlabeled]), strict=True))
    return [labeled.topic or f"cluster {clusters[i]}" for i, labeled in enumerate(dialogues)]


def cluster_texts(texts: Sequence[str]) -> list[int]:
    """Return the cluster of each text, 0 to `NUM_CLUSTERS` - 1, by spherical k-means of their TF-IDF vectors."""
    if not texts:
        return []
    vectors, rng = _tf_idf(texts), np.random.default_rng(0)
    centers = vectors[rng.integers(len(vectors))][None]
    while len(centers) < min(NUM_CLUSTERS, len(vectors)):
        # k-means++: draw the next center by its distance from the present ones.
        distance = np.clip(1 - (vectors @ centers.T).max(axis=1), 1e-6, None)
        centers = np.vstack([centers, vectors[rng.choice(len(vectors), p=distance / distance.sum())]])
    for _ in range(_ITERATIONS):
        nearest = (vectors @ centers.T).argmax(axis=1)
        sums = np.stack([vectors[nearest == i].sum(axis=0) for i in range(len(centers))])
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        # An empty cluster keeps its center.
        centers = np.where(norms > 0, sums / np.where(norms > 0, norms, 1), centers)
    return [int(i) for i in (vectors @ centers.T).argmax(axis=1)]


def _tf_idf(texts: Sequence[str]) -> np.ndarray:
    """Return TF-IDF vectors, float32 [N, W] of unit norm; zeros for a text without any word of the vocabulary."""
    counts = [Counter(words(text)) for text in texts]
    document_counts = Counter(word for count in counts for word in count)
    rare = {word: n for word, n in document_counts.items() if n <= max(1, _MAX_DOCUMENT_SHARE * len(texts))}
    vocabulary = sorted(rare, key=lambda word: (-rare[word], word))[:_MAX_WORDS]
    columns = {word: i for i, word in enumerate(vocabulary)}
    vectors = np.zeros((len(texts), len(vocabulary)), np.float32)
    for row, count in enumerate(counts):
        for word, n in count.items():
            if word in columns:
                vectors[row, columns[word]] = (1 + np.log(n)) * np.log(len(texts) / rare[word])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1))

"""Similarity in meaning of generated and preferred answers: the cosine similarity of their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Embed = Callable[[Sequence[str]], Sequence[np.ndarray]]
"""Returns the vector of each text, float32 [D]. Use the base model's: an adapter changes every vector."""


def answer_similarities(
    generated: Sequence[Sequence[str]], preferred: Sequence[Sequence[str]], embed: Embed
) -> list[float] | None:
    """Return for each dialogue the similarity of generated and preferred answers, the mean over its answers.

    The mean vector of all preferred answers is subtracted from every vector, because mean-pooled vectors of a language
    model lie within a few degrees of each other.

    Args:
        generated: A model's answers to each dialogue.
        preferred: The preferred answers to each dialogue.
        embed: Computes the vectors.

    Returns:
        Cosine similarities, -1..1, 0 for an answer without a vector; None if the preferred answers do not differ, so
        that there is nothing to compare with.
    """
    targets = [text for turns in preferred for text in turns]
    if len(set(targets)) < 2:
        return None
    texts = [text for turns in generated for text in turns]
    distinct = list(dict.fromkeys([*targets, *texts]))
    vectors = dict(zip(distinct, map(_float64, embed(distinct)), strict=True))
    center = np.mean([vectors[text] for text in targets], axis=0)
    return [
        float(np.mean([_cosine(vectors[a], vectors[b], center) for a, b in zip(answers, turns, strict=True)]))
        for answers, turns in zip(generated, preferred, strict=True)
    ]


def with_cache(embed: Embed) -> Embed:
    """Return a function that computes each text's vector only once.

    Args:
        embed: Computes the vectors.
    """
    vectors: dict[str, np.ndarray] = {}

    def cached(texts: Sequence[str]) -> list[np.ndarray]:
        if new := [text for text in dict.fromkeys(texts) if text not in vectors]:
            vectors.update(zip(new, embed(new), strict=True))
        return [vectors[text] for text in texts]

    return cached


def _float64(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector, np.float64)


def _cosine(a: np.ndarray, b: np.ndarray, center: np.ndarray) -> float:
    """Return the cosine of the angle between two vectors, seen from the center; 0 if one of them is zero."""
    if not a.any() or not b.any():
        return 0.0  # a text without tokens
    a, b = a - center, b - center
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / norms, -1, 1)) if norms > 0 else 0.0

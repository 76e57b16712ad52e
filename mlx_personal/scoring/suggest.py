"""Proposes domains and their words from the owner's own dialogues, whatever their language.

A topic model (TF-IDF, then non-negative matrix factorization) over `dialogue.words`: no dictionary, no stop list, no
stemmer. It proposes; the owner reads the words, drops what is wrong and keeps the file.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlx_personal.dialogue import words as words_of
from mlx_personal.errors import UserError

MIN_TEXTS: Final = 3  # a word in fewer says nothing about a domain
MAX_SHARE: Final = 0.3  # a word in more is a function word or the owner's tic
TEXTS_A_DOMAIN: Final = 5  # fewer, and a topic is one conversation
_MOST_TEXTS: Final = 5000
_MOST_WORDS: Final = 5000
_SWEEPS: Final = 60
_TINY: Final = 1e-9


@dataclass(frozen=True)
class Suggestion:
    """A proposed domain: a name fit for a file, its words, best first, and how many dialogues are mostly about it."""

    name: str
    words: tuple[str, ...]
    dialogues: int


def suggest_lexicons(texts: Sequence[str], *, domains: int = 8, words: int = 40, seed: int = 0) -> list[Suggestion]:
    """At most `domains` lexicons of at most `words` words that cover `texts`, the most talked about first.

    No word is in two of them. More than 5000 texts are sampled, by `seed`. UserError if there is too little text.
    """
    needed = TEXTS_A_DOMAIN * domains
    if len(texts) < needed:
        raise UserError(f"{len(texts)} dialogues are too few for {domains} domains: at least {needed} are needed")
    if len(texts) > _MOST_TEXTS:
        picked = np.random.default_rng(seed).choice(len(texts), _MOST_TEXTS, replace=False)
        texts = [texts[i] for i in np.sort(picked)]
    vocabulary, weights = _tfidf([Counter(filter(_may_name_a_domain, words_of(text))) for text in texts])
    if len(vocabulary) < 2 * domains:
        raise UserError(
            f"only {len(vocabulary)} telling words recur in these {len(texts)} dialogues",
            hint=f"import more, on different subjects, or ask for fewer than {domains} domains",
        )
    shares, topics = _factorize(weights, domains, seed)
    # Rows of topics have unit norm, so that neither score depends on how the scale was split between the factors.
    strongest = np.where(weights.any(axis=1), shares.argmax(axis=1), -1)
    owner = topics.argmax(axis=0)
    scores = topics * (topics / (topics.sum(axis=0) + _TINY))
    found = []
    for k in range(domains):
        ranked = [i for i in np.argsort(-scores[k], kind="stable") if owner[i] == k and topics[k, i] > _TINY][:words]
        if ranked:
            best = [vocabulary[i] for i in ranked]
            found.append(Suggestion("_".join(best[:2]), tuple(best), int((strongest == k).sum())))
    return sorted(found, key=lambda s: (-s.dialogues, s.name))


def _may_name_a_domain(word: str) -> bool:
    """Not numbers, and not the single letters that apostrophes leave behind; a single ideograph is a word."""
    return not word.isdigit() and (len(word) > 1 or unicodedata.category(word) == "Lo")


def _tfidf(counts: list[Counter[str]]) -> tuple[list[str], np.ndarray]:
    """The telling words and their weights [texts, words], (1 + log tf) * log(N / df), rows of unit norm or zero."""
    texts = Counter(word for count in counts for word in count)
    telling = [(df, word) for word, df in texts.items() if MIN_TEXTS <= df <= MAX_SHARE * len(counts)]
    telling = sorted(telling, key=lambda pair: (-pair[0], pair[1]))[:_MOST_WORDS]
    column = {word: i for i, (_, word) in enumerate(telling)}
    weights = np.zeros((len(counts), len(column)), np.float32)
    for row, count in zip(weights, counts, strict=True):
        for word, times in count.items():
            if word in column:
                row[column[word]] = (1 + math.log(times)) * math.log(len(counts) / texts[word])
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    return list(column), weights / np.where(norms > 0, norms, 1.0)


def _factorize(matrix: np.ndarray, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative W [n, rank] and H [rank, m], rows of unit norm, with W @ H near `matrix`: HALS, seeded."""
    rng = np.random.default_rng(seed)
    left = rng.random((matrix.shape[0], rank), np.float32)
    right = rng.random((rank, matrix.shape[1]), np.float32)
    for _ in range(_SWEEPS):
        _hals_sweep(left.T, right @ matrix.T, right @ right.T)
        _hals_sweep(right, left.T @ matrix, left.T @ left)
        norms = np.linalg.norm(right, axis=1, keepdims=True) + _TINY
        right /= norms
        left *= norms.T
    return left, right


def _hals_sweep(factor: np.ndarray, product: np.ndarray, gram: np.ndarray) -> None:
    """One pass of hierarchical alternating least squares over the rows of `factor`, in place."""
    for k in range(len(factor)):
        factor[k] += (product[k] - gram[k] @ factor) / (gram[k, k] + _TINY)
        factor[k].clip(min=0, out=factor[k])

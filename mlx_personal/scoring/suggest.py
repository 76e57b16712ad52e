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
MIN_DISTINCTIVENESS: Final = 0.8  # four times as frequent in the topic's dialogues as in the others
CATCH_ALL: Final = 3.0  # a topic whose words are this many times as common as other topics' words is small talk
TEXTS_A_DOMAIN: Final = 5  # fewer, and a topic is one conversation
_MOST_TEXTS: Final = 5000
_MOST_WORDS: Final = 5000
_MOST_NAME_BYTES: Final = 100  # file systems take 255, with the extension and a number
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

    No word is in two of them, and what all dialogues share makes none. More than 5000 texts are sampled, by `seed`.
    UserError if there is too little text.
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
    strongest = np.where(weights.any(axis=1), shares.argmax(axis=1), -1)
    owner = topics.argmax(axis=0)
    spread = (weights > 0).mean(axis=0)
    found, commonness = [], []
    for k in range(domains):
        distinctive = _distinctiveness(weights > 0, strongest == k)
        scores = np.where((owner == k) & (distinctive >= MIN_DISTINCTIVENESS), topics[k] * distinctive, 0.0)
        best = [i for i in np.argsort(-scores, kind="stable")[:words] if scores[i] > _TINY]
        if best:
            telling = tuple(vocabulary[i] for i in best)
            found.append(Suggestion(_name(telling), telling, int((strongest == k).sum())))
            commonness.append(float(spread[best].mean()))
    limit = CATCH_ALL * float(np.median(commonness)) if found else 0.0
    kept = [s for s, common in zip(found, commonness, strict=True) if common <= limit]
    return sorted(kept, key=lambda s: (-s.dialogues, s.name))


def _name(telling: tuple[str, ...]) -> str:
    """Fit for a file: words hold only letters, digits and marks, but may be of any length."""
    return "_".join(telling[:2]).encode()[:_MOST_NAME_BYTES].decode(errors="ignore")


def _may_name_a_domain(word: str) -> bool:
    """Not numbers, and not the single letters that apostrophes leave behind; a single ideograph is a word."""
    return not word.isdigit() and (len(word) > 1 or unicodedata.category(word) == "Lo")


def _distinctiveness(stands: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """For each word 0..1: its frequency inside, over its frequencies inside and outside, counted in dialogues."""
    within = stands[inside].mean(axis=0) if inside.any() else np.zeros(stands.shape[1])
    without = stands[~inside].mean(axis=0) if not inside.all() else np.zeros(stands.shape[1])
    return np.asarray(within / (within + without + _TINY))


def _tfidf(counts: list[Counter[str]]) -> tuple[list[str], np.ndarray]:
    """The telling words and their weights [texts, words], (1 + log tf) * log(N / df)^2, rows of unit norm or zero.

    The square keeps function words, which stand in a tenth of all texts, from making topics of their own.
    """
    texts = Counter(word for count in counts for word in count)
    telling = [(df, word) for word, df in texts.items() if MIN_TEXTS <= df <= MAX_SHARE * len(counts)]
    telling = sorted(telling, key=lambda pair: (-pair[0], pair[1]))[:_MOST_WORDS]
    column = {word: i for i, (_, word) in enumerate(telling)}
    weights = np.zeros((len(counts), len(column)), np.float32)
    for row, count in zip(weights, counts, strict=True):
        for word, times in count.items():
            if word in column:
                row[column[word]] = (1 + math.log(times)) * math.log(len(counts) / texts[word]) ** 2
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

"""Suggest domains and their words from the user's own dialogues, in any language.

A topic model (TF-IDF, then non-negative matrix factorization) over `dialogue.words`, without dictionary, stop list or
stemmer. The user reviews the suggested words and edits the files.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlx_personal.dialogue import words
from mlx_personal.errors import UserError

MIN_TEXTS: Final = 3  # a word in fewer texts says nothing about a domain
MAX_TEXT_FRACTION: Final = 0.3  # a word in more texts is a function word or a habit of the user's
MIN_DISTINCTIVENESS: Final = 0.8  # four times as frequent inside the topic's dialogues as outside
MAX_COMMONNESS: Final = 3.0  # a topic whose words are this many times as common as other topics' is small talk
MIN_TEXTS_PER_DOMAIN: Final = 5  # with fewer, a topic is a single conversation
_MAX_TEXTS: Final = 5000
_MAX_WORDS: Final = 5000
_MAX_NAME_BYTES: Final = 100  # file systems allow 255, with the extension and a number
_SWEEPS: Final = 60
_TINY: Final = 1e-9


@dataclass(frozen=True)
class Suggestion:
    """A suggested domain.

    Attributes:
        name: A name that is a valid file name.
        words: Its words, best first.
        dialogues: Number of dialogues that are mostly about it.
    """

    name: str
    words: tuple[str, ...]
    dialogues: int


def suggest_lexicons(
    texts: Sequence[str], *, max_domains: int = 8, max_words: int = 40, seed: int = 0
) -> list[Suggestion]:
    """Suggest lexicons that cover the texts.

    No word is in two of them, and words that all dialogues share are in none.

    Args:
        texts: The dialogues' texts; if there are more than 5,000, a random sample of them is used.
        max_domains: Maximum number of lexicons.
        max_words: Maximum number of words of a lexicon.
        seed: Random seed of the sample and the factorization.

    Returns:
        The suggestions, the domain of most dialogues first.

    Raises:
        UserError: If there are too few texts or words.
    """
    needed = MIN_TEXTS_PER_DOMAIN * max_domains
    if len(texts) < needed:
        raise UserError(f"{len(texts)} dialogues are too few for {max_domains} domains: at least {needed} are needed")
    if len(texts) > _MAX_TEXTS:
        sample = np.random.default_rng(seed).choice(len(texts), _MAX_TEXTS, replace=False)
        texts = [texts[i] for i in np.sort(sample)]
    vocabulary, weights = _tfidf([Counter(filter(_is_content_word, words(text))) for text in texts])
    if len(vocabulary) < 2 * max_domains:
        raise UserError(
            f"only {len(vocabulary)} content words recur in these {len(texts)} dialogues",
            hint=f"import more, on different subjects, or ask for fewer than {max_domains} domains",
        )
    strongest, topics = _topic_model(weights, max_domains, seed)
    topic_of_word = topics.argmax(axis=0)
    text_fraction = (weights > 0).mean(axis=0)
    suggestions, commonness = [], []
    for k in range(max_domains):
        distinctive = _distinctiveness(weights > 0, strongest == k)
        scores = np.where((topic_of_word == k) & (distinctive >= MIN_DISTINCTIVENESS), topics[k] * distinctive, 0.0)
        best = [i for i in np.argsort(-scores, kind="stable")[:max_words] if scores[i] > _TINY]
        if best:
            lexicon = tuple(vocabulary[i] for i in best)
            suggestions.append(Suggestion(_name(lexicon), lexicon, int((strongest == k).sum())))
            commonness.append(float(text_fraction[best].mean()))
    limit = MAX_COMMONNESS * float(np.median(commonness)) if suggestions else 0.0
    specific = [s for s, common in zip(suggestions, commonness, strict=True) if common <= limit]
    return sorted(specific, key=lambda s: (-s.dialogues, s.name))


def dominant_topics(texts: Sequence[str], num_topics: int, seed: int = 0) -> list[int]:
    """Return the topic that each text is mostly about: 0 to `num_topics` - 1, or -1 for a text without content words.

    Args:
        texts: The texts.
        num_topics: Number of topics.
        seed: Random seed of the factorization.
    """
    _, weights = _tfidf([Counter(filter(_is_content_word, words(text))) for text in texts])
    return [int(topic) for topic in _topic_model(weights, num_topics, seed)[0]]


def _topic_model(weights: np.ndarray, num_topics: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the dominant topic of each text, [texts], -1 without any word, and the words' shares, [topics, words]."""
    shares, topics = _factorize(weights, num_topics, seed)
    return np.where(weights.any(axis=1), shares.argmax(axis=1), -1), topics


def _name(lexicon: tuple[str, ...]) -> str:
    """Return a valid file name: words consist of letters, digits and marks, but can be of any length."""
    return "_".join(lexicon[:2]).encode()[:_MAX_NAME_BYTES].decode(errors="ignore")


def _is_content_word(word: str) -> bool:
    """Return False for numbers and for the single letters that apostrophes leave; a single ideograph is a word."""
    return not word.isdigit() and (len(word) > 1 or unicodedata.category(word) == "Lo")


def _distinctiveness(occurs: np.ndarray, in_topic: np.ndarray) -> np.ndarray:
    """Return for each word its frequency inside the topic, divided by the sum of those inside and outside, 0..1.

    Args:
        occurs: Whether a text contains a word, bool [texts, words].
        in_topic: Whether a text belongs to the topic, bool [texts].
    """
    inside = occurs[in_topic].mean(axis=0) if in_topic.any() else np.zeros(occurs.shape[1])
    outside = occurs[~in_topic].mean(axis=0) if not in_topic.all() else np.zeros(occurs.shape[1])
    return np.asarray(inside / (inside + outside + _TINY))


def _tfidf(counts: list[Counter[str]]) -> tuple[list[str], np.ndarray]:
    """Return the vocabulary and the weights (1 + log tf) * log(N / df)^2, [texts, words], rows of unit norm or zero.

    The square keeps function words, which occur in a tenth of all texts, from forming topics.
    """
    document_frequency = Counter(word for count in counts for word in count)
    limit = MAX_TEXT_FRACTION * len(counts)
    frequent = [(df, word) for word, df in document_frequency.items() if MIN_TEXTS <= df <= limit]
    frequent = sorted(frequent, key=lambda pair: (-pair[0], pair[1]))[:_MAX_WORDS]
    column = {word: i for i, (_, word) in enumerate(frequent)}
    weights = np.zeros((len(counts), len(column)), np.float32)
    for row, count in zip(weights, counts, strict=True):
        for word, tf in count.items():
            if word in column:
                row[column[word]] = (1 + math.log(tf)) * math.log(len(counts) / document_frequency[word]) ** 2
    norms = np.linalg.norm(weights, axis=1, keepdims=True)
    return list(column), weights / np.where(norms > 0, norms, 1.0)


def _factorize(matrix: np.ndarray, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return non-negative W [n, rank] and H [rank, m], rows of H of unit norm, with W @ H close to `matrix`.

    References:
        [Cichocki09]
    """
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
    """Make one pass of hierarchical alternating least squares over the rows of `factor`, in place."""
    for k in range(len(factor)):
        factor[k] += (product[k] - gram[k] @ factor) / (gram[k, k] + _TINY)
        factor[k].clip(min=0, out=factor[k])

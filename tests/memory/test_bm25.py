"""BM25: scores against the formula in float64, word by word, and similarities relative to the query."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlx_personal.memory.bm25 import BM25Index

TEXTS = [
    "How do I cook lentil soup?",
    "How long do eggs boil, and how do I peel boiled eggs?",
    "When do I plant tomatoes?",
    "eggs, eggs, eggs!",
    "",
]
WORDS = ["soup", "eggs", "how", "do", "I", "plant", "今日", "ñandú", "..."]


def random_texts(seed: int) -> list[str]:
    """Return one to eight texts, some of which are empty."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, 12))) for _ in range(rng.integers(1, 9))]


def bm25(query: list[str], document: list[str], documents: list[list[str]]) -> float:
    """Return the score of a document by the formula of [Robertson09], with plain loops."""
    mean_length = sum(map(len, documents)) / len(documents)
    score = 0.0
    for word in query:
        containing = sum(word in other for other in documents)
        idf = math.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        frequency = document.count(word)
        length_factor = 1 - 0.75 + 0.75 * len(document) / mean_length if mean_length else 1.0
        score += idf * frequency * (1.2 + 1) / (frequency + 1.2 * length_factor)
    return score


def split(text: str) -> list[str]:
    """Return the words of the texts of this file."""
    words = text.lower().translate(str.maketrans("?,!.", "    ")).split()
    return [word for part in words for word in (part if part == "今日" else [part])]


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_the_formula_and_similarities_their_share_of_the_query_s_own(seed: int) -> None:
    *texts, query = ["soup", *random_texts(seed)]
    documents, own = [split(text) for text in texts], split(query)
    index = BM25Index(texts)
    scores = np.array([bm25(own, document, documents) for document in documents])
    np.testing.assert_allclose(index.scores(query), scores, rtol=1e-5, atol=1e-6)
    own_score = bm25(own, own, documents) if own else 1.0
    np.testing.assert_allclose(index.similarities(query), np.minimum(scores / own_score, 1), rtol=1e-5, atol=1e-6)


def test_a_text_of_the_same_words_has_a_similarity_of_1() -> None:
    similarities = BM25Index(TEXTS).similarities("do I cook lentil soup, how")
    assert similarities[0] == pytest.approx(1)
    assert similarities.argmax() == 0 and similarities[1] < 0.5


def test_words_that_no_text_contains_make_every_text_less_similar() -> None:
    index = BM25Index(TEXTS)
    known, unknown = index.similarities("lentil soup"), index.similarities("lentil soup zeppelin quark")
    assert 0 < unknown[0] < known[0] / 2
    np.testing.assert_array_equal(index.scores("lentil soup"), index.scores("lentil soup zeppelin quark"))


@pytest.mark.parametrize("query", ["", "...", "zeppelin"])
def test_a_query_without_a_known_word_is_near_nothing(query: str) -> None:
    assert not BM25Index(TEXTS).similarities(query).any()


@pytest.mark.parametrize("texts", [[], [""], ["?", "!"]])
def test_texts_without_words_are_near_nothing(texts: list[str]) -> None:
    similarities = BM25Index(texts).similarities("soup")
    assert similarities.shape == (len(texts),) and not similarities.any()

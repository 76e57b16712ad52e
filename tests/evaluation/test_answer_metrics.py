"""Metrics of the texts of answers: length, distinct-2, similarity in meaning, and one answer for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.dialogue import rouge1
from mlx_personal.evaluation import answer_similarities, choose_constant_answer, distinct_2, mean_words

TEXTS = st.lists(st.text("ab c", max_size=12), max_size=6)

# Length and distinct-2


def test_distinct_2_counts_pairs_of_words_within_answers() -> None:
    assert distinct_2(["a b c", "b c d"]) == 3 / 4
    assert distinct_2(["a b", "c d"]) == 1, "no pair across two answers"
    assert distinct_2(["so so so so"]) == 1 / 3
    assert distinct_2([]) == distinct_2([""]) == distinct_2(["one", "two"]) == 0


def test_words_are_counted_in_any_script() -> None:
    assert mean_words(["Salt it, Nora!", "", "кошка спит"]) == pytest.approx(5 / 3)
    assert mean_words([]) == 0


@given(TEXTS)
def test_distinct_2_lies_within_0_and_1_and_falls_when_everything_is_said_twice(texts: list[str]) -> None:
    assert 0 <= distinct_2(texts) <= 1
    assert distinct_2(texts * 2) == pytest.approx(distinct_2(texts) / 2)


# One answer for all


@settings(max_examples=40, deadline=None)  # the first call imports nltk
@given(TEXTS)
def test_the_constant_answer_has_the_highest_mean_rouge_1_to_the_others(texts: list[str]) -> None:
    answer = choose_constant_answer(texts, texts)
    if answer is None:
        assert texts == []
        return
    totals = {text: sum(rouge1(text, b) for j, b in enumerate(texts) if j != i) for i, text in enumerate(texts)}
    assert totals[answer] == pytest.approx(max(totals.values()))


# Similarity in meaning

VECTORS = {"sun": [1.0, 0.1], "rain": [1.0, -0.1], "light": [1.0, 0.2], "": [0.0, 0.0]}


def embed(texts: Sequence[str]) -> list[np.ndarray]:
    assert len(set(texts)) == len(texts)
    return [np.array(VECTORS[text], np.float32) for text in texts]


def test_similarity_is_seen_from_the_center_of_the_preferred_answers() -> None:
    preferred = [["sun"], ["rain"]]
    assert answer_similarities([["light"], ["light"]], preferred, embed) == pytest.approx([1, -1])
    assert answer_similarities(preferred, preferred, embed) == pytest.approx([1, 1])
    assert answer_similarities([["rain"], [""]], preferred, embed) == pytest.approx([-1, 0])


def test_the_similarity_of_a_dialogue_is_the_mean_over_its_answers() -> None:
    assert answer_similarities([["light", "light"]], [["sun", "rain"]], embed) == pytest.approx([0], abs=1e-9)


@pytest.mark.parametrize("preferred", [[], [["sun"]], [["sun"], ["sun"]]])
def test_equal_preferred_answers_have_no_center_to_compare_from(preferred: list[list[str]]) -> None:
    assert answer_similarities(preferred, preferred, embed) is None


def test_an_answer_at_the_center_is_similar_to_nothing() -> None:
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.5, 0.5]}
    similarities = answer_similarities(
        [["c"], ["b"]], [["a"], ["b"]], lambda texts: [np.array(vectors[t]) for t in texts]
    )
    assert similarities == pytest.approx([0, 1])

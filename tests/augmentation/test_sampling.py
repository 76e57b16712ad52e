"""Sampling: the records that the package's selector keeps, within a token budget."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlx_personal import LanguageModel
from mlx_personal.augmentation import sampling
from mlx_personal.augmentation.record_embedding import record_text, record_vectors
from mlx_personal.augmentation.sampling import SampleBudget, count_too_long, sample_records
from mlx_personal.augmentation.task import Record
from mlx_personal.embedding import HiddenStateEmbedder
from mlx_personal.scoring import Lexicons, entropy_of_embedding
from mlx_personal.selection import Buffer, QualityPolicy, SelectionCandidate, Selector

ABOUT = [
    "my dog",
    "a cake with plums",
    "the train to Lund",
    "my old bicycle",
    "a {brace} and 'quotes'",
    "sleep",
    "Mäuse",
]
# The first ones have low scores, so that others replace them.
RECORDS = [Record(f"yes yes yes {word}", "no no no no") for word in ("one", "two", "three", "four")] + [
    Record(f"{number} things to know about {about}?", f"First this about {about}, then rest for {number} days.")
    for number in range(2, 6)
    for about in ABOUT
]


def token_count(lm: LanguageModel, record: Record) -> int:
    line = json.dumps({"text": record.text, "answer": record.answer}, ensure_ascii=False)
    return len(lm.tokenizer.encode(line, add_special_tokens=False))


def kept_by_the_selector(lm: LanguageModel, records: list[Record], bins: int) -> Buffer:
    """Apply the package's selection rule with scores by their definitions, one record at a time."""
    buffer, lexicons = Buffer(bins), Lexicons.load()
    selector = Selector(buffer, QualityPolicy())
    for i, record in enumerate(records):
        text = f"{record.text}\n{record.answer}"
        (embedding,) = HiddenStateEmbedder(lm).embed([text])
        domain = lexicons.domain_specific_score(text)
        eoe = entropy_of_embedding(embedding.states)
        selector.offer(SelectionCandidate(i, i, text, embedding.vector, eoe, domain.dss, domain.domain))
    return buffer


def test_samples_what_the_selector_keeps(demo_model: LanguageModel) -> None:
    sampled = sample_records(demo_model, RECORDS, SampleBudget(6, 100_000))
    assert sampled == sorted(b.dialogue_id for b in kept_by_the_selector(demo_model, RECORDS, 6).bins)
    assert len(sampled) == 6
    assert sampled != list(range(6))
    assert sample_records(demo_model, RECORDS, SampleBudget(6, 100_000)) == sampled


def test_fills_the_token_budget_by_mean_rank(demo_model: LanguageModel) -> None:
    buffer = kept_by_the_selector(demo_model, RECORDS, 8)
    scores = buffer.scores()
    mean_ranks = [np.mean([np.sum(scores[:, c] > row[c]) for c in range(3)]) for row in scores]
    order = [
        buffer.bins[i].dialogue_id for i in sorted(range(8), key=lambda i: (mean_ranks[i], buffer.bins[i].dialogue_id))
    ]
    lengths = [token_count(demo_model, record) for record in RECORDS]
    for budget in (max(lengths), 100, 170, 250):
        expected, tokens_left = [], budget
        for i in order:
            if lengths[i] <= tokens_left:
                expected.append(i)
                tokens_left -= lengths[i]
        assert sample_records(demo_model, RECORDS, SampleBudget(8, budget)) == sorted(expected)


def test_samples_all_of_a_few_records(tiny_model: LanguageModel) -> None:
    assert sample_records(tiny_model, RECORDS[4:11], SampleBudget(8, 100_000)) == list(range(7))
    assert sample_records(tiny_model, RECORDS[:1], SampleBudget(1, 100_000)) == [0]
    assert sample_records(tiny_model, [], SampleBudget()) == []


def test_skips_near_duplicates(tiny_model: LanguageModel) -> None:
    duplicate = Record(RECORDS[0].text.upper(), RECORDS[0].answer)
    assert sample_records(tiny_model, [RECORDS[0], duplicate, RECORDS[1]], SampleBudget()) == [0, 2]


def test_skips_and_counts_records_over_the_token_budget(tiny_model: LanguageModel) -> None:
    long = Record("word " * 300, "yes")
    records, budget = [long, *RECORDS[4:6], long], SampleBudget(2, 200)
    assert token_count(tiny_model, long) > 200 >= sum(token_count(tiny_model, record) for record in RECORDS[4:6])
    assert sample_records(tiny_model, records, budget) == [1, 2]  # it occupies no bin
    assert count_too_long(tiny_model, records, budget) == 2
    assert sample_records(tiny_model, [long], budget) == []


def test_a_record_may_use_the_whole_token_budget(tiny_model: LanguageModel) -> None:
    exact = token_count(tiny_model, RECORDS[4])
    assert sample_records(tiny_model, [RECORDS[4]], SampleBudget(1, exact)) == [0]
    assert sample_records(tiny_model, [RECORDS[4]], SampleBudget(1, exact - 1)) == []


def test_equal_scores_have_equal_ranks() -> None:
    scores = np.array([[3, 1, 1], [2, 1, 2], [2, 0, 3]], float)
    assert sampling._mean_ranks(scores) == pytest.approx([2 / 3, 2 / 3, 1.0])


def test_vectors_have_unit_norm_and_embed_text_and_answer(demo_model: LanguageModel) -> None:
    vectors = record_vectors(demo_model, RECORDS[:3])
    assert vectors.dtype == np.float64 and vectors.shape[0] == 3
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert record_text(Record("a?", "b.")) == "a?\nb."


@pytest.mark.parametrize("changes", [{"max_records": 0}, {"max_tokens": 0}, {"max_records": -1}])
def test_an_empty_budget_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="budget"):
        SampleBudget(**changes)

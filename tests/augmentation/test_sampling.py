"""Which records are sent: those that the product's selector keeps, within a budget of tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlx_personal import LanguageModel
from mlx_personal.augmentation import sampling
from mlx_personal.augmentation.record_embedding import said, vectors
from mlx_personal.augmentation.sampling import Budget, pick, too_long
from mlx_personal.augmentation.task import Record
from mlx_personal.embedding import HiddenStateEmbedder
from mlx_personal.scoring import Lexicons, entropy_of_embedding
from mlx_personal.selection import Buffer, Candidate, QualityPolicy, Selector

ABOUT = [
    "my dog",
    "a cake with plums",
    "the train to Lund",
    "my old bicycle",
    "a {brace} and 'quotes'",
    "sleep",
    "Mäuse",
]
# The first ones say little, so that others take their place.
RECORDS = [Record(f"yes yes yes {word}", "no no no no") for word in ("one", "two", "three", "four")] + [
    Record(f"{number} things to know about {about}?", f"First this about {about}, then rest for {number} days.")
    for number in range(2, 6)
    for about in ABOUT
]


def tokens(lm: LanguageModel, record: Record) -> int:
    line = json.dumps({"text": record.text, "answer": record.answer}, ensure_ascii=False)
    return len(lm.tokenizer.encode(line, add_special_tokens=False))


def kept_by_the_selector(lm: LanguageModel, records: list[Record], bins: int) -> Buffer:
    """The product's rule, with scores by their definitions, one record at a time."""
    buffer, lexicons = Buffer(bins), Lexicons.load()
    selector = Selector(buffer, QualityPolicy())
    for i, record in enumerate(records):
        text = f"{record.text}\n{record.answer}"
        (embedding,) = HiddenStateEmbedder(lm).embed([text])
        domain = lexicons.domain_specific_score(text)
        eoe = entropy_of_embedding(embedding.states)
        selector.offer(Candidate(i, i, text, embedding.vector, eoe, domain.dss, domain.domain))
    return buffer


def test_records_are_those_that_the_selector_keeps(demo_model: LanguageModel) -> None:
    picked = pick(demo_model, RECORDS, Budget(6, 100_000))
    assert picked == sorted(b.dialogue_id for b in kept_by_the_selector(demo_model, RECORDS, 6).bins)
    assert len(picked) == 6
    assert picked != list(range(6))
    assert pick(demo_model, RECORDS, Budget(6, 100_000)) == picked


def test_the_best_by_mean_rank_fill_the_token_budget(demo_model: LanguageModel) -> None:
    buffer = kept_by_the_selector(demo_model, RECORDS, 8)
    scores = buffer.scores()
    mean_ranks = [np.mean([np.sum(scores[:, c] > row[c]) for c in range(3)]) for row in scores]
    order = [
        buffer.bins[i].dialogue_id for i in sorted(range(8), key=lambda i: (mean_ranks[i], buffer.bins[i].dialogue_id))
    ]
    lengths = [tokens(demo_model, record) for record in RECORDS]
    for budget in (max(lengths), 100, 170, 250):
        expected, room = [], budget
        for i in order:
            if lengths[i] <= room:
                expected.append(i)
                room -= lengths[i]
        assert pick(demo_model, RECORDS, Budget(8, budget)) == sorted(expected)


def test_few_records_are_all_sent(tiny_model: LanguageModel) -> None:
    assert pick(tiny_model, RECORDS[4:11], Budget(8, 100_000)) == list(range(7))
    assert pick(tiny_model, RECORDS[:1], Budget(1, 100_000)) == [0]
    assert pick(tiny_model, [], Budget()) == []


def test_a_near_duplicate_is_not_sent_beside_its_original(tiny_model: LanguageModel) -> None:
    again = Record(RECORDS[0].text.upper(), RECORDS[0].answer)
    assert pick(tiny_model, [RECORDS[0], again, RECORDS[1]], Budget()) == [0, 2]


def test_a_record_that_is_too_long_is_passed_over_and_counted(tiny_model: LanguageModel) -> None:
    long = Record("word " * 300, "yes")
    records, budget = [long, *RECORDS[4:6], long], Budget(2, 200)
    assert tokens(tiny_model, long) > 200 >= sum(tokens(tiny_model, record) for record in RECORDS[4:6])
    assert pick(tiny_model, records, budget) == [1, 2]  # it takes no other one's bin
    assert too_long(tiny_model, records, budget) == 2
    assert pick(tiny_model, [long], budget) == []


def test_a_record_fits_to_the_last_token(tiny_model: LanguageModel) -> None:
    exact = tokens(tiny_model, RECORDS[4])
    assert pick(tiny_model, [RECORDS[4]], Budget(1, exact)) == [0]
    assert pick(tiny_model, [RECORDS[4]], Budget(1, exact - 1)) == []


def test_ranks_are_shared_by_equals() -> None:
    scores = np.array([[3, 1, 1], [2, 1, 2], [2, 0, 3]], float)
    assert sampling._mean_ranks(scores) == pytest.approx([2 / 3, 2 / 3, 1.0])


def test_vectors_are_of_text_and_answer(demo_model: LanguageModel) -> None:
    found = vectors(demo_model, RECORDS[:3])
    assert (found.dtype, found.shape[0]) == (np.float64, 3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    assert said(Record("a?", "b.")) == "a?\nb."


@pytest.mark.parametrize("changes", [{"records": 0}, {"tokens": 0}, {"records": -1}])
def test_a_budget_of_nothing_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget(**changes)

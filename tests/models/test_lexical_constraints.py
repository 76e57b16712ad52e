"""Soft lexical constraints: what they add to the logits, and that generation takes them per prompt."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal import LanguageModel
from mlx_personal.models.lexical_constraints import LexicalConstraint, TokenBonuses
from mlx_personal.models.sampling import SamplingParams

NO_CONSTRAINT = LexicalConstraint((), ())


def added(bonuses: TokenBonuses, rows: int, vocabulary: int = 6) -> list[list[float]]:
    return np.array(bonuses.add_to(mx.zeros((rows, vocabulary)))).tolist()


def test_a_bonus_is_added_until_its_token_was_generated() -> None:
    bonuses = TokenBonuses.of([LexicalConstraint((1, 4), (2.0, 3.0)), NO_CONSTRAINT, LexicalConstraint((0,), (1.0,))])
    assert added(bonuses, 3) == [[0, 2, 0, 0, 3, 0], [0] * 6, [1, 0, 0, 0, 0, 0]]
    later = bonuses.without(mx.array([4, 4, 5]))
    assert added(later, 3) == [[0, 2, 0, 0, 0, 0], [0] * 6, [1, 0, 0, 0, 0, 0]]


def test_rows_are_filtered_and_joined_whatever_their_number_of_tokens() -> None:
    wide = TokenBonuses.of([LexicalConstraint((1, 2, 3), (1.0, 1.0, 1.0)), NO_CONSTRAINT])
    joined = TokenBonuses.of([LexicalConstraint((5,), (4.0,))]).concatenate(wide)
    assert added(joined, 3) == [[0, 0, 0, 0, 0, 4], [0, 1, 1, 1, 0, 0], [0] * 6]
    assert added(joined.filter(mx.array([1])), 1) == [[0, 1, 1, 1, 0, 0]]


def test_the_closing_tokens_become_likelier_as_the_others_are_generated() -> None:
    bonuses = TokenBonuses.of([LexicalConstraint((1, 4), (1.0, 3.0), (5,), 8.0), NO_CONSTRAINT])
    assert added(bonuses, 2) == [[0, 1, 0, 0, 3, 0], [0] * 6]
    after_four = bonuses.without(mx.array([4, 4]))
    assert added(after_four, 2) == [[0, 1, 0, 0, 0, 6], [0] * 6]
    assert added(after_four.without(mx.array([1, 1])), 2) == [[0, 0, 0, 0, 0, 8], [0] * 6]


@pytest.mark.parametrize("sampling", [SamplingParams(), SamplingParams(temperature=0.7, repetition_penalty=1.2)])
def test_each_answer_is_that_of_its_own_constraint(tiny_model: LanguageModel, sampling: SamplingParams) -> None:
    prompts = [tiny_model.tokenize("How do I bake bread?")] * 2 + [tiny_model.tokenize("And soup")] * 40
    token = tiny_model.tokenize("z")[0]
    wanted = LexicalConstraint((token,), (100.0,))
    constraints = [wanted if number % 3 == 0 else NO_CONSTRAINT for number in range(len(prompts))]
    limits = [4 + number % 5 for number in range(len(prompts))]
    free = tiny_model.generate(prompts, max_tokens=limits, sampling=sampling)
    constrained = tiny_model.generate(prompts, max_tokens=limits, sampling=sampling, constraints=constraints)
    for number, (without, text) in enumerate(zip(free, constrained, strict=True)):
        if number % 3:
            assert text == without
        else:
            # Its first token, and not again: the bonus is used up.
            assert text.startswith("z")
            assert not text.startswith("zz")

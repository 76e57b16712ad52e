"""Redrawing: budgets, that parts which pass are kept, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.models.lexical_constraints import LexicalConstraint
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.synthesis import STYLES, RewriteCandidate, SynthesisConfig, synthesize

GLASS = Dialogue.of("What is glass made of?", "Sand.")
TWO_SENTENCES = Dialogue.of("I have had a cough for 3 days. What could the cause of it be?", "A cold.")
GOOD = [
    "Do you know what glass is made of?",
    "I'd like to know what glass is made of.",
    "May I ask what glass is made of?",
    "I was wondering what glass is made of.",
]


class AnsweringModel:
    """Stands in for a language model: answers each prompt by a function of its text and its number of draws."""

    class tokenizer:  # noqa: N801 - an attribute of the model
        bos_token_id = None
        has_chat_template = True

    context_length = 4096

    def __init__(self, answer: Callable[[str, int], str]) -> None:
        self.answer = answer
        self.drawn: Counter[str] = Counter()
        self.batches: list[tuple[int, SamplingParams, int]] = []
        self.texts: list[str] = []

    def tokenize(self, text: str) -> list[int]:
        return [0] * len(text.split())

    def tokenize_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        self.texts.append(messages[-1]["content"].partition("\n[")[2].removesuffix("]"))
        return [len(self.texts) - 1]

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        max_tokens: Sequence[int],
        sampling: SamplingParams,
        seed: int,
        on_progress: Progress | None,
        constraints: Sequence[LexicalConstraint] = (),
    ) -> list[str]:
        self.batches.append((len(prompts), sampling, seed))
        answers = []
        for number, prompt in enumerate(prompts):
            text = self.texts[prompt[0]]
            answers.append(self.answer(text, self.drawn[text]))
            self.drawn[text] += 1
            if on_progress is not None:
                on_progress(ProgressEvent("generation", number + 1, len(prompts)))
        return answers


class SimilarTexts:
    """Stands in for the check of similarity, which needs a model."""

    def __init__(self, *_: object) -> None:
        pass

    def passes(self, indices: Sequence[int], rewrites: Sequence[str]) -> list[bool]:
        assert len(indices) == len(rewrites)
        return ["similar to nothing" not in rewrite for rewrite in rewrites]


@pytest.fixture(autouse=True)
def _similar_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_personal.synthesis.rewriting.SimilarityCheck", SimilarTexts)


def rewrite(
    answer: Callable[[str, int], str],
    dialogues: Sequence[Dialogue],
    on_progress: Progress | None = None,
    **settings: Any,
) -> tuple[list[RewriteCandidate], AnsweringModel]:
    model = AnsweringModel(answer)
    config = SynthesisConfig(**{"style": "few-shot", **settings})
    return synthesize(cast(LanguageModel, model), dialogues, config, on_progress), model


def test_failed_rewrites_are_drawn_again_until_k_are_kept() -> None:
    answers = ["", GOOD[0], "Sand.", GOOD[0], GOOD[1], GOOD[2], GOOD[3]]
    candidates, model = rewrite(lambda _, n: answers[n], [GLASS], k=3, max_attempts=3)
    assert [c.reason for c in candidates] == ["unparsable", "kept", "form", "duplicate", "kept", "kept"]
    assert [size for size, _, _ in model.batches] == [3, 2, 1]
    assert [c.dialogue.question for c in candidates if c.kept and c.dialogue] == [GOOD[0], GOOD[1], GOOD[2]]


@pytest.mark.parametrize(("k", "attempts"), [(1, 1), (2, 3), (6, 3)])
def test_a_dialogue_costs_at_most_its_budget(k: int, attempts: int) -> None:
    candidates, model = rewrite(lambda _, n: "Sand.", [GLASS, TWO_SENTENCES], k=k, max_attempts=attempts)
    assert Counter(c.original_index for c in candidates) == {0: k * attempts, 1: k * attempts}
    assert sum(size for size, _, _ in model.batches) == 2 * k * attempts


def test_what_is_kept_leaves_its_budget_to_the_others() -> None:
    # Three of four are kept at once; the fourth is drawn in the three other rounds too.
    candidates, _ = rewrite(lambda _, n: GOOD[n] if n < 3 else "Sand.", [GLASS], k=4, max_attempts=2)
    assert Counter(c.reason for c in candidates) == {"kept": 3, "form": 4}


def test_a_sentence_that_passed_is_not_drawn_again() -> None:
    first, second = "I have had a cough for 3 days.", "What could the cause of it be?"

    def answer(text: str, n: int) -> str:
        if text == first:
            return "days, I've had a cough."
        return "A cold could be it." if n == 0 else "what the cause of it could be?"

    candidates, model = rewrite(answer, [TWO_SENTENCES], k=1, style="few-shot-guided")
    assert model.drawn == {first: 1, second: 2}
    assert [c.reason for c in candidates] == ["content lost", "kept"]
    assert candidates[-1].dialogue is not None
    assert candidates[-1].dialogue.question.startswith("For 3 days, I've had a cough. ")


def test_a_sentence_that_fails_twice_stays_as_it_is_if_another_one_is_reworded() -> None:
    first, second = "I have had a cough for 3 days.", "What could the cause of it be?"

    def answer(text: str, n: int) -> str:
        return "days, I've had a cough." if text == first else "A cold."

    candidates, model = rewrite(answer, [TWO_SENTENCES], k=1, style="few-shot-guided")
    assert model.drawn == {first: 1, second: 2}
    assert candidates[-1].kept
    assert candidates[-1].dialogue is not None
    assert candidates[-1].dialogue.question == f"For 3 days, I've had a cough. {second}"
    # Alone it would be a copy.
    alone, _ = rewrite(answer, [Dialogue.of(second, "A cold.")], k=1, style="few-shot-guided")
    assert not any(candidate.kept for candidate in alone)


def test_the_temperature_rises_after_a_copy_and_falls_after_a_drift() -> None:
    step = STYLES["few-shot"].temperature_step
    for answer, direction in (("Sand.", -1), (GLASS.question, 1)):
        _, model = rewrite(lambda _, n, answer=answer: answer, [GLASS], k=1, max_attempts=3, temperature=0.7, seed=9)  # type: ignore[misc]
        expected = [0.7 + direction * step * n for n in range(3)]
        assert [s.temperature for _, s, _ in model.batches] == pytest.approx(expected)
        assert len({seed for _, _, seed in model.batches}) == 3
        assert model.batches[0][1].stop == ("]",)
    _, greedy = rewrite(lambda _, n: GLASS.question, [GLASS], k=1, temperature=0)
    assert {s.temperature for _, s, _ in greedy.batches} == {0}


def test_progress_counts_on_over_all_rounds() -> None:
    events: list[ProgressEvent] = []
    rewrite(lambda _, n: "Sand.", [GLASS], events.append, k=2, max_attempts=2)
    assert [(e.stage, e.done, e.total) for e in events] == [
        ("synthesis", d, t) for d, t in [(1, 2), (2, 2), (3, 4), (4, 4)]
    ]


def test_a_text_that_is_similar_to_nothing_is_drawn_again_even_if_it_comes_twice() -> None:
    wanted = Dialogue.of("What is glass similar to, and is it nothing new?", "Ice.")
    bad, good = (
        "Do you know what glass is similar to nothing new?",
        "Do you know what new glass is similar to, is it nothing?",
    )
    candidates, _ = rewrite(lambda _, n: bad if n < 2 else good, [wanted], k=1, min_content_kept=0)
    assert [c.reason for c in candidates] == ["similarity", "similarity", "kept"]


def test_another_order_of_the_words_is_another_wording() -> None:
    wanted = Dialogue.of("My hands are often numb, and I have been weak and tired lately.", "Rest.")
    moved = "I have been weak and tired lately, and my hands are often numb."
    assert [c.reason for c in rewrite(lambda _, n: moved, [wanted], k=1)[0]] == ["kept"]
    plain, _ = rewrite(lambda _, n: moved, [wanted], k=1, max_attempts=1, check_meaning=False)
    assert [(c.reason, c.rouge1) for c in plain] == [("too near", 1.0)]


def test_without_checks_of_meaning_only_the_overlap_counts() -> None:
    candidates, _ = rewrite(lambda _, n: "Glass is made of sand.", [GLASS], k=1, check_meaning=False)
    assert [c.reason for c in candidates] == ["kept"]

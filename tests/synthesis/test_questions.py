"""Questions in the owner's manner: how the model is asked, and which of its questions are proposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mlx_personal import LanguageModel
from mlx_personal.dialogue import Dialogue
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.progress import ProgressEvent
from mlx_personal.synthesis.questions import QuestionStyle, propose_questions

OWN = [
    "How do I water a large fern?",
    "What can I cook with red lentils?",
    "Why does my bicycle chain fall off?",
    "How long should I stretch before a run?",
]
NEW = [
    "When is the best time to prune roses?",
    "What should I pack for a week in Norway?",
    "Which paint is right for a garden fence?",
    "How do I keep basil alive in the kitchen?",
    "Where can I learn to play the cello?",
    "What is a good film for a rainy evening?",
    "How often does a puppy need to go out?",
    "Who repairs old radios nowadays?",
]


class Scripted:
    """Replaces `generate`: answers few-shot prompts and blends from two lists."""

    def __init__(self, lm: LanguageModel, few_shot: Sequence[str], blend: Sequence[str] = ()):
        self.answers = {"few-shot": iter(few_shot), "blend": iter(blend)}
        self.lm, self.prompts = lm, list[str]()

    def __call__(
        self, prompts: Sequence[list[int]], *, max_tokens: int, sampling: SamplingParams, seed: int
    ) -> list[str]:
        self.prompts += [self.lm.tokenizer.decode(prompt) for prompt in prompts]
        style = "blend" if sampling.stop == ("]",) else "few-shot"
        return [next(self.answers[style], "") for _ in prompts]


def propose(
    lm: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    answers: Sequence[str],
    count: int = 4,
    style: QuestionStyle | None = "few-shot",
    **options: Any,
) -> dict[str, str]:
    """Return the reason for each answer that was drawn."""
    monkeypatch.setattr(lm, "generate", Scripted(lm, answers))
    candidates = propose_questions(lm, OWN, count, style=style, **options)
    return {candidate.text: candidate.reason for candidate in candidates if candidate.text}


def test_new_questions_are_kept(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert propose(tiny_model, monkeypatch, NEW) == dict.fromkeys(NEW[:4], "kept"), "not more than are wanted"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("What can I cook with red lentils", "known"),
        ("What shall I cook with red lentils?", "known"),
        ("Is this in the stream of the owner?", "known"),
        ("How many days has the month of March?", "held out"),
        ("Prune them in early spring, before they bud.", "form"),
        ("I'm sorry, but what should I write about?", "comment"),
        ("Wie lange dauert es, bis wir fertig sind?", "language"),
        ("Как приготовить суп?", "language"),
        ("Why so?", "too short"),
        ("Can you go to the shop and go to the shop and go to the shop?", "loop"),
        ("What " + "if I plant another small tree there, " * 20 + "then?", "cut off"),
        ("\0 What is this?", "unparsable"),
    ],
)
def test_other_answers_are_dropped(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, answer: str, reason: str
) -> None:
    held_out = [Dialogue.of("How many days has the month of March?", "31.")]
    known = ["Is this in the stream of the owner?"]
    reasons = propose(tiny_model, monkeypatch, [answer], known=known, held_out=held_out)
    assert reasons[answer.strip()] == reason


def test_bullets_labels_and_quotation_marks_are_removed(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [f"- {NEW[0]}", f'1. "{NEW[1]}"', f"Question: {NEW[2]}", f"<think>hm</think> {NEW[3]}"]
    assert propose(tiny_model, monkeypatch, answers) == dict.fromkeys(NEW[:4], "kept")


def test_no_question_is_proposed_twice(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model, "generate", Scripted(tiny_model, [NEW[0], NEW[0], NEW[1]]))
    candidates = propose_questions(tiny_model, OWN, 2, style="few-shot")
    assert [candidate.reason for candidate in candidates] == ["kept", "known", "kept"]


def test_an_owner_who_states_things_gets_statements(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = [
        "I feel very tired this week.",
        "My neighbor is loud at night.",
        "I found my old guitar in the attic.",
    ]
    monkeypatch.setattr(tiny_model, "generate", Scripted(tiny_model, ["My brother has moved to another town."]))
    [first, *_] = propose_questions(tiny_model, statements, 1, style="few-shot")
    assert first.kept


def test_prompts_show_only_questions_of_the_owner(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Scripted(tiny_model, NEW)
    monkeypatch.setattr(tiny_model, "generate", script)
    propose_questions(tiny_model, OWN, 2, known=["A known question?"], style="few-shot")
    assert all(sum(question in prompt for question in OWN) == 4 for prompt in script.prompts)
    assert not any("A known question?" in prompt for prompt in script.prompts)


@pytest.mark.parametrize(("few_shot", "blend"), [(NEW, ["no"] * 8), (["no"] * 8, NEW)])
def test_the_style_is_found_that_works(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, few_shot: list[str], blend: list[str]
) -> None:
    monkeypatch.setattr(tiny_model, "generate", Scripted(tiny_model, few_shot, blend))
    events: list[ProgressEvent] = []
    candidates = propose_questions(tiny_model, OWN, 3, on_progress=events.append)
    assert {candidate.style for candidate in candidates} == {"few-shot" if few_shot is NEW else "blend"}
    assert [candidate.text for candidate in candidates if candidate.kept] == NEW[:3]
    assert events[-1] == ProgressEvent("questions", 3, 3)


def test_the_number_of_attempts_is_limited(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model, "generate", Scripted(tiny_model, []))
    candidates = propose_questions(tiny_model, OWN, 2, style="few-shot")
    assert len(candidates) == 10 and {candidate.reason for candidate in candidates} == {"unparsable"}


def test_too_few_questions_give_none(tiny_model: LanguageModel) -> None:
    assert propose_questions(tiny_model, OWN[:2], 3) == []
    assert propose_questions(tiny_model, [*OWN[:2], "long " * 200], 3) == []
    assert propose_questions(tiny_model, OWN, 0) == []


@pytest.mark.slow
def test_the_embedded_model_proposes_questions(demo_model: LanguageModel) -> None:
    own = [
        "How do I start with my presentation?",
        "What could be the reason that my puppy is restless?",
        "What time do you suggest for my evenings?",
        "Can you list what is needed for my soup?",
    ]
    first = propose_questions(demo_model, own, 3, seed=1)
    kept = [candidate for candidate in first if candidate.kept]
    assert len(kept) == 3 and {candidate.style for candidate in kept} == {"blend"}
    assert propose_questions(demo_model, own, 3, seed=1) == first

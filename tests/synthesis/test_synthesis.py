"""The published method: the zero-shot prompt, parsing, ROUGE-1, and that everything is one seeded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.dialogue import rouge1
from mlx_personal.models.lexical_constraints import LexicalConstraint
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.synthesis import (
    REWRITE_DIALOGUE,
    REWRITE_QUESTION,
    STYLES,
    RewriteCandidate,
    SynthesisConfig,
    parse_dialogue,
    parse_question,
    render_dialogue,
    synthesize,
)
from mlx_personal.synthesis.config import PUBLISHED_METHOD
from mlx_personal.synthesis.units import UnitPrompt

SOUP = Dialogue.of("What shall I cook tonight?", "A soup of leeks.")
TWO_TURNS = Dialogue.from_messages(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How do I plant tomatoes?"},
        {"role": "assistant", "content": "<think>May?</think>In May."},
        {"role": "user", "content": "And how deep?"},
        {"role": "assistant", "content": "A hand deep."},
    ]
)


class ScriptedModel:
    """Stands in for a language model: records its prompts and answers from a list."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.chats: list[list[dict[str, str]]] = []
        self.calls = 0

    def tokenize(self, text: str) -> list[int]:
        return [0] * len(text.split())

    def tokenize_prompt(self, messages: list[dict[str, str]]) -> list[int]:
        self.chats.append(messages)
        return [len(self.chats) - 1]

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        max_tokens: Sequence[int],
        sampling: SamplingParams,
        seed: int,
        on_progress: Progress | None,
        constraints: Sequence[LexicalConstraint],
    ) -> list[str]:
        assert not constraints
        self.calls += 1
        self.prompts, self.max_tokens, self.sampling, self.seed = prompts, max_tokens, sampling, seed
        assert len(prompts) == len(max_tokens) == len(self.answers)
        return self.answers


def rewrite(
    answers: Sequence[str], dialogues: Sequence[Dialogue], held_out: Sequence[Dialogue] = (), **settings: Any
) -> tuple[list[RewriteCandidate], ScriptedModel]:
    model = ScriptedModel(answers)
    config = SynthesisConfig(**{**PUBLISHED_METHOD, **settings})
    candidates = synthesize(as_model(model), dialogues, config, held_out=held_out)
    return candidates, model


def as_model(model: ScriptedModel) -> LanguageModel:
    return cast(LanguageModel, model)


def prompts_of(dialogue: Dialogue, config: SynthesisConfig) -> list[UnitPrompt]:
    method = STYLES["zero-shot"].method(as_model(ScriptedModel([])), config)
    return [method.prompt(dialogue, unit, 0) for unit in method.units(dialogue)]


# Parsing


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("[What is for dinner?]", "What is for dinner?"),
        ("Sure! Here it is: [ What is for dinner? ] Anything else?", "What is for dinner?"),
        ("<think>[no]</think>[yes]", "yes"),
        ("[a [nested] one]", "a [nested] one"),
        ("[two\nlines]", "two\nlines"),
    ],
)
def test_a_question_is_read_from_between_the_outer_brackets(answer: str, question: str) -> None:
    assert parse_question(answer) == question


@pytest.mark.parametrize("answer", ["", "What?", "[What?", "What?]", "[]", "[  \n]", "]What?[", "<think>[a]"])
def test_an_answer_without_a_question_in_brackets_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="nothing in brackets"):
        parse_question(answer)


def test_a_rendered_dialogue_is_read_back_as_it_was() -> None:
    spoken = TWO_TURNS.without_thoughts()
    assert render_dialogue(spoken).splitlines()[0] == "User: How do I plant tomatoes?"
    assert parse_dialogue(f"[{render_dialogue(spoken)}]", spoken) == spoken


@pytest.mark.parametrize(
    "inside",
    [
        "User: a",
        "Assistant: a\nUser: b",
        "User: a\nAssistant: b\nUser: c\nAssistant: d",
        "User:\nAssistant: b",
        "Hello. User: a\nAssistant: b",
        "Hello\nUser: a\nAssistant: b",
        "no labels",
        "User: a\0\nAssistant: b",
    ],
)
def test_a_dialogue_with_other_turns_than_the_original_is_refused(inside: str) -> None:
    with pytest.raises(ValueError, match=r"turns|empty|NUL"):
        parse_dialogue(f"[{inside}]", SOUP)


# Prompts


def test_the_prompt_is_that_which_the_embedded_model_was_trained_on() -> None:
    _, model = rewrite(["[a]"] * 2, [SOUP], k=2)
    prompt = (
        "Rewrite this question in other words, keep its meaning. Give only the new question, in brackets.\n"
        "[What shall I cook tonight?]"
    )
    assert model.chats == [[{"role": "user", "content": prompt}]]
    assert model.prompts == [[0], [0]]


def test_a_later_question_comes_with_the_turns_before_it() -> None:
    _, model = rewrite(["[a]"] * 2, [TWO_TURNS], k=1)
    system, first, answer, second = TWO_TURNS.without_thoughts().to_messages()[:4]
    ask = [{"role": "user", "content": REWRITE_QUESTION.format(question=m["content"])} for m in (first, second)]
    assert model.chats == [[system, ask[0]], [system, first, answer, ask[1]]]
    assert answer["content"] == "In May."


def test_braces_in_a_question_are_text() -> None:
    _, model = rewrite(["[a]"], [Dialogue.of("What is {x} in {0}?", "A name.")], k=1)
    assert model.chats[0][0]["content"].endswith("[What is {x} in {0}?]")


def test_everything_is_one_batch_with_a_limit_for_each_prompt() -> None:
    long = Dialogue.of("word " * 90, "Yes.")
    _, model = rewrite(["[a]"] * 12, [SOUP, TWO_TURNS, long], k=3, temperature=0.7, seed=5, max_tokens=100)
    assert (model.calls, model.sampling, model.seed) == (1, SamplingParams(temperature=0.7), 5)
    assert model.max_tokens == [2 * 5 + 16] * 3 + [2 * 5 + 16] * 3 + [2 * 3 + 16] * 3 + [100] * 3


def test_the_prompts_are_those_of_the_synthesis() -> None:
    config = SynthesisConfig(k=1, max_tokens=100)
    spoken = [dialogue.without_thoughts() for dialogue in (SOUP, TWO_TURNS)]
    prompts = [prompt for dialogue in spoken for prompt in prompts_of(dialogue, config)]
    _, model = rewrite(["[a]"] * 3, [SOUP, TWO_TURNS], k=1, max_tokens=100)
    assert [prompt.max_tokens for prompt in prompts] == model.max_tokens
    assert prompts_of(SOUP, SynthesisConfig(max_tokens=4)) == []


# Filters


def test_every_reason_is_given_and_only_good_rewrites_are_kept() -> None:
    answers = [
        "[What should I cook this evening?]",
        "no brackets",
        "[Where is my cat?]",
        "[what shall I cook - tonight]",
        "[What shall I ever cook tonight?]",
        "[What should I COOK this evening]",
    ]
    candidates, _ = rewrite(answers, [SOUP], band=(0.3, 0.9))
    assert [c.reason for c in candidates] == ["kept", "unparsable", "too far", "duplicate", "too near", "duplicate"]
    assert [c.kept for c in candidates] == [True] + [False] * 5
    assert candidates[0].dialogue == Dialogue.of("What should I cook this evening?", "A soup of leeks.")
    assert [c.raw_text for c in candidates] == answers
    assert candidates[0].rouge1 == pytest.approx(rouge1("What should I cook this evening?", SOUP.question))
    assert (candidates[1].dialogue, candidates[1].rouge1) == (None, None)
    assert candidates[4].rouge1 == pytest.approx(2 * 5 / 11)


def test_the_band_includes_its_ends() -> None:
    half = rouge1("What should I cook this evening?", SOUP.question)
    for band, reason in (((half, 1), "kept"), ((0, half), "kept"), ((half + 1e-6, 1), "too far")):
        assert rewrite(["[What should I cook this evening?]"], [SOUP], k=1, band=band)[0][0].reason == reason


def test_a_candidate_is_made_of_the_rewrites_of_one_number() -> None:
    answers = ["[How are tomatoes planted?]", "[Planting tomatoes, how?]", "[How deep then?]", "[And what depth?]"]
    candidates, _ = rewrite([*answers, "[x]", "[y]"], [TWO_TURNS, SOUP], k=2, band=(0, 1))
    first, second = candidates[0].dialogue, candidates[1].dialogue
    assert first is not None
    assert second is not None
    assert first.user_turns == ("How are tomatoes planted?", "How deep then?")
    assert second.user_turns == ("Planting tomatoes, how?", "And what depth?")
    assert first.assistant_turns == ("In May.", "A hand deep.")
    assert first.messages[0].content == "Be brief."
    assert [c.original_index for c in candidates] == [0, 0, 1, 1]
    assert candidates[0].raw_text == "[How are tomatoes planted?]\n[How deep then?]"


def test_one_turn_that_cannot_be_parsed_drops_the_candidate() -> None:
    candidates, _ = rewrite(["[How are tomatoes planted?]", "nothing"], [TWO_TURNS], k=1)
    assert candidates[0].reason == "unparsable"


def test_duplicates_are_found_across_dialogues_with_the_same_answers() -> None:
    same, other = Dialogue.of("Show me what to cook", "A soup of leeks."), Dialogue.of("What shall I cook?", "Pasta.")
    candidates, _ = rewrite(["[What can I cook?]"] * 3, [SOUP, same, other], k=1, band=(0, 1))
    assert [c.reason for c in candidates] == ["kept", "duplicate", "kept"]


def test_all_turns_are_rewritten_in_mode_both() -> None:
    answers = ["[User: What can I cook tonight?\nAssistant: Leek soup.]", "[User: only]"]
    candidates, model = rewrite(answers, [SOUP], k=2, mode="both", band=(0, 1))
    assert candidates[0].dialogue == Dialogue.of("What can I cook tonight?", "Leek soup.")
    assert candidates[0].rouge1 == pytest.approx(rouge1("What can I cook tonight? Leek soup.", SOUP.text))
    assert candidates[1].reason == "unparsable"
    text = "User: What shall I cook tonight?\nAssistant: A soup of leeks."
    assert model.chats[0] == [{"role": "user", "content": REWRITE_DIALOGUE.format(dialogue=text)}]


@pytest.mark.parametrize("mode", ["question", "both"])
def test_a_text_over_the_limit_is_not_rewritten(mode: str) -> None:
    fits, long = Dialogue.of("word " * 10, "Yes."), Dialogue.of("word " * 11, "Yes.")
    long_later = Dialogue.from_messages([*SOUP.to_messages(), *long.to_messages()])
    candidates, model = rewrite(
        ["x"] * 2, [long, fits, long_later], k=2, mode=mode, max_tokens=10 if mode == "question" else 13
    )
    assert [(c.original_index, c.reason) for c in candidates] == [(0, "too long")] * 2 + [(1, "unparsable")] * 2 + [
        (2, "too long")
    ] * 2
    assert {(c.dialogue, c.raw_text, c.rouge1) for c in candidates if c.original_index != 1} == {(None, "", None)}
    assert len(model.chats) == 1


def test_a_rewrite_that_repeats_a_held_out_dialogue_is_dropped() -> None:
    held_out = Dialogue.of("What should I cook this evening?", "Pasta.")
    answers = ["[what should I cook this evening, dear?]", "[What might I cook this night?]"]
    candidates, _ = rewrite(answers, [SOUP], [TWO_TURNS, held_out], k=2, band=(0, 1))
    assert [c.reason for c in candidates] == ["held out", "kept"]
    assert candidates[0].dialogue is not None
    assert [c.reason for c in rewrite(answers, [SOUP], k=2, band=(0, 1))[0]] == ["kept", "kept"]
    opening = Dialogue.from_messages([*held_out.to_messages(), *Dialogue.of("And tomorrow?", "Rice.").to_messages()])
    assert rewrite(answers, [SOUP], [opening], k=2)[0][0].reason == "held out"


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("k", [0, 101, NAN]),
        ("temperature", [-1, NAN, 5.1]),
        ("mode", ["answer"]),
        ("band", [(0.9, 0.2), (0.2, 1.1), (-0.1, 1), (NAN, 0.9), (0.3, NAN)]),
        ("max_tokens", [0, 10**6, NAN]),
        ("max_attempts", [0, 101, NAN]),
        ("style", ["poetic", ""]),
        ("min_content_kept", [-0.1, 1.1, NAN]),
        ("max_content_added", [-0.1, 1.1, NAN]),
        ("seed", [-1, 2**63, 1e26, NAN]),
    ],
)
def test_a_setting_out_of_range_is_refused(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} is .*; it must"):
            SynthesisConfig(**{name: value})


# With a model


def test_equal_seeds_give_equal_candidates(tiny_model: LanguageModel) -> None:
    events: list[ProgressEvent] = []
    runs = [
        synthesize(
            tiny_model,
            [SOUP, TWO_TURNS],
            SynthesisConfig(k=2, max_tokens=40, seed=seed, **PUBLISHED_METHOD),
            on_progress,
        )
        for seed, on_progress in ((0, events.append), (0, None), (1, None))
    ]
    assert runs[0] == runs[1]
    assert [c.raw_text for c in runs[0]] != [c.raw_text for c in runs[2]]
    assert [c.original_index for c in runs[0]] == [0, 0, 1, 1]
    assert [(event.stage, event.done, event.total) for event in events] == [("synthesis", n, 6) for n in range(1, 7)]


def test_no_dialogues_give_no_candidates(tiny_model: LanguageModel) -> None:
    assert synthesize(tiny_model, []) == []

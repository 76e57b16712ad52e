"""Pairs whose rejected answer is that of another dialogue: which are drawn, and what is trained on them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import Dialogue, LanguageModel, UserError
from mlx_personal.dialogue.similarity import are_near_duplicates
from mlx_personal.finetune import Example, LoRAConfig, PreferencePair, finetune
from mlx_personal.finetune.data.dataset import prepare_data
from mlx_personal.finetune.data.negatives import negative_pairs
from mlx_personal.finetune.data.samples import Sample

TOPICS = ["bread", "tents", "violins", "taxes", "roses", "trains", "cheese", "maps"]
EXAMPLES = [Example(Dialogue.of(f"About {t}?", f"I know {t}, Nora."), t) for t in TOPICS]
CONFIG = LoRAConfig(objective="sft+dpo", negatives=1, dropout=0.0, epochs=1, rank=2)


@pytest.mark.parametrize("seed", range(3))
def test_each_answer_is_chosen_once_and_rejected_once_after_the_question_of_another(seed: int) -> None:
    pairs = negative_pairs(EXAMPLES, 1, seed)
    answers = [example.dialogue.answer for example in EXAMPLES]
    assert [pair.chosen for pair in pairs] == [example.dialogue for example in EXAMPLES]
    assert sorted(pair.rejected.answer for pair in pairs) == sorted(answers)
    assert all(pair.chosen.answer != pair.rejected.answer for pair in pairs)
    assert [pair.group for pair in pairs] == TOPICS


def test_several_negatives_of_a_dialogue_are_different_and_the_seed_decides_which() -> None:
    pairs = negative_pairs(EXAMPLES, 3)
    rejected = [{pair.rejected.answer for pair in pairs if pair.chosen == e.dialogue} for e in EXAMPLES]
    assert [len(answers) for answers in rejected] == [3] * len(EXAMPLES)
    assert pairs == negative_pairs(EXAMPLES, 3) != negative_pairs(EXAMPLES, 3, seed=1)
    assert len(negative_pairs(EXAMPLES[:3], 16)) == 6
    assert negative_pairs(EXAMPLES, 0) == negative_pairs(EXAMPLES[:1], 1) == negative_pairs([], 1) == []


QUESTIONS = st.sampled_from(["How is the sea today?", "How is the sea today", "May I bring a dog?", "Who is Ben?"])
ANSWERS = st.sampled_from(["Calm.", "Yes.", "A friend.", "<think>Hm.</think>Yes.", "<think>Nothing.</think>"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(QUESTIONS, ANSWERS, st.sampled_from([None, 1, 2])), max_size=9), st.integers(1, 3))
def test_no_answer_is_rejected_that_may_be_right(drawn: list[tuple[str, str, int | None]], count: int) -> None:
    examples = [Example(Dialogue.of(question, answer), group) for question, answer, group in drawn]

    def visible(answer: str) -> str:
        return answer.rpartition("</think>")[2]

    def may_reject(own: Example, other: Example) -> bool:
        return (
            visible(other.dialogue.answer) not in ("", visible(own.dialogue.answer))
            and not are_near_duplicates(own.dialogue, other.dialogue)
            and (own.group is None or own.group != other.group)
        )

    expected = [
        min(count, sum(may_reject(own, other) for other in examples)) if visible(own.dialogue.answer) else 0
        for own in examples
    ]
    pairs = iter(negative_pairs(examples, count))
    for own, number in zip(examples, expected, strict=True):
        for pair in itertools.islice(pairs, number):
            assert pair.chosen == own.dialogue
            assert any(may_reject(own, e) and visible(e.dialogue.answer) == pair.rejected.answer for e in examples)
    assert next(pairs, None) is None


def test_the_rejected_answer_follows_the_same_context(tiny_model: LanguageModel) -> None:
    turns = [("user", "Hello there"), ("assistant", "Hi, Nora."), ("user", "Who is Ben?"), ("assistant", "A friend.")]
    long = Dialogue.from_messages([{"role": role, "content": content} for role, content in turns])
    pair, _ = negative_pairs([Example(long), EXAMPLES[0]], 1)
    assert pair.rejected.messages[:-1] == long.messages[:-1]
    data = prepare_data(tiny_model, [Example(long), EXAMPLES[0]], CONFIG).data
    chosen, rejected = data.pairs[0].chosen, data.pairs[0].rejected
    assert chosen.inputs[: chosen.prompt_length].tolist() == rejected.inputs[: rejected.prompt_length].tolist()
    assert len(data.train) == len(data.pairs) == 2


def test_an_answer_for_validation_is_never_rejected_in_training(tiny_model: LanguageModel) -> None:
    config = LoRAConfig(objective="dpo", negatives=2, validation_split=0.5)
    data = prepare_data(tiny_model, EXAMPLES, config).data
    assert (len(data.train), len(data.validation), len(data.pairs), len(data.validation_pairs)) == (0, 0, 8, 8)

    def targets(samples: list[Sample]) -> set[tuple[int, ...]]:
        return {tuple(sample.targets[sample.is_target].tolist()) for sample in samples}

    training, validation = (targets([pair.chosen for pair in of]) for of in (data.pairs, data.validation_pairs))
    assert len(training) == len(validation) == 4 and not training & validation
    assert targets([p.rejected for p in data.pairs]) <= training
    assert targets([p.rejected for p in data.validation_pairs]) <= validation


def test_negatives_are_the_same_as_pairs_that_are_given(tiny_model: LanguageModel, tmp_path: Path) -> None:
    with_negatives = finetune(tiny_model, EXAMPLES, CONFIG, tmp_path / "a")
    given = LoRAConfig(**{**vars(CONFIG), "negatives": 0})
    pairs = negative_pairs(EXAMPLES, 1, CONFIG.seed)
    with_pairs = finetune(tiny_model, EXAMPLES, given, tmp_path / "b", pairs=pairs)
    assert with_negatives.has_effect and with_pairs.has_effect
    weights = [(tmp_path / name / "adapters.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    correction = PreferencePair(EXAMPLES[0].dialogue, Dialogue.of(EXAMPLES[0].dialogue.question, "No idea."))
    assert len(prepare_data(tiny_model, EXAMPLES, CONFIG, pairs=[correction]).data.pairs) == len(EXAMPLES) + 1


def test_without_another_answer_the_error_says_so(tiny_model: LanguageModel) -> None:
    config = LoRAConfig(objective="dpo", negatives=1)
    with pytest.raises(UserError, match="no dialogue has an answer that could be rejected"):
        prepare_data(tiny_model, EXAMPLES[:1], config)
    prepared = prepare_data(tiny_model, EXAMPLES[:1], CONFIG)
    assert prepared.notes == ("there is no preference pair to train on: sft+dpo is the same as sft",)


def test_negatives_need_an_objective_of_pairs_and_are_stored_only_if_set() -> None:
    with pytest.raises(ValueError, match="negatives are preference pairs: set objective to dpo, orpo or sft\\+dpo"):
        LoRAConfig(negatives=1)
    with pytest.raises(ValueError, match="negatives is 17"):
        LoRAConfig(objective="dpo", negatives=17)
    assert "negatives" not in LoRAConfig().to_json()
    assert LoRAConfig.from_json(CONFIG.to_json()) == CONFIG

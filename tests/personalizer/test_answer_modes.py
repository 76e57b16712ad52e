"""What answers: an adapter or the base model, with or without memory, decided on held-out dialogues."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal import Dialogue, LanguageModel, LoRAConfig, Personalizer
from mlx_personal.chat import ChatConfig
from mlx_personal.config import Config
from mlx_personal.errors import UserError
from mlx_personal.evaluation import (
    AnswerLoss,
    AnswerMode,
    EvaluationConfig,
    EvaluationPart,
    MetricChange,
    ModelOutputs,
    ModeResult,
)
from mlx_personal.evaluation.answer_modes import best_result, most_promising
from mlx_personal.memory import MemoryConfig
from mlx_personal.personalizer import mode_outputs
from mlx_personal.personalizer.promotion import PromotionResult
from mlx_personal.profile import AdapterRow

CONFIG = Config(
    chat=ChatConfig(max_tokens=4),
    memory=MemoryConfig(retrieval="bm25", min_bm25=0.0),
    evaluation=EvaluationConfig(max_tokens=4, choices=0, other_questions=0),
)
KEPT = [
    Dialogue.of("Does bean soup need salt?", "A little."),
    Dialogue.of("May leek soup boil long?", "Half an hour."),
    Dialogue.of("Will onion soup keep till noon?", "It will."),
]
HELD_OUT = [
    Dialogue.of(f"How is {dish} soup cooked for {eater}?", f"Simmer {dish}.")
    for dish, eater in zip(
        ("pea", "fish", "beet", "corn", "kale", "rice"), ("Ann", "two", "Eve", "all", "tea", "Bob"), strict=True
    )
]
BASE, BASE_MEMORY = AnswerMode(None, False), AnswerMode(None, True)
ONE, ONE_MEMORY = AnswerMode(1, False), AnswerMode(1, True)
TWO, TWO_MEMORY = AnswerMode(2, False), AnswerMode(2, True)


@pytest.fixture
def personalizer(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    """A profile of three dialogues that can be examples, and six held-out ones."""
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model) as personalizer:
        personalizer.store.add_dialogues([*KEPT, *HELD_OUT], "test")
        for number, dialogue in enumerate([*KEPT, *HELD_OUT]):
            held_out = number >= len(KEPT)
            personalizer.store.add_annotation(number + 1, "accept", dialogue, number, held_out=held_out)
        yield personalizer


class Evaluate(Protocol):
    def __call__(
        self, likelihoods: Mapping[AnswerMode, float], right: Collection[AnswerMode] = ()
    ) -> PromotionResult: ...


@pytest.fixture
def evaluate(personalizer: Personalizer, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Evaluates a new adapter, where each mode has a given log-likelihood of all answers, in nats a token.

    Modes that are `right` give the preferred answers, all others one answer for all.
    """
    given_right: set[AnswerMode] = set()
    attached: list[int | str | None] = [None]
    computed: list[AnswerMode] = []
    current: dict[AnswerMode, float] = {}

    def adapted_model(adapter: AdapterRow | Path | None) -> LanguageModel:
        attached[0] = adapter.id if isinstance(adapter, AdapterRow) else None if adapter is None else str(adapter)
        return tiny_model

    def outputs(lm: LanguageModel, parts: Sequence[EvaluationPart], *_: object) -> list[ModelOutputs]:
        mode = AnswerMode(attached[0], any(len(d.messages) > 2 for part in parts for d in part.dialogues))
        computed.append(mode)
        return [
            ModelOutputs(
                [[d.answer if mode in given_right else f"Simmer {mode.adapter}."] for d in part.dialogues],
                [AnswerLoss(-2 * (current[mode] + i / 100), 2) for i in range(len(part.dialogues))],
                np.zeros((0, 0)),
            )
            for part in parts
        ]

    monkeypatch.setattr(personalizer._promoter, "_adapted_model", adapted_model)
    monkeypatch.setattr(mode_outputs, "compute_outputs", outputs)

    def run(likelihoods: Mapping[AnswerMode, float], right: Collection[AnswerMode] = ()) -> PromotionResult:
        current.clear()
        current.update(likelihoods)
        given_right.clear()
        given_right.update(right)
        computed.clear()
        result = personalizer._promoter.promote_if_better(add_adapter(personalizer))
        assert len(set(computed)) == len(computed), "each mode is computed once"
        assert set(computed) == set(likelihoods)
        return result

    return run


def add_adapter(personalizer: Personalizer, **settings: object) -> AdapterRow:
    """Add an adapter whose files exist."""
    store = personalizer.store
    run_id = store.begin_run("training", personalizer.fingerprint, {**store.last_ids(), **settings})
    store.finish_run(run_id, {})
    folder = f"adapters/{run_id:04d}"
    (personalizer.folder / folder).mkdir(parents=True)
    (personalizer.folder / folder / "adapters.safetensors").touch()
    return personalizer.adapters.get(store.add_adapter(run_id, folder, personalizer.fingerprint))


def in_use(personalizer: Personalizer) -> AnswerMode:
    return personalizer.status().answers.mode


@pytest.mark.parametrize(
    ("likelihoods", "expected"),
    [
        ((-4.0, -4.1, -3.0, -3.5), ONE),
        ((-4.0, -4.1, -3.5, -3.0), ONE_MEMORY),
        ((-4.0, -2.0, -3.5, -3.0), BASE_MEMORY),
        ((-2.0, -4.0, -3.5, -3.0), BASE),
        ((-3.0, -3.0, -3.0, -3.0), BASE),
    ],
)
def test_the_mode_of_the_largest_gain_is_used(
    personalizer: Personalizer, evaluate: Evaluate, likelihoods: tuple[float, ...], expected: AnswerMode
) -> None:
    result = evaluate(dict(zip((BASE, BASE_MEMORY, ONE, ONE_MEMORY), likelihoods, strict=True)))
    assert in_use(personalizer) == expected
    assert result.promoted is (expected.adapter == 1)
    assert result.evaluation is not None and result.evaluation.modes is not None
    modes = result.evaluation.modes
    assert (modes.in_use, modes.best, modes.n, modes.can_decide) == (BASE, expected, 6, True)
    measured = {result.mode: result.log_likelihood for result in modes.results}
    assert measured == pytest.approx(
        {m: v + 0.025 for m, v in zip((BASE, BASE_MEMORY, ONE, ONE_MEMORY), likelihoods, strict=True)}
    )
    # The table shows the adapter's better state beside the base model alone.
    assert result.evaluation.log_likelihood is not None
    assert result.evaluation.log_likelihood.after == pytest.approx(max(likelihoods[2:]) + 0.025)
    assert len(personalizer.memory().examples_for("How is soup cooked?")) == (2 if expected.uses_memory else 0)
    stored = personalizer.adapters.get(1).evaluation
    assert stored is not None and stored["modes"]["memory"] == {
        "examples": 2,
        "max_tokens": 1024,
        "min_similarity": 0.1,
        "min_bm25": 0.0,
        "order": "nearest-last",
        "retrieval": "bm25",
    }


@pytest.mark.parametrize(
    ("with_memory", "right", "expected"),
    [
        (-3.0, [ONE_MEMORY], ONE_MEMORY),
        (-3.01, [ONE_MEMORY], ONE),  # its likelihood is lower for certain: all differences are equal
        (-3.0, [ONE], ONE),
        (-3.0, [BASE_MEMORY], ONE),  # which is not better than the mode in use
        (-3.0, [], ONE),
    ],
)
def test_of_modes_whose_gains_may_differ_by_chance_the_one_with_better_answers_is_used(
    personalizer: Personalizer,
    evaluate: Evaluate,
    with_memory: float,
    right: list[AnswerMode],
    expected: AnswerMode,
) -> None:
    evaluate({BASE: -4.0, BASE_MEMORY: -4.1, ONE: -3.0, ONE_MEMORY: with_memory}, right)
    assert in_use(personalizer) == expected


def test_a_later_training_may_change_the_memory_of_the_adapter_in_use_and_a_rollback_takes_it_back(
    personalizer: Personalizer, evaluate: Evaluate
) -> None:
    evaluate({BASE: -4.0, BASE_MEMORY: -4.1, ONE: -3.0, ONE_MEMORY: -3.5})
    later = {BASE: -4.0, ONE: -3.0, ONE_MEMORY: -2.0, TWO: -2.5, TWO_MEMORY: -2.4}
    result = evaluate(later)
    assert not result.promoted and in_use(personalizer) == ONE_MEMORY
    text = " ".join(personalizer.status().answers.lines())
    assert text.startswith("adapter 1; memory: up to 2 examples ")
    assert "likelihood +1.000 nats a token, 95 % interval +1.000 to +1.000 over adapter 1, n=6" in text
    history = [ONE, BASE]
    for expected in history:
        personalizer.adapters.rollback()
        assert in_use(personalizer) == expected
    with pytest.raises(UserError, match="the base model is already in use"):
        personalizer.adapters.rollback()
    # By hand, each adapter comes with what its evaluation found.
    for adapter_id, expected in ((1, ONE), (2, TWO_MEMORY)):
        personalizer.adapters.promote(adapter_id)
        assert in_use(personalizer) == expected


def test_memory_of_the_base_model_is_rolled_back_too(personalizer: Personalizer, evaluate: Evaluate) -> None:
    evaluate({BASE: -4.0, BASE_MEMORY: -2.0, ONE: -3.5, ONE_MEMORY: -3.0})
    assert in_use(personalizer) == BASE_MEMORY
    assert personalizer.adapters.rollback() is None
    assert in_use(personalizer) == BASE


@pytest.mark.parametrize(
    ("use", "likelihoods", "expected"),
    [("always", {BASE_MEMORY: -4.0, ONE_MEMORY: -3.0}, ONE_MEMORY), ("never", {BASE: -4.0, ONE: -3.0}, ONE)],
)
def test_a_fixed_setting_compares_only_modes_of_its_state(
    personalizer: Personalizer,
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    use: str,
    likelihoods: dict[AnswerMode, float],
    expected: AnswerMode,
) -> None:
    config = dataclasses.replace(CONFIG, memory=dataclasses.replace(CONFIG.memory, use=use))
    personalizer.config = config
    monkeypatch.setattr(personalizer._promoter, "_config", config)
    evaluate(likelihoods)
    assert in_use(personalizer) == expected
    assert f'(memory.use is "{use}")' in personalizer.status().answers.lines()[0]
    # The setting overrides what was decided.
    personalizer.config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, examples=0))
    assert in_use(personalizer) == ONE


@pytest.mark.parametrize(
    ("memory", "kept", "note"),
    [
        (MemoryConfig(examples=0), True, ""),
        (MemoryConfig(retrieval="bm25"), False, "there is no dialogue that could be an example"),
        (MemoryConfig(retrieval="bm25", min_bm25=1.0), True, "no dialogue is near enough to a held-out question"),
        # Vectors of equal questions, like a single one, are near nothing.
        (MemoryConfig(retrieval="hidden-states"), None, "no dialogue is near enough to a held-out question"),
    ],
)
def test_without_examples_there_is_nothing_to_decide(
    tmp_path: Path,
    personalizer: Personalizer,
    evaluate: Evaluate,
    monkeypatch: pytest.MonkeyPatch,
    memory: MemoryConfig,
    kept: bool | None,
    note: str,
) -> None:
    with personalizer.store.transaction() as connection:
        if not kept:
            connection.execute("UPDATE annotations SET undone = 1 WHERE NOT held_out")
    if kept is None:
        for number in (1, 2):
            same = Dialogue.of("Why do bees sleep?", f"So {number}.")
            personalizer.store.add_annotation(number, "rewrite", same, number, held_out=False)
    monkeypatch.setattr(personalizer._promoter, "_config", dataclasses.replace(CONFIG, memory=memory))
    result = evaluate({BASE: -4.0, ONE: -3.0})
    assert in_use(personalizer) == ONE
    assert result.evaluation is not None and result.evaluation.modes is not None
    assert result.evaluation.modes.memory_note.startswith(note) and bool(note) == bool(
        result.evaluation.modes.memory_note
    )


def test_a_memory_that_was_emptied_after_it_was_chosen_is_beaten_by_what_is_better(
    personalizer: Personalizer, evaluate: Evaluate
) -> None:
    evaluate({BASE: -4.0, BASE_MEMORY: -2.0, ONE: -3.5, ONE_MEMORY: -3.0})
    with personalizer.store.transaction() as connection:
        connection.execute("UPDATE annotations SET undone = 1 WHERE NOT held_out")
    evaluate({BASE: -4.0, TWO: -3.0})
    assert in_use(personalizer) == TWO


def test_dialogues_that_outgrow_the_context_are_no_examples(personalizer: Personalizer, evaluate: Evaluate) -> None:
    for number in (1, 2, 3):
        long = Dialogue.of(f"How is soup cooked? {number}", "Simmer it. " * 400)
        personalizer.store.add_annotation(number, "rewrite", long, number, held_out=False)
    evaluate({BASE: -4.0, ONE: -3.0})
    assert in_use(personalizer) == ONE


@pytest.mark.parametrize("held_out", [0, 1, 4])
def test_with_few_dialogues_nothing_is_decided_and_nothing_changes(
    personalizer: Personalizer, evaluate: Evaluate, held_out: int
) -> None:
    with personalizer.store.transaction() as connection:
        connection.execute("UPDATE annotations SET undone = 1 WHERE id != 1 AND id > ?", (len(KEPT) + held_out,))
        connection.execute("UPDATE annotations SET undone = 1 WHERE id IN (2, 3)")
    result = evaluate({BASE: -4.0, BASE_MEMORY: -2.0, ONE: -3.5, ONE_MEMORY: -3.0} if held_out else {})
    assert not result.promoted and in_use(personalizer) == BASE and personalizer.memory().entries == ()
    assert result.reason.startswith(f"only {held_out} dialogue") if held_out else result.evaluation is None
    # By hand the adapter is used as without an evaluation.
    personalizer.adapters.promote(1)
    assert in_use(personalizer) == ONE
    assert personalizer.status().answers.lines()[1] == "nothing was decided on held-out dialogues"


def test_an_adapter_without_a_record_is_used_without_memory_unless_it_was_trained_with_it(
    personalizer: Personalizer,
) -> None:
    add_adapter(personalizer)
    add_adapter(personalizer, examples="as in chat")
    for adapter_id, expected in ((1, ONE), (2, TWO_MEMORY)):
        personalizer.adapters.promote(adapter_id)
        assert in_use(personalizer) == expected
    personalizer.store.promote(1)  # as an older version did
    assert in_use(personalizer) == ONE
    assert personalizer.status().answers.lines()[1] == "nothing was decided on held-out dialogues"


def test_another_base_model_has_nothing_of_what_was_decided(
    personalizer: Personalizer, evaluate: Evaluate, other_model_folder: Path, tiny_model_folder: Path
) -> None:
    evaluate({BASE: -4.0, BASE_MEMORY: -2.0, ONE: -3.5, ONE_MEMORY: -3.0})
    personalizer.change_model(other_model_folder)
    assert in_use(personalizer) == BASE and personalizer.memory().entries == ()
    personalizer.change_model(tiny_model_folder)
    assert in_use(personalizer) == BASE_MEMORY


def test_an_adapter_outside_the_profile_is_used_without_what_was_decided(
    personalizer: Personalizer, evaluate: Evaluate
) -> None:
    evaluate({BASE: -4.0, BASE_MEMORY: -2.0, ONE: -3.5, ONE_MEMORY: -3.0})
    assert personalizer.memory().entries and personalizer.conversation().max_examples == 2
    assert not personalizer.memory(is_own=False).entries


def test_other_settings_of_the_memory_are_named(personalizer: Personalizer, evaluate: Evaluate) -> None:
    evaluate({BASE: -4.0, BASE_MEMORY: -2.0, ONE: -3.5, ONE_MEMORY: -3.0})
    assert "have changed since" not in personalizer.status().answers.lines()[1]
    memory = dataclasses.replace(CONFIG.memory, examples=3)
    personalizer.config = dataclasses.replace(CONFIG, memory=memory)
    answers = personalizer.status().answers
    assert answers.examples == 3 and answers.lines()[1].endswith("; the settings of the memory have changed since")


def test_choices_by_the_same_dialogues_are_counted(personalizer: Personalizer, evaluate: Evaluate) -> None:
    counts = []
    for adapter_id in (1, 2, 3):
        one, two = AnswerMode(adapter_id, False), AnswerMode(adapter_id, True)
        result = evaluate({BASE: -2.0, BASE_MEMORY: -3.0, one: -3.0, two: -3.0})
        assert result.evaluation is not None and result.evaluation.modes is not None
        counts.append(result.evaluation.modes.earlier_choices)
        if adapter_id == 2:
            new = Dialogue.of("Why is the sky blue today?", "It scatters.")
            personalizer.store.add_dialogues([new], "test")
            personalizer.store.add_annotation(10, "accept", new, 10, held_out=True)
    assert counts == [(0, 0), (1, 1), (0, 2)]
    lines = personalizer.status().answers.lines()
    assert "nothing was better on 7 held-out dialogues (the base model with memory: -1.000 nats" in lines[1]


def test_a_status_is_json(personalizer: Personalizer, evaluate: Evaluate) -> None:
    evaluate({BASE: -4.0, BASE_MEMORY: -2.0, ONE: -3.5, ONE_MEMORY: -3.0})
    answers = json.loads(json.dumps(personalizer.status().to_json()))["answers"]
    assert answers["mode"] == {"adapter": None, "uses_memory": True}
    assert (answers["examples"], answers["use"], answers["decision"]["n"]) == (2, "auto", 6)
    assert answers["decision"]["gain"]["gain"] == pytest.approx(2.0)


GAINS = st.one_of(st.none(), st.floats(-1, 1), st.just(float("nan")))


@given(st.lists(st.tuples(GAINS, st.booleans()), max_size=6))
def test_the_best_result_is_better_and_has_the_largest_gain(rows: list[tuple[float | None, bool]]) -> None:
    results = [
        ModeResult(
            AnswerMode(i, False),
            None,
            None,
            0.0,
            None if gain is None else MetricChange(0.0, gain, gain, gain, gain),
            better and gain is not None and gain == gain,
            "because",
        )
        for i, (gain, better) in enumerate(rows)
    ]
    better = [gain for gain, is_better in rows if is_better and gain is not None and gain == gain]
    best = best_result(results)
    assert (best is None) == (not better)
    if best is not None:
        assert best.is_better and best.gain is not None and best.gain.gain == max(better)
    if results:
        finite = [gain for gain, _ in rows if gain is not None and gain == gain]
        promising = most_promising(results).gain
        assert promising is None or not finite or promising.gain == max(finite)


@pytest.mark.slow
def test_an_adapter_is_trained_and_compared_in_both_states(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel
) -> None:
    config = dataclasses.replace(CONFIG, finetune=LoRAConfig(epochs=1))
    with Personalizer.create(tmp_path / "whole", tiny_model_folder, config, tiny_model) as personalizer:
        personalizer.store.add_dialogues([*KEPT, *HELD_OUT], "test")
        for number, dialogue in enumerate([*KEPT, *HELD_OUT]):
            personalizer.store.add_annotation(number + 1, "accept", dialogue, number, number >= len(KEPT))
        trained = personalizer.train()
        assert trained.evaluation is not None and trained.evaluation.modes is not None
        assert {result.mode for result in trained.evaluation.modes.results} == {BASE, BASE_MEMORY, ONE, ONE_MEMORY}
        evaluated = personalizer.evaluate(trained.adapter)
        assert evaluated is not None and evaluated.log_likelihood == trained.evaluation.log_likelihood

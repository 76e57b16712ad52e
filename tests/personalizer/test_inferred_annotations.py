"""Annotations that were inferred from exports: accepted at an import or a run, evaluated apart, and counted apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config
from mlx_personal.evaluation import AnswerLoss, EvaluationPart, ModelOutputs
from mlx_personal.personalizer import mode_outputs
from mlx_personal.profile import AdapterRow
from mlx_personal.selection import SelectionConfig

CONFIG = Config(selection=SelectionConfig(bins=2), annotation=AnnotationConfig(inferred="accept"))
RIGHT, WRONG = "A soup of leeks.", "Nothing at all."


@pytest.fixture
def personalizer(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    personalizer = Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model)
    personalizer.observe([Dialogue.of(f"What is dish number {number}?", RIGHT) for number in range(1, 13)])
    yield personalizer
    personalizer.close()


def annotate(personalizer: Personalizer, dialogue_id: int, origin: str) -> None:
    row = personalizer.store.dialogue(dialogue_id)
    assert row is not None
    personalizer.store.add_annotation(dialogue_id, "accept", row.dialogue, dialogue_id, True, origin)


def adapter(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch, good: set[int], base_good: set[int]
) -> AdapterRow:
    """Return an adapter that answers some of the dialogues right; the base model does others."""
    lm, attached = personalizer.base_model(), [False]

    def adapted_model(adapter: AdapterRow | Path | None) -> LanguageModel:
        attached[0] = adapter is not None
        return lm

    def outputs(lm: LanguageModel, parts: Sequence[EvaluationPart], *_: object) -> list[ModelOutputs]:
        return [outputs_of(part, good if attached[0] else base_good) for part in parts]

    def outputs_of(part: EvaluationPart, right: set[int]) -> ModelOutputs:
        """Return outputs in which right answers are also the likelier ones."""
        is_right = [int(dialogue.question.rstrip("?").split()[-1]) in right for dialogue in part.dialogues]
        answers = [[RIGHT if good else WRONG] for good in is_right]
        likelihoods = np.zeros((len(part.questions), len(part.questions)))
        return ModelOutputs(answers, [AnswerLoss(2.0 if good else 4.0, 2) for good in is_right], likelihoods)

    monkeypatch.setattr(personalizer._promoter, "_adapted_model", adapted_model)
    monkeypatch.setattr(mode_outputs, "compute_outputs", outputs)
    monkeypatch.setattr(personalizer.adapters, "has_effect", lambda adapter: True)
    run_id = personalizer.store.begin_run("training", personalizer.fingerprint, personalizer.store.last_ids())
    personalizer.store.finish_run(run_id, {})
    return personalizer.adapters.get(personalizer.store.add_adapter(run_id, "adapters/0001", personalizer.fingerprint))


def test_the_owners_figures_decide_about_the_promotion(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dialogue_id in range(1, 11):
        origin = "inferred" if dialogue_id > 5 else "proposal" if dialogue_id > 3 else "owner"
        annotate(personalizer, dialogue_id, origin)
    trained = adapter(personalizer, monkeypatch, good=set(range(6, 11)), base_good=set(range(1, 6)))
    result = personalizer._promoter.promote_if_better(trained)
    assert not result.promoted
    evaluation = result.evaluation
    assert evaluation is not None and evaluation.inferred is not None
    assert (evaluation.n, evaluation.rouge1.gain, evaluation.is_inferred) == (5, -1.0, False)
    assert (evaluation.inferred.n, evaluation.inferred.rouge1.gain, evaluation.inferred.is_inferred) == (5, 1.0, True)
    stored = personalizer.adapters.get(trained.id).evaluation
    assert stored is not None and stored["inferred"]["n"] == 5
    assert len(personalizer.held_out_dialogues()) == 10, "none of them is trained on"


@pytest.mark.parametrize(("rule", "promoted"), [("likelihood", True), ("rouge1", True), ("choice", False)])
def test_the_configured_rule_decides(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch, rule: str, promoted: bool
) -> None:
    for dialogue_id in range(1, 6):
        annotate(personalizer, dialogue_id, "owner")
    trained = adapter(personalizer, monkeypatch, good=set(range(1, 6)), base_good=set())
    evaluation = dataclasses.replace(CONFIG.evaluation, promotion=rule)
    monkeypatch.setattr(personalizer._promoter, "_config", dataclasses.replace(CONFIG, evaluation=evaluation))
    result = personalizer._promoter.promote_if_better(trained)
    assert result.promoted is promoted
    assert "could not be compared on 5 dialogues" in result.reason or promoted, "one answer is no choice"


def test_inferred_annotations_decide_if_there_are_no_others(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dialogue_id in range(1, 6):
        annotate(personalizer, dialogue_id, "inferred")
    trained = adapter(personalizer, monkeypatch, good=set(range(1, 6)), base_good=set())
    result = personalizer._promoter.promote_if_better(trained)
    assert result.promoted
    assert result.evaluation is not None and result.evaluation.is_inferred and result.evaluation.inferred is None


def test_a_few_annotations_of_the_owner_decide_nothing_and_neither_do_many_inferred_ones_beside_them(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for dialogue_id in range(1, 11):
        annotate(personalizer, dialogue_id, "owner" if dialogue_id < 5 else "inferred")
    trained = adapter(personalizer, monkeypatch, good=set(range(1, 12)), base_good=set())
    result = personalizer._promoter.promote_if_better(trained)
    assert not result.promoted and result.reason.startswith("only 4 dialogues are held out, too few to decide")
    assert "evaluate" not in [step.step for step in personalizer.pending_steps()]
    annotate(personalizer, 11, "owner")
    assert personalizer.pending_steps()[-1].reason == "adapter 1 was evaluated on too few dialogues to decide"
    assert personalizer.promote_pending()[1].promoted
    assert "evaluate" not in [step.step for step in personalizer.pending_steps()]


def test_the_status_counts_proposals_and_inferred_annotations(personalizer: Personalizer) -> None:
    store = personalizer.store
    import_id = store.imports.begin(["export"], {})
    for dialogue_id, rating in ((1, "good"), (2, "bad"), (3, "good")):
        store.imports.add_verdicts(import_id, dialogue_id, [(0, rating, "thumbs", "seen")])
    assert personalizer.status().inferred.proposals == 3
    assert [step.step for step in personalizer.pending_steps()] == ["accept"]
    assert personalizer.annotations.accept_inferred() == 3
    assert "accept" not in [step.step for step in personalizer.pending_steps()]
    personalizer.annotations.undo()
    printed = personalizer.status().to_json()
    assert printed["inferred"] == {
        "proposals": 1,
        "taken": 0,
        "annotated": 1,
        "held_out": printed["held_out"],
        "skipped": 1,
        "pairs": 0,
    }
    assert (printed["annotated"], printed["skipped"]) == (1, 1)
    assert printed["questions"] == {"open": len(personalizer.annotations.open_questions()), "left_today": 10}

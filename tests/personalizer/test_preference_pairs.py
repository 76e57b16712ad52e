"""The preference pairs of a profile: imported pairs and corrections, without held-out dialogues; training on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_personal import Dialogue, LanguageModel, Personalizer, UserError
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config, TrainingTrigger
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import LoRAConfig
from mlx_personal.finetune.config import OBJECTIVES
from mlx_personal.personalizer.pending import pending_steps
from mlx_personal.personalizer.preference_pairs import profile_pairs
from mlx_personal.personalizer.training_set import begin_training, current_training_set
from mlx_personal.profile import PreferencePairRow
from tests.support.training_steps import interrupt_training

CONFIG = Config(
    annotation=AnnotationConfig(questions_per_day=100),
    finetune=LoRAConfig(epochs=2, batch_size=2, num_layers=1, save_every=1, objective="dpo"),
    evaluation=EvaluationConfig(max_tokens=2, holdout_ratio=0.05),
)
QUESTIONS = ["How do I cook a soup?", "Where does the bus stop?", "Why is my cat asleep?", "Who pays the rent?"]


@pytest.fixture
def personalizer(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model) as personalizer:
        personalizer.observe([Dialogue.of(question, f"Number {i}.") for i, question in enumerate(QUESTIONS)])
        yield personalizer


def annotate(
    personalizer: Personalizer, dialogue_id: int, verdict: str, answers: list[str] | None = None, held_out: bool = False
) -> int:
    """Record a verdict of the user on a side of the held-out split."""
    row = personalizer.store.dialogue(dialogue_id)
    assert row is not None
    preferred = row.dialogue if answers is None else row.dialogue.with_turns("assistant", answers)
    return personalizer.store.add_annotation(dialogue_id, verdict, preferred, dialogue_id, held_out)


def add_pair(personalizer: Personalizer, dialogue_id: int, chosen: str, rejected: str, answer: int = 0) -> None:
    import_id = personalizer.store.imports.begin(["export"], {})
    row = PreferencePairRow(dialogue_id, answer, chosen, rejected, "regenerated")
    personalizer.store.pairs.add(import_id, row)


def texts(personalizer: Personalizer) -> list[tuple[str, str, str]]:
    pairs = profile_pairs(personalizer.store, personalizer.held_out_dialogues()).values()
    return [(pair.chosen.question, pair.chosen.answer, pair.rejected.answer) for pair in pairs]


def test_a_correction_is_preferred_to_the_answer_that_it_replaces(personalizer: Personalizer) -> None:
    annotate(personalizer, 1, "edit", ["Slowly."])
    annotate(personalizer, 2, "rewrite", ["At the corner."])
    annotate(personalizer, 3, "accept")
    assert texts(personalizer) == [
        (QUESTIONS[0], "Slowly.", "Number 0."),
        (QUESTIONS[1], "At the corner.", "Number 1."),
    ]


def test_each_corrected_answer_of_a_dialogue_is_a_pair_after_the_preferred_turns(personalizer: Personalizer) -> None:
    messages = [("user", "A?"), ("assistant", "a"), ("user", "B?"), ("assistant", "b"), ("user", "C?")]
    dialogue = Dialogue.from_messages([{"role": r, "content": c} for r, c in [*messages, ("assistant", "c")]])
    personalizer.observe([dialogue])
    annotate(personalizer, 5, "edit", ["A", "b", "C"])
    pairs = list(profile_pairs(personalizer.store, []).values())
    assert [[m.content for m in pair.chosen.messages] for pair in pairs] == [
        ["A?", "A"],
        ["A?", "A", "B?", "b", "C?", "C"],
    ]
    assert [pair.rejected.answer for pair in pairs] == ["a", "c"]


def test_an_edit_that_changes_nothing_is_a_pair_of_equal_sides(personalizer: Personalizer) -> None:
    annotate(personalizer, 1, "edit", ["Number 0."])
    [pair] = profile_pairs(personalizer.store, []).values()
    assert pair.is_equal
    with pytest.raises(UserError, match="the two answers of all 1 pairs are equal"):
        personalizer.train()
    assert personalizer.store.last_run("training") is None


def test_the_answer_to_a_proposed_question_corrects_nothing(personalizer: Personalizer) -> None:
    personalizer.store.proposed.add(["What is new?"], "model")
    [question] = personalizer.annotations.proposed_questions()
    personalizer.annotations.answer_proposed(question.id, "Nothing.")
    assert texts(personalizer) == []


def test_imported_pairs_follow_the_turns_before_their_answer(personalizer: Personalizer) -> None:
    add_pair(personalizer, 4, "The tenant.", "Nobody.")
    add_pair(personalizer, 4, "The tenant.", "Out of range.", answer=7)
    add_pair(personalizer, 1, "Slowly.", "Fast.")
    assert texts(personalizer) == [(QUESTIONS[3], "The tenant.", "Nobody."), (QUESTIONS[0], "Slowly.", "Fast.")]


def test_a_pair_is_in_the_group_of_its_annotation(personalizer: Personalizer) -> None:
    add_pair(personalizer, 1, "Slowly.", "Fast.")
    add_pair(personalizer, 2, "Here.", "There.")
    annotation = annotate(personalizer, 1, "edit", ["With leeks."])
    groups = [pair.group for pair in profile_pairs(personalizer.store, []).values()]
    assert groups == [annotation, ("dialogue", 2), annotation]


def test_held_out_dialogues_and_their_near_duplicates_have_no_pairs(personalizer: Personalizer) -> None:
    personalizer.observe([Dialogue.of("So how do I cook a soup?", "Number 9.")])
    annotate(personalizer, 1, "edit", ["Slowly."], held_out=True)
    add_pair(personalizer, 1, "Slowly.", "Fast.")
    add_pair(personalizer, 5, "Slowly.", "Fast.")
    annotate(personalizer, 2, "edit", ["At the corner."])
    assert texts(personalizer) == [(QUESTIONS[1], "At the corner.", "Number 1.")]


def test_a_rejected_answer_that_the_owner_prefers_is_no_pair(personalizer: Personalizer) -> None:
    add_pair(personalizer, 1, "Slowly.", "Number 0.")
    add_pair(personalizer, 2, "Here.", "Number 1.")
    annotate(personalizer, 1, "accept")
    assert texts(personalizer) == [(QUESTIONS[1], "Here.", "Number 1.")]


def test_thoughts_do_not_tell_a_rejected_answer_from_the_preferred_one(personalizer: Personalizer) -> None:
    add_pair(personalizer, 1, "Slowly.", "<think>Hm.</think>Number 0.")
    add_pair(personalizer, 2, "Here.", "<think>Hm.</think>There.")
    annotate(personalizer, 1, "accept")
    annotate(personalizer, 2, "accept")
    assert [chosen for _, chosen, _ in texts(personalizer)] == ["Here."]


def test_a_dialogue_that_the_owner_skipped_has_no_pairs(personalizer: Personalizer) -> None:
    add_pair(personalizer, 1, "Slowly.", "Fast.")
    add_pair(personalizer, 2, "Here.", "There.")
    add_pair(personalizer, 3, "At night.", "At noon.")
    personalizer.store.add_annotation(1, "skip", None, -1, held_out=False)
    personalizer.store.add_annotation(2, "skip", None, -1, held_out=False, origin="inferred")
    personalizer.store.add_annotation(3, "skip", None, -1, held_out=False, origin="proposal")
    assert texts(personalizer) == [(QUESTIONS[1], "Here.", "There.")]


def test_a_profile_is_trained_on_its_pairs(personalizer: Personalizer) -> None:
    annotate(personalizer, 1, "edit", ["Slowly."])
    annotate(personalizer, 2, "edit", ["At the corner."])
    annotate(personalizer, 3, "accept")
    estimate = personalizer.estimate_training()
    assert (estimate.objective, estimate.pairs, estimate.samples) == ("dpo", 2, 2)
    report = personalizer.train().report
    assert report.pairs == report.samples == 2
    assert len(report.rewards["rewards/margins"]) == 2
    run = personalizer.store.last_run("training")
    assert run is not None and run.config["objective"] == "dpo"


def is_training_pending(personalizer: Personalizer, objective: str = "dpo") -> bool:
    finetune = dataclasses.replace(CONFIG.finetune, objective=objective)
    config = dataclasses.replace(CONFIG, finetune=finetune, trigger=TrainingTrigger(min_received=1))
    steps = pending_steps(personalizer.store, config, personalizer.fingerprint)
    return "train" in [step.step for step in steps]


def test_imported_pairs_alone_make_a_training_pending_if_the_objective_uses_pairs(personalizer: Personalizer) -> None:
    assert not is_training_pending(personalizer)
    add_pair(personalizer, 1, "Slowly.", "Fast.")
    add_pair(personalizer, 2, "Here.", "There.")
    assert [name for name in OBJECTIVES if is_training_pending(personalizer, name)] == ["dpo", "orpo", "sft+dpo"]
    interrupt_training(personalizer)
    assert is_training_pending(personalizer) and not is_training_pending(personalizer, "sft")
    assert personalizer.train().report.pairs == 2
    personalizer.observe([Dialogue.of("What is new?", "Nothing.")])
    assert not is_training_pending(personalizer)
    add_pair(personalizer, 3, "At night.", "At noon.")
    assert is_training_pending(personalizer) and not is_training_pending(personalizer, "sft")


def test_pairs_that_cannot_be_trained_on_make_no_training_pending(personalizer: Personalizer) -> None:
    annotate(personalizer, 1, "accept", held_out=True)
    add_pair(personalizer, 1, "Slowly.", "Fast.")
    add_pair(personalizer, 2, "Here.", "Here.")
    assert not is_training_pending(personalizer)
    add_pair(personalizer, 2, "Here.", "There.")
    assert is_training_pending(personalizer)


def test_pairs_that_a_run_without_pairs_did_not_use_are_new(personalizer: Personalizer) -> None:
    add_pair(personalizer, 1, "Slowly.", "Fast.")
    annotate(personalizer, 2, "accept")
    sft = dataclasses.replace(CONFIG.finetune, objective="sft")
    training_set = current_training_set(personalizer.store, sft, [])
    run_id = begin_training(personalizer.store, sft, personalizer.fingerprint, training_set)
    personalizer.store.finish_run(run_id, {})
    personalizer.observe([Dialogue.of("What is new?", "Nothing.")])
    assert not is_training_pending(personalizer, "sft") and is_training_pending(personalizer, "sft+dpo")


def test_an_interrupted_run_is_resumed_with_its_pairs(personalizer: Personalizer) -> None:
    annotate(personalizer, 1, "edit", ["Slowly."])
    annotate(personalizer, 2, "edit", ["At the corner."])
    interrupt_training(personalizer)
    annotate(personalizer, 3, "edit", ["It was night."])
    assert personalizer.train().report.pairs == 2
    assert personalizer.train().report.pairs == 3


@pytest.mark.slow
def test_another_objective_discards_an_interrupted_run_on_pairs(personalizer: Personalizer) -> None:
    annotate(personalizer, 1, "edit", ["Slowly."])
    annotate(personalizer, 2, "edit", ["At the corner."])
    folder = personalizer.folder
    interrupt_training(personalizer)
    personalizer.close()
    sft = dataclasses.replace(CONFIG, finetune=dataclasses.replace(CONFIG.finetune, objective="sft"))
    (folder / "config.toml").write_text(sft.to_toml())
    with Personalizer(folder, lm=personalizer.base_model()) as again:
        report = again.train().report
    assert report.pairs == 0
    assert any("is discarded" in note for note in report.notes)

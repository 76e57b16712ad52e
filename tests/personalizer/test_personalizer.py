"""The whole loop: stream, buffer, questions, adapter, and what survives interruptions and changes of the model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config, TrainingTrigger
from mlx_personal.errors import StorageError, UserError
from mlx_personal.evaluation import AnswerMode, Evaluation, EvaluationConfig, compare_answers, compare_outputs
from mlx_personal.finetune import LoRAConfig
from mlx_personal.memory import MemoryConfig
from mlx_personal.personalizer.mode_outputs import ModeOutputs
from mlx_personal.selection import Decision, SelectionCandidate, SelectionConfig, Selector
from mlx_personal.synthesis import SynthesisConfig
from mlx_personal.synthesis.config import PUBLISHED_METHOD

CONFIG = Config(
    selection=SelectionConfig(bins=8),
    annotation=AnnotationConfig(questions_per_day=100),
    synthesis=SynthesisConfig(k=2, band=(0.0, 1.0), max_tokens=16, **PUBLISHED_METHOD),
    finetune=LoRAConfig(epochs=1),
    evaluation=EvaluationConfig(max_tokens=8, holdout_ratio=0.5, choices=0, other_questions=0),
    memory=MemoryConfig(use="never"),
)


def stream(count: int, start: int = 0) -> list[Dialogue]:
    nouns = ["soup", "bus", "dog", "rent", "lamp", "song", "coat", "train", "bread", "door"]
    verbs = ["fix", "find", "buy", "wash", "paint", "sell", "move"]
    return [
        Dialogue.of(
            f"How do I {verbs[i % 7]} the {nouns[i % 10]} number {i}?",
            f"First look at the {nouns[i % 10]}, then {verbs[i % 7]} it in {i + 2} steps, slowly.",
        )
        for i in range(start, start + count)
    ]


@pytest.fixture
def personalizer(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    personalizer = Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model)
    yield personalizer
    personalizer.close()


def annotate_all(personalizer: Personalizer) -> None:
    for question in personalizer.annotations.questions():
        personalizer.annotations.record(question.dialogue_id, "accept")


def promoted_id(personalizer: Personalizer) -> int | None:
    adapter = personalizer.adapters.promoted()
    return None if adapter is None else adapter.id


def test_the_loop_runs_from_stream_to_answer(personalizer: Personalizer) -> None:
    observed = personalizer.observe(stream(40))
    assert observed.new == 40
    assert sum(observed.decisions.values()) == 40
    assert len(personalizer.store.bins()) == 8
    annotate_all(personalizer)
    synthesis = personalizer.synthesize()
    assert synthesis.generated == 2 * synthesis.dialogues
    trained = personalizer.train()
    assert trained.evaluation is not None
    assert (personalizer.folder / trained.adapter.folder / "adapters.safetensors").exists()
    conversation = personalizer.conversation()
    with personalizer.recorded_conversation(conversation):
        list(conversation.ask("How do I fix the lamp?"))
    assert personalizer.store.dialogue_count() == 40 + (conversation.dialogue is not None)


def test_known_dialogues_are_not_stored_again(personalizer: Personalizer) -> None:
    personalizer.observe(stream(10))
    again = personalizer.observe(stream(10))
    assert (again.total, again.new, again.decisions) == (10, 0, {})


def test_a_stream_in_pieces_gives_the_same_buffer(
    personalizer: Personalizer, tmp_path: Path, tiny_model: LanguageModel, tiny_model_folder: Path
) -> None:
    personalizer.observe(stream(30))
    whole = [(b.slot, b.dialogue_id) for b in personalizer.store.bins()]
    other = Personalizer.create(tmp_path / "other", tiny_model_folder, CONFIG, tiny_model)
    for start in range(0, 30, 10):
        other.observe(stream(10, start))
        other.close()
        other = Personalizer(tmp_path / "other", lm=tiny_model)
    assert [(b.slot, b.dialogue_id) for b in other.store.bins()] == whole
    other.close()


def test_an_interrupted_scoring_is_resumed(personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch) -> None:
    original_offer = Selector.offer
    calls: list[SelectionCandidate] = []

    def fail_at_20(self: Selector, candidate: SelectionCandidate) -> Decision:
        calls.append(candidate)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original_offer(self, candidate)

    monkeypatch.setattr(Selector, "offer", fail_at_20)
    with pytest.raises(KeyboardInterrupt):
        personalizer.observe(stream(30))
    monkeypatch.undo()
    assert personalizer.store.dialogue_count() == 30
    assert personalizer.store.unscored_count() == 30, "the interrupted chunk is rolled back as a whole"
    assert sum(personalizer.score().values()) == 30


def test_only_annotated_dialogues_are_trained_on_and_samples_are_traceable(personalizer: Personalizer) -> None:
    personalizer.observe(stream(40))
    with pytest.raises(UserError, match="no annotated dialogue"):
        personalizer.train()
    questions = personalizer.annotations.questions()
    for question in questions[:6]:
        personalizer.annotations.record(question.dialogue_id, "accept")
    personalizer.annotations.record(questions[6].dialogue_id, "skip")
    personalizer.synthesize()
    run = personalizer.store.last_run("synthesis")
    assert run is not None
    trained = personalizer.train()
    sources = {row.dialogue_id for row in personalizer.store.training_sources(trained.adapter.run_id)}
    annotated = {a.dialogue_id for a in personalizer.store.annotations() if a.preferred is not None and not a.held_out}
    held_out = {a.dialogue_id for a in personalizer.store.annotations() if a.held_out}
    assert sources == annotated
    assert held_out
    assert not sources & held_out
    rewritten = {s.annotation_id for s in personalizer.store.synthetic() if s.run_id == run.id}
    assert not rewritten & {a.id for a in personalizer.store.annotations() if a.held_out}


def test_synthesis_generates_only_what_is_missing(personalizer: Personalizer) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    assert personalizer.synthesize().dialogues > 0
    assert personalizer.synthesize().dialogues == 0
    assert personalizer.synthesize(regenerate=True).dialogues > 0


def test_the_adapter_loads_in_mlx_lm(personalizer: Personalizer) -> None:
    import mlx_lm

    personalizer.observe(stream(20))
    annotate_all(personalizer)
    adapter = personalizer.train().adapter
    mlx_lm.load(personalizer.model_name, adapter_path=str(personalizer.folder / adapter.folder))
    config = json.loads((personalizer.folder / adapter.folder / "adapter_config.json").read_text())
    assert config["lora_parameters"]["scale"] == 2.0
    assert config["base_fingerprint"] == personalizer.fingerprint


def test_an_adapter_that_is_not_better_is_kept_but_not_promoted(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    from mlx_personal.personalizer import mode_outputs

    def no_gain(*arguments: Any) -> Evaluation:
        evaluation = compare_outputs(*arguments)
        assert evaluation.log_likelihood is not None
        no_gain = dataclasses.replace(evaluation.log_likelihood, low=0.0, high=0.1)
        return dataclasses.replace(evaluation, n=12, log_likelihood=no_gain)

    monkeypatch.setattr(mode_outputs, "compare_outputs", no_gain)
    trained = personalizer.train()
    assert not trained.promoted
    assert trained.reason.startswith("the gain in the preferred answers' likelihood may be chance: ")
    assert personalizer.adapters.promoted() is None
    assert len(personalizer.store.adapters()) == 1


def test_promote_and_roll_back(personalizer: Personalizer) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    first, second = personalizer.train().adapter, personalizer.train().adapter
    personalizer.store.promote(None)
    with pytest.raises(UserError, match="nothing to roll back"):
        personalizer.adapters.rollback()
    personalizer.adapters.promote(first.id)
    personalizer.adapters.promote(second.id)
    rolled_back = personalizer.adapters.rollback()
    assert rolled_back is not None and rolled_back.id == first.id
    with pytest.raises(UserError, match="no adapter 99"):
        personalizer.adapters.promote(99)


@pytest.mark.slow
def test_rolling_back_twice_goes_further_back(personalizer: Personalizer) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    ids = [personalizer.train().adapter.id for _ in range(2)]
    personalizer.store.promote(None)
    for adapter in ids:
        personalizer.adapters.promote(adapter)
    rolled_back = personalizer.adapters.rollback()
    assert rolled_back is not None and rolled_back.id == ids[0]
    assert personalizer.adapters.rollback() is None


def test_a_new_base_model_embeds_the_buffer_again_and_keeps_the_annotations(
    personalizer: Personalizer, other_model_folder: Path
) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    trained = personalizer.train()
    personalizer.adapters.promote(trained.adapter.id)
    before = personalizer.store.bins()
    assert personalizer.change_model(other_model_folder) == 8
    after = personalizer.store.bins()
    assert [b.dialogue_id for b in before] == [b.dialogue_id for b in after]
    assert not np.array_equal(before[0].vector, after[0].vector)
    assert personalizer.adapters.promoted() is None
    assert "base model was changed" in {d.step: d.reason for d in personalizer.pending_steps()}["train"]
    with pytest.raises(UserError, match="another base model"):
        personalizer.adapters.promote(trained.adapter.id)
    retrained = personalizer.train()
    assert retrained.adapter.model == personalizer.fingerprint
    assert personalizer.adapters.promote(retrained.adapter.id).id == retrained.adapter.id


def test_other_settings_of_embedding_or_entropy_compute_the_bins_again(
    personalizer: Personalizer, tiny_model: LanguageModel
) -> None:
    personalizer.observe(stream(20))
    before = personalizer.store.bins()
    personalizer.close()
    (personalizer.folder / "config.toml").write_text(
        '[selection]\nbins = 8\n[scoring]\nentropy = "histogram"\n[embedding]\nmax_tokens = 5\n'
    )
    reopened = Personalizer(personalizer.folder, lm=tiny_model)
    reopened.observe(stream(1, 99))
    after = {b.dialogue_id: b for b in reopened.store.bins()}
    reopened.close()
    kept = [b for b in before if b.dialogue_id in after]
    assert len(kept) >= 7
    assert all(not np.array_equal(b.vector, after[b.dialogue_id].vector) for b in kept)
    assert all(b.eoe != after[b.dialogue_id].eoe for b in kept)


def test_training_is_pending_after_enough_dialogues_or_changes(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    personalizer.observe(stream(40))
    assert [d.step for d in personalizer.pending_steps()] == []
    annotate_all(personalizer)
    assert [d.step for d in personalizer.pending_steps()] == ["synthesize", "train"]
    personalizer.synthesize()
    personalizer.train()
    assert personalizer.pending_steps() == []
    patient = dataclasses.replace(personalizer.config, trigger=TrainingTrigger(min_received=800, min_buffer_change=1.0))
    monkeypatch.setattr(personalizer, "config", patient)
    personalizer.store.add_dialogues(stream(800, 1000), "file")
    assert [d.step for d in personalizer.pending_steps()] == ["score"], "nothing new was annotated"


def test_a_comparison_is_pending_after_an_interruption_behind_the_training(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    personalizer.synthesize()
    monkeypatch.setattr(
        personalizer._promoter, "promote_if_better", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        personalizer.train()
    monkeypatch.undo()
    assert [d.step for d in personalizer.pending_steps()] == ["evaluate"]
    adapter, promotion_result = personalizer.promote_pending()
    assert personalizer.adapters.get(adapter.id).evaluation is not None
    assert promotion_result.promoted == (personalizer.adapters.promoted() is not None)
    assert personalizer.pending_steps() == []


def test_a_change_back_to_a_base_model_restores_its_adapter(
    personalizer: Personalizer, tiny_model_folder: Path, other_model_folder: Path
) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    adapter = personalizer.adapters.promote(personalizer.train().adapter.id)
    personalizer.change_model(tiny_model_folder)
    assert personalizer.adapters.promoted() == adapter, "the same base model: nothing changes"
    personalizer.change_model(other_model_folder)
    assert personalizer.adapters.promoted() is None
    personalizer.change_model(tiny_model_folder)
    assert personalizer.adapters.promoted() == adapter


def test_an_adapter_with_missing_files_or_tensors_is_a_one_line_error(personalizer: Personalizer) -> None:
    import mlx.core as mx

    personalizer.observe(stream(20))
    annotate_all(personalizer)
    adapter = personalizer.train().adapter
    weights = personalizer.folder / adapter.folder / "adapters.safetensors"
    stored = mx.load(str(weights))
    assert isinstance(stored, dict)
    mx.eval(stored)
    mx.save_safetensors(str(weights), dict(list(stored.items())[:2]))
    with pytest.raises(UserError, match="damaged or incomplete"):
        personalizer.adapted_model(adapter)
    weights.unlink()
    with pytest.raises(UserError, match="are missing"):
        personalizer.adapters.promote(adapter.id)


def test_a_comparison_is_pending_after_an_interruption_of_either_one(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    personalizer.synthesize()
    personalizer.adapters.promote(personalizer.train().adapter.id)
    compute = ModeOutputs.compute

    def interrupted(self: ModeOutputs, mode: AnswerMode, with_questions: bool) -> None:
        if mode.adapter == 1:
            raise KeyboardInterrupt
        compute(self, mode, with_questions)

    monkeypatch.setattr(ModeOutputs, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        personalizer.train()
    monkeypatch.undo()
    assert [d.step for d in personalizer.pending_steps()] == ["evaluate"]


def test_a_damaged_promoted_adapter_does_not_block_the_next_one(personalizer: Personalizer) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    personalizer.adapters.promote(personalizer.train().adapter.id)
    promoted = personalizer.adapters.promoted()
    assert promoted is not None
    (personalizer.folder / promoted.folder / "adapters.safetensors").write_bytes(b"junk")
    trained = personalizer.train()
    assert trained.evaluation == trained.against_current, "the base model is to beat"
    assert personalizer.adapters.rollback() is None or trained.promoted


def test_a_promoted_adapter_whose_likelihoods_are_not_finite_does_not_block_the_next_one(
    personalizer: Personalizer,
) -> None:
    import mlx.core as mx

    personalizer.observe(stream(12))
    annotate_all(personalizer)
    personalizer.adapters.promote(personalizer.train().adapter.id)
    promoted = personalizer.adapters.promoted()
    assert promoted is not None
    weights = personalizer.folder / promoted.folder / "adapters.safetensors"
    stored = mx.load(str(weights))
    assert isinstance(stored, dict)
    mx.save_safetensors(str(weights), {name: mx.full(array.shape, 1e30) for name, array in stored.items()})
    trained = personalizer.train()
    assert trained.evaluation is not None and trained.evaluation.log_likelihood is not None
    assert trained.evaluation == trained.against_current, "the base model is to beat"


def test_an_adapter_that_changes_nothing_is_never_promoted(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, finetune=LoRAConfig(epochs=1, learning_rate=1e-30))
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, config, tiny_model) as personalizer:
        personalizer.observe(stream(12))
        annotate_all(personalizer)
        # Compared with a worse adapter, even this one would win.
        better = compare_answers([["a"]] * 5, [["b"]] * 5, [Dialogue.of("q", "b")] * 5, 0)
        better = dataclasses.replace(better, log_likelihood=better.rouge1)
        monkeypatch.setattr(ModeOutputs, "compare", lambda *_, **__: better)
        trained = personalizer.train()
        assert (trained.has_effect, trained.promoted, promoted_id(personalizer)) == (False, False, None)
        assert any("changes nothing" in note for note in trained.report.notes)
        with pytest.raises(UserError, match="adapter 1 changes nothing"):
            personalizer.adapters.promote(1)


@pytest.mark.slow
def test_a_failing_disk_is_no_reason_to_replace_the_adapter_in_use(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    personalizer.observe(stream(6))
    annotate_all(personalizer)
    first = personalizer.adapters.promote(personalizer.train().adapter.id)
    personalizer.store.add_adapter(first.run_id, "adapters/0009", first.model)
    shutil.copytree(personalizer.folder / first.folder, personalizer.folder / "adapters/0009")
    attach = LanguageModel.attach_adapter

    def fail_on_first(self: LanguageModel, folder: Path) -> None:
        if folder.name == "0001":
            raise StorageError("cannot write or read here", folder)
        attach(self, folder)

    monkeypatch.setattr(LanguageModel, "attach_adapter", fail_on_first)
    with pytest.raises(StorageError, match="cannot write or read here"):
        personalizer.promote_pending()
    assert promoted_id(personalizer) == 1
    assert "evaluate" in [step.step for step in personalizer.pending_steps()]


def test_a_failing_disk_is_not_taken_for_a_moved_model(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: object) -> str:
        raise StorageError("the disk is full", "cache", "free some space")

    monkeypatch.setattr("mlx_personal.personalizer.personalizer.fingerprint", fail)
    with pytest.raises(StorageError) as error:
        personalizer.base_model()
    assert error.value.line() == "cache: the disk is full; free some space"


@pytest.mark.slow
def test_each_base_model_has_its_own_history(
    personalizer: Personalizer, other_model_folder: Path, tiny_model_folder: Path
) -> None:
    personalizer.observe(stream(20))
    annotate_all(personalizer)
    first = personalizer.adapters.promote(personalizer.train().adapter.id)
    personalizer.change_model(other_model_folder)
    second = personalizer.adapters.promote(personalizer.train().adapter.id)
    personalizer.change_model(tiny_model_folder)
    assert promoted_id(personalizer) == first.id
    assert personalizer.adapters.rollback() is None
    personalizer.change_model(other_model_folder)
    assert promoted_id(personalizer) == second.id
    personalizer.change_model(tiny_model_folder)
    assert personalizer.adapters.promoted() is None, "the base model was in use here"
    assert "train" not in {d.step for d in personalizer.pending_steps()}


def test_multi_turn_dialogues_go_through_the_loop(personalizer: Personalizer) -> None:
    turns = []
    for i in range(3):
        turns += [
            {"role": "user", "content": f"Question {i} about soup, salt and bread?"},
            {"role": "assistant", "content": f"Answer {i}: stir the soup and taste it."},
        ]
    many = [
        Dialogue.from_messages([{"role": "system", "content": f"Be kind, {i}."}, *turns[: 2 + 2 * (i % 3)]])
        for i in range(6)
    ]
    personalizer.observe([*many, *stream(2)])
    annotate_all(personalizer)
    personalizer.synthesize()
    assert all(len(s.dialogue.user_turns) in (1, 2, 3) for s in personalizer.store.synthetic() if s.dialogue)
    assert personalizer.train().report.samples > 0


def test_a_buffer_can_grow_and_not_shrink(personalizer: Personalizer, tiny_model: LanguageModel) -> None:
    personalizer.observe(stream(20))
    personalizer.close()
    (personalizer.folder / "config.toml").write_text("[selection]\nbins = 4\n")
    small = Personalizer(personalizer.folder, lm=tiny_model)
    with pytest.raises(UserError, match="can grow, not shrink"):
        small.buffer()
    small.close()
    (personalizer.folder / "config.toml").write_text("[selection]\nbins = 16\n")
    large = Personalizer(personalizer.folder, lm=tiny_model)
    large.observe(stream(20, 50))
    assert len(large.store.bins()) > 8
    large.close()


def test_a_model_folder_that_changed_is_noticed(
    personalizer: Personalizer, tmp_path: Path, tiny_model_folder: Path, other_model_folder: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    profile = Personalizer.create(tmp_path / "third", folder)
    profile.close()
    shutil.rmtree(folder)
    shutil.copytree(other_model_folder, folder)
    reopened = Personalizer(tmp_path / "third")
    with pytest.raises(UserError, match="not the one that this profile was created with"):
        reopened.base_model()
    reopened.close()


def test_there_is_one_profile_per_folder(personalizer: Personalizer, tiny_model_folder: Path, tmp_path: Path) -> None:
    personalizer.close()
    with pytest.raises(UserError, match="already a profile here"):
        Personalizer.create(personalizer.folder, tiny_model_folder)
    with pytest.raises(UserError, match="no profile here yet"):
        Personalizer(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["weighted", "facility-location"])
def test_a_policy_of_the_whole_stream_continues_after_a_restart(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, policy: str
) -> None:
    config = dataclasses.replace(CONFIG, selection=SelectionConfig(bins=8, policy=policy))

    def bins(folder: Path, *parts: list[Dialogue]) -> list[int]:
        with Personalizer.create(folder, tiny_model_folder, config, tiny_model) as personalizer:
            personalizer.observe(parts[0])
        for part in parts[1:]:
            with Personalizer(folder, lm=tiny_model) as personalizer:
                personalizer.observe(part)
        with Personalizer(folder, lm=tiny_model) as personalizer:
            return [row.dialogue_id for row in personalizer.store.bins()]

    whole = stream(60)
    assert bins(tmp_path / "whole", whole) == bins(tmp_path / "parts", whole[:5], whole[5:8], whole[8:33], whole[33:])
    with Personalizer.create(tmp_path / "quality", tiny_model_folder, CONFIG, tiny_model) as personalizer:
        personalizer.observe(whole)
        assert [row.dialogue_id for row in personalizer.store.bins()] != bins(tmp_path / "again", whole)

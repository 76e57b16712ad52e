"""The loop joined: stream in, buffer, questions, adapter, and what survives interruptions and changes of model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config, TrainingTrigger
from mlx_personal.errors import UserError
from mlx_personal.evaluation import EvaluationConfig, compare_answers
from mlx_personal.finetune import LoRAConfig
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import SynthesisConfig

CONFIG = Config(
    selection=SelectionConfig(bins=8),
    annotation=AnnotationConfig(questions_per_day=100),
    synthesis=SynthesisConfig(k=2, band=(0.0, 1.0), max_tokens=16),
    finetune=LoRAConfig(epochs=1),
    evaluation=EvaluationConfig(max_tokens=8, holdout_ratio=0.5),
)


def stream(count: Any, start: Any = 0) -> Any:
    nouns = ["soup", "bus", "dog", "rent", "lamp", "song", "coat", "train", "bread", "door"]
    verbs = ["mend", "find", "buy", "wash", "paint", "sell", "move"]
    return [
        Dialogue.of(
            f"How do I {verbs[i % 7]} the {nouns[i % 10]} number {i}?",
            f"First look at the {nouns[i % 10]}, then {verbs[i % 7]} it in {i + 2} steps, slowly.",
        )
        for i in range(start, start + count)
    ]


@pytest.fixture
def me(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Any]:
    me = Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model)
    yield me
    me.close()


def judge_all(me: Any) -> None:
    for question in me.annotations.questions():
        me.annotations.record(question.dialogue_id, "accept")


def test_the_loop_runs_from_stream_to_answer(me: Any) -> None:
    observed = me.observe(stream(40))
    assert observed.new == 40
    assert sum(observed.decisions.values()) == 40
    assert len(me.store.bins()) == 8
    judge_all(me)
    written = me.synthesize()
    assert written.generated == 2 * written.dialogues
    trained = me.train()
    assert trained.evaluation is not None
    assert (me.folder / trained.adapter.folder / "adapters.safetensors").exists()
    conversation = me.conversation()
    with me.remembered(conversation):
        list(conversation.ask("How do I mend the lamp?"))
    assert me.store.received() == 40 + (conversation.dialogue is not None)


def test_importing_again_stores_nothing_twice(me: Any) -> None:
    me.observe(stream(10))
    again = me.observe(stream(10))
    assert (again.given, again.new, again.decisions) == (10, 0, {})


def test_a_stream_in_pieces_and_reopened_gives_the_same_buffer(
    me: Any, tmp_path: Path, tiny_model: LanguageModel, tiny_model_folder: Path
) -> None:
    me.observe(stream(30))
    whole = [(b.slot, b.dialogue_id) for b in me.store.bins()]
    other = Personalizer.create(tmp_path / "other", tiny_model_folder, CONFIG, tiny_model)
    for start in range(0, 30, 10):
        other.observe(stream(10, start))
        other.close()
        other = Personalizer(tmp_path / "other", lm=tiny_model)
    assert [(b.slot, b.dialogue_id) for b in other.store.bins()] == whole
    other.close()


def test_an_interrupted_scoring_goes_on_where_it_stopped(me: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_personal.selection import Selector

    real, calls = Selector.offer, []

    def fails_at_20(self: Any, candidate: Any) -> Any:
        calls.append(candidate)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return real(self, candidate)

    monkeypatch.setattr(Selector, "offer", fails_at_20)
    with pytest.raises(KeyboardInterrupt):
        me.observe(stream(30))
    monkeypatch.undo()
    assert me.store.received() == 30
    assert me.store.unscored_count() == 30, "the chunk that was interrupted is taken back whole"
    assert sum(me.score().values()) == 30


def test_only_annotated_dialogues_are_trained_on_and_rows_are_traceable(me: Any) -> None:
    me.observe(stream(40))
    with pytest.raises(UserError, match="no annotated dialogue"):
        me.train()
    questions = me.annotations.questions()
    for question in questions[:6]:
        me.annotations.record(question.dialogue_id, "accept")
    me.annotations.record(questions[6].dialogue_id, "skip")
    me.synthesize()
    run = me.store.last_run("synthesis")
    trained = me.train()
    sources = {row["dialogue_id"] for row in me.store.training_sources(trained.adapter.run_id)}
    annotated = {a.dialogue_id for a in me.store.annotations() if a.preferred is not None and not a.held_out}
    held_out = {a.dialogue_id for a in me.store.annotations() if a.held_out}
    assert sources == annotated
    assert held_out
    assert not sources & held_out
    rewritten = {s.annotation_id for s in me.store.synthetic() if s.run_id == run.id}
    assert not rewritten & {a.id for a in me.store.annotations() if a.held_out}


def test_synthesis_writes_only_what_is_missing(me: Any) -> None:
    me.observe(stream(20))
    judge_all(me)
    assert me.synthesize().dialogues > 0
    assert me.synthesize().dialogues == 0
    assert me.synthesize(anew=True).dialogues > 0


def test_the_adapter_loads_in_mlx_lm(me: Any) -> None:
    import mlx_lm

    me.observe(stream(20))
    judge_all(me)
    adapter = me.train().adapter
    mlx_lm.load(me.model_name, adapter_path=str(me.folder / adapter.folder))
    written = json.loads((me.folder / adapter.folder / "adapter_config.json").read_text())
    assert written["lora_parameters"]["scale"] == 2.0
    assert written["base_fingerprint"] == me.fingerprint


def test_an_adapter_that_is_not_better_is_kept_but_not_promoted(me: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    me.observe(stream(40))
    judge_all(me)
    from mlx_personal.personalizer import promotion

    def no_gain(*arguments: Any) -> Any:
        evaluation = compare_answers(*arguments)
        return dataclasses.replace(evaluation, rouge1=dataclasses.replace(evaluation.rouge1, gain=0.0))

    monkeypatch.setattr(promotion, "compare_answers", no_gain)
    trained = me.train()
    assert not trained.promoted
    assert me.adapters.promoted() is None
    assert len(me.store.adapters()) == 1


def test_promote_and_roll_back(me: Any) -> None:
    me.observe(stream(40))
    judge_all(me)
    first, second = me.train().adapter, me.train().adapter
    me.store.promote(None)
    with pytest.raises(UserError, match="nothing to roll back"):
        me.adapters.rollback()
    me.adapters.promote(first.id)
    me.adapters.promote(second.id)
    assert me.adapters.rollback().id == first.id
    with pytest.raises(UserError, match="no adapter 99"):
        me.adapters.promote(99)


def test_rolling_back_twice_goes_further_back(me: Any) -> None:
    me.observe(stream(40))
    judge_all(me)
    ids = [me.train().adapter.id for _ in range(2)]
    me.store.promote(None)
    for adapter in ids:
        me.adapters.promote(adapter)
    assert me.adapters.rollback().id == ids[0]
    assert me.adapters.rollback() is None


def test_a_new_base_model_embeds_the_buffer_anew_and_keeps_the_annotations(me: Any, other_model_folder: Path) -> None:
    me.observe(stream(40))
    judge_all(me)
    trained = me.train()
    me.adapters.promote(trained.adapter.id)
    before = me.store.bins()
    assert me.change_model(other_model_folder) == 8
    after = me.store.bins()
    assert [b.dialogue_id for b in before] == [b.dialogue_id for b in after]
    assert not np.array_equal(before[0].vector, after[0].vector)
    assert me.adapters.promoted() is None
    assert "base model was changed" in {d.step: d.reason for d in me.pending_steps()}["train"]
    with pytest.raises(UserError, match="another base model"):
        me.adapters.promote(trained.adapter.id)
    retrained = me.train()
    assert retrained.adapter.model == me.fingerprint
    assert me.adapters.promote(retrained.adapter.id).id == retrained.adapter.id


def test_other_settings_of_embedding_or_entropy_make_the_bins_anew(me: Any, tiny_model: LanguageModel) -> None:
    me.observe(stream(20))
    before = me.store.bins()
    me.close()
    (me.folder / "config.toml").write_text(
        '[selection]\nbins = 8\n[scoring]\nentropy = "histogram"\n[embedding]\nmax_tokens = 5\n'
    )
    reopened = Personalizer(me.folder, lm=tiny_model)
    reopened.observe(stream(1, 99))
    after = {b.dialogue_id: b for b in reopened.store.bins()}
    reopened.close()
    kept = [b for b in before if b.dialogue_id in after]
    assert len(kept) >= 7
    assert all(not np.array_equal(b.vector, after[b.dialogue_id].vector) for b in kept)
    assert all(b.eoe != after[b.dialogue_id].eoe for b in kept)


def test_training_falls_due_by_received_dialogues_and_by_change(me: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    me.observe(stream(40))
    assert [d.step for d in me.pending_steps()] == []
    judge_all(me)
    assert [d.step for d in me.pending_steps()] == ["synthesize", "train"]
    me.synthesize()
    me.train()
    assert me.pending_steps() == []
    patient = dataclasses.replace(me.config, trigger=TrainingTrigger(min_received=800, min_buffer_change=1.0))
    monkeypatch.setattr(me, "config", patient)
    me.store.add_dialogues(stream(800, 1000), "file")
    assert [d.step for d in me.pending_steps()] == ["score"], "nothing new was annotated"


def test_an_interruption_between_training_and_comparing_is_made_up_for(
    me: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    me.observe(stream(40))
    judge_all(me)
    me.synthesize()
    monkeypatch.setattr(me.judge, "decide", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        me.train()
    monkeypatch.undo()
    assert [d.step for d in me.pending_steps()] == ["evaluate"]
    adapter, judgement = me.judge.promote_pending()
    assert me.adapters.get(adapter.id).evaluation is not None
    assert judgement.promoted == (me.adapters.promoted() is not None)
    assert me.pending_steps() == []


def test_the_way_back_to_a_base_model_brings_its_adapter_back(
    me: Any, tiny_model_folder: Path, other_model_folder: Path
) -> None:
    me.observe(stream(40))
    judge_all(me)
    adapter = me.adapters.promote(me.train().adapter.id)
    me.change_model(tiny_model_folder)
    assert me.adapters.promoted() == adapter, "the same base: nothing changes"
    me.change_model(other_model_folder)
    assert me.adapters.promoted() is None
    me.change_model(tiny_model_folder)
    assert me.adapters.promoted() == adapter


def test_an_adapter_with_missing_files_or_tensors_is_one_line(me: Any) -> None:
    import mlx.core as mx

    me.observe(stream(40))
    judge_all(me)
    adapter = me.train().adapter
    weights = me.folder / adapter.folder / "adapters.safetensors"
    stored = dict(mx.load(str(weights)))
    mx.eval(stored)
    mx.save_safetensors(str(weights), dict(list(stored.items())[:2]))
    with pytest.raises(UserError, match="damaged or incomplete"):
        me.adapted(adapter)
    weights.unlink()
    with pytest.raises(UserError, match="are gone"):
        me.adapters.promote(adapter.id)


def test_an_interruption_of_either_comparison_is_made_up_for(me: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    me.observe(stream(40))
    judge_all(me)
    me.synthesize()
    me.adapters.promote(me.train().adapter.id)
    real = me.judge._compare

    def interrupted(against: Any, *rest: Any) -> Any:
        if against is not None:
            raise KeyboardInterrupt
        return real(against, *rest)

    monkeypatch.setattr(me.judge, "_compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        me.train()
    monkeypatch.undo()
    assert [d.step for d in me.pending_steps()] == ["evaluate"]


def test_a_damaged_adapter_that_answers_is_no_hindrance_to_the_next(me: Any) -> None:
    me.observe(stream(40))
    judge_all(me)
    me.adapters.promote(me.train().adapter.id)
    (me.folder / me.adapters.promoted().folder / "adapters.safetensors").write_bytes(b"junk")
    trained = me.train()
    assert trained.evaluation == trained.against_current, "the base is what to beat"
    assert me.adapters.rollback() is None or trained.promoted


def test_each_base_model_has_its_own_way_back(me: Any, other_model_folder: Path, tiny_model_folder: Path) -> None:
    me.observe(stream(40))
    judge_all(me)
    here = me.adapters.promote(me.train().adapter.id)
    me.change_model(other_model_folder)
    there = me.adapters.promote(me.train().adapter.id)
    me.change_model(tiny_model_folder)
    assert me.adapters.promoted().id == here.id
    assert me.adapters.rollback() is None
    me.change_model(other_model_folder)
    assert me.adapters.promoted().id == there.id
    me.change_model(tiny_model_folder)
    assert me.adapters.promoted() is None, "the owner went back to the base here"
    assert "train" not in {d.step for d in me.pending_steps()}


def test_multi_turn_dialogues_go_through_whole(me: Any) -> None:
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
    me.observe([*many, *stream(2)])
    judge_all(me)
    me.synthesize()
    assert all(len(s.dialogue.user_turns) in (1, 2, 3) for s in me.store.synthetic() if s.dialogue)
    assert me.train().report.samples > 0


def test_a_buffer_can_grow_and_not_shrink(me: Any, tiny_model: LanguageModel) -> None:
    me.observe(stream(20))
    me.close()
    (me.folder / "config.toml").write_text("[selection]\nbins = 4\n")
    small = Personalizer(me.folder, lm=tiny_model)
    with pytest.raises(UserError, match="can grow, not shrink"):
        small.observer.selector()
    small.close()
    (me.folder / "config.toml").write_text("[selection]\nbins = 16\n")
    large = Personalizer(me.folder, lm=tiny_model)
    large.observe(stream(20, 50))
    assert len(large.store.bins()) > 8
    large.close()


def test_a_model_folder_that_changed_under_a_profile_is_noticed(
    me: Any, tmp_path: Path, tiny_model_folder: Path, other_model_folder: Path
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    profile = Personalizer.create(tmp_path / "third", folder)
    profile.close()
    shutil.rmtree(folder)
    shutil.copytree(other_model_folder, folder)
    reopened = Personalizer(tmp_path / "third")
    with pytest.raises(UserError, match="not the one this profile was made with"):
        reopened.base()
    reopened.close()


def test_there_is_one_profile_a_folder(me: Any, tiny_model_folder: Path, tmp_path: Path) -> None:
    me.close()
    with pytest.raises(UserError, match="a profile here already"):
        Personalizer.create(me.folder, tiny_model_folder)
    with pytest.raises(UserError, match="no profile here yet"):
        Personalizer(tmp_path / "nowhere")


def test_a_policy_that_goes_by_the_whole_stream_goes_on_after_a_restart(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel
) -> None:
    config = dataclasses.replace(CONFIG, selection=SelectionConfig(bins=8, policy="weighted"))

    def bins(folder: Any, *parts: Any) -> Any:
        with Personalizer.create(folder, tiny_model_folder, config, tiny_model) as me:
            me.observe(parts[0])
        for part in parts[1:]:
            with Personalizer(folder, lm=tiny_model) as me:
                me.observe(part)
        with Personalizer(folder, lm=tiny_model) as me:
            return [row.dialogue_id for row in me.store.bins()]

    whole = stream(60)
    assert bins(tmp_path / "whole", whole) == bins(tmp_path / "parts", whole[:5], whole[5:8], whole[8:33], whole[33:])
    with Personalizer.create(tmp_path / "paper", tiny_model_folder, CONFIG, tiny_model) as me:
        me.observe(whole)
        assert [row.dialogue_id for row in me.store.bins()] != bins(tmp_path / "again", whole)

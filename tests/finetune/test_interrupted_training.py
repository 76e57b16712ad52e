"""Interrupted trainings of a profile are resumed with their examples; promotion is limited by forgetting."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_personal import Personalizer
from mlx_personal.errors import UserError
from mlx_personal.evaluation import MetricChange, compare_outputs
from mlx_personal.finetune import LoRAConfig, TrainingStep, finetune
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.profile import NewSynthetic
from mlx_personal.progress import Progress
from tests.personalizer.test_personalizer import CONFIG, annotate_all, personalizer, stream
from tests.support.cases import slow_cases
from tests.support.training_steps import for_each_step

assert personalizer  # the fixture

TRAINING = LoRAConfig(epochs=2, batch_size=2, save_every=1, learning_rate=1e-2)


@pytest.fixture
def ready(personalizer: Personalizer) -> Personalizer:
    """Return a profile with annotated dialogues to train on."""
    personalizer.config = dataclasses.replace(CONFIG, finetune=TRAINING)
    personalizer.observe(stream(40))
    annotate_all(personalizer)
    return personalizer


def interrupt_at(number: int) -> Progress:
    def interrupt(step: TrainingStep) -> None:
        if step.number == number:
            raise KeyboardInterrupt

    return for_each_step(interrupt)


def weights_of(profile: Personalizer, folder: str) -> bytes:
    return (profile.folder / folder / "adapters.safetensors").read_bytes()


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_bit_identically(ready: Personalizer) -> None:
    whole = ready.train()
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupt_at(3))
    assert [d.step for d in ready.pending_steps() if d.reason == "a training run was interrupted"] == ["train"]
    finished = ready.train()
    # Progress is reported before the checkpoint of a step is saved.
    assert finished.report.resumed_from == 2
    assert finished.report.losses == whole.report.losses
    assert weights_of(ready, finished.adapter.folder) == weights_of(ready, whole.adapter.folder)
    assert not list((ready.folder / "training").glob("*"))
    assert ready.train().report.resumed_from == 0


def test_an_adapter_that_was_not_recorded_is_trained_again(
    ready: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise UserError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(ready.store, "add_adapter", full)
        with pytest.raises(UserError, match="the disk is full"):
            ready.train()
    trained = ready.train()
    assert (ready.folder / trained.adapter.folder / "adapters.safetensors").exists()


@pytest.mark.slow
def test_an_interrupted_training_keeps_its_examples(ready: Personalizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupt_at(3))
    before = len(ready.store.preferred_annotations(held_out=False))
    (annotation, *_) = ready.store.preferred_annotations(held_out=False)
    ready.store.add_synthetic(1, [NewSynthetic(annotation.id, stream(1, start=900)[0], "[x]", 0.5, True, "kept")])
    finished = ready.train()
    assert finished.report.resumed_from == 2
    assert finished.report.samples == before
    assert ready.train().report.samples == before + 1


@pytest.mark.slow
def test_an_interrupted_training_is_dropped_if_one_of_its_annotations_is_undone(ready: Personalizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupt_at(3))
    while ready.store.annotations()[-1].held_out:
        ready.store.undo_annotation()
    ready.store.undo_annotation()
    report = ready.train().report
    assert report.resumed_from == 0
    assert report.notes == (
        "an interrupted training run is discarded: it used dialogues that may no longer be trained on",
    )
    assert ready.train().report.notes == ()


def test_restart_drops_an_interrupted_training(ready: Personalizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupt_at(3))
    report = ready.train(restart=True).report
    assert (report.resumed_from, report.notes) == (0, ("an interrupted training run is discarded",))


def test_changed_settings_are_named_and_checkpoints_stay(ready: Personalizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupt_at(3))
    ready.config = dataclasses.replace(ready.config, finetune=dataclasses.replace(TRAINING, learning_rate=1e-3))
    with pytest.raises(UserError, match=r"learning_rate was 0\.01, is 0\.001"):
        ready.train()
    ready.config = dataclasses.replace(ready.config, finetune=TRAINING)
    assert ready.train().report.resumed_from == 2


@pytest.mark.parametrize(("rise", "promoted"), [(0.11, False), *slow_cases((0.09, True))])
def test_an_adapter_above_max_forgetting_is_not_promoted(
    ready: Personalizer, monkeypatch: pytest.MonkeyPatch, rise: float, promoted: bool
) -> None:
    def forgetful(*args: Any, **kwargs: Any) -> Any:
        report = finetune(*args, **kwargs)
        return dataclasses.replace(report, general_losses=((0, 2.0), (report.best_step, 2.0 * (1 + rise))))

    def always_better(*args: Any, **kwargs: Any) -> Any:
        better = MetricChange(0.0, 0.5, 0.5, 0.4, 0.6)
        return dataclasses.replace(compare_outputs(*args, **kwargs), n=12, log_likelihood=better, rouge1=better)

    monkeypatch.setattr("mlx_personal.personalizer.personalizer.finetune", forgetful)
    monkeypatch.setattr("mlx_personal.personalizer.mode_outputs.compare_outputs", always_better)
    trained = ready.train()
    assert trained.report.forgetting == pytest.approx(rise)
    assert (trained.promoted, trained.exceeds_forgetting) == (promoted, not promoted)
    assert ready._promoter.promote_if_better(trained.adapter).promoted is promoted, "not later either"


def test_forgetting_is_measured_on_general_dialogues(ready: Personalizer, tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"messages": d.to_messages()}) + "\n" for d in stream(8, start=500)))
    settings = dataclasses.replace(TRAINING, general_data=str(general), replay_ratio=0.5)
    ready.config = dataclasses.replace(ready.config, finetune=settings)
    report = ready.train().report
    assert [step for step, _ in report.general_losses] == [0, *report.epoch_ends]
    assert report.replayed_samples == 4
    assert report.forgetting == pytest.approx(report.general_losses[-1][1] / report.general_losses[0][1] - 1)


def test_an_invalid_line_of_general_data_is_named(ready: Personalizer, tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text('{"messages": [{"role": "user", "content": "hi"}]}\nnonsense\n')
    ready.config = dataclasses.replace(ready.config, finetune=dataclasses.replace(TRAINING, general_data=str(general)))
    with pytest.raises(UserError, match=r"general\.jsonl:1"):
        ready.train()
    general.unlink()
    with pytest.raises(UserError, match=r"general\.jsonl"):
        ready.train()
    assert ready.store.unfinished_run("training", ready.fingerprint) is None, "none was begun"


@pytest.mark.slow
def test_a_diverged_training_leaves_no_checkpoints(ready: Personalizer, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = GradientComputer.gradient, []

    def diverging(computing: GradientComputer, *arguments: Any) -> Any:
        loss, slope = real(computing, *arguments)
        calls.append(loss)
        return (loss if len(calls) < 4 else loss * math.nan), slope

    with monkeypatch.context() as broken:
        broken.setattr(GradientComputer, "gradient", diverging)
        with pytest.raises(UserError, match=r"the loss became nan at step 4 of \d+; lower the learning rate$"):
            ready.train()
    assert not list((ready.folder / "training").iterdir()), "three states were there"
    ready.config = dataclasses.replace(ready.config, finetune=dataclasses.replace(TRAINING, learning_rate=1e-3))
    assert ready.train().report.resumed_from == 0


# Estimates


def test_an_estimate_matches_the_training(ready: Personalizer, tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"messages": d.to_messages()}) + "\n" for d in stream(9, start=500)))
    settings = dataclasses.replace(
        TRAINING, general_data=str(general), replay_ratio=0.3, validation_split=0.3, num_layers=1
    )
    ready.config = dataclasses.replace(ready.config, finetune=settings)
    estimate, report = ready.estimate_training(), ready.train().report
    names = (
        "samples",
        "replayed_samples",
        "dropped_samples",
        "truncated_samples",
        "target_tokens",
        "epochs",
        "steps",
        "notes",
    )
    assert {name: getattr(estimate, name) for name in names} == {name: getattr(report, name) for name in names}
    assert (estimate.general_samples, estimate.validation_samples > 0) == (5, True)
    assert (estimate.layers, estimate.frozen_layers) == (2, 1)
    assert estimate.plan.estimated_peak_bytes == report.estimated_memory_bytes
    assert estimate.plan.cache_bytes >= report.activation_cache_bytes > 0


def test_an_estimate_starts_nothing_and_notes_an_interrupted_training(ready: Personalizer) -> None:
    before = ready.estimate_training()
    assert (before.notes, ready.store.unfinished_run("training", ready.fingerprint)) == ((), None)
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupt_at(3))
    (annotation, *_) = ready.store.preferred_annotations(held_out=False)
    ready.store.add_synthetic(1, [NewSynthetic(annotation.id, stream(1, start=900)[0], "[x]", 0.5, True, "kept")])
    resumed, restarted = ready.estimate_training(), ready.estimate_training(restart=True)
    assert resumed.samples == before.samples == restarted.samples - 1
    assert "an interrupted training run is resumed" in resumed.notes[0] and "is discarded" in restarted.notes[0]
    assert ready.train().report.resumed_from == 2


def test_an_estimate_reads_no_weights(ready: Personalizer, monkeypatch: pytest.MonkeyPatch) -> None:
    ready.close()
    with Personalizer(ready.folder) as profile:
        held = mx.get_active_memory()
        profile.estimate_training()
        assert mx.get_active_memory() - held < 10_000 < profile.base_model().model.model.embed_tokens.weight.nbytes

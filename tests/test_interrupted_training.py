"""A profile whose training was interrupted is finished first, on what it began with; and the guard on forgetting."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
from test_personalizer import CONFIG, judge_all, me, stream

from mlx_personal import Personalizer
from mlx_personal.errors import UserError
from mlx_personal.finetune import LoRAConfig, Step
from mlx_personal.personalizer import personalizer as room

assert me  # the fixture

TRAINING = LoRAConfig(epochs=2, batch_size=2, save_every=1, learning_rate=1e-2)


@pytest.fixture
def ready(me: Personalizer) -> Personalizer:
    """A profile with annotated dialogues to train on."""
    me.config = dataclasses.replace(CONFIG, finetune=TRAINING)
    me.observe(stream(40))
    judge_all(me)
    return me


def interrupting(at: int) -> Callable[[Step], None]:
    def on_step(step: Step) -> None:
        if step.number == at:
            raise KeyboardInterrupt

    return on_step


def weights_of(me: Personalizer, folder: str) -> bytes:
    return (me.folder / folder / "adapters.safetensors").read_bytes()


def test_it_goes_on_where_it_was_and_ends_as_if_nothing_had_happened(ready: Personalizer) -> None:
    whole = ready.train()
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupting(3))
    assert [d.step for d in ready.due() if d.reason == "a training was interrupted"] == ["train"]
    finished = ready.train()
    # The step that was being reported had not been saved yet.
    assert finished.report.resumed_from == 2
    assert finished.report.losses == whole.report.losses
    assert weights_of(ready, finished.adapter.folder) == weights_of(ready, whole.adapter.folder)
    assert not list((ready.folder / "training").glob("*"))
    assert ready.train().report.resumed_from == 0


def test_an_interruption_between_the_files_and_the_database_is_made_up_for(
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


def test_it_goes_on_with_what_it_began_with_whatever_has_come_since(ready: Personalizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupting(3))
    before = len(ready.store.preferred(held_out=False))
    (judged, *_) = ready.store.preferred(held_out=False)
    ready.store.add_synthetic(1, [(judged.id, stream(1, start=900)[0], "[x]", 0.5, True, "kept")])
    finished = ready.train()
    assert finished.report.resumed_from == 2
    assert finished.report.rows == before
    assert ready.train().report.rows == before + 1


def test_it_is_dropped_when_the_owner_has_taken_a_verdict_back(ready: Personalizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupting(3))
    while ready.store.annotations()[-1].held_out:
        ready.store.undo_annotation()
    ready.store.undo_annotation()
    assert ready.train().report.resumed_from == 0


def test_restart_drops_it(ready: Personalizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupting(3))
    assert ready.train(restart=True).report.resumed_from == 0


def test_other_settings_are_named_and_nothing_is_lost(ready: Personalizer) -> None:
    with pytest.raises(KeyboardInterrupt):
        ready.train(interrupting(3))
    ready.config = dataclasses.replace(ready.config, finetune=dataclasses.replace(TRAINING, learning_rate=1e-3))
    with pytest.raises(UserError, match=r"learning_rate was 0\.01, is 0\.001"):
        ready.train()
    ready.config = dataclasses.replace(ready.config, finetune=TRAINING)
    assert ready.train().report.resumed_from == 2


@pytest.mark.parametrize(("rise", "promoted"), [(0.09, True), (0.11, False)])
def test_an_adapter_that_forgets_more_than_is_allowed_is_not_promoted(
    ready: Personalizer, monkeypatch: pytest.MonkeyPatch, rise: float, promoted: bool
) -> None:
    real_finetune, real_compare = room.finetune, room.compare

    def forgetting(*args, **kwargs):
        report = real_finetune(*args, **kwargs)
        return dataclasses.replace(report, general_losses=((0, 2.0), (report.best_step, 2.0 * (1 + rise))))

    def always_better(*args, **kwargs):
        found = real_compare(*args, **kwargs)
        return dataclasses.replace(found, rouge1=dataclasses.replace(found.rouge1, gain=0.5))

    monkeypatch.setattr(room, "finetune", forgetting)
    monkeypatch.setattr(room, "compare", always_better)
    trained = ready.train()
    assert trained.report.forgotten == pytest.approx(rise)
    assert (trained.promoted, trained.forgot_much) == (promoted, not promoted)
    assert ready.judge(trained.adapter)[2] is promoted, "not later either"


def test_what_is_forgotten_is_measured_on_general_dialogues(ready: Personalizer, tmp_path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"messages": d.to_messages()}) + "\n" for d in stream(8, start=500)))
    settings = dataclasses.replace(TRAINING, general=str(general), replay=0.5)
    ready.config = dataclasses.replace(ready.config, finetune=settings)
    report = ready.train().report
    assert [step for step, _ in report.general_losses] == [0, *report.epoch_ends]
    assert report.replayed_rows == 4
    assert report.forgotten == pytest.approx(report.general_losses[-1][1] / report.general_losses[0][1] - 1)


def test_a_bad_line_among_the_general_dialogues_is_named(ready: Personalizer, tmp_path) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text('{"messages": [{"role": "user", "content": "hi"}]}\nnonsense\n')
    ready.config = dataclasses.replace(ready.config, finetune=dataclasses.replace(TRAINING, general=str(general)))
    with pytest.raises(UserError, match=r"general\.jsonl:1"):
        ready.train()

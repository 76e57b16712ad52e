"""Which steps of the loop are due, and why. It only looks; `Personalizer` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_personal.config import Config
from mlx_personal.personalizer.training_set import interrupted_run
from mlx_personal.profile import AdapterRow, AnnotationRow, Store


@dataclass(frozen=True)
class PendingStep:
    """A step of the loop whose time has come, and why."""

    step: str
    reason: str


def pending_steps(store: Store, config: Config, fingerprint: str) -> list[PendingStep]:
    """The steps whose time has come, in order; `fingerprint` is the present base model's."""
    steps = []
    if waiting := store.unscored_count():
        steps.append(PendingStep("score", f"{waiting} dialogues wait to be scored"))
    covered = {s.annotation_id for s in store.synthetic()}
    annotated = store.preferred(held_out=False)
    interrupted = interrupted_run(store, fingerprint) is not None
    if fresh := sum(a.id not in covered for a in annotated):
        steps.append(PendingStep("synthesize", f"{fresh} annotated dialogues have no synthetic set"))
    if annotated and interrupted:
        steps.append(PendingStep("train", "a training was interrupted"))
    elif annotated and (reason := _training_due(store, config, fingerprint, annotated)):
        steps.append(PendingStep("train", reason))
    elif (adapter := never_compared(store, fingerprint)) is not None:
        steps.append(PendingStep("evaluate", f"adapter {adapter.id} has not been compared yet"))
    return steps


def never_compared(store: Store, fingerprint: str) -> AdapterRow | None:
    """The newest adapter, if it fits the base, there are dialogues set aside, and it was never compared on them.

    That is what an interruption after training leaves, and an adapter that was trained before any was set aside.
    """
    newest = store.adapters()[-1:]
    if newest and newest[0].evaluation is None and newest[0].model == fingerprint and store.preferred(held_out=True):
        return newest[0]
    return None


def _training_due(store: Store, config: Config, fingerprint: str, annotated: Sequence[AnnotationRow]) -> str | None:
    """Why training is due, or None. Without a new annotation it would only give the same adapter again."""
    trigger, last = config.trigger, store.last_run("training", fingerprint)
    if last is None and store.last_run("training") is not None:
        return "the base model was changed, and nothing was trained on the new one"
    if last is not None and not any(a.id > last.config["last_annotation"] for a in annotated):
        return None
    received = store.received() - (last.received if last else 0)
    if received >= trigger.min_received:
        return f"{received} dialogues received since the last training"
    changed = store.changed_bins(after=last.config["last_dialogue"] if last else 0) / config.selection.bins
    if changed >= trigger.min_buffer_change:
        return f"{changed:.0%} of the buffer changed since the last training"
    return None

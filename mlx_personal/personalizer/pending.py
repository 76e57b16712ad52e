"""The pending steps of the learning loop, and why they are pending. `Personalizer` runs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlx_personal.config import Config
from mlx_personal.evaluation.config import MIN_HELD_OUT
from mlx_personal.profile import AdapterRow, RunRow, Store
from mlx_personal.reporting import counted

# Entries of the stored settings of a training run on preference pairs: the keys of these pairs, in training order, and
# the id of the last imported pair before it.
PAIR_KEYS: Final = "pair_keys"
LAST_PAIR: Final = "last_pair"


@dataclass(frozen=True)
class PendingStep:
    """A pending step of the learning loop.

    Attributes:
        step: `score`, `accept` (proposals that follow from exports), `synthesize`, `train` or `evaluate`.
        reason: Why it is pending.
    """

    step: str
    reason: str


def pending_steps(store: Store, config: Config, fingerprint: str) -> list[PendingStep]:
    """Return the pending steps in order.

    Args:
        store: The profile's store.
        config: The profile's settings.
        fingerprint: Fingerprint of the current base model.
    """
    steps = []
    if unscored := store.unscored_count():
        steps.append(
            PendingStep("score", counted(unscored, "dialogue has not been scored", "dialogues have not been scored"))
        )
    if config.annotation.inferred == "accept" and (proposals := len(store.inferred.acceptable_ids())):
        steps.append(PendingStep("accept", f"{counted(proposals, 'verdict')} from imports to be accepted"))
    if unsynthesized := store.unsynthesized_count():
        steps.append(
            PendingStep("synthesize", f"{counted(unsynthesized, 'annotated dialogue')} without synthetic ones")
        )
    if _has_data(store, config) and interrupted_training(store, fingerprint) is not None:
        steps.append(PendingStep("train", "a training run was interrupted"))
    elif reason := _training_reason(store, config, fingerprint):
        steps.append(PendingStep("train", reason))
    elif (adapter := unevaluated_adapter(store, fingerprint)) is not None:
        reason = (
            "has not been evaluated" if adapter.evaluation is None else "was evaluated on too few dialogues to decide"
        )
        steps.append(PendingStep("evaluate", f"adapter {adapter.id} {reason}"))
    return steps


def interrupted_training(store: Store, fingerprint: str) -> int | None:
    """Return the id of an interrupted training run that can be resumed; None if there is none.

    It is the latest training run on the base model, if it has not finished and there is a checkpoint.

    Args:
        store: The profile's store.
        fingerprint: Fingerprint of the base model.
    """
    run = store.unfinished_run("training", fingerprint)
    return run.id if run is not None and store.checkpoint_folder(run.id).exists() else None


def unevaluated_adapter(store: Store, fingerprint: str) -> AdapterRow | None:
    """Return the newest adapter if it has not been evaluated but can be, else None.

    This happens after an interruption between training and evaluation, and if the adapter was trained before any
    dialogue was held out. An adapter can be evaluated if it fits the base model and there are held-out dialogues. If
    there were too few of them to decide, it counts as not evaluated once there are enough.

    Args:
        store: The profile's store.
        fingerprint: Fingerprint of the current base model.
    """
    newest = store.adapters()[-1:]
    if not newest or newest[0].model != fingerprint:
        return None
    held_out, inferred = store.annotation_counts().held_out, store.inferred.counts().held_out
    deciding = held_out - inferred or inferred  # the user's own verdicts decide, if there are any
    # Version 0.1 decided by fewer.
    modes = None if newest[0].evaluation is None else newest[0].evaluation.get("modes") or {"can_decide": True}
    if (modes is None and held_out) or (modes is not None and not modes["can_decide"] and deciding >= MIN_HELD_OUT):
        return newest[0]
    return None


def _has_data(store: Store, config: Config) -> bool:
    """Return whether there may be something to train on."""
    return bool(store.last_preferred_id() or (config.finetune.uses_pairs and store.pairs.last_id()))


def _training_reason(store: Store, config: Config, fingerprint: str) -> str | None:
    """Return why training is pending, or None. Without new data it would produce the same adapter again."""
    trigger, last_run = config.trigger, store.last_run("training", fingerprint)
    last_annotation = 0 if last_run is None else last_run.config["last_annotation"]
    if store.last_preferred_id() <= last_annotation and not _has_new_pair(store, config, last_run):
        return None
    if last_run is None and store.last_run("training") is not None:
        return "the base model was changed, and no adapter was trained on the new one"
    received = store.dialogue_count() - (last_run.received if last_run else 0)
    if received >= trigger.min_received:
        return f"{counted(received, 'dialogue')} received since the last training run"
    changed = store.changed_bins(after=last_run.config["last_dialogue"] if last_run else 0) / config.selection.bins
    if changed >= trigger.min_buffer_change:
        return f"{changed:.0%} of the buffer changed since the last training run"
    return None


def _has_new_pair(store: Store, config: Config, last_run: RunRow | None) -> bool:
    """Return whether the objective uses a pair that was imported since the last training run on pairs."""
    last = {} if last_run is None else last_run.config
    # The ids first, because comparing all pairs with what is held out takes long.
    if not config.finetune.uses_pairs or store.pairs.last_id() <= last.get(LAST_PAIR, 0):
        return False
    # Here, because it imports MLX, which most lists of pending steps do not need.
    from mlx_personal.personalizer.preference_pairs import profile_pairs

    held_out = [a.preferred for a in store.preferred_annotations(held_out=True) if a.preferred is not None]
    known = set(last.get(PAIR_KEYS, ()))
    return any(key not in known and not pair.is_equal for key, pair in profile_pairs(store, held_out).items())

"""The training set: the annotated dialogues and their rewrites, or those of an interrupted training run."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_personal.dialogue import Dialogue, are_near_duplicates
from mlx_personal.errors import Action, UserError
from mlx_personal.finetune import Example, LoRAConfig
from mlx_personal.personalizer.pending import interrupted_training
from mlx_personal.profile import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSet:
    """The dialogues to train on.

    Attributes:
        sources: For each dialogue its annotation id, and its synthetic id or None for the annotated dialogue itself.
        dialogues: The dialogues, in the same order.
        resumed_run: Id of the interrupted training run that is resumed with them; None for a new run.
        discarded_run: Id of the interrupted training run that is not resumed, if there is one.
        notes: Notes for the user about the interrupted training run, one line each.
    """

    sources: list[tuple[int, int | None]]
    dialogues: list[Dialogue]
    resumed_run: int | None = None
    discarded_run: int | None = None
    notes: tuple[str, ...] = ()

    def examples(self, synthetic_weight: float) -> list[Example]:
        """Return the examples to train on, each in the group of its annotation.

        Args:
            synthetic_weight: Weight of a synthetic dialogue; that of an annotated one is 1.
        """
        return [
            Example(dialogue, annotation, 1.0 if synthetic is None else synthetic_weight)
            for dialogue, (annotation, synthetic) in zip(self.dialogues, self.sources, strict=True)
        ]


def build_training_set(
    store: Store, fingerprint: str, held_out: Sequence[Dialogue], restart: bool = False
) -> TrainingSet:
    """Return the dialogues to train on, without starting a training run.

    An interrupted training run on the current base model is resumed with the dialogues that it began with, unless some
    of them may no longer be trained on.

    Args:
        store: The profile's store.
        fingerprint: Fingerprint of the current base model.
        held_out: The held-out dialogues.
        restart: Whether to discard an interrupted training run.

    Raises:
        UserError: If there is no annotated dialogue.
    """
    current = _current_set(store, held_out)
    interrupted = interrupted_training(store, fingerprint)
    if interrupted is None:
        return current
    if restart:
        note = "an interrupted training run is discarded"
        return dataclasses.replace(current, discarded_run=interrupted, notes=(note,))
    dialogue_of = dict(zip(current.sources, current.dialogues, strict=True))
    sources = [(source.annotation_id, source.synthetic_id) for source in store.training_sources(interrupted)]
    if sources and all(source in dialogue_of for source in sources):
        return TrainingSet(sources, [dialogue_of[source] for source in sources], resumed_run=interrupted)
    note = "an interrupted training run is discarded: it used dialogues that may no longer be trained on"
    return dataclasses.replace(current, discarded_run=interrupted, notes=(note,))


def begin_training(store: Store, config: LoRAConfig, fingerprint: str, training_set: TrainingSet) -> int:
    """Start a training run, or resume the interrupted one.

    Args:
        store: The profile's store.
        config: Settings of the training run.
        fingerprint: Fingerprint of the current base model.
        training_set: The dialogues to train on.

    Returns:
        The run's id.
    """
    if training_set.resumed_run is not None:
        logger.info("resuming training run %d", training_set.resumed_run)
        return training_set.resumed_run
    if training_set.discarded_run is not None:
        logger.info("discarding interrupted training run %d", training_set.discarded_run)
        shutil.rmtree(store.checkpoint_folder(training_set.discarded_run), ignore_errors=True)
    with store.transaction():
        run_id = store.begin_run("training", fingerprint, {**config.to_json(), **store.last_ids()})
        store.add_training_sources(run_id, training_set.sources)
    return run_id


def _current_set(store: Store, held_out: Sequence[Dialogue]) -> TrainingSet:
    """Return all annotated dialogues that are not held out, then their kept rewrites."""
    originals = {a.id: a.preferred for a in store.preferred_annotations(held_out=False) if a.preferred is not None}
    if not originals:
        raise UserError("no annotated dialogue to train on", store.folder, remedy=Action.ANNOTATE)
    synthetic = [
        (s.annotation_id, s.id, s.dialogue)
        for s in store.synthetic()
        if s.kept
        and s.annotation_id in originals
        and s.dialogue is not None
        # A rewrite can be older than the held-out dialogue of which it is a near-duplicate.
        and not any(are_near_duplicates(s.dialogue, other) for other in held_out)
    ]
    sources: list[tuple[int, int | None]] = [(annotation, None) for annotation in originals]
    sources += [(annotation, rewrite) for annotation, rewrite, _ in synthetic]
    return TrainingSet(sources, [*originals.values(), *(dialogue for _, _, dialogue in synthetic)])

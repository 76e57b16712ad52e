"""The training set: the annotated dialogues and their rewrites, or those of an interrupted training run."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_personal.dialogue import Dialogue
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.errors import Action, UserError
from mlx_personal.finetune import Example, LoRAConfig
from mlx_personal.personalizer.pending import interrupted_training
from mlx_personal.profile import Store

logger = logging.getLogger(__name__)


Source = tuple[int, int | None]
"""The annotation id of a dialogue, and its synthetic id or None for the annotated dialogue itself."""


@dataclass(frozen=True)
class TrainingSet:
    """The dialogues to train on.

    Attributes:
        dialogues: The dialogues by their sources, in training order.
        resumed_run: Id of the interrupted training run that is resumed with them; None for a new run.
        discarded_run: Id of the interrupted training run that is not resumed, if there is one.
        notes: Notes for the user about the interrupted training run, one line each.
    """

    dialogues: Mapping[Source, Dialogue]
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
            for (annotation, synthetic), dialogue in self.dialogues.items()
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
    sources = [(source.annotation_id, source.synthetic_id) for source in store.training_sources(interrupted)]
    if sources and all(source in current.dialogues for source in sources):
        return TrainingSet({source: current.dialogues[source] for source in sources}, resumed_run=interrupted)
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
        store.add_training_sources(run_id, list(training_set.dialogues))
    return run_id


def _current_set(store: Store, held_out: Sequence[Dialogue]) -> TrainingSet:
    """Return all annotated dialogues that are not held out, then their kept rewrites."""
    dialogues: dict[Source, Dialogue] = {
        (annotation.id, None): annotation.preferred
        for annotation in store.preferred_annotations(held_out=False)
        if annotation.preferred is not None
    }
    if not dialogues:
        raise UserError("no annotated dialogue to train on", store.folder, remedy=Action.ANNOTATE)
    held_out_index = NearDuplicateIndex(held_out)
    for rewrite in store.synthetic():
        if not rewrite.kept or rewrite.dialogue is None or (rewrite.annotation_id, None) not in dialogues:
            continue
        # A rewrite can be older than the held-out dialogue of which it is a near-duplicate.
        if not held_out_index.find(rewrite.dialogue):
            dialogues[rewrite.annotation_id, rewrite.id] = rewrite.dialogue
    return TrainingSet(dialogues)

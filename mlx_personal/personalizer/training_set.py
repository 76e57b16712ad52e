"""The training set: the current annotations and their synthetic sets, or those of an interrupted training."""

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
        resumed_run: The interrupted training that is resumed with them; None for a new one.
        dropped_run: The interrupted training that is not resumed, if there is one.
        notes: What the user should know about the interrupted training, one line each.
    """

    sources: list[tuple[int, int | None]]
    dialogues: list[Dialogue]
    resumed_run: int | None = None
    dropped_run: int | None = None
    notes: tuple[str, ...] = ()

    def examples(self, synthetic_weight: float) -> list[Example]:
        """Return the examples to train on, each in the group of its annotation.

        Args:
            synthetic_weight: Weight of a synthetic dialogue, where an annotated one weighs 1.
        """
        return [
            Example(dialogue, annotation, 1.0 if synthetic is None else synthetic_weight)
            for dialogue, (annotation, synthetic) in zip(self.dialogues, self.sources, strict=True)
        ]


def build_training_set(
    store: Store, fingerprint: str, held_out: Sequence[Dialogue], restart: bool = False
) -> TrainingSet:
    """Return what to train on, without starting the training.

    An interrupted training on the current base model is resumed with the dialogues it began with, unless some of them
    may no longer be trained on.

    Args:
        store: The profile's store.
        fingerprint: Fingerprint of the current base model.
        held_out: The held-out dialogues.
        restart: Whether to drop an interrupted training.

    Raises:
        UserError: There is no annotated dialogue.
    """
    current = _current_set(store, held_out)
    interrupted = interrupted_training(store, fingerprint)
    if interrupted is None:
        return current
    if restart:
        return dataclasses.replace(current, dropped_run=interrupted, notes=("an interrupted training is dropped",))
    dialogue_of = dict(zip(current.sources, current.dialogues, strict=True))
    sources = [(source.annotation_id, source.synthetic_id) for source in store.training_sources(interrupted)]
    if sources and all(source in dialogue_of for source in sources):
        return TrainingSet(sources, [dialogue_of[source] for source in sources], resumed_run=interrupted)
    note = "an interrupted training is dropped: it used dialogues that may no longer be trained on"
    return dataclasses.replace(current, dropped_run=interrupted, notes=(note,))


def begin_training(store: Store, config: LoRAConfig, fingerprint: str, training_set: TrainingSet) -> int:
    """Start a training, or resume the interrupted one.

    Returns:
        The run's id.
    """
    if training_set.resumed_run is not None:
        logger.info("resuming training %d", training_set.resumed_run)
        return training_set.resumed_run
    if training_set.dropped_run is not None:
        logger.info("dropping interrupted training %d", training_set.dropped_run)
        shutil.rmtree(store.checkpoint_folder(training_set.dropped_run), ignore_errors=True)
    with store.transaction():
        run_id = store.begin_run("training", fingerprint, {**config.to_json(), **store.last_ids()})
        store.add_training_sources(run_id, training_set.sources)
    return run_id


def _current_set(store: Store, held_out: Sequence[Dialogue]) -> TrainingSet:
    """Return all annotated dialogues that are not held out, then their kept synthetic sets."""
    originals = {a.id: a.preferred for a in store.preferred_annotations(held_out=False) if a.preferred is not None}
    if not originals:
        raise UserError("no annotated dialogue to train on", store.folder, remedy=Action.ANNOTATE)
    synthetic = [
        (s.annotation_id, s.id, s.dialogue)
        for s in store.synthetic()
        if s.kept
        and s.annotation_id in originals
        and s.dialogue is not None
        # A rewrite can be older than the held-out dialogue that it is a near-duplicate of.
        and not any(are_near_duplicates(s.dialogue, other) for other in held_out)
    ]
    sources: list[tuple[int, int | None]] = [(annotation, None) for annotation in originals]
    sources += [(annotation, rewrite) for annotation, rewrite, _ in synthetic]
    return TrainingSet(sources, [*originals.values(), *(dialogue for _, _, dialogue in synthetic)])

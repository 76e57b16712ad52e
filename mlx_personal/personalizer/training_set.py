"""The training set: the annotated dialogues, their rewrites and preference pairs, or those of an interrupted run."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.dialogue import Dialogue
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.errors import Action, UserError
from mlx_personal.finetune import Example, LoRAConfig
from mlx_personal.finetune.data.dataset import usable_pairs
from mlx_personal.finetune.data.examples import PreferencePair
from mlx_personal.memory import insert_examples
from mlx_personal.personalizer.pending import LAST_PAIR, PAIR_KEYS, interrupted_training
from mlx_personal.personalizer.preference_pairs import profile_pairs
from mlx_personal.profile import Store

logger = logging.getLogger(__name__)

# Entry of a run's stored settings: the examples of its dialogues, in training order, and of its pairs, by their ids.
_EXAMPLE_IDS: Final = "example_ids"

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
        pairs: The preference pairs by their keys, in training order; empty for an objective without pairs.
        example_ids: The ids of the dialogues that are the examples of each dialogue and pair, in their order in the
            prompt; None until they are chosen, and for dialogues that are trained on without examples.
    """

    dialogues: Mapping[Source, Dialogue]
    resumed_run: int | None = None
    discarded_run: int | None = None
    notes: tuple[str, ...] = ()
    pairs: Mapping[str, PreferencePair] = field(default_factory=dict)
    example_ids: Mapping[Source | str, Sequence[int]] | None = None

    def examples(self, synthetic_weight: float) -> list[Example]:
        """Return the examples to train on, each in the group of its annotation.

        Args:
            synthetic_weight: Weight of a synthetic dialogue; that of an annotated one is 1.
        """
        return [
            Example(dialogue, annotation, 1.0 if synthetic is None else synthetic_weight)
            for (annotation, synthetic), dialogue in self.dialogues.items()
        ]

    def with_examples(
        self, example_ids: Mapping[Source | str, Sequence[int]], by_id: Mapping[int, Dialogue]
    ) -> TrainingSet:
        """Return the training set with examples before its dialogues and pairs.

        Args:
            example_ids: The examples of each dialogue and pair; those that are missing have none.
            by_id: The dialogues that may be examples by their ids; their thoughts are left out.
        """

        def insert(dialogue: Dialogue, key: Source | str) -> Dialogue:
            ids = example_ids.get(key, ())
            return insert_examples(dialogue, [by_id[example_id].without_thoughts() for example_id in ids])

        return dataclasses.replace(
            self,
            dialogues={source: insert(dialogue, source) for source, dialogue in self.dialogues.items()},
            pairs={
                key: dataclasses.replace(pair, chosen=insert(pair.chosen, key), rejected=insert(pair.rejected, key))
                for key, pair in self.pairs.items()
            },
            example_ids=example_ids,
        )


def build_training_set(
    store: Store, config: LoRAConfig, fingerprint: str, held_out: Sequence[Dialogue], restart: bool = False
) -> TrainingSet:
    """Return the dialogues to train on, without starting a training run.

    An interrupted training run on the current base model is resumed with the dialogues that it began with and their
    examples, unless some of these dialogues may no longer be trained on.

    Args:
        store: The profile's store.
        config: Settings of the training run.
        fingerprint: Fingerprint of the current base model.
        held_out: The held-out dialogues.
        restart: Whether to discard an interrupted training run.

    Raises:
        UserError: If there is nothing that the objective can be computed from.
    """
    current = current_training_set(store, config, held_out)
    interrupted = interrupted_training(store, fingerprint)
    if interrupted is None:
        return current
    if restart:
        note = "an interrupted training run is discarded"
        return dataclasses.replace(current, discarded_run=interrupted, notes=(note,))
    sources = [(source.annotation_id, source.synthetic_id) for source in store.training_sources(interrupted)]
    run = store.run(interrupted)
    begun = {} if run is None else run.config
    pair_keys = begun.get(PAIR_KEYS, [])
    is_usable = all(source in current.dialogues for source in sources) and all(
        key in current.pairs for key in pair_keys
    )
    if (sources or pair_keys) and is_usable:
        dialogues = {source: current.dialogues[source] for source in sources}
        pairs = {key: current.pairs[key] for key in pair_keys}
        example_ids = _stored_example_ids(begun, [*sources, *pair_keys])
        return TrainingSet(dialogues, resumed_run=interrupted, pairs=pairs, example_ids=example_ids)
    note = "an interrupted training run is discarded: it used dialogues that may no longer be trained on"
    return dataclasses.replace(current, discarded_run=interrupted, notes=(note,))


def begin_training(store: Store, config: LoRAConfig, fingerprint: str, training_set: TrainingSet) -> int:
    """Start a training run, or resume the interrupted one.

    Args:
        store: The profile's store.
        config: Settings of the training run.
        fingerprint: Fingerprint of the current base model.
        training_set: The dialogues to train on, with their examples.

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
        settings = {**config.to_json(), **store.last_ids()}
        if config.uses_pairs:
            settings |= {PAIR_KEYS: list(training_set.pairs), LAST_PAIR: store.pairs.last_id()}
        if training_set.example_ids is not None:
            keys: list[Source | str] = [*training_set.dialogues, *training_set.pairs]
            settings[_EXAMPLE_IDS] = [list(training_set.example_ids.get(key, ())) for key in keys]
        run_id = store.begin_run("training", fingerprint, settings)
        store.add_training_sources(run_id, list(training_set.dialogues))
    return run_id


def current_training_set(store: Store, config: LoRAConfig, held_out: Sequence[Dialogue]) -> TrainingSet:
    """Return all annotated dialogues that are not held out, then their kept rewrites; and the preference pairs.

    Args:
        store: The profile's store.
        config: Settings of the training run.
        held_out: The held-out dialogues, of which no rewrite and no pair may be a near-duplicate.

    Raises:
        UserError: If there is nothing that the objective can be computed from.
    """
    pairs = profile_pairs(store, held_out) if config.uses_pairs else {}
    usable_pairs(config, list(pairs.values()))  # raises an error before a training run begins
    dialogues: dict[Source, Dialogue] = {
        (annotation.id, None): annotation.preferred
        for annotation in store.preferred_annotations(held_out=False)
        if annotation.preferred is not None
    }
    if not dialogues and not pairs:
        raise UserError("no annotated dialogue to train on", store.folder, remedy=Action.ANNOTATE)
    held_out_index = NearDuplicateIndex(held_out)
    for rewrite in store.synthetic():
        if not rewrite.kept or rewrite.dialogue is None or (rewrite.annotation_id, None) not in dialogues:
            continue
        # A rewrite can be older than the held-out dialogue of which it is a near-duplicate.
        if not held_out_index.find(rewrite.dialogue):
            dialogues[rewrite.annotation_id, rewrite.id] = rewrite.dialogue
    return TrainingSet(dialogues, pairs=pairs)


def _stored_example_ids(
    begun: Mapping[str, Any], keys: Sequence[Source | str]
) -> dict[Source | str, Sequence[int]] | None:
    """Return the examples that an interrupted run began with; None if it chose none.

    Args:
        begun: Its stored settings.
        keys: Its sources, then the keys of its pairs.
    """
    stored = begun.get(_EXAMPLE_IDS)
    return None if stored is None else dict(zip(keys, stored, strict=True))

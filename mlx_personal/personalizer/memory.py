"""The memory of a profile: the annotated dialogues, then the rest of the buffer, with vectors that are computed once.

Held-out dialogues and near-duplicates of them are no part of it, so that what is measured on them is what answers new
questions. Neither are dialogues that the user skipped. Whether the memory is used is decided by `answering`.

With `finetune.examples = "as in chat"`, a training dialogue has examples of a memory of the annotated dialogues that
are trained on, which stay the same if the training run is interrupted and resumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.embedding import make_embedder
from mlx_personal.finetune.data.dataset import draw_validation_groups, usable_pairs
from mlx_personal.memory import Memory, MemoryEntry, embed_questions, first_question
from mlx_personal.models import LanguageModel
from mlx_personal.personalizer.answering import mode_in_use
from mlx_personal.personalizer.training_set import Source, TrainingSet
from mlx_personal.profile import Store

_NO_EXAMPLES: Final = "finetune.examples has no effect, since the memory is turned off"
_FOUND_BY_WORDS: Final = (
    "the estimate reads no weights: its examples are found by BM25, those of the training may differ"
)


def profile_memory(
    store: Store,
    config: Config,
    lm: LanguageModel,
    excluded: Sequence[Dialogue] = (),
    uses_memory: bool | None = None,
) -> Memory:
    """Return the memory of a profile, which has no entries and gives no examples if it is not used.

    Vectors of questions that are not stored, because the dialogue is new or the base model or the embedder changed, are
    computed, and stored if the profile is open for writing.

    Args:
        store: The profile's store.
        config: Its settings.
        lm: The model that answers, with or without an adapter.
        excluded: Further dialogues that are treated like held-out ones.
        uses_memory: Whether it is used; None for as the profile answers now.

    Raises:
        UserError: If the embedder's package is not installed, or the model's weights are damaged.
    """
    if uses_memory is None:
        uses_memory = mode_in_use(store, config.memory).uses_memory
    if not uses_memory:
        # Nothing is read, so that a conversation starts as fast as without a memory.
        return Memory((), dataclasses.replace(config.memory, examples=0), lm)
    return _make_memory(store, config, lm, memory_entries(store, excluded))


def memory_entries(store: Store, excluded: Sequence[Dialogue] = ()) -> list[MemoryEntry]:
    """Return the dialogues of a profile that can be examples, in the order of the stream.

    Args:
        store: The profile's store.
        excluded: Further dialogues that are treated like held-out ones.
    """
    annotated = [
        MemoryEntry(annotation.dialogue_id, annotation.preferred, annotation.group)
        for annotation in store.preferred_annotations(held_out=False)
        if annotation.preferred is not None
    ]
    judged = {annotation.dialogue_id for annotation in store.annotations()}
    others = [
        MemoryEntry(row.dialogue_id, row.dialogue, is_annotated=False)
        for row in store.bins()
        if row.dialogue_id not in judged
    ]
    return _not_held_out(store, [*annotated, *others], excluded)


def as_trained(
    store: Store, config: Config, lm: LanguageModel, training_set: TrainingSet, reads_weights: bool = True
) -> TrainingSet:
    """Return a training set as it is trained on: by `finetune.examples` with examples before dialogues and pairs.

    The examples are the nearest other annotated dialogues of the training set. None is a near-duplicate of the dialogue
    itself or of its group, or used for validation. Those that do not fit into a training sample are left out. An
    interrupted run has those that it began with, whatever has been annotated since.

    Args:
        store: The profile's store.
        config: Its settings.
        lm: The base model.
        training_set: The training set.
        reads_weights: Whether weights may be read; if not, as for an estimate, the examples are found by BM25.
    """
    if config.finetune.examples == "none":
        return training_set
    annotations = {annotation.id: annotation for annotation in store.preferred_annotations(held_out=False)}
    annotated = {
        annotations[annotation_id].dialogue_id: dialogue
        for (annotation_id, synthetic_id), dialogue in training_set.dialogues.items()
        if synthetic_id is None
    }
    if training_set.example_ids is not None:
        return training_set.with_examples(training_set.example_ids, annotated)
    notes = training_set.notes
    if not config.memory.is_used(decided=True):
        return dataclasses.replace(training_set, notes=(*notes, _NO_EXAMPLES), example_ids={})
    if not reads_weights and config.memory.retrieval != "bm25":
        config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, retrieval="bm25"))
        notes = (*notes, _FOUND_BY_WORDS)
    trained_on = (
        [annotation_id for annotation_id, _ in training_set.dialogues] if config.finetune.needs_dialogues else []
    )
    pairs = usable_pairs(config.finetune, list(training_set.pairs.values()))
    validation = draw_validation_groups([*trained_on, *(pair.group for pair in pairs)], config.finetune)
    entries = _not_held_out(
        store,
        [
            MemoryEntry(annotations[annotation_id].dialogue_id, dialogue, annotations[annotation_id].group)
            for (annotation_id, synthetic_id), dialogue in training_set.dialogues.items()
            if synthetic_id is None and annotation_id not in validation
        ],
    )
    memory = _make_memory(store, config, lm, entries)
    index = NearDuplicateIndex(entry.dialogue for entry in entries)
    max_length = min(config.finetune.max_seq_length, lm.context_length)

    def example_ids_of(dialogue: Dialogue, annotation_id: object) -> list[int]:
        excluded = {entries[number].group for number in index.find(dialogue)}
        if annotation_id in annotations:
            excluded.add(annotations[annotation_id].group)
        return [example.entry.id for example in memory.examples_of(dialogue, excluded, max_length)]

    example_ids: dict[Source | str, Sequence[int]] = {
        source: example_ids_of(dialogue, source[0]) for source, dialogue in training_set.dialogues.items()
    }
    for key, pair in training_set.pairs.items():
        # Both sides have the examples with which the longer one fits.
        example_ids[key] = min((example_ids_of(side, pair.group) for side in (pair.chosen, pair.rejected)), key=len)
    return dataclasses.replace(training_set.with_examples(example_ids, annotated), notes=notes)


def _not_held_out(store: Store, entries: Sequence[MemoryEntry], excluded: Sequence[Dialogue] = ()) -> list[MemoryEntry]:
    """Return the entries that are no near-duplicates of held-out dialogues, in the order of the stream."""
    annotations = store.preferred_annotations(held_out=True)
    held_out = [annotation.preferred for annotation in annotations if annotation.preferred is not None]
    index = NearDuplicateIndex([*held_out, *excluded])
    return sorted((entry for entry in entries if not index.find(entry.dialogue)), key=lambda entry: entry.id)


def _make_memory(store: Store, config: Config, lm: LanguageModel, entries: Sequence[MemoryEntry]) -> Memory:
    """Return a memory with stored vectors, after computing and storing those that are missing."""
    if not entries or not config.memory.examples or config.memory.retrieval == "bm25":
        return Memory(entries, config.memory, lm)
    embedder = make_embedder(config.embedding, lm)
    # The base is part of the name: other weights give other vectors.
    name = f"{store.fingerprint()} {embedder.name}"
    stored = store.question_vectors.get(name)
    missing = [entry for entry in entries if entry.id not in stored]
    if missing:
        computed = embed_questions(lm, [first_question(entry.dialogue) for entry in missing], embedder)
        new = {entry.id: vector for entry, vector in zip(missing, computed, strict=True)}
        if store.writes:
            store.question_vectors.update(name, new, _kept_ids(store))
        stored |= new
    return Memory(entries, config.memory, lm, embedder, np.stack([stored[entry.id] for entry in entries]))


def _kept_ids(store: Store) -> list[int]:
    """Return the ids of all dialogues that are or may become examples."""
    return [*(row.dialogue_id for row in store.bins()), *(row.dialogue_id for row in store.annotations())]

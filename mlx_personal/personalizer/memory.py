"""The memory of a profile: the annotated dialogues, then the rest of the buffer, with vectors that are computed once.

Held-out dialogues and near-duplicates of them are no part of it, so that what is measured on them is what answers new
questions. Neither are dialogues that the user skipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.dialogue.similarity import NearDuplicateIndex
from mlx_personal.embedding import make_embedder
from mlx_personal.memory import Memory, MemoryEntry, embed_questions, first_question
from mlx_personal.models import LanguageModel
from mlx_personal.profile import Store


def profile_memory(store: Store, config: Config, lm: LanguageModel, writes: bool) -> Memory:
    """Return the memory of a profile.

    Vectors of questions that are not stored, because the dialogue is new or the base model or the embedder changed, are
    computed and stored.

    Args:
        store: The profile's store.
        config: Its settings.
        lm: The model that answers, with or without an adapter.
        writes: Whether new vectors are stored.

    Raises:
        UserError: If the embedder's package is not installed, or the model's weights are damaged.
    """
    return _make_memory(store, config, lm, memory_entries(store) if config.memory.examples else [], writes)


def memory_entries(store: Store) -> list[MemoryEntry]:
    """Return the dialogues of a profile that can be examples, in the order of the stream.

    Args:
        store: The profile's store.
    """
    held_out = [a.preferred for a in store.preferred_annotations(held_out=True) if a.preferred is not None]
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
    return sorted(_not_held_out([*annotated, *others], held_out), key=lambda entry: entry.id)


def _not_held_out(entries: Sequence[MemoryEntry], held_out: Sequence[Dialogue]) -> list[MemoryEntry]:
    """Return the entries that are no near-duplicates of held-out dialogues."""
    index = NearDuplicateIndex(held_out)
    return [entry for entry in entries if not index.find(entry.dialogue)]


def _make_memory(
    store: Store, config: Config, lm: LanguageModel, entries: Sequence[MemoryEntry], writes: bool
) -> Memory:
    """Return a memory with stored vectors, after computing and storing those that are missing."""
    if not entries or config.memory.retrieval == "bm25":
        return Memory(entries, config.memory, lm)
    embedder = make_embedder(config.embedding, lm)
    # The base is part of the name: other weights give other vectors.
    name = f"{store.fingerprint()} {embedder.name}"
    stored = store.question_vectors.get(name)
    missing = [entry for entry in entries if entry.id not in stored]
    if missing:
        computed = embed_questions(lm, [first_question(entry.dialogue) for entry in missing], embedder)
        new = {entry.id: vector for entry, vector in zip(missing, computed, strict=True)}
        if writes:
            store.question_vectors.update(name, new, [entry.id for entry in entries])
        stored |= new
    return Memory(entries, config.memory, lm, embedder, np.stack([stored[entry.id] for entry in entries]))

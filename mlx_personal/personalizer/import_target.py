"""Where an import puts what it reads: into the profile, or for a dry run into memory.

Both answer the same questions, so that a dry run goes through the same rules as an import and counts the same. A dry
run does not use a transaction that is taken back: that would keep other processes from writing for as long as it reads,
and a profile that cannot be written could not be compared with an export.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from mlx_personal.dialogue import Dialogue
from mlx_personal.importers.conversation import Rating
from mlx_personal.importers.verdicts import InferredVerdict
from mlx_personal.profile import Origin, PreferencePairRow, Store
from mlx_personal.profile.imports import MAX_RELATED, StoredPart, beginning_of

# Characters of the dialogues that a dry run remembers, so that a second export of the same chat is not new again.
_PLANNED_CHARS: Final = 64_000_000


class ImportTarget(Protocol):
    """Stores what is new of the conversations of an import.

    Attributes:
        import_id: Id of the import, which begins with the first thing that it stores; None before, and in a dry run.
    """

    import_id: int | None

    def transaction(self) -> AbstractContextManager[object]:
        """Return a context in which all changes are stored, or none of them if it raises."""
        ...

    def parts(self, app: str, conversation_id: str, dialogue: Dialogue) -> list[StoredPart]:
        """Return what is stored of a conversation, as `Imports.parts` does.

        Args:
            app: Name of the app.
            conversation_id: The app's id of the conversation; empty if it has none.
            dialogue: Its dialogue.
        """
        ...

    def id_of_key(self, key: str) -> int | None:
        """Return the id of the dialogue with this content, or None if there is none.

        Args:
            key: Its `Dialogue.key`.
        """
        ...

    def add(self, dialogue: Dialogue, source: str, origin: Origin) -> None:
        """Append a dialogue to the stream, which does not have it.

        Args:
            dialogue: The dialogue.
            source: The file that it comes from.
            origin: The conversation that it comes from.
        """
        ...

    def extend(self, dialogue_id: int, dialogue: Dialogue, origin: Origin) -> None:
        """Replace an unscored dialogue by its continuation, which the stream does not have.

        Args:
            dialogue_id: The dialogue.
            dialogue: Its messages and further ones.
            origin: The conversation that it comes from.
        """
        ...

    def is_rated(self, dialogue_id: int, answer: int) -> bool:
        """Return whether there is a verdict on an answer.

        Args:
            dialogue_id: The dialogue.
            answer: Index of the answer in the dialogue's `assistant_turns`.
        """
        ...

    def add_verdict(self, dialogue_id: int, verdict: InferredVerdict) -> bool:
        """Store a verdict, and return whether it is not the latest one on its answer from the same source already.

        Args:
            dialogue_id: The dialogue.
            verdict: The verdict, with the index of the answer in that dialogue.
        """
        ...

    def add_pair(self, pair: PreferencePairRow) -> bool:
        """Store a preference pair, and return whether it was not stored before.

        Args:
            pair: The pair.
        """
        ...


class ProfileTarget:
    """Stores an import in a profile.

    Args:
        store: The profile's store.
        begin: Records the start of the import, and returns its id.
    """

    def __init__(self, store: Store, begin: Callable[[], int]):
        self._store, self._imports, self._begin = store, store.imports, begin
        self.import_id: int | None = None

    def transaction(self) -> AbstractContextManager[object]:
        """Return a transaction of the profile's database."""
        return self._store.transaction()

    def parts(self, app: str, conversation_id: str, dialogue: Dialogue) -> list[StoredPart]:
        """Return what is stored of a conversation."""
        return self._imports.parts(app, conversation_id, dialogue)

    def id_of_key(self, key: str) -> int | None:
        """Return the id of the dialogue with this content, or None."""
        return self._imports.id_of_key(key)

    def add(self, dialogue: Dialogue, source: str, origin: Origin) -> None:
        """Append a dialogue to the stream."""
        self._imports.add(self._begun(), dialogue, source, origin)

    def extend(self, dialogue_id: int, dialogue: Dialogue, origin: Origin) -> None:
        """Replace an unscored dialogue by its continuation."""
        self._imports.extend(self._begun(), dialogue_id, dialogue, origin)

    def is_rated(self, dialogue_id: int, answer: int) -> bool:
        """Return whether there is a verdict on an answer."""
        return self._imports.is_rated(dialogue_id, answer)

    def add_verdict(self, dialogue_id: int, verdict: InferredVerdict) -> bool:
        """Store a verdict, and return whether it is new."""
        if self._imports.has_verdict(dialogue_id, verdict.answer, verdict.rating, verdict.source):
            return False
        values = (verdict.answer, verdict.rating, verdict.source, verdict.evidence)
        self._imports.add_verdicts(self._begun(), dialogue_id, [values])
        return True

    def add_pair(self, pair: PreferencePairRow) -> bool:
        """Store a preference pair, and return whether it is new."""
        if self._store.pairs.has(pair):
            return False
        self._store.pairs.add(self._begun(), pair)
        return True

    def _begun(self) -> int:
        if self.import_id is None:
            self.import_id = self._begin()
        return self.import_id


class DryRunTarget:
    """Remembers what an import would store beside what the profile has, and changes nothing.

    Args:
        store: The profile's store.
    """

    import_id: int | None = None

    def __init__(self, store: Store):
        self._store = store
        self._next_id = -1  # of a dialogue that would be added
        self._keys: dict[bytes, int] = {}
        self._replaced_keys: set[bytes] = set()
        self._dialogues: dict[int, tuple[Dialogue, str]] = {}  # with the id of the conversation
        self._by_conversation: dict[tuple[str, str], list[int]] = {}
        self._by_beginning: dict[bytes, list[int]] = {}
        self._chars = 0
        self._ratings: dict[tuple[int, int], dict[str, Rating]] = {}  # by source
        self._pairs: set[tuple[int, int, str]] = set()

    def transaction(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def parts(self, app: str, conversation_id: str, dialogue: Dialogue) -> list[StoredPart]:
        """Return what would be stored of a conversation."""
        parts = [self._changed(part) for part in self._store.imports.parts(app, conversation_id, dialogue)]
        own = self._by_conversation.get((app, conversation_id), []) if conversation_id else []
        related = self._by_beginning.get(beginning_of(app, dialogue), [])[-MAX_RELATED:]
        for dialogue_id in sorted({*own, *related}, reverse=True):
            planned, its_conversation = self._dialogues[dialogue_id]
            parts.append(StoredPart(dialogue_id, planned, False, its_conversation == conversation_id))
        return parts

    def id_of_key(self, key: str) -> int | None:
        """Return the id of the dialogue with this content, or None."""
        digest = bytes.fromhex(key)
        if digest in self._keys or digest in self._replaced_keys:
            return self._keys.get(digest)
        return self._store.imports.id_of_key(key)

    def add(self, dialogue: Dialogue, source: str, origin: Origin) -> None:
        """Remember a dialogue that would be added."""
        dialogue_id, self._next_id = self._next_id, self._next_id - 1
        self._keys[bytes.fromhex(dialogue.key)] = dialogue_id
        if self._remembers(dialogue):
            self._dialogues[dialogue_id] = (dialogue, origin.conversation_id)
            if origin.conversation_id:
                self._by_conversation.setdefault((origin.app, origin.conversation_id), []).append(dialogue_id)
            self._by_beginning.setdefault(beginning_of(origin.app, dialogue), []).append(dialogue_id)

    def extend(self, dialogue_id: int, dialogue: Dialogue, origin: Origin) -> None:
        """Remember a dialogue that would be replaced."""
        before = self._dialogues.get(dialogue_id)
        stored = self._store.dialogue(dialogue_id) if before is None else None
        if before is not None or stored is not None:
            old = bytes.fromhex((before[0] if before is not None else stored.dialogue).key)  # type: ignore[union-attr]
            self._keys.pop(old, None)
            self._replaced_keys.add(old)
        self._keys[bytes.fromhex(dialogue.key)] = dialogue_id
        if before is not None or self._remembers(dialogue):
            self._dialogues[dialogue_id] = (dialogue, origin.conversation_id)

    def is_rated(self, dialogue_id: int, answer: int) -> bool:
        """Return whether there would be a verdict on an answer."""
        return (dialogue_id, answer) in self._ratings or self._store.imports.is_rated(dialogue_id, answer)

    def add_verdict(self, dialogue_id: int, verdict: InferredVerdict) -> bool:
        """Remember a verdict, and return whether it is new."""
        ratings = self._ratings.setdefault((dialogue_id, verdict.answer), {})
        if verdict.source in ratings:
            is_known = ratings[verdict.source] == verdict.rating
        else:
            values = (dialogue_id, verdict.answer, verdict.rating, verdict.source)
            is_known = self._store.imports.has_verdict(*values)
        ratings[verdict.source] = verdict.rating
        return not is_known

    def add_pair(self, pair: PreferencePairRow) -> bool:
        """Remember a preference pair, and return whether it is new."""
        values = (pair.dialogue_id, pair.answer, pair.rejected)
        if values in self._pairs or self._store.pairs.has(pair):
            return False
        self._pairs.add(values)
        return True

    def _changed(self, part: StoredPart) -> StoredPart:
        """Return a stored dialogue as it would be."""
        if part.dialogue_id not in self._dialogues:
            return part
        return StoredPart(part.dialogue_id, self._dialogues[part.dialogue_id][0], part.is_scored, part.is_same)

    def _remembers(self, dialogue: Dialogue) -> bool:
        """Return whether a dialogue is remembered: as long as the memory is not too large."""
        if self._chars < _PLANNED_CHARS:
            self._chars += sum(len(message.content) for message in dialogue.messages)
            return True
        return False

"""Where an import puts what it reads: into the profile, or for a dry run into memory.

Both answer the same questions, so that a dry run goes through the same rules as an import and counts the same. A dry
run does not use a transaction that is taken back: that would keep other processes from writing for as long as it reads,
and a profile that cannot be written could not be compared with an export.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from mlx_personal.dialogue import Dialogue
from mlx_personal.importers.conversation import Rating
from mlx_personal.importers.verdicts import InferredVerdict
from mlx_personal.personalizer.continuation import StoredExchanges
from mlx_personal.profile import Origin, PreferencePairRow, Store
from mlx_personal.profile.exchanges import StoredAnswer, exchanges_of


class ImportTarget(StoredExchanges, Protocol):
    """Stores what is new of the conversations of an import.

    Attributes:
        import_id: Id of the import, which begins with the first thing that it stores; None before, and in a dry run.
    """

    import_id: int | None

    def transaction(self) -> AbstractContextManager[object]:
        """Return a context in which all changes are stored, or none of them if it raises."""
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

    def add_verdict(self, dialogue_id: int, verdict: InferredVerdict, conversation_id: str) -> bool:
        """Store a verdict unless it says nothing new, as `Imports.has_verdict` defines it, and return whether it does.

        Args:
            dialogue_id: The dialogue.
            verdict: The verdict, with the index of the answer in that dialogue.
            conversation_id: The app's id of the conversation that has the verdict; empty if it has none.
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

    def find(self, prefix_hash: bytes) -> StoredAnswer | None:
        """Return where an exchange is stored, or None."""
        return self._store.exchanges.find(prefix_hash)

    def hashes_of(self, dialogue_id: int) -> set[bytes]:
        """Return the prefix hashes of the exchanges of a dialogue."""
        return self._store.exchanges.hashes_of(dialogue_id)

    def is_scored(self, dialogue_id: int) -> bool:
        """Return whether a dialogue has been scored."""
        return self._imports.is_scored(dialogue_id)

    def has_conversation(self, app: str, conversation_id: str) -> bool:
        """Return whether turns of a conversation are stored."""
        return self._imports.has_conversation(app, conversation_id)

    def is_of_conversation(self, dialogue_id: int, app: str, conversation_id: str) -> bool:
        """Return whether a dialogue is of a conversation."""
        return self._imports.is_of_conversation(dialogue_id, app, conversation_id)

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

    def add_verdict(self, dialogue_id: int, verdict: InferredVerdict, conversation_id: str) -> bool:
        """Store a verdict, and return whether it is new."""
        known = (verdict.answer, verdict.rating, verdict.source, conversation_id)
        if self._imports.has_verdict(dialogue_id, *known):
            return False
        values = (verdict.answer, verdict.rating, verdict.source, verdict.evidence)
        self._imports.add_verdicts(self._begun(), dialogue_id, [values], conversation_id)
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

    Of dialogues it remembers hashes only, about 2 KB each.

    Args:
        store: The profile's store.
    """

    import_id: int | None = None

    def __init__(self, store: Store):
        self._store = store
        self._next_id = -1  # of a dialogue that would be added
        self._keys: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._replaced_keys: set[bytes] = set()
        self._answers: dict[bytes, StoredAnswer] = {}
        self._hashes: dict[int, list[bytes]] = {}
        self._conversation_of: dict[int, tuple[str, str]] = {}
        self._conversations: set[tuple[str, str]] = set()
        self._ratings: dict[tuple[int, int, str, str], list[Rating]] = {}  # by answer, source and conversation
        self._rated: set[tuple[int, int]] = set()
        self._pairs: set[tuple[int, int, str]] = set()

    def transaction(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()

    def find(self, prefix_hash: bytes) -> StoredAnswer | None:
        """Return where an exchange would be stored, or None."""
        return self._store.exchanges.find(prefix_hash) or self._answers.get(prefix_hash)

    def hashes_of(self, dialogue_id: int) -> set[bytes]:
        """Return the prefix hashes of the exchanges that a dialogue would have."""
        return self._store.exchanges.hashes_of(dialogue_id) | set(self._hashes.get(dialogue_id, ()))

    def is_scored(self, dialogue_id: int) -> bool:
        """Return whether a dialogue has been scored."""
        return dialogue_id > 0 and self._store.imports.is_scored(dialogue_id)

    def has_conversation(self, app: str, conversation_id: str) -> bool:
        """Return whether turns of a conversation would be stored."""
        is_planned = bool(conversation_id) and (app, conversation_id) in self._conversations
        return is_planned or self._store.imports.has_conversation(app, conversation_id)

    def is_of_conversation(self, dialogue_id: int, app: str, conversation_id: str) -> bool:
        """Return whether a dialogue would be of a conversation."""
        if dialogue_id in self._conversation_of:
            return self._conversation_of[dialogue_id] == (app, conversation_id)
        return self._store.imports.is_of_conversation(dialogue_id, app, conversation_id)

    def id_of_key(self, key: str) -> int | None:
        """Return the id of the dialogue with this content, or None."""
        digest = bytes.fromhex(key)
        if digest in self._keys or digest in self._replaced_keys:
            return self._keys.get(digest)
        return self._store.imports.id_of_key(key)

    def add(self, dialogue: Dialogue, source: str, origin: Origin) -> None:
        """Remember a dialogue that would be added."""
        self._put(self._next_id, dialogue, origin)
        self._next_id -= 1

    def extend(self, dialogue_id: int, dialogue: Dialogue, origin: Origin) -> None:
        """Remember a dialogue that would be replaced."""
        old = self._key_of.get(dialogue_id)
        if old is None and (row := self._store.dialogue(dialogue_id)) is not None:
            old = bytes.fromhex(row.dialogue.key)
        if old is not None:
            self._keys.pop(old, None)
            self._replaced_keys.add(old)
        self._put(dialogue_id, dialogue, origin)

    def _put(self, dialogue_id: int, dialogue: Dialogue, origin: Origin) -> None:
        key = bytes.fromhex(dialogue.key)
        self._keys[key], self._key_of[dialogue_id] = dialogue_id, key
        self._conversation_of[dialogue_id] = conversation = (origin.app, origin.conversation_id)
        self._conversations.add(conversation)
        targets = [exchange for exchange in exchanges_of(dialogue, origin.conversation_id) if exchange.weight]
        self._hashes[dialogue_id] = [exchange.prefix_hash for exchange in targets]
        for answer, prefix_hash in enumerate(self._hashes[dialogue_id]):
            self._answers.setdefault(prefix_hash, StoredAnswer(dialogue_id, answer))

    def is_rated(self, dialogue_id: int, answer: int) -> bool:
        """Return whether there would be a verdict on an answer."""
        return (dialogue_id, answer) in self._rated or self._store.imports.is_rated(dialogue_id, answer)

    def add_verdict(self, dialogue_id: int, verdict: InferredVerdict, conversation_id: str) -> bool:
        """Remember a verdict, and return whether it is new."""
        ratings = self._ratings.setdefault((dialogue_id, verdict.answer, verdict.source, conversation_id), [])
        is_known = verdict.rating in (ratings[-1:] if conversation_id else ratings)
        if not is_known and not (ratings and conversation_id):
            known = (verdict.answer, verdict.rating, verdict.source, conversation_id)
            is_known = self._store.imports.has_verdict(dialogue_id, *known)
        ratings.append(verdict.rating)
        self._rated.add((dialogue_id, verdict.answer))
        return not is_known

    def add_pair(self, pair: PreferencePairRow) -> bool:
        """Remember a preference pair, and return whether it is new."""
        values = (pair.dialogue_id, pair.answer, pair.rejected)
        if values in self._pairs or self._store.pairs.has(pair):
            return False
        self._pairs.add(values)
        return True

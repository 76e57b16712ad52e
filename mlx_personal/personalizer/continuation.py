"""Find the turns of a conversation that are new, given what was imported before.

An exchange is known if a dialogue has it, with weight 1, after the same questions and answers: of an earlier export of
the conversation, or of another one, because apps copy what a branch or a resumed session has in common with it. If the
conversation goes on where an unscored dialogue of it ends, that dialogue is replaced by the longer one, in which what
another dialogue has of the further exchanges is context. In all other cases the new exchanges become a dialogue, in
which the known ones are context: an edited question or another answer, and all that follows it, is new, and nothing
that was scored or judged changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_personal.dialogue import Dialogue
from mlx_personal.profile.exchanges import Exchange, StoredAnswer


class StoredExchanges(Protocol):
    """What was imported before."""

    def find(self, prefix_hash: bytes) -> StoredAnswer | None:
        """Return where an exchange is stored, or None.

        Args:
            prefix_hash: Its prefix hash.
        """
        ...

    def hashes_of(self, dialogue_id: int) -> set[bytes]:
        """Return the prefix hashes of the exchanges that a dialogue has with weight 1.

        Args:
            dialogue_id: The dialogue.
        """
        ...

    def is_scored(self, dialogue_id: int) -> bool:
        """Return whether a dialogue has been scored, after which it does not change.

        Args:
            dialogue_id: The dialogue.
        """
        ...

    def has_conversation(self, app: str, conversation_id: str) -> bool:
        """Return whether turns of a conversation were imported; False for one without an id.

        Args:
            app: Name of the app.
            conversation_id: The app's id of the conversation.
        """
        ...

    def is_of_conversation(self, dialogue_id: int, app: str, conversation_id: str) -> bool:
        """Return whether a dialogue is of a conversation; of one without an id, whether it is of its app without one.

        Args:
            dialogue_id: The dialogue.
            app: Name of the app.
            conversation_id: The app's id of the conversation; empty if it has none.
        """
        ...


@dataclass(frozen=True)
class NewPart:
    """The new exchanges of a conversation, as a dialogue.

    Attributes:
        dialogue: The dialogue; its known exchanges have weight 0.
        position: Index of its first new message.
        continues: Id of the stored dialogue that it replaces; None if it is another one.
        is_continuation: Whether the conversation was imported before and goes on; of one without an id, whether it
            goes on where a dialogue ends. One that has its beginning in common with another conversation is new.
    """

    dialogue: Dialogue
    position: int = 0
    continues: int | None = None
    is_continuation: bool = False


def new_part(
    dialogue: Dialogue, exchanges: Sequence[Exchange], app: str, conversation_id: str, stored: StoredExchanges
) -> NewPart | None:
    """Return the new exchanges of a conversation; None if all are known.

    Args:
        dialogue: The whole conversation.
        exchanges: Its exchanges, as `exchanges_of` returns them.
        app: Name of the app.
        conversation_id: The app's id of the conversation; empty if it has none.
        stored: What was imported before.
    """
    found = [stored.find(exchange.prefix_hash) for exchange in exchanges]
    new = [number for number, exchange in enumerate(exchanges) if exchange.weight and found[number] is None]
    if not new:
        return None
    if not any(found):
        return NewPart(dialogue)
    ends = [index for index, message in enumerate(dialogue.messages) if message.role == "assistant"]
    until_last = Dialogue(dialogue.messages[: ends[new[-1]] + 1])
    weights = {end: 0 for end, answer in zip(ends, found, strict=True) if answer is not None}
    known, owners = exchanges[: new[0]], {answer.dialogue_id for answer in found[: new[0]] if answer is not None}
    is_continuation = bool(known) and stored.has_conversation(app, conversation_id)
    for owner in sorted(owners, reverse=True):
        own_weights = _extended_weights(known, stored.hashes_of(owner))
        if not own_weights or not stored.is_of_conversation(owner, app, conversation_id):
            continue
        if not stored.is_scored(owner):
            weights |= dict(zip(ends, own_weights, strict=False))
            return NewPart(_with_weights(until_last, weights), ends[len(own_weights) - 1] + 1, owner, True)
        is_continuation = True
    position = ends[new[0] - 1] + 1 if known else 0
    return NewPart(_with_weights(until_last, weights), position, None, is_continuation)


def _extended_weights(known: Sequence[Exchange], hashes: Iterable[bytes]) -> list[int]:
    """Return the weights of the exchanges of a stored dialogue; an empty list if it does not begin the conversation.

    Args:
        known: The exchanges of the conversation before its first new one.
        hashes: The prefix hashes of the exchanges that the dialogue has with weight 1. Its last one is among them.
    """
    remaining = set(hashes)
    weights = []
    for exchange in known:
        weights.append(int(exchange.prefix_hash in remaining))
        remaining.discard(exchange.prefix_hash)
        if not remaining:
            return weights
    return []


def _with_weights(dialogue: Dialogue, weights: Mapping[int, int]) -> Dialogue:
    """Return a dialogue with other weights for some messages, by their indices."""
    return Dialogue(
        tuple(
            dataclasses.replace(message, weight=weights.get(index, message.weight))
            for index, message in enumerate(dialogue.messages)
        )
    )

"""Conversations that are trees, because answers are regenerated and questions edited: the branch that an app shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class MessageTree:
    """The messages of a conversation, each with the message that it follows.

    Missing parents and cycles are tolerated: a branch begins where its parent is missing or was visited before.

    Args:
        parents: The parent of each message by its id, in the order of the file; None for the first message.
        times: When each message was written, in seconds since 1970, as far as it is known.
    """

    def __init__(self, parents: Mapping[str, str | None], times: Mapping[str, float | None]):
        self._parents, self._times = parents, times
        self._children: dict[str | None, list[str]] = {}
        for key, parent in parents.items():
            self._children.setdefault(parent, []).append(key)

    def branch(self, current: object) -> list[str]:
        """Return the ids from the first message to the current one, or to the latest one if that is unknown.

        Args:
            current: The id of the message that the app shows last.
        """
        if not self._parents:
            return []
        key: str | None = current if isinstance(current, str) and current in self._parents else self._latest()
        path: list[str] = []
        seen: set[str] = set()
        while key is not None and key in self._parents and key not in seen:
            seen.add(key)
            path.append(key)
            key = self._parents[key]
        return path[::-1]

    def following(self, key: str) -> Iterator[str]:
        """Yield a message and those after it, each time the last of several, as apps show them.

        Args:
            key: The id of the message.
        """
        seen: set[str] = set()
        while key not in seen:
            seen.add(key)
            yield key
            key = self._children.get(key, [key])[-1]

    def siblings(self, key: str) -> list[str]:
        """Return the other messages that follow the same message, in the order of the file.

        Args:
            key: The id of the message.
        """
        return [other for other in self._children[self._parents[key]] if other != key]

    def _latest(self) -> str:
        leaves = [key for key in self._parents if not self._children.get(key)] or list(self._parents)
        return max(leaves, key=lambda key: self._times.get(key) or 0.0)

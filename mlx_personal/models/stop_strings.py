"""Stop strings: end an answer before the first of some texts, as its tokens arrive one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

# Number of tokens that are decoded in addition to those that a stop string can consist of, because the first ones of a
# tail decode differently: a leading space may be lost, and a character may be cut.
_EXTRA_TOKENS: Final = 4


class StopStrings:
    """Texts before which an answer ends.

    Of several, the one that is complete first counts, so that the answer does not depend on the tokens that its text is
    divided into.

    Args:
        texts: The texts, none empty.
        decode: Returns the text of token ids.
    """

    def __init__(self, texts: Sequence[str], decode: Callable[[list[int]], str]):
        self._texts = tuple(texts)
        self._decode = decode
        # A token is at least a byte of text.
        self._tail_tokens = max((len(text.encode()) for text in texts), default=0) + _EXTRA_TOKENS
        # Only a token with the last character of a stop string can complete it. This is not known of spaces, which some
        # tokenizers drop at the beginning of a text, nor of characters that may be divided between tokens.
        self._last_characters = {text[-1] for text in texts}
        self._check_every_token = any(not c.isascii() or c.isspace() for c in self._last_characters)
        self._may_complete: dict[int, bool] = {}

    def are_complete(self, tokens: Sequence[int]) -> bool:
        """Return whether the text of an answer contains a stop string, given that it did not before its last token.

        Args:
            tokens: Token ids of the answer so far.
        """
        if not self._texts or not tokens or not self._may_be_completed_by(tokens[-1]):
            return False
        tail = self._decode(list(tokens[-self._tail_tokens :]))
        return any(text in tail for text in self._texts) and self.find(self._decode(list(tokens))) is not None

    def find(self, text: str) -> int | None:
        """Return the position of the stop string that is complete first, or None.

        Args:
            text: An answer or its beginning.
        """
        found = [(start + len(stop), start) for stop in self._texts if (start := text.find(stop)) >= 0]
        return min(found)[1] if found else None

    def cut(self, text: str) -> str:
        """Return the text before the first stop string, or all of it.

        Args:
            text: An answer.
        """
        return text[: self.find(text)]

    def stream(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield the pieces of an answer up to the first stop string, of which no part is ever yielded.

        Args:
            pieces: Pieces of the answer.
        """
        if not self._texts:
            yield from pieces
            return
        held_back = ""
        for piece in pieces:
            text = held_back + piece
            if (end := self.find(text)) is not None:
                yield text[:end]
                return
            end = len(text) - self._overlap(text)
            held_back = text[end:]
            yield text[:end]
        yield held_back

    def _overlap(self, text: str) -> int:
        """Return the length of the longest end of a text with which a stop string begins."""
        return max(
            (size for stop in self._texts for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )

    def _may_be_completed_by(self, token: int) -> bool:
        if self._check_every_token:
            return True
        if token not in self._may_complete:
            self._may_complete[token] = not self._last_characters.isdisjoint(self._decode([token]))
        return self._may_complete[token]

"""What must not leave is replaced by placeholders like `[EMAIL_1]`, and put back on the device.

The same value has the same placeholder in all texts of a user, numbered as they first appear. Which is which follows
from the texts alone, so the map need not be kept: it never leaves the process that made it. What the rules find is in
`patterns`. They miss what has no form of its own, such as a name that is not among the user's own words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NoReturn, Protocol

from mlx_personal.augmentation.redaction_patterns import KINDS, own_word_pattern, plain

_PLACEHOLDER: Final = re.compile(r"\[[A-Z]+_[1-9][0-9]*\]")
# What a text already holds that looks like a placeholder is one more kind of value: it too comes back as it was.
_LOOKS_LIKE_ONE: Final = "MARK"
_OWN_WORD: Final = "WORD"


class Placeholders:
    """What each placeholder stands for. It can be neither printed nor serialised: it must not leave the process."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]):
        self._values = dict(values)

    def restore(self, text: str) -> str:
        """`text` with the values in place of the placeholders; one that stands for nothing stays as it is."""
        return _PLACEHOLDER.sub(lambda found: self._values.get(found.group(), found.group()), text)

    def made_up(self, text: str) -> bool:
        """Whether there is a placeholder in `text` that stands for nothing."""
        return any(name not in self._values for name in _PLACEHOLDER.findall(text))

    def counts(self) -> dict[str, int]:
        """How many different values of each kind there are, such as {"EMAIL": 2}."""
        return dict(sorted(Counter(name[1:].rpartition("_")[0] for name in self._values).items()))

    def __repr__(self) -> str:
        return f"Placeholders({self.counts()})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("what placeholders stand for does not leave the process")


class Redactor(Protocol):
    """Anything that takes out what must not leave."""

    def redact(self, texts: Sequence[str]) -> tuple[list[str], Placeholders]:
        """All texts of one user, redacted, and what puts every one of them back exactly."""
        ...


class PatternRedactor:
    """A `Redactor` by patterns: e-mail addresses, phone numbers, keys, payment cards, IBANs and the user's own words.

    Args:
        own_words: names, places and the like, found as whole words whatever their case. Blank ones are passed over.
    """

    def __init__(self, own_words: Sequence[str] = ()):
        self._own_words = own_word_pattern(own_words)

    def redact(self, texts: Sequence[str]) -> tuple[list[str], Placeholders]:
        names: dict[str, str] = {}  # a value's placeholder
        numbers: Counter[str] = Counter()
        redacted = []
        for text in texts:
            pieces, end = [], 0
            for kind, start, stop in _joined(self._found(text)):
                value = text[start:stop]
                if value not in names:
                    numbers[kind] += 1
                    names[value] = f"[{kind}_{numbers[kind]}]"
                pieces += [text[end:start], names[value]]
                end = stop
            redacted.append("".join([*pieces, text[end:]]))
        return redacted, Placeholders({name: value for value, name in names.items()})

    def _found(self, text: str) -> Iterable[tuple[str, int, int]]:
        """(kind, start, end) of everything, the kinds in the order in which one gives an overlap its name."""
        for kind, find in KINDS.items():
            yield from ((kind, start, end) for start, end in find(plain(text)))
        if self._own_words is not None:
            yield from ((_OWN_WORD, *found.span()) for found in self._own_words.finditer(text))
        yield from ((_LOOKS_LIKE_ONE, *found.span()) for found in _PLACEHOLDER.finditer(text))


def _joined(found: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Spans that overlap become one, of the kind that was named first: to drop one would let a part of it leave."""
    joined: list[tuple[str, int, int, int]] = []
    ranked = [(start, rank, end, kind) for rank, (kind, start, end) in enumerate(found)]
    for start, rank, end, kind in sorted(ranked):
        if joined and start < joined[-1][2]:
            before_kind, before_start, before_end, before_rank = joined.pop()
            kind, rank = min((kind, rank), (before_kind, before_rank), key=lambda named: named[1])
            start, end = before_start, max(end, before_end)
        joined.append((kind, start, end, rank))
    return [(kind, start, end) for kind, start, end, _ in joined]

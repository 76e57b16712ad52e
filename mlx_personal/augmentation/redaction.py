"""Replace private values by placeholders such as `[EMAIL_1]`, and restore them on the device.

A value has the same placeholder in all texts of a user. Placeholders are numbered in order of appearance, so the
mapping follows from the texts alone, is not stored, and never leaves the process that made it. `redaction_patterns`
defines what is found. Values without a recognizable form, such as a name that is not among the redacted words, are not
found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NoReturn, Protocol

from mlx_personal.augmentation.redaction_patterns import FINDERS, compile_words, normalize_characters

_PLACEHOLDER: Final = re.compile(r"\[[A-Z]+_[1-9][0-9]*\]")
# Kind of a value that looks like a placeholder in the original text. It is redacted too, so that it can be restored.
_LITERAL_KIND: Final = "MARK"
_WORD_KIND: Final = "WORD"


class Placeholders:
    """The values behind the placeholders. They can be neither printed nor serialized, so they stay in the process.

    Args:
        values: The value of each placeholder, by the placeholder with its brackets.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]):
        self._values = dict(values)

    def restore(self, text: str) -> str:
        """Return `text` with known placeholders replaced by their values; unknown ones are left as they are."""
        return _PLACEHOLDER.sub(lambda match: self._values.get(match.group(), match.group()), text)

    def has_unknown(self, text: str) -> bool:
        """Check whether `text` contains a placeholder that has no value."""
        return any(name not in self._values for name in _PLACEHOLDER.findall(text))

    def counts(self) -> dict[str, int]:
        """Return the number of distinct values by kind, such as {"EMAIL": 2}."""
        return dict(sorted(Counter(name[1:].rpartition("_")[0] for name in self._values).items()))

    def __repr__(self) -> str:
        return f"Placeholders({self.counts()})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("the values of placeholders must not leave the process")


class Redactor(Protocol):
    """Anything that replaces private values by placeholders."""

    def redact(self, texts: Sequence[str]) -> tuple[list[str], Placeholders]:
        """Return all texts of one user redacted, and the placeholders that restore each of them exactly."""
        ...


class PatternRedactor:
    """A `Redactor` by patterns: e-mail addresses, phone numbers, keys, payment cards, IBANs and given words.

    Args:
        redacted_words: Names, places and other words to redact, matched as whole words in any case. Blank ones are
            ignored.
    """

    def __init__(self, redacted_words: Sequence[str] = ()):
        self._word_pattern = compile_words(redacted_words)

    def redact(self, texts: Sequence[str]) -> tuple[list[str], Placeholders]:
        """Return all texts of one user redacted, and the placeholders that restore each of them exactly."""
        placeholders: dict[str, str] = {}  # by value
        numbers: Counter[str] = Counter()
        redacted = []
        for text in texts:
            pieces, end = [], 0
            for kind, start, stop in _merge_overlapping(self._find(text)):
                value = text[start:stop]
                if value not in placeholders:
                    numbers[kind] += 1
                    placeholders[value] = f"[{kind}_{numbers[kind]}]"
                pieces += [text[end:start], placeholders[value]]
                end = stop
            redacted.append("".join([*pieces, text[end:]]))
        return redacted, Placeholders({placeholder: value for value, placeholder in placeholders.items()})

    def _find(self, text: str) -> Iterable[tuple[str, int, int]]:
        """Yield (kind, start, end) of every match; of two overlapping matches the earlier one decides the kind."""
        for kind, find in FINDERS.items():
            yield from ((kind, start, end) for start, end in find(normalize_characters(text)))
        if self._word_pattern is not None:
            yield from ((_WORD_KIND, *match.span()) for match in self._word_pattern.finditer(text))
        yield from ((_LITERAL_KIND, *match.span()) for match in _PLACEHOLDER.finditer(text))


def _merge_overlapping(matches: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Merge overlapping spans into one, of the kind that came first: dropping one would let a part of it leave."""
    merged: list[tuple[str, int, int, int]] = []
    ranked = [(start, rank, end, kind) for rank, (kind, start, end) in enumerate(matches)]
    for start, rank, end, kind in sorted(ranked):
        if merged and start < merged[-1][2]:
            previous_kind, previous_start, previous_end, previous_rank = merged.pop()
            kind, rank = min((kind, rank), (previous_kind, previous_rank), key=lambda kind_and_rank: kind_and_rank[1])
            start, end = previous_start, max(end, previous_end)
        merged.append((kind, start, end, rank))
    return [(kind, start, end) for kind, start, end, _ in merged]

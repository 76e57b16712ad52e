"""Recognize a user turn that thanks for the answer before it or corrects it, by rules in five languages.

A rule file of `verdict_rules` lists phrases of one language:

- `thanks` and `praise` approve of the answer, `corrections` and `objections` do not. `fillers` may stand before them.
- `denials` such as `no` are corrections only before a comma or another mark, and not before `statements`, with which an
  answer about the user begins, such as `my`.
- Praise, and a correction of one word such as `wrong`, have to be a clause of their own.
- `contrasts` such as `but`, and `changes` such as `remove`, take back an approval before them.
- `neither` are phrases that begin like one of these and mean something else, such as `no problem`.

Only the beginning of a turn is compared, the longest phrase counts, and the files of all languages are used together,
because a turn of two words does not show its language. Case, accents and apostrophes are ignored.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

Reaction = Literal["approval", "correction"]
_Kind = Literal[
    "fillers",
    "thanks",
    "praise",
    "corrections",
    "objections",
    "denials",
    "statements",
    "contrasts",
    "changes",
    "neither",
]

_LANGUAGES: Final = ("en", "de", "es", "fr", "zh")
_APPROVING: Final = ("fillers", "thanks", "praise")
# From the weakest to the strongest, if languages have the same phrase.
_KINDS: Final[tuple[_Kind, ...]] = (
    *("changes", "statements", "fillers", "contrasts", "denials"),
    *("praise", "thanks", "objections", "corrections", "neither"),
)
# More than any turn within the limits of words.
_MAX_CHARS: Final = 2_000
# More than a first word of the rules with marks before it.
_BEGINNING_CHARS: Final = 60
_WORD: Final = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[👍👎👌🙏]|[^\\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_APOSTROPHES: Final = re.compile("['\u2019\u2018`\u00b4]")
# Marks that end a clause. A hyphen does only between spaces.
_STOP: Final = re.compile("[,.;!\u2026\n\u3002\uff0c\uff01\uff1b\u3001~)\u2013\u2014]|\\s-+\\s")
_QUESTION_MARK: Final = re.compile("[?\uff1f]")
# What begins like this is quoted text and not addressed to the assistant.
_QUOTATION: Final = ('"', "\u201c", "\u201e", "\u00ab", "\u300c", "\u300e", "'", "`", ">", "#", "*")
# Characters of the end of an answer in which a question is one to the user.
_ENDING_CHARS: Final = 200


@dataclass(frozen=True)
class _Phrase:
    """A phrase of the rules.

    Attributes:
        kind: What it means.
        length: Number of its words.
        max_words: Number of words of a turn up to which it counts, by reaction.
        is_unspaced: Whether its script has no spaces between words.
    """

    kind: _Kind
    length: int
    max_words: Mapping[str, int]
    is_unspaced: bool


def reaction_of(text: str, answer: str) -> Reaction | None:
    """Return whether a user turn approves of the answer before it, corrects it, or neither.

    Args:
        text: The user turn.
        answer: The answer. If it ends with a question, a mere `no` or `great` may reply to that.
    """
    stripped = text.strip()
    if len(stripped) > _MAX_CHARS or stripped.startswith(_QUOTATION):
        return None
    # Most turns begin with no phrase, and an import has many of them.
    first_word = _WORD.search(_fold(stripped[:_BEGINNING_CHARS]))
    if first_word is None or first_word[0] not in _first_words():
        return None
    return _Turn(stripped).reaction(asks=_ends_with_question(answer))


class _Turn:
    """The words of a turn and the marks between them.

    Args:
        text: The turn.
    """

    def __init__(self, text: str):
        folded = _fold(text)
        matches = list(_WORD.finditer(folded))
        self._words = [match[0] for match in matches]
        starts = [match.start() for match in matches] + [len(folded)]
        # What stands after each word.
        self._gaps = [folded[match.end() : start] for match, start in zip(matches, starts[1:], strict=True)]

    def reaction(self, asks: bool) -> Reaction | None:
        """Return the reaction that the turn is.

        Args:
            asks: Whether the answer before it ends with a question.
        """
        position, approval = 0, None
        while position < len(self._words):
            phrase = self._phrase_at(position)
            kind = None if phrase is None else phrase.kind
            if kind == "neither" and approval is None:
                return None
            if phrase is not None and approval is None and kind in ("corrections", "objections", "denials"):
                return self._correction(phrase, position, asks)
            is_opening = kind in ("fillers", "thanks", "praise") or (kind == "contrasts" and approval is None)
            if phrase is None or not is_opening:
                break
            # `great question` is no praise of the answer, and `thanks giving` no thanks.
            end = position + phrase.length
            if kind == "praise" and not self._is_clause(end, *_APPROVING):
                break
            if kind == "thanks" and not self._ends_clause(end) and self._phrase_at(end) is None:
                break
            position = end
            if kind == "thanks" or (kind == "praise" and approval is None):
                approval = phrase
        if approval is None or (asks and approval.kind == "praise" and position < len(self._words)):
            return None
        return self._after(approval, position)

    def _correction(self, phrase: _Phrase, position: int, asks: bool) -> Reaction | None:
        """Return whether a phrase at the beginning makes the turn a correction."""
        end = position + phrase.length
        if asks and phrase.kind != "corrections":
            return None
        if phrase.kind == "denials":
            next_phrases = (self._phrase_at(end), self._phrase_at(self._skip(end, "fillers")))
            kinds = {following.kind for following in next_phrases if following is not None}
            says_otherwise = not kinds.isdisjoint(("statements", "thanks", "praise", "neither"))
            if end >= len(self._words) or not _STOP.search(self._gaps[end - 1]) or says_otherwise:
                return None
        elif self._is_short(phrase, position) and not self._is_clause(end, "fillers"):
            return None  # `wrong side of the bed` is no correction
        return "correction" if len(self._words) <= phrase.max_words["correction"] else None

    def _is_short(self, phrase: _Phrase, position: int) -> bool:
        """Return whether a correction is so short that it may be part of something else."""
        if phrase.is_unspaced:
            return phrase.length < 3
        return phrase.kind == "corrections" and phrase.length == 1 and self._words[position].isalpha()

    def _after(self, approval: _Phrase, position: int) -> Reaction | None:
        """Return the reaction of a turn that begins with an approval, by what follows it."""
        if len(self._words) > approval.max_words["approval"]:
            return None
        contrasted = changed = False
        starts_clause = True
        while position < len(self._words):
            phrase = self._phrase_at(position)
            kind = None if phrase is None else phrase.kind
            if starts_clause and (kind == "corrections" or (kind in ("objections", "denials") and contrasted)):
                return "correction"
            if kind == "contrasts":
                contrasted = True
            elif kind in ("changes", "corrections", "objections", "denials"):
                changed = True
            step = phrase.length if phrase is not None and kind in ("contrasts", "fillers", "neither") else 1
            position += step
            stop = _STOP.search(self._gaps[position - 1]) or _QUESTION_MARK.search(self._gaps[position - 1])
            starts_clause = bool(stop) or kind == "contrasts" or (starts_clause and kind == "fillers")
        return None if contrasted or changed else "approval"

    def _ends_clause(self, position: int) -> bool:
        """Return whether the words before a position end the turn or a clause that is no question."""
        gap = self._gaps[position - 1]
        if _QUESTION_MARK.search(gap):
            return False
        return position >= len(self._words) or bool(_STOP.search(gap))

    def _is_clause(self, position: int, *kinds: _Kind) -> bool:
        """Return whether the words before a position, and phrases of some kinds after them, end a clause."""
        return self._ends_clause(position) or self._ends_clause(self._skip(position, *kinds))

    def _skip(self, position: int, *kinds: _Kind) -> int:
        """Return the position after phrases of some kinds in the same clause."""
        while (phrase := self._phrase_at(position)) is not None and phrase.kind in kinds:
            position += phrase.length
            if self._ends_clause(position):
                break
        return position

    def _phrase_at(self, position: int) -> _Phrase | None:
        """Return the longest phrase of the rules that begins at a position, or None."""
        phrases, longest = _rules()
        for length in range(min(longest, len(self._words) - position), 0, -1):
            phrase = phrases.get(tuple(self._words[position : position + length]))
            # In a script without spaces, words of two clauses look like one.
            is_one = (
                phrase is None or not phrase.is_unspaced or not "".join(self._gaps[position : position + length - 1])
            )
            if phrase is not None and is_one:
                return phrase
        return None


@functools.cache
def _rules() -> tuple[Mapping[tuple[str, ...], _Phrase], int]:
    """Return the phrases of all languages by their words, and the number of words of the longest."""
    phrases: dict[tuple[str, ...], _Phrase] = {}
    rules = [
        json.loads((files("mlx_personal.importers") / f"verdict_rules/{name}.json").read_bytes()) for name in _LANGUAGES
    ]
    for kind in _KINDS:
        for rule in rules:
            for text in rule[kind]:
                key = tuple(_WORD.findall(_fold(text)))
                phrases[key] = _Phrase(kind, len(key), rule["max_words"], bool(_HAN.search(text)))
    return phrases, max(map(len, phrases))


@functools.cache
def _first_words() -> frozenset[str]:
    return frozenset(phrase[0] for phrase in _rules()[0])


def _fold(text: str) -> str:
    """Return a text without case, accents and apostrophes."""
    if text.isascii():
        return _APOSTROPHES.sub("", text).lower()
    decomposed = unicodedata.normalize("NFKD", _APOSTROPHES.sub("", text).casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _ends_with_question(answer: str) -> bool:
    """Return whether the last lines of an answer ask something."""
    return bool(_QUESTION_MARK.search(answer.rstrip()[-_ENDING_CHARS:].rpartition("\n")[2]))

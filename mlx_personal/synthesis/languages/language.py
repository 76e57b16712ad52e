"""What synthesis knows about a language: function words, how it asks, and worked examples of rewriting.

Each language is a JSON file in this folder; its sets of words are lines of words.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Literal

Kind = Literal["question", "request", "statement"]
KINDS: Final[tuple[Kind, ...]] = ("question", "request", "statement")

_FILES: Final = ("english", "german", "french", "spanish", "chinese")
_WORD_SETS: Final = (
    "function_words",
    "question_words",
    "request_verbs",
    "whether_words",
    "negations",
    "number_words",
    "first_person",
    "second_person",
    "third_person",
    "clause_starts",
    "conjunctions",
)


@dataclass(frozen=True, eq=False)
class Language:
    """A language of the users.

    Words are lower case, as `dialogue.words` returns them: an apostrophe divides a word.

    Attributes:
        code: Its ISO 639-1 code.
        function_words: Words without content of their own: articles, pronouns, prepositions, auxiliaries.
        question_words: Words with which a question begins that may lack its question mark; in Chinese, words inside it.
        interrogatives: Groups of question words, of which those of one group may replace each other.
        whether_words: Words that begin an indirect question without a question word.
        request_verbs: Words with which a request begins.
        negations: Words that negate.
        number_words: Numbers that are written as words.
        first_person: Words by which speakers mean themselves.
        second_person: Words by which speakers mean the other one.
        third_person: Words for persons who do not take part.
        clause_starts: Words with which a part of a statement begins that may also come first.
        conjunctions: Words that join clauses without changing their order.
        instruction: The instruction to rewrite a text.
        bracket_instruction: The same for an answer in brackets.
        system: The system turn before the worked examples.
        examples: For each kind of text, pairs of a text and the same in other words.
        openings: For each kind of text, beginnings of a rewrite; an empty one leaves the beginning to the model.
        other_openings: More beginnings that texts have, which are not given to the model.
        comments: Beginnings of answers that talk about the task, or refuse it, instead of doing it.
    """

    code: str
    function_words: frozenset[str]
    question_words: frozenset[str]
    interrogatives: tuple[frozenset[str], ...]
    whether_words: frozenset[str]
    request_verbs: frozenset[str]
    negations: frozenset[str]
    number_words: frozenset[str]
    first_person: frozenset[str]
    second_person: frozenset[str]
    third_person: frozenset[str]
    clause_starts: frozenset[str]
    conjunctions: frozenset[str]
    instruction: str
    bracket_instruction: str
    system: str
    examples: Mapping[Kind, tuple[tuple[str, str], ...]]
    openings: Mapping[Kind, tuple[str, ...]]
    other_openings: tuple[str, ...]
    comments: tuple[str, ...]


@functools.cache
def load_languages() -> tuple[Language, ...]:
    """Return all languages, English first."""
    return tuple(_parse(json.loads((files(__package__) / f"{name}.json").read_text("utf-8"))) for name in _FILES)


def _parse(stored: dict[str, Any]) -> Language:
    word_sets: dict[str, Any] = {name: frozenset(" ".join(stored[name]).split()) for name in _WORD_SETS}
    interrogatives = tuple(frozenset(group.split()) for group in stored["interrogatives"])
    by_kind = {kind: tuple((text, rewrite) for text, rewrite in stored["examples"][kind]) for kind in KINDS}
    openings = {kind: tuple(stored["openings"][kind]) for kind in KINDS}
    lists: dict[str, Any] = {name: tuple(stored[name]) for name in ("other_openings", "comments")}
    texts: dict[str, Any] = {name: stored[name] for name in ("code", "instruction", "bracket_instruction", "system")}
    return Language(**word_sets, interrogatives=interrogatives, **texts, examples=by_kind, openings=openings, **lists)

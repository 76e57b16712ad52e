"""Checks of the meaning of a rewritten sentence or text.

ROUGE-1 alone keeps rewrites that answer the question, negate it, or swap a name. Each check here looks at one such
fault. All of them compare words, so they cost nothing beside the generation of the rewrite.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from mlx_personal.dialogue import words
from mlx_personal.synthesis.content import content_stems, content_words, kept_share, stem
from mlx_personal.synthesis.languages import Kind, Language, detect_language, kind_of, opening_of

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_WORD = re.compile(r"[^\W_]+")
_A_NOT_A = re.compile(r"(.)不(?=\1)")
_SENTENCE_END = re.compile(r"[.!?:\n\"“]\s*$")

# Of more names than this, one in `_NAMES_PER_LOSS` may be missing.
_ALL_NAMES: Final = 3
_NAMES_PER_LOSS: Final = 4


@dataclass(frozen=True)
class Rewording:
    """A text and its rewrite.

    Attributes:
        original: The text.
        rewrite: The same in other words.
        language: Language of the original, or None.
        kind: Whether the original asks, requests or states something.
        min_content_kept: Share of the content words that the rewrite has to keep, 0..1.
        max_content_added: Highest share of the rewrite's content words that are new, 0..1.
    """

    original: str
    rewrite: str
    language: Language | None
    kind: Kind
    min_content_kept: float
    max_content_added: float

    @cached_property
    def opening(self) -> str:
        """The polite or introducing words that the rewrite begins with, such as `I'd like to know`."""
        return opening_of(self.rewrite, self.language)

    @cached_property
    def body(self) -> str:
        """The rewrite without its opening."""
        return self.rewrite[len(self.opening) :]

    @cached_property
    def original_words(self) -> list[str]:
        """The words of the original."""
        return words(self.original)

    @cached_property
    def body_words(self) -> list[str]:
        """The words of the body."""
        return words(self.body)


def find_fault(rewording: Rewording) -> str | None:
    """Return the name of the first check that a rewrite fails, or None.

    Args:
        rewording: The text and its rewrite.
    """
    return next((reason for reason, passes in CHECKS.items() if not passes(rewording)), None)


def is_no_comment(rewording: Rewording) -> bool:
    """Return whether the rewrite does not talk about the task or refuse it (`Here is...`, `I'm sorry, but...`)."""
    if rewording.language is None:
        return True
    original, rewrite = (" ".join(found) + " " for found in (rewording.original_words, words(rewording.rewrite)))
    if rewording.language.code == "zh":
        original, rewrite = original.replace(" ", ""), rewrite.replace(" ", "")
    comments = [c if rewording.language.code == "zh" else f"{c} " for c in rewording.language.comments]
    return not any(rewrite.startswith(c) and not original.startswith(c) for c in comments)


def has_same_language(rewording: Rewording) -> bool:
    """Return whether the rewrite is in the original's script and, as far as can be detected, in its language."""
    scripts, new_scripts = _scripts(rewording.original), _scripts(rewording.rewrite)
    if not new_scripts <= scripts:
        return False
    detected = detect_language(rewording.rewrite)
    return rewording.language is None or detected is None or detected == rewording.language


def has_same_form(rewording: Rewording) -> bool:
    """Return whether the rewrite asks where the original asks, and states where it states."""
    new = kind_of(rewording.rewrite, rewording.language)
    asks = new != "statement" or (
        rewording.language is not None
        and rewording.opening in (*rewording.language.openings["question"], *rewording.language.openings["request"])
        and rewording.opening != ""
    )
    return asks == (rewording.kind != "statement")


def asks_the_same(rewording: Rewording) -> bool:
    """Return whether the rewrite of a question has its question words, and that of a yes-or-no question none."""
    language = rewording.language
    if language is None or rewording.kind != "question" or not language.interrogatives:
        return True
    body, original = rewording.body_words, rewording.original_words
    asked, asks = ([not group.isdisjoint(found) for group in language.interrogatives] for found in (original, body))
    if any(new and not old for old, new in zip(asked, asks, strict=True)):
        return False
    # A noun may stand for the first group: `what it is for`, `the purpose of it`.
    if any(old and not new for old, new in zip(asked[1:], asks[1:], strict=True)):
        return False
    return any(asked) or not rewording.opening or not language.whether_words.isdisjoint(body)


def has_same_persons(rewording: Rewording) -> bool:
    """Return whether the rewrite speaks of the same persons as the original, openings aside.

    A small model that drifts begins to speak as the assistant: `I'm not sure what your question is`.
    """
    language = rewording.language
    if language is None:
        return True
    original, body = set(rewording.original_words), set(rewording.body_words)
    original_body = set(words(rewording.original[len(opening_of(rewording.original, language)) :]))
    # `How do I bake bread?` may become `I want to know how to bake bread`.
    rewrite = body if rewording.kind == "statement" else set(words(rewording.rewrite))
    lost = original_body & language.first_person and not rewrite & language.first_person
    persons = (language.first_person, language.second_person, language.third_person)
    return not lost and not any(body & person and not original & person for person in persons)


def has_same_negation(rewording: Rewording) -> bool:
    """Return whether both texts negate something, or neither does."""
    if rewording.language is None:
        return True
    negations = rewording.language.negations
    original, body = rewording.original_words, rewording.body_words
    if rewording.language.code == "zh":
        # A verb, its negation and the verb again ask a question, and negate nothing.
        original, body = (words(_A_NOT_A.sub("", "".join(found))) for found in (original, body))
    return negations.isdisjoint(original) == negations.isdisjoint(body)


def has_same_numbers(rewording: Rewording) -> bool:
    """Return whether the numbers of both texts are the same, in digits and in words."""
    number_words = frozenset() if rewording.language is None else rewording.language.number_words
    numbers, new_numbers = (
        {*_NUMBER.findall(text), *(word for word in words(text) if word in number_words)}
        for text in (rewording.original, rewording.rewrite)
    )
    return numbers == new_numbers


def has_same_names(rewording: Rewording) -> bool:
    """Return whether the rewrite keeps nearly all names of the original, and adds none.

    Names are words with a capital letter inside a sentence, so that German, which has one on every noun, has none.
    """
    if rewording.language is not None and rewording.language.code == "de":
        return True
    names, new_names = _names(rewording.original, rewording.language), _names(rewording.body, rewording.language)
    rewrite_words, original_words = set(words(rewording.rewrite)), set(rewording.original_words)
    lost = sum(name not in rewrite_words for name in names)
    allowed = 0 if len(names) <= _ALL_NAMES else len(names) // _NAMES_PER_LOSS
    return lost <= allowed and new_names <= original_words


def has_no_loop(rewording: Rewording) -> bool:
    """Return whether no content word and no three words in a row are repeated that are not in the original."""
    counts = []
    for text, found in ((rewording.original, rewording.original_words), (rewording.body, rewording.body_words)):
        content = ((stem(word, rewording.language),) for word in content_words(text, rewording.language))
        counts.append(Counter[tuple[str, ...]](zip(found, found[1:], found[2:], strict=False)) + Counter(content))
    return all(count == 1 or count <= counts[0][part] for part, count in counts[1].items())


def has_similar_length(rewording: Rewording) -> bool:
    """Return whether the rewrite, opening aside, has about as many words as the original."""
    original, rewrite = len(rewording.original_words), len(rewording.body_words)
    return original / 2 <= rewrite <= 1.4 * original + 3


def copies_no_example(rewording: Rewording) -> bool:
    """Return whether no content word comes from a worked example instead of the original."""
    language = rewording.language
    if language is None or language.code == "zh":  # whose words are single characters, too common
        return True
    examples = {
        stem for pairs in language.examples.values() for p in pairs for t in p for stem in content_stems(t, language)
    }
    new = content_stems(rewording.body, language) - content_stems(rewording.original, language)
    return new.isdisjoint(examples)


def keeps_content(rewording: Rewording) -> bool:
    """Return whether enough of the original's content words are in the rewrite."""
    original, rewrite = _content(rewording)
    return kept_share(original, rewrite) >= rewording.min_content_kept


def adds_little_content(rewording: Rewording) -> bool:
    """Return whether few of the rewrite's content words are new."""
    original, rewrite = _content(rewording)
    return 1 - kept_share(rewrite, original) <= rewording.max_content_added


# The checks by the reason that is counted for those that fail.
CHECKS: Final[dict[str, Callable[[Rewording], bool]]] = {
    "comment": is_no_comment,
    "language": has_same_language,
    "form": has_same_form,
    "length": has_similar_length,
    "loop": has_no_loop,
    "question word": asks_the_same,
    "numbers": has_same_numbers,
    "negation": has_same_negation,
    "names": has_same_names,
    "persons": has_same_persons,
    "example copied": copies_no_example,
    "content lost": keeps_content,
    "content added": adds_little_content,
}


def _content(rewording: Rewording) -> tuple[set[str], set[str]]:
    language = rewording.language
    return content_stems(rewording.original, language), content_stems(rewording.body, language)


def _names(text: str, language: Language | None) -> set[str]:
    """Return the words with a capital letter that do not begin a sentence, in lower case."""
    names = set()
    for match in _WORD.finditer(text):
        word, before = match.group(), text[: match.start()]
        if word[0].isupper() and before.strip() and not _SENTENCE_END.search(before):
            lower = word.lower()
            if language is None or lower not in language.function_words:
                names.add(lower)
    return names


def _scripts(text: str) -> set[str]:
    """Return the scripts of the letters of a text, by the first word of each letter's Unicode name."""
    return {unicodedata.name(character, "").partition(" ")[0] for character in text if character.isalpha()}

"""Divide a text into sentences, and find those that can be said in other words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mlx_personal.dialogue import words
from mlx_personal.synthesis.languages import Language

# Shorter sentences ("Hello doctor.", "ok thanks") have hardly any other wording.
MIN_WORDS: Final = 4

# A sentence with the spaces after it: up to a final punctuation mark before a space, or up to the end of the line.
# A mark after a single letter or a title belongs to an abbreviation.
_SENTENCE = re.compile(
    r"\S.*?(?:(?<!\b\w)(?<!\bDr)(?<!\bMr)(?<!\bMs)(?<!\bMrs)(?<!\bSt)(?<!\bvs)[.!?](?:[\"'”»)]*)(?=\s)"
    "|[\u3002\uff01\uff1f]|(?=\n)|\\Z)\\s*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Sentence:
    """A sentence of a text.

    Attributes:
        text: The sentence.
        space: The white space after it.
    """

    text: str
    space: str


def split_sentences(text: str) -> list[Sentence]:
    """Return the sentences of a text, which joined with their spaces are the text without its outer spaces.

    Args:
        text: The text.
    """
    found = [match.group() for match in _SENTENCE.finditer(text.strip())]
    return [Sentence(piece.rstrip(), piece[len(piece.rstrip()) :]) for piece in found]


def can_be_reworded(sentence: str, language: Language | None) -> bool:
    """Return whether a sentence is long enough to be reworded, and no list, name, number or code.

    Args:
        sentence: The sentence.
        language: Its language.
    """
    found = words(sentence)
    if len(found) < MIN_WORDS:
        return False
    return language is None or any(w in language.function_words or w in language.request_verbs for w in found)

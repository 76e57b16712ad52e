"""Divide a text into sentences, and find what can be said in other words.

A form of address before a sentence and the material after a colon (`Sort by length: plum, fig`) are parts of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mlx_personal.dialogue import words
from mlx_personal.synthesis.languages import Language, kind_of

# Shorter sentences ("Hello doctor.", "ok thanks") have hardly any other wording.
MIN_WORDS: Final = 4

_END = re.compile("[.!?:\u3002\uff01\uff1f]+$")
# A form of address: one or two words and a comma, before the rest of the sentence.
_ADDRESS = re.compile(r"[^\W\d_]+(?: [^\W\d_]+)?,\s+(?=\S)")
# What an instruction is about, after a colon.
_MATERIAL = re.compile(r":\s+(?=\S)")
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


def split_parts(text: str, language: Language | None) -> list[Sentence]:
    """Return the sentences of a text, without a form of address and the material, which are parts of their own.

    Args:
        text: The text.
        language: Its language.
    """
    parts = []
    for sentence in split_sentences(text):
        rest = sentence.text
        address = _ADDRESS.match(rest)
        if address and can_be_reworded(rest[address.end() :], language):
            found = address.group()
            parts.append(Sentence(found.rstrip(), found[len(found.rstrip()) :]))
            rest = rest[address.end() :]
        material = _MATERIAL.search(rest)
        if material and can_be_reworded(rest[: material.start()], language):
            parts.append(Sentence(rest[: material.start()], material.group()))
            rest = rest[material.end() :]
        parts.append(Sentence(rest, sentence.space))
    return parts


def material_start(parts: Sequence[Sentence], language: Language | None) -> int:
    """Return the index of the first part that is material: after a colon, or on a line below an instruction.

    Args:
        parts: The parts of a text.
        language: Its language.
    """
    asks = False
    for index, part in enumerate(parts):
        asks = asks or kind_of(part.text, language) != "statement"
        if part.space.startswith(":") or (asks and "\n" in part.space):
            return index + 1
    return len(parts)


def with_end_of(sentence: str, original: str) -> str:
    """Return a sentence with the end of its original, if only one of them has a mark or it only exclaims.

    Args:
        sentence: The sentence.
        original: The sentence that it rewrites.
    """
    end, own_end = _END.search(original), _END.search(sentence)
    if own_end and (not end or own_end.group().startswith("!")):
        sentence, own_end = sentence[: own_end.start()], None
    return sentence + end.group() if end and not own_end else sentence


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

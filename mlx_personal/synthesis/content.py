"""Content words: which of them a rewrite has kept, and which it has added."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from mlx_personal.dialogue import words
from mlx_personal.synthesis.languages import Language

# Endings in which two wordings may differ. Removing them is enough to compare words; a stem need not be a word.
_ENDINGS: Final = {
    "en": ("ingly", "edly", "ing", "ies", "ied", "ed", "es", "ly", "s", "y", "e"),
    "de": ("ern", "en", "er", "es", "em", "st", "e", "n", "s", "t"),
    "fr": ("ement", "ées", "ée", "és", "er", "es", "ez", "é", "e", "s"),
    "es": ("mente", "ando", "iendo", "ado", "ido", "ar", "er", "ir", "as", "os", "es", "ó", "ió", "a", "o", "e", "s"),
}
_MIN_STEM: Final = 3
# Without a list of function words, longer words count as content.
_MIN_CONTENT_CHARACTERS: Final = 4


def content_stems(text: str, language: Language | None) -> set[str]:
    """Return the stems of the content words of a text.

    Args:
        text: The text.
        language: Its language; None for one without a list of function words.
    """
    return {stem(word, language) for word in content_words(text, language)}


def content_words(text: str, language: Language | None) -> list[str]:
    """Return the content words of a text, in order.

    Args:
        text: The text.
        language: Its language.
    """
    if language is None:
        return [word for word in words(text) if len(word) >= _MIN_CONTENT_CHARACTERS or not word.isascii()]
    return [word for word in words(text) if word not in language.function_words]


def stem(word: str, language: Language | None) -> str:
    """Return a word without its ending.

    Args:
        word: The word, in lower case.
        language: Its language.
    """
    for ending in _ENDINGS.get(language.code if language else "", ()):
        if word.endswith(ending) and len(word) - len(ending) >= _MIN_STEM:
            return word[: -len(ending)]
    return word


def kept_share(original: Collection[str], rewrite: Collection[str]) -> float:
    """Return the share of the original's stems that are in the rewrite, 0..1; 1 if it has none.

    Args:
        original: Stems of the original.
        rewrite: Stems of the rewrite.
    """
    return len(set(original) & set(rewrite)) / len(set(original)) if original else 1.0


def content_kept(original: str, rewrite: str, language: Language | None) -> float:
    """Return the share of the content words of a text that are in its rewrite, 0..1.

    Args:
        original: The text.
        rewrite: The text in other words.
        language: The language of both.
    """
    return kept_share(content_stems(original, language), content_stems(rewrite, language))

"""Detect the language and the kind of a text by its script, its function words and how it begins."""

from __future__ import annotations

import re
from typing import Final

from mlx_personal.dialogue import words
from mlx_personal.synthesis.languages.language import Kind, Language, load_languages

# Share of the words that have to be function words of a language; running text has about half.
_MIN_FUNCTION_WORDS: Final = 0.2
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")
_QUESTION_MARK = re.compile("[?\uff1f]")


def detect_language(text: str) -> Language | None:
    """Return the language of a text, or None if it is not one of these or is not clear.

    Args:
        text: The text. A word or two are often not enough.
    """
    if _HAN.search(text) and not _KANA_OR_HANGUL.search(text):
        return _language("zh")
    found, languages = words(text), load_languages()
    counts = [
        sum(word in language.function_words or word in language.request_verbs for word in found)
        for language in languages
    ]
    most = max(counts)
    if most < max(1, _MIN_FUNCTION_WORDS * len(found)) or counts.count(most) > 1:
        return None
    return languages[counts.index(most)]


def kind_of(text: str, language: Language | None) -> Kind:
    """Return whether a text asks, requests or states something.

    Args:
        text: A sentence or more.
        language: Its language.
    """
    if _QUESTION_MARK.search(text):
        return "question"
    found = words(text)
    if language is None or not found:
        return "statement"
    if language.code == "zh" and any(word in text for word in language.question_words):
        return "question"
    if found[0] in language.question_words:
        return "question"
    asks_for = language.code == "zh" and "请" in found
    return "request" if asks_for or found[0] in language.request_verbs else "statement"


def opening_of(text: str, language: Language | None) -> str:
    """Return the polite or introducing words that a text begins with, such as `I'd like to know`; empty without any.

    Args:
        text: The text.
        language: Its language.
    """
    if language is None:
        return ""
    known = [opening for openings in language.openings.values() for opening in openings if opening]
    known += language.other_openings
    return text[: max((len(opening) for opening in known if _begins_with(text, opening)), default=0)]


def _begins_with(text: str, opening: str) -> bool:
    """Return whether a text begins with the words of an opening; in Chinese words are not divided."""
    if not text.lower().startswith(opening.lower()):
        return False
    return bool(_HAN.search(opening)) or not text[len(opening) :][:1].isalnum()


def _language(code: str) -> Language:
    return next(language for language in load_languages() if language.code == code)

"""The one tokenization into words, for lexicons, ROUGE and near-duplicates (not the language model's tokens).

A word is a run of Unicode letters, digits and combining marks, in NFC and case-folded; scripts written without spaces
give one word per character. On ASCII text this is exactly the default tokenizer of the `rouge-score` package.
"""

from __future__ import annotations

import re
import unicodedata

_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Scripts without spaces between words: a run of them is a sentence, so each character counts as a word.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


def words(text: str) -> list[str]:
    """The words of `text`, in order and with repeats."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    found: list[str] = []
    current = ""
    for character in folded:
        kind = unicodedata.category(character)[0]
        if kind == "M" and current == "" and found and _UNSPACED.match(found[-1]):
            found[-1] += character
        elif kind not in "LNM":
            found, current = _closed(found, current)
        elif _UNSPACED.match(character) and kind != "M":
            found, current = _closed(found, current)
            found.append(character)
        else:
            current += character
    return _closed(found, current)[0]


def _closed(found: list[str], current: str) -> tuple[list[str], str]:
    if current:
        found.append(current)
    return found, ""

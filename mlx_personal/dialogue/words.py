"""Split text into words for lexicons, ROUGE and near-duplicates. These are not the language model's tokens.

A word is a run of Unicode letters, digits and combining marks, in NFC and case-folded. In scripts without spaces each
character is a word. A mark after anything else, such as the variation selector of an emoji, is no word. On ASCII text
this is exactly the default tokenizer of the `rouge-score` package.
"""

from __future__ import annotations

import re
import unicodedata

_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Scripts without spaces between words, in which each character counts as a word.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)


def words(text: str) -> list[str]:
    """Return the words of a text, in order and with repetitions.

    Args:
        text: The text.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    finished: list[str] = []
    current = ""
    for character in folded:
        category = unicodedata.category(character)[0]
        if category == "M" and current == "":
            if finished and _UNSPACED.match(finished[-1]):
                finished[-1] += character
        elif category not in "LNM":
            finished, current = _finish_word(finished, current)
        elif _UNSPACED.match(character) and category != "M":
            finished, current = _finish_word(finished, current)
            finished.append(character)
        else:
            current += character
    return _finish_word(finished, current)[0]


def _finish_word(finished: list[str], current: str) -> tuple[list[str], str]:
    if current:
        finished.append(current)
    return finished, ""

"""Patterns for redaction: e-mail addresses, keys, IBANs, card numbers, phone numbers, and words that the user names.

A false positive costs little, because its value is restored on the device; a false negative lets the value leave.
Ambiguous forms therefore match, unless they are common in ordinary text: years, dates, prices, versions, ISBNs.
"""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

Span = tuple[int, int]

# Every pattern may only start at the start of a run of its characters (the look-behind), which keeps the search linear.
_EMAIL: Final = re.compile(r"(?<![\w.%+-])[\w.%+-]+@(?:[\w-]+\.)+\w{2,}")

_KEY: Final = re.compile(
    r"""
    -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----(?s:.*?)(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    | (?<![A-Za-z0-9])(?:
        (?:AKIA|ASIA)[A-Z0-9]{16}             # AWS
        | gh[pousr]_[A-Za-z0-9]{20,}          # GitHub
        | github_pat_\w{20,}
        | sk-[A-Za-z0-9_-]{16,}               # OpenAI and similar
        | hf_[A-Za-z0-9]{20,}                 # Hugging Face
        | xox[a-z]-[A-Za-z0-9-]{10,}          # Slack
        | AIza[A-Za-z0-9_-]{30,}              # Google
        | eyJ[\w-]+\.[\w-]+\.[\w-]*           # JSON Web Token
    )
    """,
    re.VERBOSE,
)
_TOKEN: Final = re.compile(r"(?<![A-Za-z0-9_+/-])[A-Za-z0-9_+/-]{24,}={0,2}")

_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ ]?[A-Z0-9]){11,30}")
_CARD: Final = re.compile(r"(?<![\w+])(?<![0-9][.,-])[2-6](?:[ -]?[0-9]){12,18}(?![0-9])")

_PHONE: Final = re.compile(
    r"""
    (?<![\w+])(?<![0-9][.,/-])(?:
        (?:\+|00)[ ]?[1-9](?:[ ./()-]{0,3}[0-9]){6,13}                     # international: +49 (0) 30 1234567
        | (?:1[ .-])?(?:\([2-9][0-9]{2}\)[ ]?|[2-9][0-9]{2}(?P<s>[ .-]))   # North America: (415) 555-2671
          [2-9][0-9]{2}(?(s)(?P=s)|[ .-])[0-9]{4}
        | (?:\(0[1-9][0-9]{0,4}\)|(?!DATE)0[1-9])(?:[ ./-]{0,3}[0-9]){4,10}  # trunk prefix: 0171 123456, (020) 79460958
        | 1[3-9][0-9](?P<c>[ -]?)[0-9]{4}(?P=c)[0-9]{4}                    # China, mobile
        | 8[ -]?\(?[3489][0-9]{2}\)?[ -]?[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{2}  # Russia, trunk prefix
    )(?![\w])
    """.replace("DATE", r"[0-9]{2}[./-][0-9]{2}[./-](?:[0-9]{4}|[0-9]{2})(?![./-]?[0-9])"),
    re.VERBOSE,
)
# Number of digits of a phone number in a local form. Fewer are a price or a part of a date, more are no phone number.
_LOCAL_DIGITS: Final = range(9, 13)
_ISBN_PREFIX: Final = re.compile(r"ISBN(?:-1[03])?:?\s*$", re.IGNORECASE)

# Full-width letters and digits, and typographic spaces and dashes. Each is one character, as its replacement is.
_ASCII_EQUIVALENTS: Final[dict[int, int | str]] = {
    **dict(zip(range(0xFF01, 0xFF5F), range(0x21, 0x7F), strict=True)),
    **dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x3000), " "),
    **dict.fromkeys((*range(0x2010, 0x2016), 0x2212), "-"),
}

# Scripts without spaces between words, where word boundaries cannot be checked.
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def normalize_characters(text: str) -> str:
    """Return `text` with full-width characters and typographic spaces and dashes in ASCII, as `FINDERS` expect it.

    The length stays the same, so spans in the result are spans in `text`.
    """
    return text.translate(_ASCII_EQUIVALENTS)


def compile_words(words: Sequence[str]) -> re.Pattern[str] | None:
    """Compile a pattern that matches any of these as whole words, in any case.

    White space in a word matches any white space. Accents match in composed and in decomposed form.

    Args:
        words: Words or phrases; blank ones are ignored.

    Returns:
        The pattern; None if no word is left.
    """
    forms = {unicodedata.normalize(form, word) for word in words for form in ("NFC", "NFD") if word.strip()}
    if not forms:
        return None
    # Longest first, because an alternation takes the first branch that matches.
    return re.compile("|".join(map(_whole_word, sorted(forms, key=lambda form: (-len(form), form)))), re.IGNORECASE)


def _whole_word(word: str) -> str:
    """Return the pattern of one word or phrase with its boundaries."""
    tokens = word.split()
    before = "" if _UNSPACED.match(tokens[0][0]) else r"(?<![^\W_])"
    after = "" if _UNSPACED.match(tokens[-1][-1]) else r"(?![^\W_])"
    return before + r"\s+".join(map(re.escape, tokens)) + after


def _find_emails(text: str) -> Iterator[Span]:
    return (match.span() for match in _EMAIL.finditer(text))


def _find_keys(text: str) -> Iterator[Span]:
    yield from (match.span() for match in _KEY.finditer(text))
    yield from (match.span() for match in _TOKEN.finditer(text) if _looks_random(match.group()))


def _looks_random(token: str) -> bool:
    """Check whether a token looks generated at random.

    Identifiers and paths repeat characters and have longer runs of lower case, upper case or digits. Of 3,000 random
    tokens of 24 to 40 letters and digits 99 % are found.
    """
    counts = Counter(token)
    entropy_bits = -sum(n / len(token) * math.log2(n / len(token)) for n in counts.values())
    classes = [name for c in token for name, is_member in _CHARACTER_CLASSES if is_member(c)]
    if set(token.lower()) <= set("0123456789abcdef"):
        return len(token) >= 32 and entropy_bits >= 3 and len(set(classes)) > 1
    changes = sum(a != b for a, b in itertools.pairwise(classes))
    return len(set(classes)) == 3 and entropy_bits >= 3.75 and changes >= 0.3 * len(token)


_CHARACTER_CLASSES: Final = (("l", str.islower), ("u", str.isupper), ("d", str.isdigit))


def _find_ibans(text: str) -> Iterator[Span]:
    """Yield IBANs with valid check digits (ISO 7064, mod 97), without capital letters that may follow."""
    for match in _IBAN.finditer(text):
        for end in range(match.end(), match.start() + 14, -1):
            number = text[match.start() : end].replace(" ", "")
            digits = "".join(str(int(c, 36)) for c in number[4:] + number[:4])
            if len(number) >= 15 and text[end - 1] != " " and int(digits) % 97 == 1:
                yield match.start(), end
                break


def _find_cards(text: str) -> Iterator[Span]:
    """Yield card numbers with a valid check digit (Luhn)."""
    for match in _CARD.finditer(text):
        digits = [int(c) for c in reversed(match.group()) if c.isdigit()]
        doubled = [sum(divmod(2 * d, 10)) for d in digits[1::2]]
        if (sum(digits[::2]) + sum(doubled)) % 10 == 0:
            yield match.span()


def _find_phones(text: str) -> Iterator[Span]:
    for match in _PHONE.finditer(text):
        number = match.group()
        digits = sum(c.isdigit() for c in number)
        if not number.startswith(("+", "00")) and digits not in _LOCAL_DIGITS:
            continue
        if not _ISBN_PREFIX.search(text, max(0, match.start() - 12), match.start()):
            yield match.span()


FINDERS: Final[dict[str, Callable[[str], Iterator[Span]]]] = {
    "EMAIL": _find_emails,
    "KEY": _find_keys,
    "IBAN": _find_ibans,
    "CARD": _find_cards,
    "PHONE": _find_phones,
}
"""Functions that yield the spans of a kind of value in normalized text. Where spans overlap, the first kind counts."""

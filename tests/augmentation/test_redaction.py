"""Redaction: private values are found, ordinary text is not, and every text is restored exactly."""

from __future__ import annotations

import copy
import json
import pickle
import random
import string
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.augmentation.redaction import PatternRedactor, Placeholders, Redactor

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/==\nabc\n-----END RSA PRIVATE KEY-----"

EMAILS = ["ann@example.org", "a.b+c_d%e@mail.example.co.uk", "jörg@müller.de", "x@y.museum"]
PHONES = (
    """
+49 30 1234567|+1 415 555 2671|+44 20 7946 0958|+1-415-555-2671|0049 30 123456|+49 (0) 30 1234567|+33612345678
(415) 555-2671|415-555-2671|415.555.2671|1-800-555-0199|0171 1234567|0171/1234567|030 12345678|(030) 12345678
01 23 45 67 89|01.23.45.67.89|07911 123456|07911123456|020 7946 0958|(020) 7946 0958|13812345678|138 1234 5678
8 (916) 123-45-67|+7 916 123-45-67|89161234567|03-1234-5678|+81 3-1234-5678|+39 06 698 12345
""".strip()
    .replace("\n", "|")
    .split("|")
)
KEYS = [
    "AKIAIOSFODNN7EXAMPLE",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "ghp_" + "a1B2" * 9,
    "github_pat_11ABCDEFG0" + "x" * 20,
    "sk-proj-abcDEF1234567890abcd",
    "hf_" + "aBcD" * 8,
    "xoxb-123456789012-abcdefghijkl",
    "AIzaSyA-1234567890abcdefghijklmnopqrstu",
    "d41d8cd98f00b204e9800998ecf8427e",
    JWT,
    BLOCK,
]
IBANS = ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "NO93 8601 1117 947", "FR1420041010050500013M02606"]
CARDS = ["4111 1111 1111 1111", "5500-0000-0000-0004", "340000000000009", "6011000000000004"]
# Full-width forms, as East Asian keyboards produce them.
WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
TYPOGRAPHIC = [
    ("PHONE", "+49\u00a030\u00a01234567"),
    ("PHONE", "0171\u20111234567"),
    ("PHONE", "(415)\u202f555\u20132671"),
    ("PHONE", "090-1234-5678".translate(WIDE)),
    ("CARD", "4111\u00a01111\u00a01111\u00a01111"),
    ("IBAN", "DE89\u202f3704\u202f0044\u202f0532\u202f0130\u202f00"),
    ("EMAIL", "ann@example.org".translate(WIDE)),
]
HARMLESS = (
    """
2019|1999-2004|1990 2000 2010|$1,299.00|1 200 300 EUR|1.234.567,89|3.10.12|v1.2.3-rc4|192.168.178.42|01.02.2023
01.02.2023 12:30|01/02/23 14:30|2023-01-02|2023-01-02 10:20:30|978-3-16-148410-0|ISBN 0306406152|ISBN: 0-306-40615-2
ISBN-10: 0306406152|9783161484100|3.14159265358979|0.12345678901|12 345 678|1234567890|100000000|12:30-14:45|1/2/2023
05-06-2021 10 am|2001:db8::1|10.1000/0123456789|1,000,000,000|20231104|1700000000|1700000000123|5 x 300 x 4000|0.05
007|00:12:34|4111111111111112|DE89370400440532013001|@ann|a@b|ann at example.org|sk-8|--------------------------------
/usr/local/lib/python3.11/site-packages/numpy|IntegrationTestConfigurationFactory2024Bean|aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
https://example.com/en/Articles/2024-01-15/some-Long-title-Of-a-Page|some_very_long_function_name_in_python3
Donaudampfschifffahrtsgesellschaftskapitän|12345678901234567890123456789012|550e8400-e29b-41d4-a716-446655440000
""".strip()
    .replace("\n", "|")
    .split("|")
)
PRIVATE_VALUES = [("EMAIL", EMAILS), ("PHONE", PHONES), ("KEY", KEYS), ("IBAN", IBANS), ("CARD", CARDS)]


def redact(*texts: str, redacted_words: Sequence[str] = ()) -> tuple[list[str], Placeholders]:
    return PatternRedactor(redacted_words).redact(texts)


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in PRIVATE_VALUES for value in values])
@pytest.mark.parametrize("frame", ["{}", "call {} now", "({}), or", "это {}.", "«{}»"])
def test_a_value_is_redacted_as_a_whole(kind: str, value: str, frame: str) -> None:
    redacted, placeholders = redact(frame.replace("{}", value))
    assert redacted == [frame.replace("{}", f"[{kind}_1]")]
    assert placeholders.restore(redacted[0]) == frame.replace("{}", value)


@pytest.mark.parametrize(("kind", "value"), TYPOGRAPHIC)
def test_full_width_and_typographic_forms_are_redacted(kind: str, value: str) -> None:
    redacted, placeholders = redact(f"call {value}, then")
    assert redacted == [f"call [{kind}_1], then"]
    assert placeholders.restore(redacted[0]) == f"call {value}, then"


@pytest.mark.parametrize("before", ["card-", "Nr.", "no,", "x "])
def test_a_card_is_redacted_after_any_word(before: str) -> None:
    assert redact(f"{before}4111111111111111")[0] == [f"{before}[CARD_1]"]


@pytest.mark.parametrize("text", HARMLESS)
@pytest.mark.parametrize("frame", ["{}", "it is {} now", "({})."])
def test_ordinary_text_is_left_unchanged(text: str, frame: str) -> None:
    assert redact(frame.replace("{}", text))[0] == [frame.replace("{}", text)]


def test_a_truncated_key_block_is_redacted_to_the_end() -> None:
    assert redact("my key: " + BLOCK[:50])[0] == ["my key: [KEY_1]"]


def test_nearly_all_random_tokens_are_redacted() -> None:
    rng = random.Random(0)
    tokens = ["".join(rng.choices(string.ascii_letters + string.digits, k=k)) for k in (24, 32, 40) for _ in range(300)]
    assert sum(redact(token)[0] == ["[KEY_1]"] for token in tokens) > 0.98 * len(tokens)


@pytest.mark.parametrize(
    ("word", "text", "expected"),
    [
        ("Ann", "Ann, ANN and Anna's ann_x", "[WORD_1], [WORD_2] and Anna's [WORD_3]_x"),
        ("New York", "to New\n York, newyork", "to [WORD_1], newyork"),
        ("C++", "C++ and C", "[WORD_1] and C"),
        ("田中", "私は田中です", "私は[WORD_1]です"),
        ("José", "Jose\u0301 and José", "[WORD_1] and [WORD_2]"),
        ("мария", "Мария, Марияна", "[WORD_1], Марияна"),
    ],
)
def test_redacted_words_match_whole_words_in_any_case(word: str, text: str, expected: str) -> None:
    redacted, placeholders = redact(text, redacted_words=[word, " ", ""])
    assert redacted == [expected]
    assert placeholders.restore(expected) == text


def test_the_longest_redacted_word_matches() -> None:
    assert redact("Ann Lee and Ann", redacted_words=["Ann", "Ann Lee"])[0] == ["[WORD_1] and [WORD_2]"]


def test_a_value_has_the_same_placeholder_in_all_texts() -> None:
    redacted, placeholders = redact("a@b.de to c@d.de", "c@d.de, a@b.de", "+49 30 1234567")
    assert redacted == ["[EMAIL_1] to [EMAIL_2]", "[EMAIL_2], [EMAIL_1]", "[PHONE_1]"]
    assert placeholders.counts() == {"EMAIL": 2, "PHONE": 1}


def test_overlapping_values_are_redacted_together() -> None:
    assert redact("Ann Lee+49 30 1234567@x.de", redacted_words=["Ann Lee"])[0] == ["[WORD_1]+49 30 [EMAIL_1]"]
    assert redact("ann.lee@x.de", redacted_words=["Ann", "x"])[0] == ["[EMAIL_1]"]
    assert redact("Lee ann@x.de", redacted_words=["lee ann"])[0] == ["[EMAIL_1]"]


def test_placeholders_follow_from_the_texts_alone() -> None:
    texts = ["Ann: a@b.de", "+49 30 1234567 Lee"]
    first, second = (redact(*texts, redacted_words=words) for words in (["Ann", "Lee"], ["Lee", "Ann"]))
    assert first[0] == second[0]
    assert first[1].restore("[WORD_2] [EMAIL_1]") == second[1].restore("[WORD_2] [EMAIL_1]") == "Lee a@b.de"


def test_unknown_placeholders_are_not_restored() -> None:
    _, placeholders = redact("a@b.de")
    assert placeholders.restore("[EMAIL_1] [EMAIL_2] [X_1] [EMAIL_01]") == "a@b.de [EMAIL_2] [X_1] [EMAIL_01]"


def test_detects_placeholders_without_a_value() -> None:
    _, placeholders = redact("[MARK_1] is a@b.de")
    assert not placeholders.has_unknown("[MARK_1] and [EMAIL_1] and [EMAIL_01]")
    assert placeholders.has_unknown("[EMAIL_1] [EMAIL_2]")


def test_a_text_that_contains_placeholders_is_restored() -> None:
    texts = ["[EMAIL_1] is a@b.de", "[MARK_1] [[EMAIL_1]]"]
    redacted, placeholders = redact(*texts)
    assert redacted == ["[MARK_1] is [EMAIL_1]", "[MARK_2] [[MARK_1]]"]
    assert [placeholders.restore(text) for text in redacted] == texts


PIECES = st.sampled_from(
    ["[", "]", "[EMAIL_1]", "[WORD_", "1]", "[MARK_1]", "[KEY_2]", "_", "Ann", "email", "EMAIL", " ", "@", "+49 ", "."]
    + [value for _, values in PRIVATE_VALUES for value in values[:3]]
)


@given(st.lists(st.one_of(st.text(), st.lists(PIECES).map("".join)), max_size=5))
def test_every_text_is_restored(texts: list[str]) -> None:
    redacted, placeholders = redact(*texts, redacted_words=["Ann", "EMAIL"])
    assert [placeholders.restore(text) for text in redacted] == texts
    assert redact(*texts, redacted_words=["Ann", "EMAIL"])[0] == redacted


@given(
    st.lists(st.sampled_from([v for k, values in PRIVATE_VALUES if k in ("EMAIL", "KEY") for v in values]), max_size=8)
)
def test_any_number_of_values_is_redacted(values: list[str]) -> None:
    (text,), _ = redact(" and ".join(values))
    assert not [value for value in values if value in text]


def test_values_of_placeholders_are_neither_printed_nor_serialized() -> None:
    _, placeholders = redact("a@b.de")
    assert repr(placeholders) == str(placeholders) == f"{placeholders}" == "Placeholders({'EMAIL': 1})"
    serializers: list[Callable[[Any], object]] = [pickle.dumps, copy.copy, copy.deepcopy, json.dumps]
    for serialize in serializers:
        with pytest.raises(TypeError):
            serialize(placeholders)


def test_a_redactor_needs_only_one_method() -> None:
    class NoRedactor:
        def redact(self, texts: Sequence[str]) -> tuple[list[str], Placeholders]:
            return list(texts), Placeholders({})

    redactors: list[Redactor] = [NoRedactor(), PatternRedactor()]
    assert [r.redact(["a"])[0] for r in redactors] == [["a"], ["a"]]


@pytest.mark.parametrize(
    "piece", ["a", "a.", "a@", "1", "0171 ", "(0171)", "+1 ", "AB12 ", "eyJa.", "[A_1", "a-", "AB12CD"]
)
def test_long_texts_take_linear_time(piece: str) -> None:
    start = time.perf_counter()
    redact(piece * (30_000 // len(piece)))
    assert time.perf_counter() - start < 2

"""Dialogues, words, thoughts, ROUGE, and reading files of any quality."""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer, tokenizers

from mlx_personal import Dialogue, Message, UserError
from mlx_personal.dialogue import InvalidLine, load_dialogues, read_dialogues, rouge1, rougeL, strip_thoughts, words
from mlx_personal.dialogue.readers import read_json_lines
from mlx_personal.dialogue.types import MAX_MESSAGE_CHARS

USER, ASSISTANT, SYSTEM = ({"role": role, "content": "x"} for role in ("user", "assistant", "system"))

# Words


@given(st.text(alphabet=string.printable, max_size=200))
def test_words_of_ascii_text_are_those_of_rouge_score(text: str) -> None:
    assert words(text) == tokenizers.DefaultTokenizer(use_stemmer=False).tokenize(text)


@given(st.text(max_size=100))
def test_words_do_not_depend_on_the_normal_form_or_the_case(text: str) -> None:
    result = words(text)
    assert all(result)
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text)) == result
    assert words(text.casefold()) == result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Как дела, Анна?", ["как", "дела", "анна"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("हिन्दी में लिखो।", ["हिन्दी", "में", "लिखो"]),
        ("今日は3時", ["今", "日", "は", "3", "時"]),
        ("ไปไหน", ["ไ", "ป", "ไ", "ห", "น"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("iPhone15 用です", ["iphone15", "用", "で", "す"]),
        ("don't", ["don", "t"]),
        ("שלום עולם", ["שלום", "עולם"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("… — !", []),
        ("", []),
    ],
)
def test_words_of_other_scripts(text: str, expected: list[str]) -> None:
    assert words(text) == expected


# ROUGE

SENTENCE = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "with", "dog"]), max_size=12).map(" ".join)


@given(SENTENCE, SENTENCE)
def test_rouge_of_ascii_text_is_that_of_rouge_score(candidate: str, reference: str) -> None:
    expected = rouge_scorer.RougeScorer(["rouge1", "rougeL"]).score(reference, candidate)
    assert rouge1(candidate, reference) == pytest.approx(expected["rouge1"].fmeasure)
    assert rougeL(candidate, reference) == pytest.approx(expected["rougeL"].fmeasure)


def test_rouge_scores_scripts_that_the_package_alone_scores_zero() -> None:
    assert rouge1("кошка спит дома", "кошка спит") == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert rougeL("спит кошка", "кошка спит") == pytest.approx(0.5)
    assert rouge1("", "кошка") == rouge1("!", "?") == 0


# Thoughts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm\nhm</think>\n\nYes.", "Yes."),
        ("A <think>b</think> c <think>d</think>", "A  c"),
        ("<think>never closed", ""),
        ("the tag stood in the prompt</think> Yes.", "Yes."),
        ("No thoughts.\n", "No thoughts.\n"),
        ("<think></think>Yes", "Yes"),
    ],
)
def test_thoughts_are_stripped(text: str, expected: str) -> None:
    assert strip_thoughts(text) == expected


def test_a_dialogue_loses_the_thoughts_of_its_assistant_only() -> None:
    dialogue = Dialogue.of("What is <think>?", "<think>a tag</think>A tag.")
    assert dialogue.without_thoughts() == Dialogue.of("What is <think>?", "A tag.")
    with pytest.raises(ValueError, match="empty assistant"):
        Dialogue.of("a", "<think>only</think>").without_thoughts()


def test_thought_tags_of_the_user_are_text() -> None:
    dialogue = Dialogue.of("Fix <think>this</think> HTML", "<think>a tag</think>Done.")
    assert dialogue.text == "Fix <think>this</think> HTML\nDone."


# Validity


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "an empty dialogue"),
        ([SYSTEM], "an empty dialogue"),
        ([USER], "one-sided.*only the user"),
        ([ASSISTANT, ASSISTANT], "one-sided.*only the assistant"),
        ([ASSISTANT, USER], "turn 1 is assistant, expected user"),
        ([USER, USER, ASSISTANT], "turn 2 is user, expected assistant"),
        ([USER, SYSTEM, ASSISTANT], "turn 2 is system"),
        ([SYSTEM, SYSTEM, USER, ASSISTANT], "turn 1 is system"),
        ([USER, ASSISTANT, USER], "the last question has no answer"),
        ([USER, {"role": "critic", "content": "x"}], "'critic' is none of"),
        ([{"role": "a\nb\u2028", "content": 3}], r"the role 'a\\nb\\u2028' is none of"),
        ([{"role": "\ud800", "content": "x"}], r"'\\ud800' is none of"),
        ([{"role": "r" * 3000, "content": []}], r"the role 'r{36}\.\.\. is none of"),
        ([USER, {"role": "assistant", "content": " \n"}], "an empty assistant message"),
        ([USER, {"role": "assistant"}], "content is not text"),
        ([USER, {"content": "x"}], "without a role"),
        ([USER, "x"], "not an object"),
        ([USER, {"role": "assistant", "content": [{"type": "image_url"}]}], "part that is not text"),
        ([USER, {"role": "assistant", "content": "a\0b"}], "NUL byte"),
        ([USER, {"role": "assistant", "content": "a\ud800b"}], "lone surrogate"),
        ([USER, {"role": "assistant", "content": "x" * (MAX_MESSAGE_CHARS + 1)}], "at most 100,000"),
    ],
)
def test_an_invalid_dialogue_is_refused_in_one_line(messages: list[Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        Dialogue.from_messages(messages)
    assert len(str(raised.value).encode().splitlines()) == 1
    assert len(str(raised.value)) < 120


def test_the_properties_of_a_dialogue() -> None:
    messages = [SYSTEM, *({"role": r, "content": c} for r, c in zip(("user", "assistant") * 2, "abcd", strict=True))]
    dialogue = Dialogue.from_messages(messages)
    assert dialogue.to_messages() == messages
    assert (dialogue.user_turns, dialogue.assistant_turns) == (("a", "c"), ("b", "d"))
    assert (dialogue.question, dialogue.answer, dialogue.text) == ("c", "d", "a\nb\nc\nd")
    assert dialogue.exchanges() == [(messages[:2], "b"), (messages[:4], "d")]
    assert dialogue.with_turns("user", "ef").user_turns == ("e", "f")
    with pytest.raises(ValueError, match="1 user turns for a dialogue with 2"):
        dialogue.with_turns("user", ["e"])


def test_text_parts_of_a_message_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, "b"]
    assert Dialogue.from_messages([{"role": "user", "content": parts}, ASSISTANT]).question == "a\nb"


def test_keys_depend_on_the_content_only() -> None:
    same = [Dialogue.of("a", "b"), Dialogue((Message("user", "a"), Message("assistant", "b")))]
    other = [Dialogue.of("a", "c"), Dialogue.of("ab", "c"), Dialogue.from_messages([SYSTEM, USER, ASSISTANT])]
    assert len({d.key for d in same}) == 1
    assert len({d.key for d in same + other}) == 4


# Files

VALID_LINE = json.dumps({"messages": [USER, ASSISTANT]}).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": [', "not JSON"),
        (b"hello", "not JSON"),
        (b"[" * 100_000, "nested too deeply|not JSON"),
        (b'{"messages": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "nested too deeply|not an object"),
        (b'{"a": 1}', 'no "messages"'),
        (b'{"messages": "hi"}', "not a list"),
        (b"17", "not a list"),
        (b"null", "not a list"),
        (json.dumps([ASSISTANT, USER]).encode(), "wrong role order"),
        (json.dumps([USER]).encode(), "one-sided"),
        (json.dumps([USER, {"role": "assistant", "content": "x" * 1_000_000}]).encode(), "1,000,000 characters"),
        (rb'[{"role": "user", "content": "a\ud800b"}, {"role": "assistant", "content": "x"}]', "lone surrogate"),
        (rb'[{"role": "user", "content": "a\u0000b"}, {"role": "assistant", "content": "x"}]', "NUL"),
        (b'[{"role": "user", "content": "a\x00b"}]', "not JSON"),
        (b'[{"role": "user", "content": "caf\xe9"}]', r"not UTF-8 text \(byte 34\)"),
        (VALID_LINE.decode().encode("utf-16"), "not UTF-8"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'[{"role": "user\\nx", "content": "a"}]', "none of"),
        (b'{"prompt": "a", "completion": 3}', 'no "messages"'),
        (b'[{"role": "user", "content": 1e999}]', "not text"),
    ],
)
def test_an_invalid_line_is_reported_and_the_others_are_read(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_bytes(VALID_LINE + b"\n" + line.replace(b"\n", b"") + b"\n\n" + VALID_LINE)
    first, invalid, last = read_dialogues(file)
    assert first == last == Dialogue.of("x", "x")
    assert isinstance(invalid, InvalidLine)
    assert invalid.where == f"{file}:2"
    assert re.search(reason, invalid.reason), invalid.reason
    assert "\n" not in invalid.reason


def test_all_three_formats_of_a_line_are_read(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    lines = [{"messages": [USER, ASSISTANT]}, [USER, ASSISTANT], {"prompt": "x", "completion": "x"}]
    file.write_text("\r\n".join(json.dumps(line) for line in lines))
    assert list(read_dialogues(str(file))) == [Dialogue.of("x", "x")] * 3


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + VALID_LINE)
    assert list(read_dialogues(file)) == [Dialogue.of("x", "x")]


def test_an_endless_line_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_personal.dialogue.readers.MAX_LINE_BYTES", 1_000_000)
    file = tmp_path / "chats.jsonl"
    file.write_bytes(b"x" * 2_500_000 + b"\n" + VALID_LINE)
    invalid, valid = read_dialogues(file)
    assert invalid == InvalidLine(f"{file}:1", "a line of over 1 MB")
    assert valid == Dialogue.of("x", "x")


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_bytes('"a\u2028b\u0085c"\r\n\n{\n'.encode())
    assert list(read_json_lines(file)) == [
        (f"{file}:1", "a\u2028b\u0085c"),
        InvalidLine(f"{file}:3", "not JSON (expecting property name enclosed in double quotes at column 2)"),
    ]


def test_a_file_name_that_is_not_utf8_can_be_printed(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    try:
        file.write_bytes(b"{\n")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (invalid,) = read_dialogues(file)
    assert isinstance(invalid, InvalidLine)
    assert invalid.where.encode().endswith(rb"caf\udce9.jsonl:1")
    file.unlink()
    with pytest.raises(UserError) as raised:
        list(read_dialogues(file))
    assert raised.value.line().encode().endswith(b"no such file or folder; check the name")


def test_an_empty_file_contains_no_dialogue(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert list(read_dialogues(tmp_path / "empty.jsonl")) == []


def test_a_folder_or_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder, not a file"):
        list(read_dialogues(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        list(read_dialogues(tmp_path / "none.jsonl"))


def test_a_file_in_which_every_line_must_be_valid(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_bytes(VALID_LINE + b"\n" + VALID_LINE)
    assert load_dialogues(file, min_count=2) == [Dialogue.of("x", "x")] * 2
    with pytest.raises(UserError, match="2 dialogues; at least 3 are needed; name a file with more"):
        load_dialogues(file, min_count=3)
    file.write_bytes(VALID_LINE + b"\nhello")
    with pytest.raises(UserError, match=r"chats\.jsonl:2: not a dialogue \(not JSON .*; fix that line"):
        load_dialogues(file)


def test_rouge_score_is_imported_when_rouge_is_computed() -> None:
    code = "import sys, mlx_personal.dialogue as d; assert 'rouge_score' not in sys.modules; print(d.rouge1('a', 'a'))"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout == "1.0\n"


TOOL_DIALOGUE: list[dict[str, Any]] = [
    {"role": "user", "content": "How warm is the cellar?"},
    {"role": "tool", "content": '{"celsius": 11}'},
    {"role": "assistant", "content": "It has 11 degrees."},
]
CONTEXT_DIALOGUE: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "When do I prune?"},
    {"role": "assistant", "content": "<think>Hm.</think>In a freezer.", "weight": 0},
    {"role": "user", "content": "The pear, I mean."},
    {"role": "assistant", "content": "In January."},
]


def test_a_result_of_a_tool_is_context_of_the_answer() -> None:
    dialogue = Dialogue.from_messages(TOOL_DIALOGUE)
    assert dialogue.text == "How warm is the cellar?\nIt has 11 degrees."
    assert dialogue.exchanges() == [(TOOL_DIALOGUE[:2], "It has 11 degrees.")]


def test_an_answer_with_weight_0_is_context_only() -> None:
    dialogue = Dialogue.from_messages(CONTEXT_DIALOGUE)
    assert dialogue.user_turns == ("The pear, I mean.",)
    assert dialogue.assistant_turns == ("In January.",)
    assert dialogue.text == "The pear, I mean.\nIn January."
    assert dialogue.exchanges() == [(CONTEXT_DIALOGUE[:4], "In January.")]


def test_messages_with_weights_and_tools_survive_a_round_trip() -> None:
    for messages in (TOOL_DIALOGUE, CONTEXT_DIALOGUE):
        assert Dialogue.from_messages(messages).to_messages() == messages


def test_replaced_turns_keep_context() -> None:
    edited = Dialogue.from_messages(CONTEXT_DIALOGUE).with_turns("assistant", ["In late January."])
    assert edited.to_messages() == [*CONTEXT_DIALOGUE[:4], {"role": "assistant", "content": "In late January."}]


def test_thoughts_are_removed_from_context_too() -> None:
    without = Dialogue.from_messages(CONTEXT_DIALOGUE).without_thoughts()
    assert without.messages[2] == Message("assistant", "In a freezer.", 0)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (CONTEXT_DIALOGUE[:3], "the last answer has weight 0"),
        ([TOOL_DIALOGUE[1], TOOL_DIALOGUE[0], TOOL_DIALOGUE[2]], "turn 1 is tool, expected user"),
        ([*TOOL_DIALOGUE, TOOL_DIALOGUE[1]], "turn 4 is tool, expected user"),
    ],
)
def test_context_in_a_wrong_place_is_refused(messages: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Dialogue.from_messages(messages)


@pytest.mark.parametrize(("role", "weight"), [("user", 0), ("assistant", 2)])
def test_only_an_answer_can_have_weight_0(role: str, weight: int) -> None:
    with pytest.raises(ValueError, match=f"a {role} message of weight {weight}"):
        Message(role, "x", weight)

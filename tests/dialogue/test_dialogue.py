"""Dialogues, words, thoughts and ROUGE."""

from __future__ import annotations

import string
import subprocess
import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer, tokenizers

from mlx_personal import Dialogue, Message
from mlx_personal.dialogue import rouge1, rougeL, strip_thoughts, words
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
        ("I \u2764\ufe0f tea \u2600\ufe0f", ["i", "tea"]),  # the variation selectors of emoji
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
        (
            [USER, {"role": "assistant", "content": "x" * (MAX_MESSAGE_CHARS + 1)}],
            "an assistant message of over 100,000 characters",
        ),
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

"""From conversations of any shape to dialogues: every question with an answer is kept, and all else is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.dialogue.types import MAX_MESSAGE_CHARS
from mlx_personal.importers import Conversation, Skipped, Turn
from mlx_personal.importers.normalize import MAX_TOOL_CHARS, NormalizedDialogue, normalize

QUESTION, ANSWER = Turn("user", "Which pear keeps?"), Turn("assistant", "The winter pear.")
SECOND, REPLY = Turn("user", "And which apple?"), Turn("assistant", "Boskoop.")
CALL, RESULT = Turn("assistant", "I will look.", calls_tool=True), Turn("tool", "pears: winter")


def conversation(*turns: Turn) -> Conversation:
    return Conversation(turns, "app", "file:1")


def messages(*turns: Turn) -> list[tuple[str, str]]:
    result = normalize(conversation(*turns))
    assert isinstance(result, NormalizedDialogue)
    return [(message.role, message.content) for message in result.dialogue.messages]


def skipped(*turns: Turn) -> list[str]:
    result = normalize(conversation(*turns))
    assert isinstance(result, NormalizedDialogue)
    assert all(item.is_turn and item.where == "file:1" and item.app == "app" for item in result.skipped)
    return [item.reason for item in result.skipped]


EXCHANGE = [("user", "Which pear keeps?"), ("assistant", "The winter pear.")]


@pytest.mark.parametrize(
    ("turns", "expected", "reasons"),
    [
        ([QUESTION, ANSWER], EXCHANGE, []),
        ([ANSWER, QUESTION, ANSWER], EXCHANGE, ["an assistant turn before the first question"]),
        ([QUESTION, ANSWER, SECOND], EXCHANGE, ["a question without an answer"]),
        ([QUESTION, SECOND, REPLY], [("user", "Which pear keeps?\n\nAnd which apple?"), ("assistant", "Boskoop.")], []),
        ([QUESTION, ANSWER, REPLY], [EXCHANGE[0], ("assistant", "The winter pear.\n\nBoskoop.")], []),
        ([QUESTION, CALL, RESULT, ANSWER], [EXCHANGE[0], ("tool", "pears: winter"), EXCHANGE[1]], [CALL]),
        ([QUESTION, ANSWER, SECOND, CALL], EXCHANGE, [CALL, "a question without an answer"]),
        ([QUESTION, ANSWER, SECOND, CALL, RESULT], EXCHANGE, [CALL, "a question without an answer"]),
        ([RESULT, QUESTION, ANSWER], EXCHANGE, ["a tool turn alone"]),
        ([QUESTION, ANSWER, Turn("system", "Be brief.")], EXCHANGE, ["a system turn after the first question"]),
        (
            [Turn("system", "A."), Turn("system", "B."), QUESTION, ANSWER],
            [("system", "A.\n\nB."), *EXCHANGE],
            [],
        ),
        ([QUESTION, ANSWER, Turn("user", " ")], EXCHANGE, ["an empty user message"]),
        (
            [QUESTION, Turn("assistant", "<think>Hm"), ANSWER],
            EXCHANGE,
            ["an assistant turn that consists of thoughts only"],
        ),
        (
            [QUESTION, ANSWER, Turn("user", "", left_out={"image": 2})],
            EXCHANGE,
            ["a user turn with image only"],
        ),
        (
            [Turn("user", QUESTION.text, left_out={"image": 2, "file": 1, "some word": 1, "tool_use": 1}), ANSWER],
            EXCHANGE,
            [*["an image beside a text that is kept"] * 2, "a file beside a text that is kept"],
        ),
    ],
)
def test_the_dialogue_that_is_left_is_kept(
    turns: list[Turn], expected: list[tuple[str, str]], reasons: list[str | Turn]
) -> None:
    assert messages(*turns) == expected
    assert skipped(*turns) == ["an assistant turn that calls a tool" if r is CALL else r for r in reasons]


@pytest.mark.parametrize("question", [Turn("user", "", left_out={"image": 1}), Turn("user", "a\0b")])
def test_an_answer_goes_with_its_question(question: Turn) -> None:
    assert messages(QUESTION, ANSWER, question, REPLY) == EXCHANGE
    assert skipped(QUESTION, ANSWER, question, REPLY)[1:] == ["an answer to a question that is left out"]
    assert messages(QUESTION, ANSWER, question, REPLY, REPLY, SECOND, REPLY)[2:] == [
        ("user", "And which apple?"),
        ("assistant", "Boskoop."),
    ]
    assert messages(question, REPLY, QUESTION, ANSWER) == EXCHANGE


def test_a_question_goes_with_its_damaged_answer() -> None:
    damaged = Turn("assistant", "a\0b")
    assert messages(SECOND, damaged, QUESTION, ANSWER) == EXCHANGE
    assert skipped(SECOND, damaged, QUESTION, ANSWER) == ["a NUL byte in an assistant message"]


def test_answers_with_weight_0_are_context() -> None:
    result = normalize(conversation(QUESTION, replace(ANSWER, weight=0), SECOND, REPLY))
    assert isinstance(result, NormalizedDialogue)
    assert [message.weight for message in result.dialogue.messages] == [1, 0, 1, 1]


def test_context_after_the_last_target_is_left_out() -> None:
    turns = [QUESTION, ANSWER, SECOND, replace(REPLY, weight=0)]
    assert messages(*turns) == EXCHANGE
    assert skipped(*turns) == ["an answer with weight 0 after the last target"]


def test_of_answers_in_a_row_only_targets_are_kept() -> None:
    turns = [QUESTION, replace(REPLY, weight=0), ANSWER]
    assert messages(*turns) == EXCHANGE
    assert skipped(*turns) == ["an answer with weight 0 beside another one"]


def test_several_speakers_are_named() -> None:
    turns = [replace(QUESTION, name="Ida"), replace(SECOND, name="Ole"), ANSWER]
    assert messages(*turns)[0] == ("user", "Ida: Which pear keeps?\n\nOle: And which apple?")
    assert messages(replace(QUESTION, name="Ida"), ANSWER) == EXCHANGE


def test_a_long_output_of_a_tool_is_shortened() -> None:
    found = messages(QUESTION, Turn("tool", "x" * 200_000), ANSWER)
    assert found[1] == ("tool", "x" * MAX_TOOL_CHARS + " [...]")


def test_each_message_names_its_turns() -> None:
    result = normalize(conversation(QUESTION, SECOND, REPLY))
    assert isinstance(result, NormalizedDialogue)
    assert result.turns == ((QUESTION, SECOND), (REPLY,))


def test_questions_on_other_branches_are_counted() -> None:
    result = normalize(replace(conversation(QUESTION, ANSWER), left_behind=2))
    assert isinstance(result, NormalizedDialogue)
    assert [(item.reason, item.is_turn) for item in result.skipped] == [
        ("a question on a branch that the app does not show, with what follows it", True)
    ] * 2


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([], "a conversation without text"),
        ([QUESTION], "a question without an answer"),
        ([QUESTION, SECOND], "a question without an answer"),
        ([ANSWER, REPLY], "only the assistant speaks"),
        ([Turn("system", "Be brief.")], "a conversation without text"),
        ([QUESTION, CALL], "an assistant turn that calls a tool"),
        ([QUESTION, Turn("critic", "Good.")], "a turn with the unknown role 'critic'"),
        ([QUESTION, Turn("", "Good.")], "a turn without a role"),
        ([QUESTION, replace(ANSWER, weight=0)], "an answer with weight 0 after the last target"),
        ([Turn("user", "x" * 60_000), Turn("user", "x" * 60_000), ANSWER], "a user message of over 100,000 characters"),
    ],
)
def test_a_conversation_without_a_dialogue_is_skipped(turns: list[Turn], reason: str) -> None:
    result = normalize(conversation(*turns))
    assert isinstance(result, Skipped)
    assert not result.is_turn
    assert result.reason.startswith(reason)


TURNS = st.builds(
    Turn,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.sampled_from(["", " ", "word", "a\0b", "\ud800", "<think>x</think>", "x" * (MAX_MESSAGE_CHARS + 1)]),
    weight=st.just(1),
    calls_tool=st.booleans(),
)


@given(st.lists(TURNS, max_size=12))
def test_no_turn_is_lost_without_a_reason(turns: list[Turn]) -> None:
    result = normalize(conversation(*turns))
    if isinstance(result, NormalizedDialogue):
        kept = [turn for group in result.turns for turn in group]
        assert all(turn.text.strip() for turn in kept)
        assert len(kept) + len(result.skipped) <= 2 * len(turns)
    else:
        assert result.reason

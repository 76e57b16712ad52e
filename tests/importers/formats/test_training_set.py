"""Rows of training sets in every form, and what is left out of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal import Dialogue, read_dialogues
from mlx_personal.errors import UserError
from mlx_personal.importers import read_imports
from mlx_personal.importers.conversation import Alternative
from mlx_personal.importers.head import HEAD_BYTES
from tests.support.imports import conversations, imported, skip_reasons, write_lines

QUESTION, ANSWER = "When is the pear ripe?", "In late September."
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]
USER, ASSISTANT = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
CALL = {"id": "1", "type": "function", "function": {"name": "calendar", "arguments": "{}"}}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT], "tools": [CALL]},
        {"messages": json.dumps([USER, ASSISTANT])},
        {"conversations": f" {json.dumps([USER, ASSISTANT])}"},
        [USER, ASSISTANT],
        {"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]},
        {"conversation": [{"role": "User", "content": QUESTION}, {"role": "model", "content": ANSWER}]},
        {"contents": [{"role": "user", "parts": [{"text": QUESTION}]}, {"role": "model", "parts": [{"text": ANSWER}]}]},
        {"prompt": QUESTION, "completion": ANSWER},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"instruction": QUESTION, "input": "", "output": ANSWER},
        {"instruction": QUESTION, "context": "", "response": ANSWER, "category": "garden"},
        {"question": QUESTION, "answer": ANSWER},
        {"input": QUESTION, "output": ANSWER},
        {"text": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>\n"},
        {"prompt": QUESTION, "chosen": ANSWER, "rejected": "In May."},
        {"row_idx": 3, "row": {"messages": [USER, ASSISTANT]}, "truncated_cells": []},
    ],
)
def test_a_row_of_any_form_is_the_same_dialogue(tmp_path: Path, row: object) -> None:
    assert [item.dialogue for item in imported(write_lines(tmp_path / "a.jsonl", [row]))] == [
        Dialogue.of(QUESTION, ANSWER)
    ]


def test_rows_of_all_forms_may_be_in_one_file(tmp_path: Path) -> None:
    rows = [{"messages": [USER, ASSISTANT]}, [USER, ASSISTANT], {"prompt": QUESTION, "completion": ANSWER}]
    assert conversations(write_lines(tmp_path / "a.jsonl", rows)) == [EXCHANGE] * 3


def test_valid_rows_keep_the_keys_that_they_had(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": " Be brief.\n"},
        {"role": "user", "content": [{"text": "a", "type": "text"}]},
    ]
    messages += [{"role": "assistant", "content": "<think>b</think>\n c "}, USER, ASSISTANT]
    (item,) = imported(write_lines(tmp_path / "a.jsonl", [{"messages": messages}]))
    assert item.dialogue.key == Dialogue.from_messages(messages).key


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0<"), min_size=1).filter(str.strip)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3), st.none() | TEXT, st.booleans())
def test_valid_dialogues_are_read_as_they_are(
    tmp_path: Path, exchanges: list[tuple[str, str]], system: str | None, is_list: bool
) -> None:
    messages = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in exchanges:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    file = write_lines(tmp_path / "a.jsonl", [messages if is_list else {"messages": messages}])
    assert list(read_dialogues(file)) == [Dialogue.from_messages(messages)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("wrapper", [None, "conversations", "data", "train"])
def test_json_lists_are_read(tmp_path: Path, indent: int | None, wrapper: str | None) -> None:
    rows = [{"messages": [USER, ASSISTANT]}, {"messages": [ASSISTANT, USER, ASSISTANT]}]
    (tmp_path / "a.json").write_text(json.dumps(rows if wrapper is None else {wrapper: rows}, indent=indent))
    assert conversations(tmp_path / "a.json") == [EXCHANGE] * 2


@pytest.mark.parametrize("indent", [None, 2])
def test_all_splits_of_an_object_are_read_except_for_the_test_split(tmp_path: Path, indent: int | None) -> None:
    file, row = tmp_path / "a.json", {"messages": [USER, ASSISTANT]}
    file.write_text(json.dumps({"test": [row] * 3, "valid": [row], "train": [row, row], "eval": [row]}, indent=indent))
    assert conversations(file) == [EXCHANGE] * 4
    assert skip_reasons(file) == ["the test split of a data set"]
    file.write_text(json.dumps({"validation": [row], "n": 1, "train": [row]}))
    assert conversations(file) == [EXCHANGE] * 2
    file.write_text(json.dumps({"messages": [USER, ASSISTANT], "eval": [{"score": 3}]}, indent=indent))
    assert conversations(file) == [EXCHANGE], "a list of this name beside a conversation is no split"


def test_a_test_split_that_is_longer_than_the_head_is_left_out(tmp_path: Path) -> None:
    row = {"messages": [USER, {"role": "assistant", "content": "x" * 1000}]}
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"test": [row] * 300, "train": [{"messages": [USER, ASSISTANT]}]}))
    assert file.stat().st_size > HEAD_BYTES
    assert conversations(file) == [EXCHANGE]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_printed_list_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(f'[\n{{"messages": [\n{json.dumps(USER)},\n{json.dumps(ASSISTANT)}\n]}}\n]')
    assert conversations(tmp_path / name) == [EXCHANGE]


def test_a_list_of_rows_in_a_line_is_read(tmp_path: Path) -> None:
    rows = [{"messages": [USER, ASSISTANT]}, {"prompt": QUESTION, "completion": ANSWER}]
    assert conversations(write_lines(tmp_path / "a.jsonl", [rows, rows])) == [EXCHANGE] * 4


def test_a_file_may_be_one_conversation(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([USER, ASSISTANT], indent=1))
    assert conversations(tmp_path / "a.json") == [EXCHANGE]


def test_rows_of_the_dataset_viewer_are_read(tmp_path: Path) -> None:
    page = {"features": [{"name": "text"}], "rows": [{"row_idx": 0, "row": {"question": QUESTION, "answer": ANSWER}}]}
    (tmp_path / "rows.json").write_text(json.dumps(page))
    assert conversations(tmp_path / "rows.json") == [EXCHANGE]


@pytest.mark.parametrize(
    ("messages", "expected", "reasons"),
    [
        (  # a call with a text, and its result
            [
                USER,
                {"role": "assistant", "content": "I will look.", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": "pear: 09-28"},
                ASSISTANT,
            ],
            [EXCHANGE[0], ("tool", "pear: 09-28"), EXCHANGE[1]],
            ["an assistant turn that calls a tool"],
        ),
        (  # the older form of a call
            [
                USER,
                {"role": "assistant", "content": None, "function_call": {"name": "calendar", "arguments": "{}"}},
                {"role": "function", "name": "calendar", "content": "pear: 09-28"},
                ASSISTANT,
            ],
            [EXCHANGE[0], ("tool", "pear: 09-28"), EXCHANGE[1]],
            ["an assistant turn that calls a tool"],
        ),
        (  # Anthropic's API
            [
                USER,
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "I will look."},
                        {"type": "tool_use", "id": "1", "name": "calendar", "input": {}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "pear: 09-28"}]},
                {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": ANSWER}],
                },
            ],
            [EXCHANGE[0], ("tool", "pear: 09-28"), EXCHANGE[1]],
            ["an assistant turn that calls a tool"],
        ),
        (  # ShareGPT with tools
            [
                {"from": "human", "value": QUESTION},
                {"from": "function_call", "value": '{"name": "calendar"}'},
                {"from": "observation", "value": "pear: 09-28"},
                {"from": "gpt", "value": ANSWER},
            ],
            [EXCHANGE[0], ("tool", "pear: 09-28"), EXCHANGE[1]],
            ["an assistant turn that calls a tool"],
        ),
        (  # items of the Responses API
            [
                USER,
                {"type": "function_call", "name": "calendar", "arguments": "{}"},
                {"type": "function_call_output", "output": "pear: 09-28"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": ANSWER}]},
            ],
            [EXCHANGE[0], ("tool", "pear: 09-28"), EXCHANGE[1]],
            ["an assistant turn that calls a tool"],
        ),
        ([{"role": "developer", "content": "Be brief."}, USER, ASSISTANT], [("system", "Be brief."), *EXCHANGE], []),
        ([USER, {**ASSISTANT, "reasoning_content": "Hm."}], EXCHANGE, []),
        (
            [{"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": QUESTION}]}, ASSISTANT],
            EXCHANGE,
            ["an image beside a text that is kept"],
        ),
        (
            [
                {"role": "user", "content": [{"type": "image_url"}]},
                {**ASSISTANT, "content": "A pear."},
                USER,
                ASSISTANT,
            ],
            EXCHANGE,
            ["a user turn with image only", "an assistant turn before the first question"],
        ),
        (
            [USER, ASSISTANT, {"role": "critic", "content": "Good."}],
            EXCHANGE,
            ["a turn with the unknown role 'critic'"],
        ),
        ([USER, ASSISTANT, "Good."], EXCHANGE, ["a turn without a role"]),
    ],
)
def test_messages_as_they_are(
    tmp_path: Path, messages: list[object], expected: list[tuple[str, str]], reasons: list[str]
) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"messages": messages}])
    assert conversations(file) == [expected]
    assert skip_reasons(file) == reasons


def test_a_call_that_nothing_follows_is_the_reason_for_the_loss(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": "I will set it.", "tool_calls": [CALL]}
    file = write_lines(tmp_path / "a.jsonl", [{"messages": [USER, call]}])
    assert skip_reasons(file) == ["an assistant turn that calls a tool"]


@pytest.mark.parametrize(
    "mark", [{"weight": 0}, {"weight": 0.0}, {"loss_weight": 0}, {"train": False}, {"loss": False}]
)
def test_an_answer_that_is_excluded_from_the_loss_is_context(tmp_path: Path, mark: dict[str, Any]) -> None:
    messages = [USER, {**ASSISTANT, **mark}, USER, {**ASSISTANT, **dict.fromkeys(mark, 1)}]
    (item,) = imported(write_lines(tmp_path / "a.jsonl", [{"messages": messages}]))
    assert [message.weight for message in item.dialogue.messages] == [1, 0, 1, 1]
    assert skip_reasons(write_lines(tmp_path / "b.jsonl", [{"messages": [USER, ASSISTANT], **mark}])) == [
        "a row with weight 0"
    ]


def test_system_prompts_beside_the_messages_are_kept(tmp_path: Path) -> None:
    rows = [
        {"system": "Be brief.", "messages": [USER, ASSISTANT]},
        {"system": [{"text": "Be brief."}], "messages": [USER, ASSISTANT]},
        {"systemInstruction": {"parts": [{"text": "Be brief."}]}, "contents": [USER, ASSISTANT]},
        {"system_prompt": "Be brief.", "question": QUESTION, "response": ANSWER},
    ]
    assert conversations(write_lines(tmp_path / "a.jsonl", rows)) == [[("system", "Be brief."), *EXCHANGE]] * 4


def test_an_instruction_has_its_input_and_its_history(tmp_path: Path) -> None:
    row = {"instruction": "Translate.", "input": "die Birne", "output": "the pear", "history": [[QUESTION, ANSWER]]}
    expected = [*EXCHANGE, ("user", "Translate.\n\ndie Birne"), ("assistant", "the pear")]
    assert conversations(write_lines(tmp_path / "a.jsonl", [row])) == [expected]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION, "chosen": ANSWER, "rejected": "In May."},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "In May."}]},
        {
            "prompt": QUESTION,
            "chosen": [USER, ASSISTANT],
            "rejected": [USER, {"role": "assistant", "content": "In May."}],
        },
        {
            "chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: {ANSWER}",
            "rejected": f"\n\nHuman: {QUESTION}\n\nAssistant: In May.",
        },
        {"prompt": f"\n\nHuman: {QUESTION}\n\nAssistant:", "chosen": f" {ANSWER}", "rejected": " In May."},
        {
            "input": {"messages": [USER]},
            "preferred_output": [ASSISTANT],
            "non_preferred_output": [{"role": "assistant", "content": "In May."}],
        },
    ],
)
def test_the_rejected_answer_is_an_alternative_of_the_chosen_one(tmp_path: Path, row: dict[str, Any]) -> None:
    (item,) = imported(write_lines(tmp_path / "a.jsonl", [row]))
    assert [(message.role, message.content.strip()) for message in item.dialogue.messages] == EXCHANGE
    ((_, (answer,)),) = [item.normalized.turns]
    (alternative,) = answer.alternatives
    assert alternative == Alternative(alternative.text, "preference")
    assert alternative.text.strip() == "In May."


@pytest.mark.parametrize(
    "rejected",
    [
        ANSWER,
        f"<think>Which tree?</think>{ANSWER}",
        "<think>Which tree?</think>",
        [{"role": "user", "content": "Which pear?"}, ASSISTANT],
        [USER],
    ],
)
def test_answers_that_cannot_be_compared_are_no_pair(tmp_path: Path, rejected: object) -> None:
    (item,) = imported(
        write_lines(tmp_path / "a.jsonl", [{"prompt": QUESTION, "chosen": ANSWER, "rejected": rejected}])
    )
    assert item.normalized.turns[-1][0].alternatives == ()


@pytest.mark.parametrize(("label", "rating"), [(True, "good"), (False, "bad")])
def test_a_label_is_a_rating(tmp_path: Path, label: bool, rating: str) -> None:
    row = {"prompt": QUESTION, "completion": ANSWER, "label": label}
    (item,) = imported(write_lines(tmp_path / "a.jsonl", [row]))
    answer = item.normalized.turns[1][0]
    assert (answer.rating, answer.rating_source) == (rating, "label")


def test_time_title_and_a_unique_id_are_kept(tmp_path: Path) -> None:
    row = {"messages": [USER, ASSISTANT], "title": "Pears", "created_at": 1_700_000_000, "conversation_id": "3"}
    unique = {**row, "conversation_id": "c0ffee00-0000-4000-8000-000000000000"}
    first, second = (item.conversation for item in imported(write_lines(tmp_path / "a.jsonl", [row, unique])))
    assert (first.app, first.title, first.time, first.id) == ("training-set", "Pears", 1_700_000_000, "")
    assert second.id == unique["conversation_id"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "The pear is ripe in late September."}, "a text without turns"),
        ({"a": 1}, "a row without a conversation"),
        ({"messages": "hi"}, "a row without a conversation"),
        ({"messages": [17, "x"]}, "a turn without a role"),
        ({"dialogue": ["Hello.", "Hello, Ida."]}, "a row without a conversation"),
        ({"prompt": "a", "completion": 3}, "a row without a conversation"),
        ({"prompt": [], "completion": []}, "a row without a conversation"),
        ({"messages": []}, "a conversation without text"),
        (17, "a row that is not an object"),
        (None, "a row that is not an object"),
        ({"prompt": QUESTION, "completion": "a\0b"}, "a NUL byte in an assistant message"),
    ],
)
def test_a_row_without_a_dialogue_is_counted(tmp_path: Path, row: object, reason: str) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"messages": [USER, ASSISTANT]}, row, [USER, ASSISTANT]])
    assert conversations(file) == [EXCHANGE] * 2
    assert skip_reasons(file) == [reason]
    assert [item.where for item in read_imports(file) if not hasattr(item, "dialogue")] == [f"{file}:2"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["user", "assistant", "a\0", "\ud800", ""]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("messages", "conversations", "role", "from", "value", "content", "type", "text", "parts", "row"),
                    *(
                        "prompt",
                        "completion",
                        "chosen",
                        "rejected",
                        "instruction",
                        "input",
                        "output",
                        "history",
                        "label",
                    ),
                    *("weight", "tool_calls", "system", "conversation_id", "created_at", "preferred_output"),
                ]
            ),
            children,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(JSON, max_size=4), st.sampled_from(["a.jsonl", "a.json"]))
def test_rows_of_any_shape_are_read_or_counted(tmp_path: Path, rows: list[Any], name: str) -> None:
    file = tmp_path / name
    file.write_text(json.dumps(rows) if name == "a.json" else "\n".join(map(json.dumps, [{"messages": []}, *rows])))
    try:
        items = list(read_imports(file, "training-set"))
    except UserError:
        return
    assert name == "a.json" or len(items) >= len(rows)

"""Open WebUI: exports, feedback and databases; branches, ratings, tools, and what is left out."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import Skipped, read_imports
from mlx_personal.importers.formats.open_webui import OpenWebUIImporter
from tests.support.cases import slow_cases
from tests.support.exports import conversations, dialogues, mutated, skipped, write_database, write_json

Node = dict[str, Any]
TIME = 1_744_577_557
TABLES = """
CREATE TABLE chat (id VARCHAR, user_id VARCHAR, title TEXT, chat JSON, created_at INTEGER);
CREATE TABLE feedback (id TEXT, user_id TEXT, data JSON, meta JSON);
CREATE TABLE chat_message (id TEXT, chat_id TEXT, role TEXT, parent_id TEXT, content JSON, created_at INTEGER);
"""


def node(key: str, parent: str | None, role: str, content: Any, **fields: Any) -> Node:
    return {"id": key, "parentId": parent, "childrenIds": [], "role": role, "content": content, **fields}


def chat(*nodes: Node, current: str | None = None, **fields: Any) -> Node:
    history = {"currentId": current or nodes[-1]["id"], "messages": {n["id"]: n for n in nodes}}
    return {"title": "Pears", "models": ["small"], "history": history, "timestamp": TIME * 1000, **fields}


def exported(inner: Node, key: str = "c1", user: str = "u1") -> Node:
    return {"id": key, "user_id": user, "title": "Pears", "chat": inner, "created_at": TIME}


QUESTION = node("q", None, "user", "Which pear keeps?", timestamp=TIME)
ANSWER = node("a", "q", "assistant", "The winter pear.", model="small", timestamp=TIME + 1)
EXCHANGE = [("user", "Which pear keeps?"), ("assistant", "The winter pear.")]


def test_an_export_is_read_with_its_origin(tmp_path: Path) -> None:
    path = write_json(tmp_path / "chats.json", [exported(chat(QUESTION, ANSWER, params={"system": "Be brief."}))])
    assert dialogues(path) == [[("system", "Be brief."), *EXCHANGE]]
    [found] = conversations(path, OpenWebUIImporter())
    assert (found.app, found.id, found.title, found.time) == ("open-webui", "c1", "Pears", TIME)
    assert (found.turns[2].model, found.turns[2].time) == ("small", TIME + 1)


@pytest.mark.parametrize("indent", [None, 1])
def test_a_bare_chat_is_read(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(chat(QUESTION, ANSWER, id="c9"), indent=indent))
    assert dialogues(path) == [EXCHANGE]
    assert conversations(path, OpenWebUIImporter())[0].id == "c9"


def test_a_chat_without_a_tree_is_read(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Which pear keeps?"}, {"role": "assistant", "content": "The winter pear."}]
    path = write_json(tmp_path / "old.json", [exported({"history": {"messages": {}}, "messages": messages})])
    assert dialogues(path) == [EXCHANGE]


def test_the_branch_that_the_app_shows_is_read_and_the_others_are_alternatives(tmp_path: Path) -> None:
    inner = chat(
        QUESTION,
        node("a0", "q", "assistant", "Any pear."),
        node("a1", "q", "assistant", "The plum."),
        ANSWER,
        node("old", "a", "user", "And which aple?"),
        node("q2", "a", "user", "And which apple?"),
        node("a2", "q2", "assistant", "Boskoop."),
        current="a2",
    )
    path = write_json(tmp_path / "chats.json", [exported(inner)])
    assert dialogues(path) == [[*EXCHANGE, ("user", "And which apple?"), ("assistant", "Boskoop.")]]
    [found] = conversations(path, OpenWebUIImporter())
    alternatives = [(other.text, other.reason) for other in found.turns[1].alternatives]
    assert alternatives == [("Any pear.", "regenerated"), ("The plum.", "regenerated")]
    assert [turn.is_edit for turn in found.turns] == [False, False, True, False]


@pytest.mark.parametrize(("rating", "expected"), [(1, "good"), (-1, "bad"), ("1", "good"), (0, None), ([], None)])
def test_a_rating_is_read(tmp_path: Path, rating: object, expected: str | None) -> None:
    inner = chat(QUESTION, {**ANSWER, "annotation": {"rating": rating, "reason": "x"}})
    [found] = conversations(write_json(tmp_path / "chats.json", [exported(inner)]), OpenWebUIImporter())
    assert (found.turns[1].rating, found.turns[1].rating_source) == (expected, "rating" if expected else "")


def test_exported_feedback_is_read_as_the_rated_chat(tmp_path: Path) -> None:
    feedback = {
        "id": "f",
        "type": "rating",
        "data": {"rating": -1},
        "meta": {"message_id": "a", "chat_id": "c1"},
        "snapshot": {"chat": exported(chat(QUESTION, ANSWER))},
    }
    path = write_json(tmp_path / "feedback.json", [feedback])
    assert dialogues(path) == [EXCHANGE]
    [found] = conversations(path, OpenWebUIImporter())
    assert (found.id, found.turns[1].rating) == ("c1", "bad")


def test_thoughts_are_no_text_and_tool_results_are_context(tmp_path: Path) -> None:
    content = (
        '<details type="reasoning" done="true" duration="2">\n<summary>Thought</summary>\n> keeps?\n</details>\n'
        "I will look.\n"
        '<details type="tool_calls" done="true" id="1" name="find" arguments="{}" result="&quot;winter&quot;">\n'
        "<summary>Tool Executed</summary>\n</details>\nThe winter pear."
    )
    path = write_json(tmp_path / "chats.json", [exported(chat(QUESTION, {**ANSWER, "content": content}))])
    assert dialogues(path) == [[EXCHANGE[0], ("tool", '"winter"'), EXCHANGE[1]]]
    assert skipped(path) == ["an assistant turn that calls a tool"]


def test_a_chat_without_a_user_is_the_owners(tmp_path: Path) -> None:
    rows = [exported(chat(QUESTION, ANSWER), key, user) for key, user in (("c1", "u1"), ("c2", ""), ("c3", "u2"))]
    del rows[1]["user_id"]
    path = write_json(tmp_path / "chats.json", rows)
    assert [found.id for found in conversations(path, OpenWebUIImporter())] == ["c1", "c2"]
    assert skipped(path) == ["a chat of another user"]


def test_errors_images_and_chats_of_others_are_left_out_and_counted(tmp_path: Path) -> None:
    failed = chat(QUESTION, {**ANSWER, "error": {"content": "out of memory"}})
    image = chat(node("q", None, "user", "", files=[{"type": "image", "url": "data:"}]), ANSWER)
    records = [exported(failed), exported(image, "c2"), exported(chat(QUESTION, ANSWER), "c3", "u2"), {"user_id": "u1"}]
    path = write_json(tmp_path / "chats.json", records)
    assert dialogues(path) == []
    assert skipped(path) == [
        "an empty assistant message",
        "a user turn with image only",
        "a chat of another user",
        "a chat without messages",
    ]


def test_cycles_missing_parents_and_two_roots_end_a_branch(tmp_path: Path) -> None:
    cycle = chat({**QUESTION, "parentId": "a"}, ANSWER)
    orphan = chat({**QUESTION, "parentId": "lost"}, ANSWER)
    roots = chat(node("z", None, "user", "Another root"), QUESTION, ANSWER, current="nowhere")
    path = write_json(tmp_path / "chats.json", [exported(inner) for inner in (cycle, orphan, roots)])
    assert dialogues(path) == [EXCHANGE] * 3


@pytest.mark.parametrize("count", [2_000, *slow_cases(10_000)])
def test_a_long_tree_of_messages_is_read(tmp_path: Path, count: int) -> None:
    roles = ("user", "assistant")
    nodes = [node(str(i), str(i - 1) if i else None, roles[i % 2], f"turn {i}") for i in range(count)]
    [found] = conversations(write_json(tmp_path / "chats.json", [exported(chat(*nodes))]), OpenWebUIImporter())
    assert len(found.turns) == count


def test_a_database_is_read_with_ratings_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    path = write_database(
        tmp_path / "webui.db",
        TABLES,
        {
            "chat": [("c1", "u1", "Pears", json.dumps(chat(QUESTION, ANSWER)), TIME)],
            "feedback": [("f", "u1", json.dumps({"rating": 1}), json.dumps({"message_id": "a"}))],
        },
    )
    assert dialogues(path) == [EXCHANGE]
    [found] = conversations(path, OpenWebUIImporter())
    assert (found.id, found.title, found.time, found.turns[1].rating) == ("c1", "Pears", TIME, "good")
    assert [file.name for file in tmp_path.iterdir()] == ["webui.db"]


def test_a_database_with_a_table_of_messages_is_read(tmp_path: Path) -> None:
    history = json.dumps({"history": {"currentId": "a"}})
    path = write_database(
        tmp_path / "webui.db",
        TABLES,
        {
            "chat": [("c1", "u1", "Pears", history, TIME), ("c2", "u1", "Damaged", "{", TIME)],
            "chat_message": [
                ("c1-q", "c1", "user", None, json.dumps("Which pear keeps?"), TIME),
                ("c1-a", "c1", "assistant", "q", json.dumps([{"type": "text", "text": "The winter pear."}]), TIME + 1),
                ("c1-b", "c1", "assistant", "q", json.dumps("Any pear."), TIME + 2),
            ],
        },
    )
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == ["a chat that is not JSON"]


def test_a_database_of_several_people_is_refused(tmp_path: Path) -> None:
    rows = [(key, key, "", json.dumps(chat(QUESTION, ANSWER)), TIME) for key in ("u1", "u2")]
    path = write_database(tmp_path / "webui.db", TABLES, {"chat": rows})
    with pytest.raises(UserError, match="the chats of 2 people"):
        conversations(path, OpenWebUIImporter())


def test_a_chat_that_was_shared_is_read_once(tmp_path: Path) -> None:
    inner = json.dumps(chat(QUESTION, ANSWER))
    path = write_database(
        tmp_path / "webui.db", TABLES, {"chat": [("c1", "u1", "", inner, TIME), ("c2", "shared-c1", "", inner, TIME)]}
    )
    assert dialogues(path) == [EXCHANGE]


def test_a_locked_database_is_read_and_a_damaged_one_is_left_out(tmp_path: Path) -> None:
    chats = [(f"c{i}", "u1", "", json.dumps(chat(QUESTION, ANSWER)), TIME + i) for i in range(200)]
    path = write_database(tmp_path / "webui.db", TABLES, {"chat": chats})
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    assert len(dialogues(path)) == 200
    lock.close()
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\xff" * 20_000 + data[28_192:])
    with pytest.raises(UserError, match="cannot be read as a database"):
        list(read_imports(path))
    (item,) = read_imports(path.parent)
    assert isinstance(item, Skipped) and "cannot be read as a database" in item.reason


@given(data=st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_exports_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    inner = chat(QUESTION, node("b", "q", "assistant", "Any."), {**ANSWER, "annotation": {"rating": 1}}, files=[])
    path = write_json(tmp_path / "chats.json", data.draw(mutated([exported(inner)])))
    try:
        list(read_imports(path, "open-webui"))
    except UserError as error:
        assert "\n" not in str(error)

"""Both exports of Grok: branches, senders in any case, citations, and what is left out."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from mlx_personal.errors import UserError
from mlx_personal.importers import Conversation, read_imports
from mlx_personal.importers.conversation import Alternative
from mlx_personal.importers.formats.grok import GrokImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json

QUESTION, ANSWER = "When do I sow peas?", "In March, under fleece."
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]
START = 1762300800.0  # 2025-11-05


def response(sender: str, message: str, number: int, parent: int | None = None, **fields: Any) -> dict[str, Any]:
    value = {
        "response_id": f"r{number}",
        "conversation_id": "c1",
        "message": message,
        "sender": sender,
        "create_time": f"2025-11-05T00:00:0{number}.000000Z",
        "parent_response_id": None if parent is None else f"r{parent}",
        "partial": False,
        "metadata": {"requestModelDetails": {"modelId": "grok-3"}},
        "thinking_trace": None,
        **fields,
    }
    return {"response": value, "share_link": None}


def conversation(*responses: Any, **fields: Any) -> dict[str, Any]:
    value = {
        "conversation_id": "c1",
        "create_time": "2025-11-05T00:00:00.000000Z",
        "temporary": False,
        "leaf_response_id": None,
        "title": "Peas",
        **fields,
    }
    return {"conversation": value, "responses": list(responses)}


PEAS = conversation(response("human", QUESTION, 1), response("ASSISTANT", ANSWER, 2, 1))


def export(tmp_path: Path, *values: Any) -> Path:
    value = {"conversations": list(values), "projects": [], "media_posts": [{"id": "1", "original_prompt": "a pea"}]}
    return write_json(tmp_path / "prod-grok-backend.json", value)


def read(path: Path) -> list[Conversation]:
    return conversations(path, GrokImporter())


def test_an_export_is_read_with_where_it_comes_from(tmp_path: Path) -> None:
    path = export(tmp_path, PEAS)
    assert dialogues(path) == [EXCHANGE]
    (found,) = read(path)
    assert (found.app, found.id, found.title, found.time) == ("grok", "c1", "Peas", START)
    assert [(turn.time, turn.model) for turn in found.turns] == [(START + 1, ""), (START + 2, "grok-3")]


def test_a_zip_is_read_without_accounts_and_bills(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "grok.zip", "w") as archive:
        archive.writestr("ttl/30d/export_data/1/prod-grok-backend.json", json.dumps({"conversations": [PEAS]}))
        archive.writestr("ttl/30d/export_data/1/prod-mc-auth-mgmt-api.json", "{}")
        archive.writestr("ttl/30d/export_data/1/prod-mc-billing.json", "{}")
    assert dialogues(tmp_path / "grok.zip") == [EXCHANGE]
    assert skipped(tmp_path / "grok.zip") == []


@pytest.mark.parametrize("sender", ["assistant", "ASSISTANT", "Assistant", "grok-3"])
def test_whoever_is_not_the_human_answers(tmp_path: Path, sender: str) -> None:
    path = export(tmp_path, conversation(response("Human", QUESTION, 1), response(sender, ANSWER, 2, 1)))
    assert dialogues(path) == [EXCHANGE]


def test_ids_and_times_of_other_exports_are_read(tmp_path: Path) -> None:
    def renamed(item: dict[str, Any], number: int) -> dict[str, Any]:
        item["response"]["_id"] = item["response"].pop("response_id")
        item["response"]["create_time"] = {"$date": {"$numberLong": f"{1762300800000 + number * 1000}"}}
        return item

    value = conversation(renamed(response("human", QUESTION, 1), 1), renamed(response("assistant", ANSWER, 2, 1), 2))
    value["conversation"]["id"] = value["conversation"].pop("conversation_id")
    (found,) = read(export(tmp_path, value))
    assert found.id == "c1"
    assert [(turn.text, turn.time) for turn in found.turns] == [(QUESTION, START + 1), (ANSWER, START + 2)]


def test_responses_without_parents_follow_each_other(tmp_path: Path) -> None:
    value = conversation(
        response("human", QUESTION, 3), response("assistant", ANSWER, 2), response("human", "And beans?", 1)
    )
    (found,) = read(export(tmp_path, value))
    assert [turn.text for turn in found.turns] == [QUESTION, ANSWER, "And beans?"]


def test_an_answer_that_was_written_again_has_the_earlier_one_beside_it(tmp_path: Path) -> None:
    responses = [response("human", QUESTION, 1), response("assistant", "In winter.", 2, 1)]
    responses += [response("assistant", ANSWER, 3, 1), response("human", "Thanks", 4, 3), response("human", "Hm", 5, 3)]
    (found,) = read(export(tmp_path, conversation(*responses, leaf_response_id="gone")))
    assert [turn.text for turn in found.turns] == [QUESTION, ANSWER, "Hm"]
    assert found.turns[1].alternatives == (Alternative("In winter.", "regenerated"),)
    assert found.turns[2].is_edit
    (found,) = read(export(tmp_path, conversation(*responses, leaf_response_id="r2")))
    assert [turn.text for turn in found.turns] == [QUESTION, "In winter."]


def test_cards_are_removed_from_answers(tmp_path: Path) -> None:
    card = '<grok:render card_id="1" type="render_inline_citation">\n<argument name="a">1</argument>\n</grok:render>'
    tool = "<xai:tool_usage_card><xai:tool_name>web_search</xai:tool_name></xai:tool_usage_card>"
    text = f"{tool}In March, under fleece.{card} Water them.{card}"
    path = export(tmp_path, conversation(response("human", QUESTION, 1), response("assistant", text, 2, 1)))
    assert read(path)[0].turns[1].text == "In March, under fleece. Water them."


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = export(
        tmp_path,
        conversation(*PEAS["responses"], temporary=True),
        conversation(),
        conversation(
            response("human", "", 1, image_attachments=["i"], file_attachments=["f", "g"]),
            response("assistant", "A pea.", 2, 1),
        ),
        conversation(response("human", QUESTION, 1), response("assistant", "In Mar", 2, 1, partial=True)),
    )
    assert dialogues(path) == []
    assert skipped(path) == [
        "a temporary chat",
        "a conversation without messages",
        "a user turn with file and image only",
        "an answer with weight 0 after the last target",
    ]


def item(sender: Any, message: str, number: int, chat: str = "1") -> dict[str, Any]:
    """Return a message in an archive of X."""
    names = {"value": "1", "name": sender.title(), "originalName": sender, "annotations": {}}
    time = f"2025-11-05T00:00:0{number}.000Z"
    return {"grokChatItem": {"chatId": chat, "createdAt": time, "sender": names, "message": message}}


def script(path: Path, *items: Any) -> Path:
    path.write_text(f"window.YTD.grok_chat_item.part0 = {json.dumps(list(items), indent=2)}")
    return path


X_ITEMS = [
    item("AGENT", "Hi.", 5, "2"),
    item("USER", "Hello", 4, "2"),
    item("USER", QUESTION, 1),
    item("AGENT", ANSWER, 1),
]


def test_an_archive_of_x_is_read_by_chats(tmp_path: Path) -> None:
    path = script(tmp_path / "grok-chat-item.js", *X_ITEMS)
    assert dialogues(path) == [[("user", "Hello"), ("assistant", "Hi.")], EXCHANGE]
    assert [(found.app, found.id, found.time) for found in read(path)] == [
        ("grok", "2", START + 4),
        ("grok", "1", START + 1),
    ]


def test_other_scripts_of_an_archive_of_x_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    script(tmp_path / "data" / "grok-chat-item.js", *X_ITEMS[2:], item("SYSTEM", "x", 3), "damaged")
    (tmp_path / "data" / "tweets.js").write_text("window.YTD.tweets.part0 = [ ]")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in (tmp_path / "data").iterdir():
            archive.write(path, f"data/{path.name}")
    for path in (tmp_path / "data", tmp_path / "x.zip"):
        assert dialogues(path) == [EXCHANGE]
        assert skipped(path) == ["a message of an unknown sender"] * 2


def test_a_script_that_is_cut_off_gives_what_is_before(tmp_path: Path) -> None:
    path = script(tmp_path / "grok-chat-item.js", *X_ITEMS)
    path.write_text(path.read_text()[:-20])
    assert skipped(path)[0] == "the end of the file is missing"
    assert dialogues(path)[0] == [("user", "Hello"), ("assistant", "Hi.")]


SEED = {
    "conversations": [
        conversation(
            response("human", QUESTION, 1, image_attachments=["a"]),
            response("assistant", "In winter.", 2, 1, create_time={"$date": {"$numberLong": "1762300800000"}}),
            response("ASSISTANT", ANSWER, 3, 1),
            leaf_response_id="r3",
        ),
        PEAS,
    ]
}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=mutated(SEED), items=mutated(X_ITEMS))
def test_damaged_exports_never_raise_another_error(value: Any, items: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = write_json(Path(name) / "a.json", value)
        other = Path(name) / "grok-chat-item.js"
        other.write_text(f"window.YTD.grok_chat_item.part0 = {json.dumps(items)}")
        for damaged in (path, other):
            try:
                list(read_imports(damaged, "grok"))
            except UserError:
                continue

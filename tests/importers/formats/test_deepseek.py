"""DeepSeek exports: fragments, branches, and what is left out."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings

from mlx_personal.errors import UserError
from mlx_personal.importers import Conversation, read_imports
from mlx_personal.importers.conversation import Alternative
from mlx_personal.importers.formats.deepseek import DeepSeekImporter
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json

QUESTION, ANSWER = "When do I sow peas?", "In March, under fleece."
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]
START = 1762300800.0  # 2025-11-05


def conversation(*nodes: tuple[str, list[tuple[str, str]]], **fields: Any) -> dict[str, Any]:
    """Return a conversation of messages by the id of their parent and their fragments."""
    mapping: dict[str, Any] = {"root": {"id": "root", "parent": None, "children": [], "message": None}}
    for number, (parent, fragments) in enumerate(nodes, 1):
        message = {
            "files": [],
            "model": "deepseek-reasoner",
            "inserted_at": f"2025-11-05T08:00:0{number}.000000+08:00",
            "fragments": [{"type": kind, "content": content} for kind, content in fragments],
        }
        mapping[str(number)] = {"id": str(number), "parent": parent, "children": [], "message": message}
        mapping[parent]["children"].append(str(number))
    return {
        "id": "c1",
        "title": "Peas",
        "inserted_at": "2025-11-05T08:00:00.000000+08:00",
        "updated_at": "2025-11-05T08:00:09.000000+08:00",
        "mapping": mapping,
        **fields,
    }


ASKED = ("root", [("REQUEST", QUESTION)])
PEAS = conversation(ASKED, ("1", [("THINK", "Peas are hardy."), ("SEARCH", "results"), ("RESPONSE", ANSWER)]))


def read(path: Path) -> list[Conversation]:
    return conversations(path, DeepSeekImporter())


def test_an_export_is_read_with_where_it_comes_from(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "deepseek.zip", "w") as archive:
        archive.writestr("conversations.json", json.dumps([PEAS]))
        archive.writestr("user.json", json.dumps({"user_id": "u1"}))
    assert dialogues(tmp_path / "deepseek.zip") == [EXCHANGE]
    assert skipped(tmp_path / "deepseek.zip") == []
    (found,) = read(write_json(tmp_path / "conversations.json", [PEAS]))
    assert (found.app, found.id, found.title, found.time) == ("deepseek", "c1", "Peas", START)
    assert [(turn.time, turn.model) for turn in found.turns] == [(START + 1, ""), (START + 2, "deepseek-reasoner")]


def test_the_latest_branch_is_read_with_its_verdicts(tmp_path: Path) -> None:
    value = conversation(
        ("root", [("REQUEST", "Peas?")]),
        ("1", [("RESPONSE", "A vegetable.")]),
        ASKED,
        ("3", [("RESPONSE", "In winter.")]),
        ("3", [("RESPONSE", ANSWER)]),
    )
    (found,) = read(write_json(tmp_path / "conversations.json", [value]))
    question, answer = found.turns
    assert (question.text, question.is_edit) == (QUESTION, True)
    assert (answer.text, answer.alternatives) == (ANSWER, (Alternative("In winter.", "regenerated"),))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    with_file = conversation(("root", [("REQUEST", "")]), ("1", [("RESPONSE", "A list.")]))
    with_file["mapping"]["1"]["message"]["files"] = [{"file_name": "peas.csv"}]
    values = [
        conversation(ASKED, ("1", [("THINK", "Hm.")])),
        conversation(ASKED, ("1", [("THINK", "Hm."), ("RESPONSE", "")])),
        conversation(mapping={}),
        with_file,
    ]
    path = write_json(tmp_path / "conversations.json", values)
    assert dialogues(path) == []
    assert skipped(path) == [
        "a question without an answer",
        "an empty assistant message",
        "a conversation without messages",
        "a user turn with file only",
    ]


SEED = [conversation(ASKED, ("1", [("THINK", "a"), ("RESPONSE", "In winter.")]), ("1", [("RESPONSE", ANSWER)])), PEAS]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=mutated(SEED))
def test_a_damaged_export_never_raises_another_error(value: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        try:
            found = list(read_imports(write_json(Path(name) / "conversations.json", value), "deepseek"))
        except UserError:
            return
        assert found or not value

"""ChatGPT exports: both layouts, the branch that is shown, thumbs and other verdicts, and what is left out."""

from __future__ import annotations

import copy
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal.errors import UserError
from mlx_personal.importers import Conversation, ImportedDialogue, Skipped, read_imports
from mlx_personal.importers.conversation import Alternative
from mlx_personal.importers.formats.chatgpt import ChatGPTImporter
from tests.support.cases import slow_cases
from tests.support.exports import conversations, dialogues, mutated, skipped, write_json

QUESTION, ANSWER = "When do I sow peas?", "In March, under fleece."
EXCHANGE = [("user", QUESTION), ("assistant", ANSWER)]


def message(role: str, content: Any, number: int, **fields: Any) -> dict[str, Any]:
    """Return a message with a text or with another content."""
    if isinstance(content, str):
        content = {"content_type": "text", "parts": [content]}
    return {
        "id": f"m{number}",
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": 1.7e9 + number,
        "content": content,
        "status": "finished_successfully",
        "end_turn": None,
        "weight": 1.0,
        "metadata": fields.pop("metadata", {}),
        "recipient": "all",
        **fields,
    }


def conversation(*messages: dict[str, Any], parents: dict[int, int] | None = None, **fields: Any) -> dict[str, Any]:
    """Return a conversation of messages in a row, or with the given parents by number."""
    mapping: dict[str, Any] = {"root": {"id": "root", "message": None, "parent": None, "children": []}}
    for number, content in enumerate(messages, 1):
        before = (parents or {}).get(number, number - 1)
        parent = f"m{before}" if before else "root"
        mapping[f"m{number}"] = {"id": f"m{number}", "message": content, "parent": parent, "children": []}
        mapping[parent]["children"].append(f"m{number}")
    return {
        "title": "Peas",
        "create_time": 1.7e9,
        "update_time": 1.7e9 + 9,
        "mapping": mapping,
        "current_node": f"m{len(messages)}",
        "conversation_id": "c1",
        "id": "c1",
        "default_model_slug": "gpt-4o",
        **fields,
    }


def chat(*contents: Any, **fields: Any) -> dict[str, Any]:
    """Return a conversation of a question and an answer by turns."""
    return conversation(*[message(("user", "assistant")[n % 2], c, n + 1) for n, c in enumerate(contents)], **fields)


def read(path: Path) -> list[Conversation]:
    return conversations(path, ChatGPTImporter())


def single(tmp_path: Path, value: dict[str, Any]) -> Conversation:
    """Return the conversation of an export of one."""
    (found,) = read(write_json(tmp_path / "conversations.json", [value]))
    return found


def test_an_export_is_read_with_where_it_comes_from(tmp_path: Path) -> None:
    path = write_json(tmp_path / "conversations.json", [chat(QUESTION, ANSWER, "And beans?", "In May.")])
    assert dialogues(path) == [[*EXCHANGE, ("user", "And beans?"), ("assistant", "In May.")]]
    (found,) = read(path)
    assert (found.app, found.id, found.title, found.time) == ("chatgpt", "c1", "Peas", 1.7e9)
    assert found.where == f"{path}:1"
    assert [turn.time for turn in found.turns] == [1.7e9 + number for number in range(1, 5)]
    assert [turn.model for turn in found.turns] == ["", "gpt-4o", "", "gpt-4o"]


def test_the_layout_of_2026_is_read_from_a_zip_and_a_folder(tmp_path: Path) -> None:
    files: dict[str, Any] = {
        "conversations-000.json": [chat(QUESTION, ANSWER)],
        "conversations-001.json": [chat("And beans?", "In May.", id="c2", conversation_id="c2")],
        "export_manifest.json": {"export_files": [{"path": f"conversations-00{n}.json"} for n in (0, 1)]},
        "user.json": {"id": "user-1", "email": "nora@example.com"},
        "shared_conversations.json": [{"id": "s1", "conversation_id": "c1", "title": "Peas"}],
        "message_feedback.json": [],
    }
    folder = tmp_path / "export"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for name, value in files.items():
            write_json(folder / name, value)
            archive.writestr(f"nested/{name}", json.dumps(value))
        archive.writestr("nested/chat.html", "<html></html>")
    for path in (folder, tmp_path / "export.zip"):
        assert dialogues(path) == [EXCHANGE, [("user", "And beans?"), ("assistant", "In May.")]]
        assert skipped(path) == []


def test_conversations_in_an_object_are_read(tmp_path: Path) -> None:
    assert dialogues(write_json(tmp_path / "a.json", {"conversations": [chat(QUESTION, ANSWER)]})) == [EXCHANGE]


def test_a_missing_part_of_an_export_is_reported_once(tmp_path: Path) -> None:
    write_json(tmp_path / "conversations-000.json", [chat(QUESTION, ANSWER)])
    write_json(tmp_path / "conversations-001.json", [chat(QUESTION, ANSWER)])
    paths = [*(f"conversations-00{n}.json" for n in range(3)), "file-1.png"]
    write_json(tmp_path / "export_manifest.json", {"export_files": [{"path": path} for path in paths]})
    assert skipped(tmp_path) == ["a part of the export that is missing"]


def test_private_conversations_are_left_out_with_a_reason(tmp_path: Path) -> None:
    values = [
        chat(QUESTION, ANSWER, is_do_not_remember=True),
        chat(QUESTION, ANSWER, is_temporary_chat=True),
        chat("How are you all?", "Fine.", id="g1", conversation_id="g1"),
        chat(QUESTION, ANSWER, is_do_not_remember=False),
        chat(),
        chat(QUESTION),
    ]
    write_json(tmp_path / "conversations.json", values)
    write_json(tmp_path / "group_chats.json", {"chats": [{"id": "g1", "title": "We", "participants": ["a", "b"]}]})
    assert dialogues(tmp_path) == [EXCHANGE]
    assert skipped(tmp_path) == [
        "a group chat",
        "marked as do not remember",
        "a temporary chat",
        "a conversation without text",
        "a question without an answer",
    ]


def test_what_the_app_does_not_show_is_not_read(tmp_path: Path) -> None:
    value = conversation(
        message("system", "", 1, metadata={"is_visually_hidden_from_conversation": True}),
        message("user", {"content_type": "user_editable_context", "user_profile": "I am Nora."}, 2),
        message("system", "About the user", 3, metadata={"is_user_system_message": True}),
        message("user", QUESTION, 4),
        message("assistant", {"content_type": "thoughts", "thoughts": [{"content": "Peas?"}]}, 5),
        message("assistant", {"content_type": "reasoning_recap", "content": "Thought for 8s"}, 6),
        message("assistant", "hidden", 7, metadata={"is_visually_hidden_from_conversation": True}),
        message("assistant", ANSWER, 8),
    )
    path = write_json(tmp_path / "conversations.json", [value])
    assert dialogues(path) == [EXCHANGE]
    assert skipped(path) == []


def test_calls_of_tools_are_left_out_and_their_results_are_context(tmp_path: Path) -> None:
    value = conversation(
        message("user", QUESTION, 1),
        message("assistant", {"content_type": "code", "language": "unknown", "text": 'search("peas")'}, 2),
        message("tool", {"content_type": "tether_browsing_display", "result": "Peas: March"}, 3),
        message("assistant", "Looking it up.", 4, recipient="web.run"),
        message("tool", {"content_type": "execution_output", "text": "3"}, 5),
        message("assistant", '{"name": "Peas", "content": "..."}', 6, recipient="canmore.create_textdoc"),
        message("tool", "", 7),
        message("assistant", "Nora sows peas.", 8, recipient="bio"),
        message("assistant", ANSWER, 9),
    )
    path = write_json(tmp_path / "conversations.json", [value])
    assert dialogues(path) == [[EXCHANGE[0], ("tool", "Peas: March"), ("tool", "3"), EXCHANGE[1]]]
    assert skipped(path) == ["an assistant turn that calls a tool"] * 4


def test_text_and_transcripts_are_kept_and_other_parts_counted(tmp_path: Path) -> None:
    parts = [
        {"content_type": "image_asset_pointer", "asset_pointer": "sediment://file_1", "width": 8, "height": 8},
        {"content_type": "audio_transcription", "text": "When do I sow", "direction": "in"},
        {"content_type": "real_time_user_audio_video_asset_pointer", "audio_asset_pointer": {}},
        {"content_type": "something_new", "value": 1},
        {"content_type": "SELECT *"},
        "these peas?",
    ]
    files = [{"name": "peas.csv", "mime_type": "text/csv"}, {"name": "peas.png", "mimeType": "image/png"}]
    value = conversation(
        message("user", {"content_type": "multimodal_text", "parts": parts}, 1, metadata={"attachments": files}),
        message("assistant", ANSWER, 2),
        message("user", {"content_type": "multimodal_text", "parts": parts[:1]}, 3),
    )
    found = single(tmp_path, value)
    assert found.turns[0].text == "When do I sow\nthese peas?"
    assert found.turns[0].left_out == {"image": 1, "audio": 1, "something_new": 1, "part": 1, "file": 1}
    beside = [f"{part} beside a text that is kept" for part in ("an image", "an audio", "a file")]
    assert skipped(tmp_path) == ["a user turn with image only", *beside]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("In March \ue200cite\ue202turn0search1\ue202turn0search4\ue201.", "In March."),
        ("\ue203In March.\ue204 \ue200cite\ue202turn0search3\ue201 Cover them.", "In March. Cover them."),
        ('See \ue200entity\ue202["book","The Pea","1866"]\ue201 for more.', "See The Pea for more."),
        ("See \ue200entity\ue202The Pea\ue201.", "See The Pea."),
        ("See \ue200entity\ue202[1]\ue201.", "See."),
        ("At \ue200url\ue202Pea Society\ue202https://example.com\ue201.", "At Pea Society."),
        ("Peas.\ue200image_group\ue202{}\ue201", "Peas."),
        ("Peas【12†source】 grow【4:0†peas.pdf】.", "Peas grow."),
        ("Erbsen säen", "Erbsen säen"),
    ],
)
def test_marks_of_citations_are_removed(tmp_path: Path, text: str, expected: str) -> None:
    assert single(tmp_path, chat(QUESTION, text)).turns[1].text == expected


def test_regenerated_answers_and_edited_questions_are_verdicts(tmp_path: Path) -> None:
    value = conversation(
        message("user", "Peas?", 1),
        message("assistant", "A vegetable.", 2),
        message("user", QUESTION, 3),
        message("assistant", "In winter.", 4),
        message("assistant", ANSWER, 5),
        parents={3: 0, 5: 3},
    )
    question, answer = single(tmp_path, value).turns
    assert question.is_edit
    assert (answer.text, answer.alternatives) == (ANSWER, (Alternative("In winter.", "regenerated"),))


def test_the_answer_that_was_chosen_of_two_was_compared(tmp_path: Path) -> None:
    metadata = {"paragen_variants_info": {"num_variants_in_stream": 2}, "paragen_variant_choice": "m3"}
    value = conversation(
        message("user", QUESTION, 1, metadata=metadata),
        message("assistant", "In winter.", 2),
        message("assistant", ANSWER, 3),
        parents={3: 1},
    )
    assert single(tmp_path, value).turns[1].alternatives == (Alternative("In winter.", "compared"),)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"id": "f", "message_id": "m2", "rating": "thumbsDown"}], ["bad", None]),
        ([{"id": "m4", "conversation_id": "c1", "rating": "thumbs_up"}], [None, "good"]),
        ([{"message_id": "m2", "rating": "thumbs_up"}, {"message_id": "m2", "rating": "thumbs_down"}], ["bad", None]),
        ([{"id": "f", "conversation_id": "c1", "rating": "thumbs_up"}], [None, None]),  # which answer is unknown
        ([{"message_id": "m2", "rating": "neutral"}, "damaged", None], [None, None]),
    ],
)
def test_thumbs_belong_to_their_message(tmp_path: Path, rows: list[Any], expected: list[str | None]) -> None:
    write_json(tmp_path / "conversations.json", [chat(QUESTION, ANSWER, "And beans?", "In May.")])
    write_json(tmp_path / "message_feedback.json", rows)
    (item,) = (item for item in read_imports(tmp_path) if isinstance(item, ImportedDialogue))
    answers = [turn for turn in item.conversation.turns if turn.role == "assistant"]
    assert [turn.rating for turn in answers] == expected
    assert [turn.rating_source for turn in answers] == ["thumbs" if rating else "" for rating in expected]


@pytest.mark.parametrize("message_id", [None, "unknown"])
def test_a_thumb_of_an_old_export_belongs_to_the_only_answer(tmp_path: Path, message_id: str | None) -> None:
    write_json(tmp_path / "conversations.json", [chat(QUESTION, ANSWER)])
    row = {"id": "feedback", "message_id": message_id, "conversation_id": "c1", "rating": "thumbs_down"}
    write_json(tmp_path / "message_feedback.json", [row])
    (item,) = (item for item in read_imports(tmp_path) if isinstance(item, ImportedDialogue))
    assert item.conversation.turns[1].rating == "bad"


def test_a_thumb_without_a_message_rates_no_message_without_an_id(tmp_path: Path) -> None:
    value = chat(QUESTION, ANSWER, "And beans?", "In May.")
    for node in value["mapping"].values():
        (node["message"] or {}).pop("id", None)
    write_json(tmp_path / "conversations.json", [value])
    write_json(tmp_path / "message_feedback.json", [{"conversation_id": "c1", "rating": "thumbs_up"}])
    (item,) = (item for item in read_imports(tmp_path) if isinstance(item, ImportedDialogue))
    assert not any(turn.rating for turn in item.conversation.turns)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_another_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([chat("Zoë?", "Ja.")], ensure_ascii=False), encoding=encoding)
    assert dialogues(path) == [[("user", "Zoë?"), ("assistant", "Ja.")]]


def test_an_interrupted_answer_is_no_target(tmp_path: Path) -> None:
    value = conversation(
        message("user", QUESTION, 1),
        message("assistant", "In Mar", 2, metadata={"finish_details": {"type": "interrupted"}}),
        message("user", "Go on", 3),
        message("assistant", ANSWER, 4),
    )
    assert [turn.weight for turn in single(tmp_path, value).turns] == [1, 0, 1, 1]


def test_canvas_documents_and_other_files_are_named(tmp_path: Path) -> None:
    write_json(tmp_path / "conversations.json", [chat(QUESTION, ANSWER)])
    (tmp_path / "textdocs").mkdir()
    write_json(tmp_path / "textdocs" / "1.json", {"id": "1", "title": "Peas", "content": "# Peas"})
    write_json(tmp_path / "model_comparisons.json", [{"id": "1"}])
    write_json(tmp_path / "new.json", {"a": 1})
    assert sorted(skipped(tmp_path)) == ["a canvas document", "a file in no known format"]


def test_damaged_side_files_cost_no_conversation(tmp_path: Path) -> None:
    write_json(tmp_path / "conversations.json", [chat(QUESTION, ANSWER)])
    (tmp_path / "message_feedback.json").write_text('[{"rating": "thumbs_up", ')
    (tmp_path / "group_chats.json").write_text("not JSON")
    (tmp_path / "export_manifest.json").write_bytes(b"\xff\xfe\x00\x00")
    assert dialogues(tmp_path) == [EXCHANGE]
    assert "the end of the file is missing" in skipped(tmp_path)


def test_a_file_that_is_cut_off_gives_what_is_before(tmp_path: Path) -> None:
    text = json.dumps([chat(QUESTION, ANSWER), chat("And beans?", "In May.")])
    (tmp_path / "conversations.json").write_text(text[: len(text) - 40])
    assert dialogues(tmp_path) == [EXCHANGE]
    assert skipped(tmp_path) == ["the end of the file is missing"]


def test_equal_ids_times_that_cannot_be_and_odd_nodes_are_read(tmp_path: Path) -> None:
    odd = chat(QUESTION, ANSWER, create_time=4.2e9, title=None)
    odd["mapping"]["m1"]["message"]["create_time"] = 12.0  # 1970
    odd["mapping"] |= {"x": None, "y": {"message": "text", "parent": 3}, "z": {"parent": "z", "message": {}}}
    (first, second) = read(write_json(tmp_path / "conversations.json", [chat(QUESTION, ANSWER), odd]))
    assert (first.id, second.id, second.time, second.title) == ("c1", "c1", None, "")
    assert [turn.time for turn in second.turns] == [None, 1.7e9 + 2]
    assert dialogues(tmp_path) == [EXCHANGE, EXCHANGE]


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 200_000], ids=["NUL", "surrogate", "long"])
def test_a_text_that_no_dialogue_can_hold_costs_its_exchange_only(tmp_path: Path, text: str) -> None:
    path = write_json(tmp_path / "conversations.json", [chat("And beans?", text, QUESTION, ANSWER)])
    found = dialogues(path)
    assert found[0][-2:] == EXCHANGE
    assert len(found[0]) == 2 or "\ud800" not in found[0][1][1]


@pytest.mark.parametrize("count", [2_000, *slow_cases(10_000)])
def test_a_long_tree_of_messages_is_read_with_its_roots_and_cycles(tmp_path: Path, count: int) -> None:
    value = chat(*[f"message {number}" for number in range(count)])
    value["mapping"]["other root"] = {"id": "other root", "message": message("user", "Lost", 1), "parent": None}
    value["mapping"]["a"] = {"id": "a", "message": None, "parent": "b"}
    value["mapping"]["b"] = {"id": "b", "message": None, "parent": "a"}
    value["current_node"] = "gone"
    assert len(single(tmp_path, value).turns) == count


def test_a_cut_off_zip_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("conversations.json", json.dumps([chat(QUESTION, ANSWER)]))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="damaged or cut-off zip"):
        list(read_imports(path))


SEED = [
    conversation(
        message("user", QUESTION, 1, metadata={"paragen_variant_choice": "m3", "attachments": [{"name": "a"}]}),
        message("assistant", "In winter.", 2),
        message(
            "assistant", f"{ANSWER}\ue200entity\ue202[1, 2]\ue201", 3, metadata={"finish_details": {"type": "stop"}}
        ),
        message(
            "user", {"content_type": "multimodal_text", "parts": [{"content_type": "image_asset_pointer"}, "b"]}, 4
        ),
        message("assistant", {"content_type": "code", "text": "1"}, 5, recipient="python"),
        message("tool", {"content_type": "execution_output", "text": "2"}, 6),
        message("assistant", "One.", 7),
        parents={3: 1},
    ),
    chat("And beans?", "In May."),
]
FEEDBACK = [{"id": "m3", "conversation_id": "c1", "rating": "thumbs_up"}]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=mutated(SEED), feedback=mutated(FEEDBACK), chats=mutated({"chats": [{"id": "g1"}]}))
def test_a_damaged_export_never_raises_another_error(value: Any, feedback: Any, chats: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / "conversations.json", value)
        write_json(folder / "message_feedback.json", feedback)
        write_json(folder / "group_chats.json", chats)
        try:
            found = list(read_imports(folder, "chatgpt"))
        except UserError:
            return
        assert found or not value
        assert all(isinstance(item, ImportedDialogue | Skipped) for item in found)


@settings(max_examples=40, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 8)), max_size=4))
def test_any_tree_yields_each_message_at_most_once(changes: list[tuple[int, int]]) -> None:
    value = copy.deepcopy(SEED[0])
    for child, parent in changes:
        value["mapping"][f"m{child}"]["parent"] = f"m{parent}"
    with tempfile.TemporaryDirectory() as name:
        found = read(write_json(Path(name) / "conversations.json", [value]))
    texts = [turn.text for turn in found[0].turns]
    assert len(set(texts)) == len(texts)

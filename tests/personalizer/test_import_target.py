"""A dry run counts what the import then stores, whatever the profile has, and changes nothing."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.dialogue import Dialogue
from mlx_personal.personalizer.importing import import_paths
from mlx_personal.profile import Store
from mlx_personal.profile.exchanges import exchanges_of
from mlx_personal.profile.undo_import import undo_import
from tests.support.chatgpt_export import chatgpt_conversation, write_chatgpt_export
from tests.support.imports import imported, write_lines

SOUP = ("Slowly.", "And how long?", "An hour.")

QUESTIONS = ("How do I cook soup?", "And bread?", "Thanks, that helps.", "No, that is wrong.")
ANSWERS = ("Slowly.", "Quickly.", "<think>Hm.</think>\n\nSlowly.")
# Ids of conversations are those of two apps, whose conversations may have equal ones or none.
IDS = st.sampled_from(("", "conversation-one", "conversation-two"))
TURNS = st.lists(st.tuples(st.sampled_from(QUESTIONS), st.sampled_from(ANSWERS)), min_size=1, max_size=4)


@dataclass
class Export:
    """Conversations of two apps, which may have the ids and turns of others: ChatGPT's, and rows of a training set.

    Attributes:
        chats: Conversations of ChatGPT.
        thumbs: The thumbs on their messages.
        rows: The rows.
    """

    chats: list[dict[str, Any]]
    thumbs: list[dict[str, Any]]
    rows: list[dict[str, Any]]

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        write_chatgpt_export(folder / "conversations.json", *self.chats)
        (folder / "message_feedback.json").write_text(json.dumps(self.thumbs))
        write_lines(folder / "rows.jsonl", self.rows)
        return folder


@st.composite
def exports(draw: st.DrawFn) -> Export:
    export = Export([], [], [])
    for _ in range(draw(st.integers(1, 4))):
        name, turns = draw(IDS), draw(TURNS)
        if draw(st.booleans()):
            export.rows.append(_row(draw, name, turns))
            continue
        chat = chatgpt_conversation(name, [text for turn in turns for text in turn])
        if draw(st.booleans()):  # the last answer was regenerated
            last = chat["mapping"][chat["current_node"]]
            content = {"content_type": "text", "parts": ["In the oven."]}
            chat["mapping"]["other"] = {**last, "id": "other", "message": {**last["message"], "content": content}}
        export.chats.append(chat)
        rating = draw(st.sampled_from((None, "thumbs_up", "thumbs_down")))
        thumb = {"message_id": chat["current_node"], "conversation_id": name, "rating": rating}
        export.thumbs += [] if rating is None else [thumb]
    return export


def _row(draw: st.DrawFn, name: str, turns: list[tuple[str, str]]) -> dict[str, Any]:
    """Return a row with answers of weight 0; one without an id may have a system turn."""
    system = draw(st.sampled_from(("", "Be brief."))) if not name else ""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer, "weight": draw(st.sampled_from((1, 1, 0)))})
    return {"messages": messages, "conversation_id": name}


Target: TypeAlias = tuple[tuple[str, str], ...]


def targets(dialogue: Dialogue, has_id: bool) -> list[Target]:
    """Return for each answer of weight 1 what makes it another one: all texts before it, and itself."""
    found = []
    for _, answer in dialogue.turn_indices:
        messages = [message for message in dialogue.messages[: answer + 1] if not (has_id and message.role == "system")]
        found.append(tuple((message.role, message.content.rpartition("</think>")[2].strip()) for message in messages))
    return found


def check_imported_once(store: Store, read: set[Target]) -> None:
    """Check that each answer that was read is a target of one dialogue, by the dialogues and by the exchanges."""
    found, known = [], []
    for row in store.dialogues():
        conversation_id = store.imports.origins(row.id)[0].origin.conversation_id
        found += targets(row.dialogue, bool(conversation_id))
        hashes = [e.prefix_hash for e in exchanges_of(row.dialogue, conversation_id) if e.weight]
        known += [(row.id, answer, prefix_hash) for answer, prefix_hash in enumerate(hashes)]
    assert sorted(found) == sorted(read)
    rows = store.database.fetch_all("SELECT dialogue_id, answer, prefix_hash FROM exchanges ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == known


@settings(max_examples=30, deadline=None)
@given(portions=st.lists(exports(), min_size=1, max_size=3), scored=st.integers(0, 3), undone=st.integers(1, 3))
def test_every_exchange_is_a_target_once_and_a_dry_run_counts_as_the_import(
    portions: list[Export], scored: int, undone: int
) -> None:
    """Whatever conversations have in common, in which order they come, how often, and what was taken back."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Store(Path(folder) / "profile")) as store:
        read: set[Target] = set()
        paths = [export.write(Path(folder) / str(number)) for number, export in enumerate(portions)]
        exports_read = {path: items for path in paths if (items := imported(path))}
        for path, items in exports_read.items():
            read |= {target for item in items for target in targets(item.dialogue, bool(item.conversation.id))}
            before = (store.dialogues(), len(store.imports.all()))
            dry = import_paths(store, [path], dry_run=True)
            assert (store.dialogues(), len(store.imports.all()), dry.import_id) == (*before, None)
            assert dry.summary == import_paths(store, [path]).summary
            assert import_paths(store, [path]).import_id is None
            for row in store.unscored(scored):
                store.add_decision(row.id, "kept-out", "food", (0.5, 0.5, 0.5), None, None, {"reason": "test"})
        check_imported_once(store, read)
        if undone <= len(store.imports.all()):
            undo_import(store, undone)
            for path in exports_read:
                import_paths(store, [path])
            check_imported_once(store, read)


@pytest.mark.parametrize("has_id", [False, True])
def test_of_many_conversations_that_begin_alike_each_is_known(tmp_path: Path, has_id: bool) -> None:
    def write(name: str, count: int) -> Path:
        chats = [
            chatgpt_conversation(f"c{number}" if has_id else "", ["Hi", "Hello!", f"Question {number}?", *SOUP[:count]])
            for number in range(60)
        ]
        return write_chatgpt_export(tmp_path / name, *chats)

    first, later = write("first.json", 1), write("later.json", 3)
    with contextlib.closing(Store(tmp_path / "profile")) as store:
        for path, outcome in ((first, "new"), (later, "continued")):
            dry = import_paths(store, [path], dry_run=True).summary
            assert dry == import_paths(store, [path]).summary
            assert dry.total(outcome) == 60
            assert import_paths(store, [path]).summary.total("known") == 60
        assert store.dialogue_count() == 60
        questions = [question for row in store.dialogues() for question in row.dialogue.user_turns]
        assert (questions.count("Hi"), questions.count(SOUP[1])) == (1, 60)


def test_a_dry_run_needs_no_lock(tmp_path: Path) -> None:
    path = write_chatgpt_export(tmp_path / "x.json", chatgpt_conversation("c1", QUESTIONS))
    with (
        contextlib.closing(Store(tmp_path / "profile")) as writer,
        writer.transaction(),
        contextlib.closing(Store(tmp_path / "profile", write=False)) as reader,
    ):
        assert import_paths(reader, [path], dry_run=True).summary.total("new") == 1

"""A dry run counts what the import then stores, whatever the profile has, and changes nothing."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.personalizer import import_target
from mlx_personal.personalizer.importing import import_paths
from mlx_personal.profile import Store
from tests.support.chatgpt_export import chatgpt_conversation, write_chatgpt_export

QUESTIONS = ("How do I cook soup?", "And bread?", "Thanks, that helps.", "No, that is wrong.")


@st.composite
def chats(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a conversation, which may have the id and turns of others, and the thumbs on its messages."""
    name = draw(st.sampled_from(("", "c1", "c2")))
    turns = st.tuples(st.sampled_from(QUESTIONS), st.sampled_from(("Slowly.", "Quickly.")))
    texts = [text for turn in draw(st.lists(turns, min_size=1, max_size=4)) for text in turn]
    chat = chatgpt_conversation(name, texts)
    if draw(st.booleans()):  # the last answer was regenerated
        last = chat["mapping"][chat["current_node"]]
        content = {"content_type": "text", "parts": ["In the oven."]}
        chat["mapping"]["other"] = {**last, "id": "other", "message": {**last["message"], "content": content}}
    rating = draw(st.sampled_from((None, "thumbs_up", "thumbs_down")))
    thumb = {"message_id": chat["current_node"], "conversation_id": name, "rating": rating}
    return chat, [] if rating is None else [thumb]


def write_export(folder: Path, export: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> Path:
    folder.mkdir()
    write_chatgpt_export(folder / "conversations.json", *(chat for chat, _ in export))
    (folder / "message_feedback.json").write_text(json.dumps([row for _, rows in export for row in rows]))
    return folder


@settings(max_examples=40, deadline=None)
@given(
    exports=st.lists(st.lists(chats(), min_size=1, max_size=4), min_size=1, max_size=3),
    scored=st.integers(0, 3),
)
def test_a_dry_run_counts_as_the_import_does(
    exports: list[list[tuple[dict[str, Any], list[dict[str, Any]]]]], scored: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Store(Path(folder) / "profile")) as store:
        for number, export in enumerate(exports):
            path = write_export(Path(folder) / str(number), export)
            before = (store.dialogues(), len(store.imports.all()))
            dry = import_paths(store, [path], dry_run=True)
            assert (store.dialogues(), len(store.imports.all()), dry.import_id) == (*before, None)
            assert dry.summary == import_paths(store, [path]).summary
            for row in store.unscored(scored):
                store.add_decision(row.id, "kept-out", "food", (0.5, 0.5, 0.5), None, None, {"reason": "test"})


def test_a_dry_run_needs_no_lock(tmp_path: Path) -> None:
    path = write_chatgpt_export(tmp_path / "x.json", chatgpt_conversation("c1", QUESTIONS))
    with (
        contextlib.closing(Store(tmp_path / "profile")) as writer,
        writer.transaction(),
        contextlib.closing(Store(tmp_path / "profile", write=False)) as reader,
    ):
        assert import_paths(reader, [path], dry_run=True).summary.total("new") == 1


def test_beyond_its_memory_a_dry_run_knows_equal_dialogues_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_target, "_PLANNED_CHARS", 0)
    exports = [
        write_chatgpt_export(tmp_path / f"{number}.json", chatgpt_conversation("c1", QUESTIONS[:length]))
        for number, length in enumerate((2, 2, 4))
    ]
    with contextlib.closing(Store(tmp_path / "profile")) as store:
        summary = import_paths(store, exports, dry_run=True).summary
    assert (summary.total("new"), summary.total("known")) == (2, 1)

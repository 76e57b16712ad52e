"""Roles by their names in apps, and texts that can be stored."""

from __future__ import annotations

import pytest

from mlx_personal.importers import Conversation, Turn
from mlx_personal.importers.conversation import Alternative, role_of


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("human", "user"),
        (" User ", "user"),
        ("ASSISTANT", "assistant"),
        ("gpt", "assistant"),
        ("developer", "system"),
        ("function", "tool"),
        ("critic", None),
        (None, None),
        (["user"], None),
    ],
)
def test_roles_are_known_by_many_names(name: object, role: str | None) -> None:
    assert role_of(name) == role


def test_halves_of_characters_are_escaped_where_no_message_is_checked() -> None:
    turn = Turn("assistant", "\ud800", model="m\udce9", alternatives=(Alternative("é\ud800", "regenerated"),))
    conversation = Conversation((turn,), "app", "file", id="\ud800", title="Grüße \ud800")
    assert (conversation.id, conversation.title, turn.model) == (r"\ud800", r"Grüße \ud800", r"m\udce9")
    assert turn.alternatives[0].text == r"é\ud800"
    assert turn.text == "\ud800"

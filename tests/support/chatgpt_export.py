"""Write small ChatGPT exports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def chatgpt_conversation(
    conversation_id: str, texts: Sequence[str], title: str = "", time: float = 1_760_000_000.0
) -> dict[str, Any]:
    """Return a conversation without branches.

    Args:
        conversation_id: Its id.
        texts: The questions and the answers, in turn.
        title: Its title.
        time: When it began, in seconds since 1970; each message is a minute later than the one before.
    """
    mapping: dict[str, Any] = {"root": {"id": "root", "message": None, "parent": None, "children": []}}
    parent = "root"
    for number, text in enumerate(texts):
        key = f"{conversation_id}-{number}"
        message = {
            "id": key,
            "author": {"role": "assistant" if number % 2 else "user"},
            "create_time": time + 60 * number,
            "content": {"content_type": "text", "parts": [text]},
            "metadata": {"model_slug": "gpt-5"} if number % 2 else {},
            "recipient": "all",
        }
        mapping[parent]["children"].append(key)
        mapping[key] = {"id": key, "message": message, "parent": parent, "children": []}
        parent = key
    return {
        "conversation_id": conversation_id,
        "title": title,
        "create_time": time,
        "mapping": mapping,
        "current_node": parent,
    }


def write_chatgpt_export(path: Path, *conversations: dict[str, Any]) -> Path:
    """Write an export as one file.

    Args:
        path: The file.
        *conversations: Its conversations.

    Returns:
        The file.
    """
    path.write_text(json.dumps(conversations), encoding="utf-8")
    return path

"""Messages in the forms of OpenAI, Anthropic, Gemini and ShareGPT, and the rows that contain lists of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Turn, role_of
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of, text_of_parts
from mlx_personal.importers.formats.table_rows import json_value

# Keys under which rows have their list of messages.
CHAT_KEYS: Final = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "contents")
TIME_KEYS: Final = ("create_time", "created_at", "timestamp", "created")
_SYSTEM_KEYS: Final = ("system", "system_prompt", "systemInstruction", "system_instruction")
# Items of OpenAI's Responses API have a type instead of a role.
_ROLE_KEYS: Final = ("role", "from", "type")
_CONTENT_KEYS: Final = ("content", "value", "text", "parts", "output")
# Roles of turns that call a tool, whose text is the call.
_CALL_ROLES: Final = ("function_call", "tool_call")
_CALL_KEYS: Final = ("tool_calls", "function_call")
_CALL_MARK: Final = "<tool_call>"
# Keys by which a data set excludes a turn from the loss, if their value is 0 or false.
_WEIGHT_KEYS: Final = ("weight", "loss_weight", "train", "loss")


def is_message(value: object) -> bool:
    """Return whether a value is a message: an object with a role.

    Args:
        value: A value of JSON.
    """
    fields = as_mapping(value)
    return isinstance(fields.get("role"), str) or (isinstance(fields.get("from"), str) and "value" in fields)


def chat_turns(row: Mapping[str, Any]) -> tuple[Turn, ...] | None:
    """Return the turns of a row with a list of messages, or None for another row.

    Args:
        row: The row. Tables without nested columns have the list as a text in JSON.
    """
    for key in CHAT_KEYS:
        messages = row.get(key)
        if isinstance(messages, str) and messages.lstrip()[:1] == "[":
            messages = json_value(messages)
        if isinstance(messages, list) and (key == "messages" or any(map(is_message, messages))):
            return (*system_turns(row), *turns_of_messages(messages))
    return None


def system_turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Return the system turn that a row has beside its messages; none if it has none.

    Args:
        row: The row.
    """
    for key in _SYSTEM_KEYS:
        text = _text(row.get(key))[0]
        if text.strip():
            return (Turn("system", text),)
    return ()


def turns_of_messages(messages: Iterable[object]) -> Iterator[Turn]:
    """Yield the turns of messages.

    Args:
        messages: The messages, in order.
    """
    for message in messages:
        fields = as_mapping(message)
        name = _first_text(fields, _ROLE_KEYS)
        content = next((fields[key] for key in _CONTENT_KEYS if fields.get(key) is not None), None)
        time = time_of(fields)
        # The API of Anthropic sends results of tools in a message of the user.
        for part in as_list(content):
            if as_mapping(part).get("type") == "tool_result":
                yield Turn("tool", _text(as_mapping(part).get("content"))[0], time)
        text, left_out = _text(content)
        if left_out.pop("tool_result", 0) and not text:
            continue
        is_call = name in _CALL_ROLES
        role = "assistant" if is_call else role_of(name) or name
        if role != "assistant":
            yield Turn(role, text, time, text_of(fields.get("name")) if role == "user" else "", left_out=left_out)
            continue
        yield Turn(
            role,
            text,
            time,
            model=text_of(fields.get("model")),
            weight=0 if is_excluded(fields) else 1,
            calls_tool=is_call
            or any(fields.get(key) for key in _CALL_KEYS)
            or "tool_use" in left_out
            or _CALL_MARK in text,
            left_out=left_out,
        )


def is_excluded(fields: Mapping[str, Any]) -> bool:
    """Return whether a message or a row is excluded from the loss.

    Args:
        fields: Its fields.
    """
    return any(isinstance(fields.get(key), int | float) and not fields[key] for key in _WEIGHT_KEYS)


def time_of(fields: Mapping[str, Any]) -> float | None:
    """Return when a message or a row was written, in seconds since 1970, UTC; None if it does not say it.

    Args:
        fields: Its fields.
    """
    return next((time for key in TIME_KEYS if (time := as_time(fields.get(key))) is not None), None)


def _text(content: object) -> tuple[str, dict[str, int]]:
    """Return the text of a content, and the numbers of its other parts by type."""
    fields = as_mapping(content)
    if "parts" in fields:
        return text_of_parts(fields["parts"])
    return text_of_parts([content] if fields else content)


def _first_text(fields: Mapping[str, Any], keys: Iterable[str]) -> str:
    return next((text for key in keys if (text := text_of(fields.get(key)))), "")

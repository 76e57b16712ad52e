"""ChatGPT exports: a zip, its folder, or its `conversations.json`; since 2026 several numbered files.

A conversation is a tree of messages, because answers can be regenerated and questions edited. The branch that the app
shows leads from `current_node` to the root. What the app does not show (hidden messages, custom instructions, thoughts)
is not read, but a system message with a text that is not hidden; calls of tools, such as the canvas, and their results
are turns as in other formats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.formats.branches import read_branch
from mlx_personal.importers.formats.chatgpt_side_files import (
    APP,
    FEEDBACK,
    GROUP_CHATS,
    MANIFEST,
    Feedback,
    SideFiles,
    read_side_files,
)
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, LIKELY, NO
from mlx_personal.importers.json_records import Record, read_records

# Content types that the app does not show as part of the conversation.
_HIDDEN_TYPES: Final = frozenset({"thoughts", "reasoning_recap", "user_editable_context", "model_editable_context"})
# What parts without text are counted as, by their content type.
_PARTS: Final = {
    "image_asset_pointer": "image",
    "audio_asset_pointer": "audio",
    "real_time_user_audio_video_asset_pointer": "audio",
    "video_container_asset_pointer": "video",
}
_TYPE_NAME: Final = re.compile(r"[a-z_]{1,40}")
# Marks for citations and cards between private-use characters, such as `cite`; `entity`, `url` and `link_title` contain
# words of the sentence. Other such characters enclose the words that a citation is about.
_MARK: Final = re.compile("([ \t]?)\ue200([^\ue200\ue201]*)\ue201")
_SEPARATOR: Final = "\ue202"
_PRIVATE_USE: Final = re.compile("[\ue200-\ue20f]")
# How each of them begins in UTF-8.
_PRIVATE_USE_BYTES: Final = b"\xee\x88"
_OLD_CITATION: Final = re.compile("【[0-9:]+†[^【】]*】")


class ChatGPTImporter:
    """Reads the conversations of a ChatGPT export."""

    name = APP
    refuses = False
    # The fields of `model_comparisons.json` are described nowhere. The chosen answer is in the question's metadata too.
    side_files = frozenset(
        {
            *(
                "user.json",
                "user_settings.json",
                "chat.html",
                "shared_conversations.json",
                "sora.json",
                "shopping.json",
            ),
            *("model_comparisons.json", "ads.json", "library_files.json", "conversation_asset_file_names.json"),
            *(FEEDBACK, GROUP_CHATS, MANIFEST),
        }
    )

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a ChatGPT export."""
        if not head.is_json or "mapping" not in head.keys:
            return CERTAIN if _is_canvas_document(head) else NO
        return CERTAIN if head.keys & {"current_node", "conversation_id", "create_time"} else LIKELY

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversations of a file."""
        if _is_canvas_document(head):
            yield Skipped(document.where, "a canvas document", APP)
            return
        side_files = read_side_files(document)
        yield from side_files.skipped
        for record in read_records(document, head):
            found = record if isinstance(record, Skipped) else _conversation(record, side_files)
            if found is not None:
                yield found


def _is_canvas_document(head: Head) -> bool:
    return head.is_json and "/textdocs/" in f"/{head.name}" and "mapping" not in head.keys


def _conversation(record: Record, side_files: SideFiles) -> Conversation | Skipped | None:
    """Return a conversation, or why it is left out; None if that was said already."""
    value = as_mapping(record.value)
    nodes = {key: as_mapping(node) for key, node in as_mapping(value.get("mapping")).items()}
    identity = text_of(value.get("conversation_id")) or text_of(value.get("id"))
    if not nodes:
        return Skipped(record.where, "a conversation without messages", APP)
    if identity in side_files.group_chats:
        return None
    if value.get("is_do_not_remember") is True:
        return Skipped(record.where, "marked as do not remember", APP)
    if value.get("is_temporary_chat") is True:
        return Skipped(record.where, "a temporary chat", APP)
    messages = {key: as_mapping(node.get("message")) for key, node in nodes.items()}
    feedback, model = side_files.feedback, text_of(value.get("default_model_slug"))
    branch = read_branch(
        {key: text_of(node.get("parent")) or None for key, node in nodes.items()},
        {key: as_time(message.get("create_time")) for key, message in messages.items()},
        value.get("current_node"),
        lambda key: _turns(key, messages[key], feedback, model),
        _chosen(messages),
    )
    title, time = text_of(value.get("title")), as_time(value.get("create_time"))
    turns = _with_feedback_without_message(branch.turns, feedback, identity, messages)
    return Conversation(turns, APP, record.where, identity, title, time, branch.left_behind)


def _chosen(messages: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Return the ids of answers that the owner chose when the app showed two."""
    metadata = (as_mapping(message.get("metadata")) for message in messages.values())
    return {text_of(fields.get("paragen_variant_choice")) for fields in metadata} - {""}


def _with_feedback_without_message(
    turns: tuple[Turn, ...], feedback: Feedback, identity: str, messages: Mapping[str, Mapping[str, Any]]
) -> tuple[Turn, ...]:
    """Return the turns with feedback that names no message of its conversation, if there is one answer only."""
    rows = feedback.by_conversation.get(identity, ())
    ids = {*messages, *(text_of(message.get("id")) for message in messages.values())} - {""} if rows else set()
    ratings = [rating for key, rating in rows if key not in ids]
    answers = [n for n, turn in enumerate(turns) if turn.role == "assistant" and turn.text and not turn.calls_tool]
    if not ratings or len(answers) != 1 or turns[answers[0]].rating is not None:
        return turns
    answer = replace(turns[answers[0]], rating=ratings[-1], rating_source="thumbs")
    return (*turns[: answers[0]], answer, *turns[answers[0] + 1 :])


def _turns(key: str, message: Mapping[str, Any], feedback: Feedback, default_model: str) -> tuple[Turn, ...]:
    """Return the turn of a message, or none for one that the app does not show."""
    metadata, content = as_mapping(message.get("metadata")), as_mapping(message.get("content"))
    role = role_of(as_mapping(message.get("author")).get("role"))
    kind = content.get("content_type")
    if role is None or metadata.get("is_visually_hidden_from_conversation") is True:
        return ()
    if metadata.get("is_user_system_message") is True or (isinstance(kind, str) and kind in _HIDDEN_TYPES):
        return ()
    text, left_out = _text(content)
    if role in ("system", "tool") and not text and not left_out:
        return ()
    if role != "assistant":
        return (Turn(role, text, as_time(message.get("create_time")), left_out=_with_files(left_out, metadata)),)
    # Code is a call of a tool even where it is addressed to all.
    calls_tool = kind == "code" or message.get("recipient") not in (None, "all")
    is_cut_off = as_mapping(metadata.get("finish_details")).get("type") == "interrupted"
    rating = feedback.by_message.get(key) or feedback.by_message.get(text_of(message.get("id")))
    turn = Turn(
        role,
        text,
        as_time(message.get("create_time")),
        model=text_of(metadata.get("model_slug")) or default_model,
        weight=0 if message.get("weight") == 0 or is_cut_off else 1,
        calls_tool=calls_tool,
        rating=rating,
        rating_source="thumbs" if rating else "",
        left_out=left_out,
    )
    return (turn,)


def _text(content: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    """Return the text of a message's content, and the numbers of its parts that are left out by type."""
    texts: list[str] = []
    left_out: dict[str, int] = {}
    for part in as_list(content.get("parts")) or [content.get("text") or content.get("result")]:
        if isinstance(part, str):
            texts.append(part)
            continue
        fields = as_mapping(part)
        kind = text_of(fields.get("content_type"))
        if isinstance(fields.get("text"), str):  # also the transcript of a voice
            texts.append(fields["text"])
        elif fields:
            name = _PARTS.get(kind) or (kind if _TYPE_NAME.fullmatch(kind) else "part")
            left_out[name] = left_out.get(name, 0) + 1
    return _without_marks("\n".join(text for text in texts if text)).strip(), left_out


def _with_files(left_out: dict[str, int], metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers with the attached files; images are parts of the content already."""
    files = [as_mapping(file) for file in as_list(metadata.get("attachments"))]
    types = [text_of(file.get("mime_type")) or text_of(file.get("mimeType")) for file in files]
    count = sum(not kind.startswith("image/") for kind in types)
    return {**left_out, "file": count} if count else left_out


def _without_marks(text: str) -> str:
    """Return text without the marks of citations and cards."""
    if text.isascii():
        return text
    if "【" in text:
        text = _OLD_CITATION.sub("", text)
    # Most texts have no marks, and bytes are found many times as fast as a range of characters.
    if _PRIVATE_USE_BYTES in text.encode("utf-8", "surrogatepass"):
        text = _PRIVATE_USE.sub("", _MARK.sub(_words_of_mark, text))
    return text


def _words_of_mark(match: re.Match[str]) -> str:
    """Return the words that the app shows in the place of a mark."""
    space, (name, *fields) = match[1], match[2].split(_SEPARATOR)
    if name == "entity" and fields:
        try:
            words = json.loads(fields[0])
        except (ValueError, RecursionError):
            return space + fields[0]
        return space + words[1] if isinstance(words, list) and len(words) > 1 and isinstance(words[1], str) else ""
    if name in ("url", "link_title") and fields:
        return space + fields[0]
    return ""

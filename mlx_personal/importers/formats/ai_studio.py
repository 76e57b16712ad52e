"""Prompts of Google AI Studio: a JSON file for each, in the folder "Google AI Studio" of Google Drive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.fields import as_list, as_mapping, as_time, text_of
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import CERTAIN, NO
from mlx_personal.importers.json_records import Record, read_records

# Keys of chunks that refer to a file in Google Drive.
_FILES: Final = {"driveImage": "image", "driveVideo": "video", "driveAudio": "audio", "driveDocument": "file"}


class AIStudioImporter:
    """Reads the prompts of Google AI Studio."""

    name = "ai-studio"
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a prompt of AI Studio."""
        return CERTAIN if head.is_json and "chunkedPrompt" in head.keys else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversation of a file."""
        title = head.base_name.removesuffix(".json")
        for record in read_records(document, head):
            yield record if isinstance(record, Skipped) else _conversation(record, title)


def _conversation(record: Record, title: str) -> Conversation | Skipped:
    value = as_mapping(record.value)
    chunks = [as_mapping(chunk) for chunk in as_list(as_mapping(value.get("chunkedPrompt")).get("chunks"))]
    if not chunks:
        return Skipped(record.where, "a conversation without messages", AIStudioImporter.name)
    model = text_of(as_mapping(value.get("runSettings")).get("model")).removeprefix("models/")
    turns = [turn for chunk in chunks if (turn := _turn(chunk, model)) is not None]
    instruction = _text(as_mapping(value.get("systemInstruction")))
    if instruction:
        turns.insert(0, Turn("system", instruction))
    time = next((turn.time for turn in turns if turn.time is not None), None)
    return Conversation(tuple(turns), AIStudioImporter.name, record.where, title=title, time=time)


def _turn(chunk: Mapping[str, Any], model: str) -> Turn | None:
    """Return the turn of a chunk, or None for a thought."""
    role, time = role_of(chunk.get("role")), as_time(chunk.get("createTime"))
    if role is None or chunk.get("isThought") is True:
        return None
    text = _text(chunk)
    left_out = {_FILES[key]: 1 for key in _FILES if chunk.get(key)}
    if role != "assistant":
        return Turn(role, text, time, left_out=left_out)
    if "codeExecutionResult" in chunk:
        return Turn("tool", text_of(as_mapping(chunk["codeExecutionResult"]).get("output")), time)
    calls_tool = "executableCode" in chunk
    return Turn(role, text, time, model=model, calls_tool=calls_tool, left_out=left_out)


def _text(value: Mapping[str, Any]) -> str:
    """Return the text of a chunk or an instruction: `text`, or what its parts add up to without thoughts."""
    parts = (as_mapping(part) for part in as_list(value.get("parts")))
    pieces = (text_of(part.get("text")) for part in parts if part.get("thought") is not True)
    return text_of(value.get("text")).strip() or "".join(pieces).strip()

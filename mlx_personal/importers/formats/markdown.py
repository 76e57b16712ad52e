"""Transcripts as plain text or Markdown, where a heading or the beginning of a line says who speaks.

Such as `## User`, `### You said:`, `**User:** Hello`, `Assistant: Hello`, `[10:05] Claude: Hello`. A file has one
style, that by which most turns of both sides are marked. Other headings are part of the text, and so is all in code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn, role_of
from mlx_personal.importers.document import Document
from mlx_personal.importers.head import Head
from mlx_personal.importers.importer import NO, POSSIBLE
from mlx_personal.importers.json_records import read_lines

_NAME: Final = "markdown"
_HEADING: Final = re.compile(r"(?P<level>#{1,6})\s+(?P<name>[^\n]{1,80}?)\s*#*\s*")
_BOLD: Final = re.compile(
    r"(?:[-*]\s+)?(?P<mark>\*\*|__)(?P<name>[^*_\n]{1,60}?)(?:(?P=mark)\s*:?|:\s*(?P=mark))(?P<rest>\s.*|)"
)
_PLAIN: Final = re.compile(r"(?:\[[^\]\n]{4,40}\]\s*)?(?P<name>[^\s:*#\[][^:\n]{0,40}?):(?P<rest>\s.*|)")
_FENCE: Final = re.compile(r"\s{0,3}(```|~~~)")
_RULE: Final = re.compile(r"\s*([-*_])(\s*\1){2,}\s*")
# What stands around a name: emoji before it, "said" or the time after it.
_AROUND: Final = re.compile(r"^\W+|(?:\s+(?:said|says|wrote))?(?:\s+(?:[-\u2013\u2014|]\s.*|\(.*\)|\[.*\]))?\W*$")
# Assistants with a version, such as "GPT-4o" or "Claude 3.5 Sonnet".
_MODEL: Final = re.compile(
    r"(chatgpt|gpt|claude|gemini|grok|deepseek|copilot|llama|mistral|qwen|gemma|phi)"
    r"([ -]?v?\d[\w.]*)?([ -](sonnet|opus|haiku|pro|flash|mini|turbo|instruct|chat|large|plus|nano|[rvo]\d))*",
    re.IGNORECASE,
)
_TITLE: Final = re.compile(r"title:\s*[\"']?(.+?)[\"']?\s*")
_MAX_FRONT_MATTER_LINES: Final = 50


class MarkdownImporter:
    """Reads transcripts in Markdown or plain text."""

    name = _NAME
    refuses = False
    side_files: frozenset[str] = frozenset()

    def sniff(self, head: Head) -> float:
        """Return how certain it is that a file is a transcript."""
        return POSSIBLE if head.kind == "text" and _style(head.text.splitlines()) else NO

    def read(self, document: Document, head: Head) -> Iterator[Conversation | Skipped]:
        """Yield the conversation of a file."""
        style = _style(head.text.splitlines())
        if not style:
            yield Skipped(document.where, "a text that is no transcript", _NAME)
            return
        title, turns = "", list[tuple[str, list[str]]]()
        front_matter: list[str] | None = None
        for number, line, role, rest in _marked_lines(_lines(document, head), style):
            if number == 0 and line.strip() == "---":
                front_matter = []
            elif front_matter is not None and number < _MAX_FRONT_MATTER_LINES:
                front_matter.append(line)
                if line.strip() in ("---", "..."):
                    front_matter = None
                elif match := _TITLE.fullmatch(line):
                    title = match[1]
            elif role:
                turns.append((role, [rest]))
            elif turns:
                turns[-1][1].append(line)
            elif line.startswith("# "):
                title = title or line.removeprefix("# ").strip()
        name = document.name.rpartition("/")[2]
        yield Conversation(
            tuple(Turn(role, _text(lines)) for role, lines in turns),
            _NAME,
            document.where,
            title=title or name.rpartition(".")[0] or name,
        )


def _lines(document: Document, head: Head) -> Iterator[str]:
    for _, line in read_lines(document, head.encoding):
        yield "" if line is None else line.decode("utf-8", "replace").lstrip("\ufeff")


def _style(lines: Iterable[str]) -> str:
    """Return the style of the markers of both sides; empty if there are none."""
    counts: dict[str, Counter[str]] = {}
    for line in _outside_code(lines):
        for style, role, _ in _markers(line):
            counts.setdefault(style, Counter())[role] += 1
    best = max(counts, key=lambda style: _turns_of_both(counts[style]), default="")
    return best if best and _turns_of_both(counts[best]) else ""


def _turns_of_both(count: Counter[str]) -> int:
    return min(count["user"], count["assistant"])


def _outside_code(lines: Iterable[str]) -> Iterator[str]:
    fence = ""
    for line in lines:
        match = _FENCE.match(line)
        if match and fence in ("", match[1]):
            fence = "" if fence else match[1]
        yield "" if fence else line


def _marked_lines(lines: Iterable[str], style: str) -> Iterator[tuple[int, str, str, str]]:
    """Yield number, text, role and the rest of each line; an empty role for a line that begins no turn."""
    fence = ""
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        if match and fence in ("", match[1]):
            fence = "" if fence else match[1]
        found = [] if fence else [(role, rest) for other, role, rest in _markers(line) if other == style]
        role, rest = found[0] if found else ("", "")
        yield number, line, role, rest


def _markers(line: str) -> Iterator[tuple[str, str, str]]:
    """Yield style, role and rest of a line that begins a turn."""
    for form, pattern in (("heading", _HEADING), ("bold", _BOLD), ("plain", _PLAIN)):
        match = pattern.fullmatch(line)
        role = _role(match["name"]) if match else None
        if match and role is not None:
            yield f"{form}{len(match['level'])}" if form == "heading" else form, role, match.groupdict().get("rest", "")


def _role(name: str) -> str | None:
    name = _AROUND.sub("", name.strip(" *_:"))
    if name.casefold() == "prompt":
        return "user"
    return role_of(name) or ("assistant" if _MODEL.fullmatch(name) else None)


def _text(lines: list[str]) -> str:
    """Return the text of a turn without rules around it, and without quotation marks if all of it is quoted."""
    while lines and (not lines[-1].strip() or _RULE.fullmatch(lines[-1])):
        lines = lines[:-1]
    while lines and not lines[0].strip():
        lines = lines[1:]
    if lines and all(line.startswith(">") or not line.strip() for line in lines):
        lines = [line.removeprefix(">").removeprefix(" ") for line in lines]
    return "\n".join(lines).strip()

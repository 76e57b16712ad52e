"""Turn a conversation of any shape into a dialogue: every question that has an answer is kept.

Rules, in this order:

- Of a turn with text, images and other files are left out, counted.
- A turn without text, or with text that no dialogue can hold, is left out. Together with an answer its question is left
  out, so that the next answer is not taken for its own, and together with a question its answer.
- The text of an assistant turn that calls a tool is no answer. The tool's result is context of the answer after it.
- Turns of the same role in a row are joined. Of answers in a row, those with weight 0 are left out beside others.
- A greeting before the first question, and a question without an answer, are left out. System turns before the first
  question are joined, later ones are left out.
- Exchanges with weight 0 stay as context of later ones; after the last answer with weight 1 they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mlx_personal.dialogue import Dialogue, Message, strip_thoughts
from mlx_personal.dialogue.types import ROLES
from mlx_personal.errors import quoted
from mlx_personal.importers.conversation import Conversation, Skipped, Turn

_Skip = Callable[[str], None]
# Types of parts that reasons name. Others are any words of a file, and reasons are stored.
_MEDIA = frozenset({"image", "audio", "video", "file", "document", "attachment"})
_PARTS = _MEDIA | {"part", "tool_use", "tool_result"}
# More of a tool's output is rarely what an answer is about, and the context is limited.
MAX_TOOL_CHARS = 2_000


@dataclass(frozen=True)
class NormalizedDialogue:
    """The dialogue of a conversation.

    Attributes:
        dialogue: The dialogue.
        turns: For each message of the dialogue the turns that it consists of.
        skipped: The turns that were left out, and the images and files of other turns.
    """

    dialogue: Dialogue
    turns: tuple[tuple[Turn, ...], ...]
    skipped: tuple[Skipped, ...]


@dataclass
class _Exchange:
    """A question, results of tools, and an answer, each of one or more turns."""

    user: list[Turn]
    tools: list[Turn]
    assistant: list[Turn]
    is_damaged: bool = False


def normalize(conversation: Conversation) -> NormalizedDialogue | Skipped:
    """Return the dialogue of a conversation, or why it contains none.

    Args:
        conversation: The conversation.
    """
    skipped: list[Skipped] = []

    def skip(reason: str) -> None:
        skipped.append(Skipped(conversation.where, reason, conversation.app, is_turn=True))

    system, exchanges = _exchanges(conversation.turns, skip)
    while exchanges and not any(turn.weight for turn in exchanges[-1].assistant):
        skip("an answer with weight 0 after the last target")
        exchanges.pop()
    if not exchanges:
        problems = {problem for turn in conversation.turns if (problem := _problem(turn)) is not None}
        reasons = problems if len(problems) == 1 else {item.reason for item in skipped} if len(skipped) == 1 else set()
        return Skipped(conversation.where, (*reasons, _why_empty(conversation.turns))[0], conversation.app)
    names = {turn.name for exchange in exchanges for turn in exchange.user if turn.name}
    messages: list[Message] = []
    turns: list[tuple[Turn, ...]] = []
    for role, group, weight in _messages(system, exchanges):
        texts = [f"{turn.name}: {turn.text}" if turn.name and len(names) > 1 else turn.text for turn in group]
        try:
            messages.append(Message(role, "\n\n".join(texts), weight))
        except ValueError as error:  # turns that are valid alone and too long together
            return Skipped(conversation.where, str(error), conversation.app)
        turns.append(tuple(group))
    for name, count in (item for group in turns for turn in group for item in turn.left_out.items()):
        for _ in range(count if name in _MEDIA else 0):
            skip(f"{'an' if name[0] in 'aeiou' else 'a'} {name} beside a text that is kept")
    for _ in range(conversation.left_behind):
        skip("a question on a branch that the app does not show, with what follows it")
    return NormalizedDialogue(Dialogue(tuple(messages)), tuple(turns), tuple(skipped))


def _exchanges(turns: Iterable[Turn], skip: _Skip) -> tuple[list[Turn], list[_Exchange]]:
    """Return the system turns before the first question, and the exchanges with an answer."""
    system: list[Turn] = []
    exchanges: list[_Exchange] = []
    current: _Exchange | None = None
    for turn in turns:
        problem = _problem(turn)
        if problem is not None:
            skip(problem)
            if turn.role == "assistant" and current is not None and not turn.calls_tool and strip_thoughts(turn.text):
                current.is_damaged = True
            elif turn.role == "user" and current is not None and (current.assistant or current.is_damaged):
                _close(current, exchanges, skip)
                current = _Exchange([], [], [], is_damaged=True)
            continue
        if turn.role == "system":
            if current is None:
                system.append(turn)
            else:
                skip("a system turn after the first question")
        elif turn.role == "user":
            if current is None or current.assistant or current.is_damaged:
                _close(current, exchanges, skip)
                current = _Exchange([], [], [])
            elif current.tools:
                current.tools.clear()  # results that no answer followed
            current.user.append(turn)
        elif current is None:
            skip("an assistant turn before the first question" if turn.role == "assistant" else "a tool turn alone")
        elif turn.role == "tool":
            current.tools.append(turn)
        elif current.is_damaged and not current.user:
            skip("an answer to a question that is left out")
        else:
            current.assistant.append(turn)
    _close(current, exchanges, skip)
    return system, exchanges


def _close(exchange: _Exchange | None, exchanges: list[_Exchange], skip: _Skip) -> None:
    """Append an exchange if it has an answer."""
    if exchange is None or exchange.is_damaged:
        return
    if not exchange.assistant:
        skip("a question without an answer")
        return
    if len({turn.weight for turn in exchange.assistant}) > 1:
        skip("an answer with weight 0 beside another one")
        exchange.assistant = [turn for turn in exchange.assistant if turn.weight]
    exchanges.append(exchange)


def _problem(turn: Turn) -> str | None:
    """Return why a turn is left out, or None."""
    if turn.role not in ROLES:
        return f"a turn with the unknown role {quoted(turn.role)}" if turn.role else "a turn without a role"
    if turn.role == "assistant" and turn.calls_tool:
        return "an assistant turn that calls a tool"
    if not turn.text.strip():
        parts = " and ".join(sorted({name if name in _PARTS else "other parts" for name in turn.left_out}))
        return f"a {turn.role} turn with {parts} only" if parts else f"an empty {turn.role} message"
    if turn.role == "assistant" and not strip_thoughts(turn.text):
        return "an assistant turn that consists of thoughts only"
    try:
        Message(turn.role, turn.text[:MAX_TOOL_CHARS] if turn.role == "tool" else turn.text)
    except ValueError as error:
        return str(error)
    return None


def _messages(system: list[Turn], exchanges: list[_Exchange]) -> Iterator[tuple[str, Sequence[Turn], int]]:
    """Yield role, turns and weight of each message."""
    if system:
        yield "system", system, 1
    for exchange in exchanges:
        yield "user", exchange.user, 1
        for tool in exchange.tools:
            yield "tool", [replace(tool, text=_shortened(tool.text))], 1
        yield "assistant", exchange.assistant, min(turn.weight for turn in exchange.assistant)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TOOL_CHARS else f"{text[:MAX_TOOL_CHARS]} [...]"


def _why_empty(turns: Sequence[Turn]) -> str:
    roles = {turn.role for turn in turns if turn.text.strip() and not turn.calls_tool} - {"system", "tool"}
    if not roles:
        return "a conversation without text"
    if roles == {"user"} or roles == {"assistant"}:
        return f"only the {roles.pop()} speaks"
    return "no question with an answer"

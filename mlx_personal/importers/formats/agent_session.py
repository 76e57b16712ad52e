"""Sessions of coding agents: what the person typed, and the closing prose of each answer.

An agent writes a text, calls a tool, reads its output, and so on; only the texts after the last call are its answer.
The output of tools, edits of files, and what the program itself wrote in the person's name are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from mlx_personal.importers.conversation import Conversation, Skipped, Turn

# A longer text was pasted, such as a log. Its beginning and its end are kept, where the question is.
MAX_PASTE_CHARS: Final = 10_000
TOOL_CALL: Final = "a call of a tool without a text before it"
TOOL_OUTPUT: Final = "the output of a tool of an agent"
INJECTED: Final = "a text that the agent's program wrote"
SUB_AGENT: Final = "a message of a sub-agent"
TAKEN_BACK: Final = "a turn that was taken back"
_PASTE: Final = f"a pasted text of over {MAX_PASTE_CHARS:,} characters, shortened"
_UNASKED: Final = "an answer to a command of the agent's program"


class AgentSession:
    """Collects the turns of one session in the order of its file.

    Args:
        app: Name of the agent.
        where: File and position in it.
    """

    def __init__(self, app: str, where: str):
        self._app, self._where = app, where
        self._turns: list[Turn] = []
        self._left_out: list[str] = []
        self._is_asked = True  # whether the texts of the agent answer the person

    def __len__(self) -> int:
        return len(self._turns)

    def ask(self, text: str, time: float | None = None, left_out: dict[str, int] | None = None) -> None:
        """Add what the person typed.

        Args:
            text: The text.
            time: When it was typed, in seconds since 1970.
            left_out: Numbers of its other parts by type.
        """
        if len(text) > MAX_PASTE_CHARS:
            half = MAX_PASTE_CHARS // 2
            text = f"{text[:half]}\n[...]\n{text[-half:]}"
            self.leave_out(_PASTE)
        self._is_asked = True
        self._turns.append(Turn("user", text, time=time, left_out=left_out or {}))

    def answer(self, text: str, time: float | None = None, model: str = "") -> None:
        """Add a text of the agent.

        Args:
            text: The text without thoughts.
            time: When it was written, in seconds since 1970.
            model: Name of the model.
        """
        if not text.strip():
            return
        if self._is_asked:
            self._turns.append(Turn("assistant", text.strip(), time=time, model=model))
        else:
            self.leave_out(_UNASKED)

    def call_tool(self) -> None:
        """Add a call of a tool: the texts since the question are no answer."""
        is_with_text = False
        # In the answer to a command, the texts before it answer an earlier question.
        for index in reversed(range(len(self._turns) if self._is_asked else 0)):
            turn = self._turns[index]
            if turn.role == "user" or turn.calls_tool:
                break
            self._turns[index] = replace(turn, calls_tool=True)
            is_with_text = True
        if not is_with_text:  # the turns with a text are counted when they are left out of the dialogue
            self.leave_out(TOOL_CALL)

    def command(self) -> None:
        """Add a command that the person gave to the program, whose answer is none to a question."""
        self.leave_out(INJECTED)
        self._is_asked = False

    def leave_out(self, reason: str) -> None:
        """Count a part that is left out.

        Args:
            reason: Why.
        """
        self._left_out.append(reason)

    def take_back(self, length: int) -> None:
        """Remove the turns after the first ones, because the person went back and continued there.

        Args:
            length: Number of turns to keep.
        """
        self._left_out += [TAKEN_BACK] * (len(self._turns) - length)
        del self._turns[length:]
        self._is_asked = True

    def result(self, identity: str, title: str = "", time: float | None = None) -> Iterator[Conversation | Skipped]:
        """Yield the conversation, if anything was said in it, and what is left out.

        Args:
            identity: Id of the session.
            title: Its title; empty if it has none.
            time: When it began, in seconds since 1970; None for that of the first turn.
        """
        if self._turns:
            first = next((turn.time for turn in self._turns if turn.time is not None), None)
            yield Conversation(tuple(self._turns), self._app, self._where, identity, title, time or first)
        else:
            yield Skipped(self._where, "a session without messages", self._app)
        for reason in self._left_out:
            yield Skipped(self._where, reason, self._app, is_turn=True)

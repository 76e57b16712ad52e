"""A conversation with the model: streamed answers, the context kept as far as it fits, what was said as a dialogue."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_personal.dialogue import Dialogue, Message, strip_thoughts

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class ChatConfig:
    """How `chat` answers: the sampling temperature, and the most tokens of one answer."""

    temperature: float = 0.0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0) or self.max_tokens < 1:
            raise ValueError("temperature must be at least 0, max_tokens at least 1")


class Conversation:
    """One conversation, turn by turn.

    Args:
        lm: the model that answers, with whatever adapter is attached to it.
        config: temperature and length of the answers.
    """

    def __init__(self, lm: LanguageModel, config: ChatConfig):
        self._lm = lm
        self._config = config
        self._messages: list[Message] = []

    def ask(self, question: str) -> Iterator[str]:
        """The answer, piece by piece; it joins the conversation when the last piece is out.

        ValueError if the question is empty or cannot be a message.
        """
        asked = Message("user", question)
        prompt, room = self._prompt(asked)
        pieces: list[str] = []
        seed = secrets.randbits(31)  # asked twice, a question may get two answers
        for piece in self._lm.stream(prompt, max_tokens=room, temperature=self._config.temperature, seed=seed):
            pieces.append(piece)
            yield piece
        answer = strip_thoughts("".join(pieces)).strip()
        if answer:
            self._messages += [asked, Message("assistant", answer)]

    @property
    def dialogue(self) -> Dialogue | None:
        """All that was asked and answered so far; None before the first answer."""
        return Dialogue(tuple(self._messages)) if self._messages else None

    def _prompt(self, asked: Message) -> tuple[list[int], int]:
        """The prompt's tokens and the most tokens of the answer; the oldest exchanges go where they do not fit."""
        room = min(self._config.max_tokens, self._lm.context_length // 2)
        kept = self._messages
        while True:
            messages = [{"role": m.role, "content": m.content} for m in [*kept, asked]]
            prompt = self._lm.tokenize_prompt(messages)
            if not kept or len(prompt) + room <= self._lm.context_length:
                return prompt, room
            kept = kept[2:]

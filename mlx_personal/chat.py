"""Conversations with the model: answers are streamed, and the oldest turns are dropped if the context is full."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_personal.dialogue import Dialogue, Message, strip_thoughts
from mlx_personal.models.sampling import SamplingParams

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class ChatConfig:
    """Settings of the answers in `chat`.

    Attributes:
        temperature: Sampling temperature; 0 is greedy.
        max_tokens: Maximum number of tokens of an answer.

    Raises:
        ValueError: If a setting is out of its range.
    """

    temperature: float = 0.0
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0 and finite")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")


class Conversation:
    """A conversation of a user with the model.

    Args:
        lm: The model that answers, with any adapter that is attached to it.
        config: Settings of the answers.
    """

    def __init__(self, lm: LanguageModel, config: ChatConfig):
        self._lm = lm
        self._config = config
        self._messages: list[Message] = []

    def ask(self, question: str) -> Iterator[str]:
        """Generate the answer to a question; both are added to the conversation once the answer is complete.

        Args:
            question: The user's turn.

        Yields:
            The answer, piece by piece.

        Raises:
            ValueError: If the question is empty or not a valid message.
        """
        message = Message("user", question)
        prompt, max_tokens = self._prompt(message)
        pieces: list[str] = []
        sampling = SamplingParams(temperature=self._config.temperature)
        seed = secrets.randbits(31)  # so that a repeated question may get a different answer
        for piece in self._lm.stream(prompt, max_tokens=max_tokens, sampling=sampling, seed=seed):
            pieces.append(piece)
            yield piece
        answer = strip_thoughts("".join(pieces)).strip()
        if answer:
            self._messages += [message, Message("assistant", answer)]

    @property
    def dialogue(self) -> Dialogue | None:
        """The turns so far; None before the first answer."""
        return Dialogue(tuple(self._messages)) if self._messages else None

    def _prompt(self, message: Message) -> tuple[list[int], int]:
        """Return the prompt's tokens, without the oldest exchanges if necessary, and the limit of the answer."""
        max_tokens = min(self._config.max_tokens, self._lm.context_length // 2)
        history = self._messages
        while True:
            messages = [{"role": m.role, "content": m.content} for m in [*history, message]]
            prompt = self._lm.tokenize_prompt(messages)
            if not history or len(prompt) + max_tokens <= self._lm.context_length:
                return prompt, max_tokens
            history = history[2:]

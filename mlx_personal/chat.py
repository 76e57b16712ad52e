"""Conversations with the model: answers are streamed, and what is oldest is dropped if the context is full.

With a memory, the kept dialogues that are nearest to the first question stand before it as examples. They stay the same
for the whole conversation, so that each prompt begins as the one before it.
"""

from __future__ import annotations

import bisect
import dataclasses
import datetime
import functools
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_personal.dialogue import Dialogue, Message, strip_thoughts
from mlx_personal.errors import UserError
from mlx_personal.memory import example_messages
from mlx_personal.models.sampling import SamplingParams

if TYPE_CHECKING:
    from mlx_personal.memory import Memory, RetrievedExample
    from mlx_personal.models import LanguageModel

# Maximum number of tokens of an answer if neither the settings nor the model say one.
_MAX_TOKENS: Final = 512
_SAMPLING: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class ChatConfig:
    """Settings of the answers in `chat`.

    A setting that is None is the model's: that of its `generation_config.json`. Without one, answers are greedy and of
    at most 512 tokens.

    Attributes:
        temperature: Softmax temperature; 0 is greedy.
        top_p: Only the likeliest tokens whose probabilities together reach this value are sampled; 1 for all.
        top_k: Only this number of likeliest tokens is sampled; 0 for all.
        min_p: Smallest probability of a sampled token, relative to the likeliest token's; 0 for all.
        repetition_penalty: Factor by which the last 20 tokens are made less likely; 1 for none.
        max_tokens: Maximum number of tokens of an answer.
        stop: Texts before which an answer ends.
        system: System prompt; empty for none.

    Raises:
        ValueError: If a setting is out of its range.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    system: str = ""

    def __post_init__(self) -> None:
        SamplingParams(**self._sampling(), stop=self.stop)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.system:
            Message("system", self.system)

    def sampling(self, default: SamplingParams) -> SamplingParams:
        """Return how tokens are sampled, where settings that are None are those of `default`."""
        return dataclasses.replace(default, **self._sampling(), stop=self.stop)

    def _sampling(self) -> dict[str, Any]:
        return {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}


class Conversation:
    """A conversation of a user with the model.

    All answers are of the adapter that is attached when the conversation begins. If the model evaluates or trains
    another one between two questions, it is attached again.

    Args:
        lm: The model that answers, with any adapter that is attached to it.
        config: Settings of the answers.
        seed: Random seed of the sampling: the same questions get the same answers. None for a random one.
        memory: Finds the examples for the first question; None for a conversation without examples.

    Attributes:
        sampling: How tokens are sampled.
        max_tokens: Maximum number of tokens of an answer.
        system: System prompt; empty for none.
        recommended: The parameters in force that come from the model's `generation_config.json`.
        notices: What the user should know about these settings, one line each.
        examples: The examples of the conversation, in their order in the prompt; None before its first question.
        prompt_examples: Those that were in the last prompt, which are none once it left no space for them.
        record: Called with the conversation so far, without examples, after each complete answer; None for nothing.
    """

    def __init__(self, lm: LanguageModel, config: ChatConfig, seed: int | None = None, memory: Memory | None = None):
        # Here, because they import MLX, and this module is imported for its settings too.
        from mlx_personal.models.adapter_folder import adapter_changes_nothing
        from mlx_personal.models.generation_config import read_generation_config
        from mlx_personal.models.prompt_cache import PromptCache

        recommended = read_generation_config(lm.path)
        self.sampling = config.sampling(recommended.sampling)
        self.max_tokens = config.max_tokens or recommended.max_tokens or _MAX_TOKENS
        self.system = config.system
        in_force = ("repetition_penalty",) if self.sampling.is_greedy else _SAMPLING
        self.recommended = tuple(
            name
            for name in in_force
            if getattr(config, name) is None and getattr(recommended.sampling, name) != getattr(SamplingParams(), name)
        )
        self.notices = [] if recommended.invalid is None else [recommended.invalid]
        filters = [name for name in ("top_p", "top_k", "min_p") if getattr(config, name) is not None]
        if filters and self.sampling.is_greedy:
            self.notices.append(f"not used at temperature 0: {', '.join(filters)}")
        if adapter_changes_nothing(lm.model):
            self.notices.append("the adapter changes nothing: all its updates are zero")
        self.examples: tuple[RetrievedExample, ...] | None = None
        self.prompt_examples: tuple[RetrievedExample, ...] = ()
        self.record: Callable[[Dialogue], None] | None = None
        self._lm = lm
        self._adapter_folder, self._adapter_state = lm.adapter_folder, lm.adapter_state
        self._memory = memory
        self._prompt_cache = PromptCache()
        self._seed = seed
        self._questions = 0
        self._system = (Message("system", self.system),) if self.system else ()
        self._messages: list[Message] = []

    def ask(self, question: str, should_stop: Callable[[], bool] = lambda: False) -> Iterator[str]:
        """Generate the answer to a question; both are added to the conversation once the answer has ended.

        An answer of which nothing is left without its thoughts is not added, nor is its question.

        Args:
            question: The user's turn.
            should_stop: Called after each piece; the answer ends there if it returns True.

        Yields:
            The answer, piece by piece.

        Raises:
            ValueError: If the question is empty or not a valid message.
            UserError: If another adapter is attached now and that of the conversation cannot be read again.
        """
        message = Message("user", question)
        self._attach_own_adapter()
        prompt, max_tokens = self._prompt(message)
        # A random seed, so that a repeated question may get a different answer.
        seed = secrets.randbits(31) if self._seed is None else self._seed + self._questions
        self._questions += 1
        pieces: list[str] = []
        answer_pieces = self._lm.stream(
            prompt, max_tokens=max_tokens, sampling=self.sampling, seed=seed, prompt_cache=self._prompt_cache
        )
        for piece in answer_pieces:
            pieces.append(piece)
            yield piece
            if should_stop():
                break
        answer = strip_thoughts("".join(pieces)).strip()
        if answer:
            self._messages += [message, Message("assistant", answer)]
            if self.record is not None and self.dialogue is not None:
                self.record(self.dialogue)

    @property
    def max_examples(self) -> int:
        """Maximum number of examples before the first question; 0 for none."""
        return 0 if self._memory is None else self._memory.config.examples

    @property
    def dialogue(self) -> Dialogue | None:
        """The system prompt and the turns so far; None before the first answer."""
        return Dialogue((*self._system, *self._messages)) if self._messages else None

    def _attach_own_adapter(self) -> None:
        """Attach the adapter of the conversation again, or none, if the model has been used for something else."""
        if self._lm.adapter_state == self._adapter_state:
            return
        if self._adapter_folder is not None:
            self._lm.attach_adapter(self._adapter_folder)
        elif self._adapter_state == 0:  # no adapter was attached
            self._lm.detach_adapter()
        else:
            what = "the adapter of this conversation was detached, and it was not read from a folder"
            raise UserError(what, hint="begin a new conversation")
        self._adapter_state = self._lm.adapter_state

    def _prompt(self, message: Message) -> tuple[list[int], int]:
        """Return the prompt's tokens and the limit of the answer.

        The examples are left out once the prompt with them leaves no space (`Memory.has_space_for`), and the oldest
        exchanges as far as necessary once the context is full.
        """
        max_tokens = min(self.max_tokens, self._lm.context_length // 2)
        exchanges = len(self._messages) // 2
        if not exchanges:
            # An unanswered first question is no part of the conversation, which begins with the next one.
            self.examples = () if self._memory is None else self._memory.examples_for(message.content, (), self.system)
        examples = self.examples or ()
        first = 0 if examples else 1
        now = datetime.datetime.now()  # for chat templates that write today's date

        # The examples are dropped like an exchange that is older than all others.
        @functools.cache
        def prompt_without(dropped: int) -> list[int]:
            before = example_messages([example.entry.dialogue for example in examples]) if dropped == 0 else []
            messages = (*self._system, *before, *self._messages[2 * max(0, dropped - 1) :], message)
            return self._lm.tokenize_prompt([{"role": m.role, "content": m.content} for m in messages], now)

        def fits(dropped: int) -> bool:
            if dropped == 0 and self._memory is not None and not self._memory.has_space_for(len(prompt_without(0))):
                return False
            return dropped == exchanges + 1 or len(prompt_without(dropped)) + max_tokens <= self._lm.context_length

        dropped = first
        if not fits(first):
            dropped += bisect.bisect_left(range(first, exchanges + 2), True, key=fits)
        self.prompt_examples = examples if dropped == 0 else ()
        return prompt_without(dropped), max_tokens

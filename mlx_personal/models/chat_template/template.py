"""Convert conversations to token ids: prompts by the model's chat template, and training sequences that match them."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.models.chat_template.format import (
    ChatFormat,
    adapt_messages,
    is_thought_tag,
    merge_tool_results,
    probe_chat_format,
    template_error,
)
from mlx_personal.models.chat_template.jinja_sandbox import TemplateFailureError
from mlx_personal.models.chat_template.long_dialogue import LocatedPrompts, locate_prompts
from mlx_personal.models.chat_template.renderer import FIXED_TIME, ChatRenderer
from mlx_personal.models.chat_template.text_encoder import TextEncoder

# A dialogue of more exchanges is rendered as a whole, since rendering each prompt takes quadratic time.
_MAX_RENDERED_PROMPTS = 8


class ChatTemplate:
    """The chat template of a tokenizer; without one, a conversation becomes plain `User:` and `Assistant:` lines.

    Control tokens that a conversation mentions are plain text in all token ids. Templates that write the date get a
    fixed one, unless the caller names the time.

    Args:
        tokenizer: The tokenizer.
        folder: The folder of the model, if any.
        vocabulary_size: Number of the model's embeddings; None if unknown.
    """

    def __init__(self, tokenizer: TokenizerWrapper, folder: Path | None = None, vocabulary_size: int | None = None):
        self._tokenizer = tokenizer
        self._folder = folder
        self._vocabulary_size = vocabulary_size

    @property
    def format(self) -> ChatFormat:
        """What the template does, measured at first use.

        Raises:
            UserError: If the model cannot be used for chats.
        """
        return self._probed[0]

    @functools.cached_property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer in the template; empty for a model that cannot be used for chats."""
        try:
            return frozenset((*self.format.end_token_ids, self.format.end_of_turn_id))
        except UserError:
            return frozenset()

    @property
    def training_date(self) -> str | None:
        """The date in training sequences, in ISO format; None for a template that writes none."""
        try:
            return FIXED_TIME.date().isoformat() if self.format.writes_date else None
        except UserError:
            return None

    @functools.cached_property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer in the template; empty for a model that cannot be used for chats."""
        try:
            return self.format.stop_strings
        except UserError:
            return ()

    @functools.cached_property
    def hidden_token_ids(self) -> frozenset[int]:
        """Control tokens that are left out of the texts of answers. Tags of thoughts stay, to find the thoughts."""
        return frozenset(
            token_id for token, token_id in self._encoder.control_tokens.items() if not is_thought_tag(token)
        )

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without special tokens; control tokens that it mentions become plain text.

        Args:
            text: The text.
        """
        return self._encoder.encode(text)

    def tokenize_answer(self, text: str) -> list[int]:
        """Return the token ids of an answer as they follow a prompt, with the token that ends it.

        Args:
            text: The answer.

        Raises:
            UserError: If there is no such token.
        """
        return [*self._encoder.encode(self.format.answer_space + text), self.format.end_of_turn_id]

    def tokenize_prompt(self, messages: Sequence[Mapping[str, str]], now: datetime.datetime | None = None) -> list[int]:
        """Return the token ids after which the model generates the next assistant turn.

        Thinking is turned off in templates that support that; a thought that the prompt opens is closed.

        Args:
            messages: The conversation in chat format.
            now: The time for templates that write it; by default a fixed one.

        Raises:
            UserError: If the template fails on this conversation.
        """
        marked, marks = self._encoder.mark_mentions(merge_tool_results(messages))
        rendering = self._render_prompt(marked, now or FIXED_TIME)
        return self._start + self._encoder.encode_rendering(rendering, marks)

    def tokenize_dialogue(self, dialogue: Dialogue) -> list[tuple[list[int], list[bool]]]:
        """Return training sequences in which answers are tokenized exactly as generation produces them after a prompt.

        The result is one sequence if each prompt continues the sequence before it. For templates that render earlier
        turns differently from the last one, for example because they drop old thoughts, it is one sequence per
        assistant turn.

        Args:
            dialogue: The dialogue.

        Returns:
            Pairs of token ids and, for each token, whether it is a training target.

        Raises:
            UserError: If the template fails on this dialogue.
        """
        sequences: list[tuple[list[int], list[bool]]] = []
        # The ids before the last piece of the last prompt, which all later prompts begin with too.
        shared = 0
        answers = [message for message in dialogue.messages if message.role == "assistant"]
        for prompt, answer in zip(self._prompts(dialogue), answers, strict=True):
            answer_ids = self.tokenize_answer(answer.content)
            if not (sequences and prompt.starts_with(sequences[-1][0], shared)):
                sequences.append(([], []))
            token_ids, is_target = sequences[-1]
            token_ids += prompt.after(len(token_ids))
            is_target += [False] * (len(token_ids) - len(is_target)) + [bool(answer.weight)] * len(answer_ids)
            token_ids += answer_ids
            shared = prompt.stable_length
        return sequences

    def end_token_id(self) -> int:
        """Return the token that ends an assistant turn in the template, which may differ from the tokenizer's.

        Raises:
            UserError: If there is no such token.
        """
        return self.format.end_of_turn_id

    def _render_prompt(self, messages: Sequence[Mapping[str, str]], now: datetime.datetime = FIXED_TIME) -> str:
        form = self.format
        adapted = adapt_messages(messages, form.system_turn, form.roles_alternate, form.content_parts)
        try:
            return self._renderer.render(adapted, add_generation_prompt=True, now=now) + form.answer_start
        except TemplateFailureError as failure:
            raise template_error(failure, self._folder) from failure

    def _prompts(self, dialogue: Dialogue) -> Iterator[_Prompt]:
        """Yield the prompt of each assistant turn."""
        messages, marks = self._encoder.mark_mentions(merge_tool_results(dialogue.to_messages()))
        positions = [position for position, message in enumerate(messages) if message["role"] == "assistant"]
        if len(positions) > _MAX_RENDERED_PROMPTS:
            located = locate_prompts(messages[: positions[-1]], self._render_prompt)
            if located is not None:
                yield from self._located_prompts(located, marks)
                return
        encoded: dict[str, list[int]] = {}  # most pieces are those of the prompt before
        for position in positions:
            token_ids = list(self._start)
            for piece in self._encoder.split(self._render_prompt(messages[:position]), marks):
                if piece not in encoded:
                    encoded[piece] = self._encoder.encode_piece(piece, marks)
                token_ids += encoded[piece]
            yield _Prompt(token_ids, [])

    def _located_prompts(self, located: LocatedPrompts, marks: str) -> Iterator[_Prompt]:
        """Yield the prompts that begin as one rendering does, of which each piece is tokenized once."""
        pieces = iter(self._encoder.split(located.rendering, marks, by_lines=True))
        token_ids, piece, piece_start = list(self._start), next(pieces), 0
        for length in located.lengths:
            while piece_start + len(piece) < length:
                token_ids += self._encoder.encode_piece(piece, marks)
                piece_start += len(piece)
                piece = next(pieces)
            rest = piece[: length - piece_start] + located.ending
            yield _Prompt(token_ids, self._encoder.encode_rendering(rest, marks))

    @functools.cached_property
    def _renderer(self) -> ChatRenderer:
        try:
            return ChatRenderer(self._tokenizer, self._folder)
        except TemplateFailureError as failure:
            raise template_error(failure, self._folder) from failure

    @functools.cached_property
    def _probed(self) -> tuple[ChatFormat, TextEncoder]:
        return probe_chat_format(self._renderer, self._tokenizer, self._vocabulary_size, self._folder)

    @functools.cached_property
    def _encoder(self) -> TextEncoder:
        try:
            return self._probed[1]
        except UserError:  # a model that cannot be used for chats can still embed texts
            return TextEncoder(self._tokenizer, vocabulary_size=self._vocabulary_size)

    @functools.cached_property
    def _start(self) -> list[int]:
        """The ids that begin every prompt: those that a tokenizer adds itself, for models without a template."""
        if self._renderer.source != "none":
            return []
        with_special, without = self._tokenizer.encode("a"), self._tokenizer.encode("a", add_special_tokens=False)
        return list(with_special[: len(with_special) - len(without)]) if with_special[-1:] == without[-1:] else []


@dataclass(frozen=True)
class _Prompt:
    """The token ids of a prompt.

    Attributes:
        stable: The first ids. A later prompt of the same rendering has more of them in the same list.
        rest: The ids after them.
    """

    stable: list[int]
    rest: list[int]

    @property
    def stable_length(self) -> int:
        """Number of the first ids."""
        return len(self.stable) if self.rest else 0

    def after(self, start: int) -> list[int]:
        """Return the ids from a position on."""
        stable = self.stable[start:]
        return stable + self.rest[max(0, start - len(self.stable)) :]

    def starts_with(self, token_ids: Sequence[int], known: int) -> bool:
        """Return whether the prompt starts with ids, of which the first `known` ones are known to be equal."""
        length = len(token_ids)
        stable = self.stable[known:length]
        return stable + self.rest[: max(0, length - len(self.stable))] == token_ids[known:]

"""Measure what a model's chat template does, on conversations of the project's own, before a user's are rendered."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_personal.errors import UserError, quoted
from mlx_personal.models.chat_template.jinja_sandbox import TemplateFailureError, TemplateLimitError
from mlx_personal.models.chat_template.renderer import FIXED_TIME, PLAIN_STOP, ChatRenderer, TemplateSource
from mlx_personal.models.chat_template.text_encoder import TextEncoder

SystemTurn = Literal["supported", "merged"]
Messages = Sequence[Mapping[str, Any]]

_HINT: Final = "name another model, or correct the template in its folder"

_SYSTEM = "Quinces are fruits that this sentence mentions."
_QUESTION = "Which quince bakes best in a pie?"
_ANSWER = "Boskoop quinces bake best."
_SECOND_QUESTION = "Where does Boskoop grow?"
_TOOL_RESULT = "[Result of a tool]"
_OTHER_TIME: Final = datetime.datetime(2031, 10, 17, 8, 30, 15)

# A tag that opens or closes a thought; models name it think, thinking, thought or seed:think.
_THOUGHT_TAG = re.compile(r"[<\[](/?)[a-z_:|]*(?:think|thought)[a-z_:|]*[>\]]", re.IGNORECASE)


@dataclass(frozen=True)
class ChatFormat:
    """What a chat template does.

    Attributes:
        source: Whose template it is: the model's, one of mlx-lm's for a family of models, or none.
        content_parts: Whether contents are lists of parts instead of texts.
        system_turn: Whether a system turn is supported, or merged into the first question because the template refuses
            or drops it.
        roles_alternate: Whether the template refuses two turns of the same role in a row.
        has_generation_prompt: Whether the template writes the beginning of an answer when asked to.
        answer_start: Text that is appended to the template's prompt, before the answer: what its rows have there but
            its prompt lacks, and the end of a thought that its prompt opens.
        answer_space: A space that belongs to the first token of an answer, where the tokenizer does not add it itself.
        opens_thought: Whether the template's prompt opens a thought and leaves it open.
        prompt_is_prefix: Whether the prompt of a later turn continues the row of an earlier one.
        writes_date: Whether the text depends on the time.
        end_of_turn: The token that ends an answer in training rows.
        end_of_turn_id: Its id.
        end_token_ids: Tokens that the template writes at the end of an answer, or that begin the next question.
        stop_strings: Texts that end an answer, for templates that do not end it with a token.
    """

    source: TemplateSource
    content_parts: bool
    system_turn: SystemTurn
    roles_alternate: bool
    has_generation_prompt: bool
    answer_start: str
    answer_space: str
    opens_thought: bool
    prompt_is_prefix: bool
    writes_date: bool
    end_of_turn: str
    end_of_turn_id: int
    end_token_ids: tuple[int, ...]
    stop_strings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the format and its notes as JSON, as profiles store them."""
        fields = {key: list(item) if isinstance(item, tuple) else item for key, item in vars(self).items()}
        return {**fields, "notes": list(self.notes())}

    def notes(self) -> tuple[str, ...]:
        """Return what a user may want to know about the format, in short phrases; empty for an ordinary template."""
        notes = {
            "no chat template: plain `User:` and `Assistant:` lines": self.source == "none",
            "the system turn is merged into the first question": self.system_turn == "merged",
            "contents are sent as parts": self.content_parts,
            "no generation prompt: the beginning of an answer is added": not self.has_generation_prompt
            and bool(self.answer_start),
            "the prompt opens a thought, which is closed before the answer": self.opens_thought,
            f"it writes today's date: training uses {FIXED_TIME:%Y-%m-%d}": self.writes_date,
            "later prompts render earlier turns differently: one training sample for each answer": (
                not self.prompt_is_prefix and self.source != "none"
            ),
        }
        return tuple(note for note, applies in notes.items() if applies)


def probe_chat_format(
    renderer: ChatRenderer,
    tokenizer: TokenizerWrapper,
    vocabulary_size: int | None = None,
    folder: Path | None = None,
) -> tuple[ChatFormat, TextEncoder]:
    """Measure what a chat template does.

    Args:
        renderer: Renders conversations by the template.
        tokenizer: The tokenizer of the model.
        vocabulary_size: Number of the model's embeddings; None if unknown.
        folder: The model's folder for the errors, if any.

    Returns:
        The format, and the encoder of texts and renderings that knows the control tokens of the template.

    Raises:
        UserError: If the model cannot be used for chats: the template fails or drops the text, there is no end token,
            or the tokenizer has more tokens than the model.
    """
    try:
        return _probe(renderer, tokenizer, vocabulary_size)
    except TemplateFailureError as failure:
        raise template_error(failure, folder) from failure
    except UserError as error:
        raise UserError(error.what, folder, error.hint) from error


def template_error(failure: TemplateFailureError, folder: Path | None = None) -> UserError:
    """Return the error that a user sees when a chat template fails.

    Args:
        failure: The failure.
        folder: The model's folder, if any.
    """
    return UserError(f"the model's chat template {failure}", folder, _HINT)


def is_thought_tag(text: str) -> bool:
    """Return whether a text is a tag that opens or closes a thought, such as `<think>`.

    Args:
        text: The text.
    """
    return _THOUGHT_TAG.fullmatch(text) is not None


def merge_tool_results(messages: Messages) -> list[dict[str, str]]:
    """Return a conversation in which each result of a tool is part of the question before it.

    The templates of most small models know no other roles than `system`, `user` and `assistant`.

    Args:
        messages: The conversation in chat format.
    """
    merged: list[dict[str, str]] = []
    for message in messages:
        if message["role"] == "tool" and merged:
            merged[-1]["content"] += f"\n\n{_TOOL_RESULT}\n{message['content']}"
        else:
            merged.append({"role": message["role"], "content": message["content"]})
    return merged


def adapt_messages(
    messages: Messages, system_turn: SystemTurn, roles_alternate: bool, content_parts: bool = False
) -> list[dict[str, Any]]:
    """Return a conversation in the form that a chat template accepts.

    Args:
        messages: The conversation in chat format.
        system_turn: `merged` merges a system turn into the question after it.
        roles_alternate: Whether turns of the same role in a row become one.
        content_parts: Whether contents become lists of parts.
    """
    adapted: list[dict[str, Any]] = []
    for message in messages:
        if adapted and roles_alternate and message["role"] == adapted[-1]["role"]:
            adapted[-1]["content"] += f"\n\n{message['content']}"
        elif adapted and system_turn == "merged" and adapted[-1]["role"] == "system":
            adapted[-1] = {**message, "content": f"{adapted[-1]['content']}\n\n{message['content']}"}
        else:
            adapted.append(dict(message))
    if content_parts:
        adapted = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in adapted]
    return adapted


def _probe(
    renderer: ChatRenderer, tokenizer: TokenizerWrapper, vocabulary_size: int | None
) -> tuple[ChatFormat, TextEncoder]:
    question, answer = {"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}
    second = {"role": "user", "content": _SECOND_QUESTION}
    content_parts = _wants_parts(renderer, question)
    probe = _Probe(renderer, content_parts)

    prompt = probe.render([question], add_generation_prompt=True)
    row = probe.render([question, answer])
    if _ANSWER not in row.partition(_QUESTION)[2]:
        raise TemplateFailureError("leaves the answer out")
    has_generation_prompt = prompt != probe.render([question])
    answer_start, opens_thought = _answer_start(prompt, row, tokenizer)

    two_turns = probe.render([question, answer, second], add_generation_prompt=True)
    if _SECOND_QUESTION not in two_turns:
        raise TemplateFailureError("leaves the question of a second turn out")

    encoder = TextEncoder(tokenizer, "\0".join([renderer.literal_text, prompt, row, two_turns]), vocabulary_size)
    _check_written_tokens(encoder, vocabulary_size, [prompt, row, two_turns])
    last_end = row.rpartition(_ANSWER)[2]
    end_between = two_turns.partition(_ANSWER)[2].partition(_SECOND_QUESTION)[0]
    ends = [encoder.find_control_token(end) for end in (last_end, end_between)]
    end_of_turn, end_of_turn_id = _end_of_turn(tokenizer, encoder, ends, vocabulary_size)
    answer_space = _answer_space(prompt + answer_start, row, encoder)
    answer_ids = encoder.encode(answer_space + _ANSWER)
    first_row = [*encoder.encode_rendering(prompt + answer_start), *answer_ids, end_of_turn_id]
    # Markers for which the tokenizer has no token, and the heading of the next question.
    markers = end_between.partition(ends[1])[0] if ends[1] else end_between
    stop_strings = (PLAIN_STOP,) if renderer.source == "none" else _stop_strings(markers)
    later = _Probe(renderer, content_parts, _OTHER_TIME)
    chat_format = ChatFormat(
        source=renderer.source,
        content_parts=content_parts,
        system_turn=probe.system_turn(question),
        roles_alternate=probe.roles_alternate(question, second),
        has_generation_prompt=has_generation_prompt,
        answer_start=answer_start,
        answer_space=answer_space,
        opens_thought=opens_thought,
        prompt_is_prefix=encoder.encode_rendering(two_turns)[: len(first_row)] == first_row,
        writes_date=later.render([question], add_generation_prompt=True) != prompt,
        end_of_turn=end_of_turn,
        end_of_turn_id=end_of_turn_id,
        end_token_ids=tuple(sorted({encoder.control_tokens[token] for token in ends if token is not None})),
        stop_strings=stop_strings,
    )
    return chat_format, encoder


@dataclass(frozen=True)
class _Probe:
    """Renders conversations of the probe.

    Attributes:
        renderer: Renders conversations by the template.
        content_parts: Whether contents are lists of parts.
        now: The time for templates that write it.
    """

    renderer: ChatRenderer
    content_parts: bool
    now: datetime.datetime = FIXED_TIME

    def render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        adapted = adapt_messages(messages, "supported", False, self.content_parts)
        return self.renderer.render(adapted, add_generation_prompt, self.now)

    def try_render(self, messages: Messages, add_generation_prompt: bool = False) -> str | None:
        try:
            return self.render(messages, add_generation_prompt)
        except TemplateFailureError:
            return None

    def system_turn(self, question: Mapping[str, Any]) -> SystemTurn:
        text = self.try_render([{"role": "system", "content": _SYSTEM}, question], add_generation_prompt=True)
        return "supported" if text is not None and _SYSTEM in text and _QUESTION in text else "merged"

    def roles_alternate(self, question: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
        text = self.try_render([question, second], add_generation_prompt=True)
        return text is None or _QUESTION not in text or _SECOND_QUESTION not in text


def _wants_parts(renderer: ChatRenderer, question: Mapping[str, Any]) -> bool:
    """Return whether a template needs lists of parts, and check that the question is in the prompt."""
    failures = []
    for content_parts in (False, True):
        try:
            if _QUESTION in _Probe(renderer, content_parts).render([question], add_generation_prompt=True):
                return content_parts
        except TemplateLimitError:
            raise  # the other kind would only take as long again
        except TemplateFailureError as failure:
            failures.append(failure)
    raise failures[0] if failures else TemplateFailureError("leaves the question out of the prompt")


def _answer_start(prompt: str, row: str, tokenizer: TokenizerWrapper) -> tuple[str, bool]:
    """Return what follows the template's prompt before an answer, and whether the prompt opens a thought."""
    between = row.removeprefix(prompt).partition(_ANSWER)[0] if row.startswith(prompt) else ""
    # A space before the answer belongs to its first token.
    answer_start = between if between.strip() else ""
    closing = _closing_tag(prompt + answer_start, tokenizer)
    if closing is not None:
        newline = "" if (prompt + answer_start).endswith("\n") else "\n"
        answer_start += f"{newline}\n{closing}\n\n"
    return answer_start, _closing_tag(prompt, tokenizer) is not None


def _answer_space(prompt: str, row: str, encoder: TextEncoder) -> str:
    """Return a space if the row has one before the answer that the tokenizer does not add to an answer itself."""
    if not row.startswith(f"{prompt} {_ANSWER}"):
        return ""
    row_ids = encoder.encode_rendering(f"{prompt} {_ANSWER}")
    return " " if row_ids == [*encoder.encode_rendering(prompt), *encoder.encode(f" {_ANSWER}")] else ""


def _closing_tag(text: str, tokenizer: TokenizerWrapper) -> str | None:
    """Return the tag that closes the thought that a text ends with; None if it ends with no opening tag."""
    text = text.rstrip()
    start, end = getattr(tokenizer, "think_start", None), getattr(tokenizer, "think_end", None)
    if start and end and text.endswith(start):
        return str(end)
    tags = list(_THOUGHT_TAG.finditer(text))
    if not tags or tags[-1].end() < len(text) or tags[-1][1]:
        return None
    return f"{tags[-1][0][0]}/{tags[-1][0][1:]}"


def _end_of_turn(
    tokenizer: TokenizerWrapper, encoder: TextEncoder, ends: Sequence[str | None], vocabulary_size: int | None
) -> tuple[str, int]:
    """Return the token that ends an answer in training rows, and its id.

    Args:
        tokenizer: The tokenizer.
        encoder: Knows the control tokens.
        ends: What the template ends the last answer with, and an answer before another question.
        vocabulary_size: Number of the model's embeddings; None if unknown.
    """
    last, between = ((token, encoder.control_tokens.get(token or "")) for token in ends)
    for token, token_id in (last, (tokenizer.eos_token, tokenizer.eos_token_id), between):
        if token is not None and token_id is not None and (vocabulary_size is None or token_id < vocabulary_size):
            return token, token_id
    what = "the model's tokenizer has no end-of-text token, and its chat template ends no answer with a token"
    raise UserError(what, hint="name another model, or add an eos_token to its tokenizer_config.json")


def _stop_strings(markers: str) -> tuple[str, ...]:
    """Return the lines that end an answer, each with the newline before it if it has one."""
    lines = markers.split("\n")
    return tuple(("\n" if number else "") + line.strip() for number, line in enumerate(lines) if line.strip())


def _check_written_tokens(encoder: TextEncoder, vocabulary_size: int | None, renderings: Sequence[str]) -> None:
    """Raise TemplateFailureError if a template writes a token for which the model has no embedding."""
    for token, token_id in encoder.control_tokens.items():
        if (
            vocabulary_size is not None
            and token_id >= vocabulary_size
            and any(token in rendering for rendering in renderings)
        ):
            raise TemplateFailureError(f"writes the token {quoted(token)}, for which the model has no embedding")

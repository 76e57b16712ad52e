"""Read a chat completion, the body of a server's successful response.

The content of a message may be a text or a list of parts. A reasoning model's thoughts come in a field or a part of
their own, or in `<think>` blocks of the content; they are not part of its answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.dialogue import strip_thoughts

# Longest `finish_reason` that is stored; the usual ones are words like `stop`.
_MAX_FINISH_REASON_CHARS: Final = 40
# Values of `finish_reason` for a text that reached the maximum number of tokens.
CUT_OFF_REASONS: Final = frozenset({"length", "max_tokens", "max_output_tokens"})
_WITHHELD_REASON: Final = "content_filter"
# Fields of a message, or types of its parts, that hold thoughts.
_REASONING_FIELDS: Final = ("reasoning", "reasoning_content", "reasoning_details", "thinking", "thinking_blocks")
# Fields of a response without choices that say what went wrong.
_ERROR_FIELDS: Final = ("error", "errors", "message", "msg", "detail")
_REASONING_PARTS: Final = ("reasoning", "thinking", "redacted_thinking", "reasoning_text")


@dataclass(frozen=True)
class TokenUsage:
    """The numbers of tokens that a server reports.

    Attributes:
        prompt_tokens: Tokens of the prompt; None without a valid number.
        completion_tokens: Tokens of the response, thoughts included; None without a valid number.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @property
    def total(self) -> int | None:
        """The tokens of both; None if one of them is unknown."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Completion:
    """A parsed chat completion.

    Attributes:
        text: Content of the message; None if it has no content.
        finish_reason: Why the generation ended, as the server reports it; None if it does not.
        has_reasoning: Whether there are thoughts, in the text or apart from it.
        is_withheld: Whether the server refused to answer or removed the text.
    """

    text: str | None
    finish_reason: str | None
    has_reasoning: bool
    is_withheld: bool

    @property
    def is_cut_off(self) -> bool:
        """Whether the maximum number of tokens was reached."""
        return self.finish_reason in CUT_OFF_REASONS

    @property
    def has_answer(self) -> bool:
        """Whether there is text apart from the thoughts."""
        return self.text is not None and bool(strip_thoughts(self.text).strip())


def parse_completion(body: Any) -> Completion:
    """Return the first choice of a chat completion.

    Args:
        body: The parsed JSON of the response.

    Raises:
        ValueError: If it is not a chat completion, or the generation failed.
    """
    if find_error(body) is not None:
        raise ValueError("an error")
    try:
        choice = body["choices"][0]
        message, finish_reason = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError("not a chat completion") from error
    parts = list(_content_parts(content))
    texts = [text for kind, text in parts if kind == "text"]
    text = None if content is None or (parts and not texts) else _storable("".join(texts))
    reason = _storable(finish_reason[:_MAX_FINISH_REASON_CHARS]) if isinstance(finish_reason, str) else None
    return Completion(
        text,
        reason,
        has_reasoning=any(message.get(name) for name in _REASONING_FIELDS)
        or any(kind == "reasoning" for kind, _ in parts)
        or (text is not None and text.strip() != strip_thoughts(text).strip()),
        is_withheld=reason == _WITHHELD_REASON
        or bool(isinstance(refusal, str) and refusal.strip())
        or any(kind == "refusal" for kind, _ in parts),
    )


def find_error(body: Any) -> Any:
    """Return the error in the parsed JSON of a response that has the status of a success; None without one.

    It is in the field `error` of the response or of its first choice, or the response has a message and no choices.
    """
    if not isinstance(body, Mapping):
        return None
    choices = body.get("choices")
    if not choices and any(body.get(name) for name in _ERROR_FIELDS):
        return body
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        return None
    failed = "the generation failed" if choice.get("finish_reason") == "error" else None
    return choice.get("error") or failed


def parse_usage(body: Any) -> TokenUsage:
    """Return the numbers of tokens in the parsed JSON of any response."""
    usage = body.get("usage") if isinstance(body, Mapping) else None
    counts = usage if isinstance(usage, Mapping) else {}
    return TokenUsage(_count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


def _content_parts(content: Any) -> Iterator[tuple[str, str]]:
    """Yield the kind of each part, `text`, `reasoning`, `refusal` or `other`, and its text; ValueError for no content.

    A part is a string, or an object with its text as a string or in the field `value` of another object.
    """
    if content is None:
        return
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield "text", part
            continue
        if not isinstance(part, Mapping):
            raise ValueError("the content is neither a text nor a list of parts")
        text = part.get("text")
        text = text.get("value") if isinstance(text, Mapping) else text
        if part.get("type") in _REASONING_PARTS:
            yield "reasoning", ""
        elif part.get("type") == "refusal":
            yield "refusal", ""
        elif isinstance(text, str):
            yield "text", text
        else:
            yield "other", ""


def _storable(text: str) -> str:
    """Return a text without the lone surrogates that JSON may have and a database may not."""
    return text.encode("utf-8", "replace").decode()


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None

"""A server with an OpenAI-compatible endpoint, such as vLLM, mlx_lm.server or a hosted one.

This module has the settings of requests, builds their bodies, and parses what the server returns; `client` sends them.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.response_cache import Response
from mlx_personal.errors import UserError, quoted
from mlx_personal.http_client import HTTPResponse, check_url

# Tokens that a server's chat template may add to a prompt.
_TEMPLATE_TOKENS: Final = 64
# Longest `finish_reason` that is stored; the usual ones are words like `stop`.
_MAX_REASON_CHARS: Final = 40
# The characters that an API key may consist of: what a header may hold, without spaces.
_KEY_CHARACTERS: Final = "[!-~]+"


class RetryableError(Exception):
    """An attempt failed in a way that another attempt may not.

    Args:
        what: What went wrong.
        wait_s: Seconds that the server asks to wait before the next attempt.
        billed: Whether the server may bill the failed attempt.
    """

    def __init__(self, what: str, wait_s: float = 0.0, billed: bool = False):
        self.wait_s = wait_s
        self.billed = billed
        super().__init__(what)


@dataclass(frozen=True)
class Server:
    """The URL of a server and the settings of requests to it.

    Attributes:
        url: URL up to and without `/chat/completions`, usually ending in `/v1`.
        model: Name of the model on the server.
        api_key: Sent as a bearer token; None if the server needs none.
        temperature: Sampling temperature. [Zhong25]'s is not public. At 0 the server ignores seeds.
        max_tokens: Tokens of the longest response.
        timeout_s: Seconds that one attempt may take, generation included.
        max_attempts: Attempts for one request.
        backoff_s: Seconds before the second attempt. They double with each attempt, up to a minute, with random jitter.

    Raises:
        UserError: If `http_client.check_url` refuses the URL.
        ValueError: If another setting is invalid. The message never contains the key.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 0.8
    max_tokens: int = 512
    timeout_s: float = 120.0
    max_attempts: int = 5
    backoff_s: float = 1.0

    def __post_init__(self) -> None:
        check_url(self.url)
        if "?" in self.url or "#" in self.url:
            raise ValueError("the server's URL must end with its path")
        # Without the value, because errors are printed.
        if self.api_key is not None and not re.fullmatch(_KEY_CHARACTERS, self.api_key):
            raise ValueError(
                "the key is empty or has characters that no key has; was a space or a line break copied with it?"
            )
        if not self.model.strip():
            raise ValueError("the server's model has no name")
        if not self.model.isprintable():
            raise ValueError(f"{quoted(self.model)} is not a model name")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"the temperature is {self.temperature}; it must lie in 0..2")
        for name in ("max_tokens", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.timeout_s > 0 or not self.backoff_s >= 0:
            raise ValueError(
                f"the timeout is {self.timeout_s} s and the backoff {self.backoff_s} s; neither may be negative"
            )

    @property
    def endpoint(self) -> str:
        """URL that requests are posted to."""
        return f"{self.url.rstrip('/')}/chat/completions"

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    def request_key(self, request: PromptRequest) -> str:
        """Return the key that identifies equal requests, whichever user they are for.

        It is a digest of model, prompt, seed, temperature and max_tokens, and the key of the response cache.
        """
        identity = [self.model, request.prompt, request.seed, self.temperature, self.max_tokens]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def payload(self, request: PromptRequest) -> dict[str, Any]:
        """Return the body of a request, to be encoded as JSON."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": request.seed,
        }

    def max_request_tokens(self, request: PromptRequest) -> int:
        """Return an upper bound of the tokens that a request can cost: no token is shorter than a byte."""
        return len(request.prompt.encode()) + _TEMPLATE_TOKENS + self.max_tokens

    def response_tokens(self, request: PromptRequest, response: Response) -> int:
        """Return the tokens that a response cost, as the server counted, or else the upper bound."""
        if response.prompt_tokens is None or response.completion_tokens is None:
            return self.max_request_tokens(request)
        return response.prompt_tokens + response.completion_tokens

    def parse_response(self, http_response: HTTPResponse) -> Response:
        """Parse what the server returned for a request.

        Raises:
            RetryableError: If another attempt may succeed.
            UserError: If no attempt will succeed.
        """
        status = http_response.status
        if status == 200:
            return _parse_completion(http_response)
        where, code = self.endpoint, f"HTTP {status}"
        if status in (408, 429) or status >= 500:
            raise RetryableError(f"it returned {code}", http_response.retry_after_s())
        if status in (401, 403):
            what = "requires a key" if self.api_key is None else "refuses the key"
            hint = "check the key, and the environment variable that it is read from"
            raise UserError(f"the server {what} ({code})", where, hint)
        if status == 404:
            hint = f"check the URL, which usually ends in /v1, and the model's name, {quoted(self.model)}"
            raise UserError(f"the server has no such page or model ({code})", where, hint)
        if 300 <= status < 400:
            raise UserError(f"the server has moved ({code})", where, "use its new URL")
        message = self._error_message(http_response)
        raise UserError(f"the server refuses the request ({code}{message})", where, "check the settings")

    def _error_message(self, http_response: HTTPResponse) -> str:
        """Return the server's own error message, short enough to quote; empty if it might contain the key."""
        try:
            message = http_response.json()["error"]["message"]
        except (KeyError, TypeError, ValueError):
            return ""
        if not isinstance(message, str) or (self.api_key is not None and self.api_key in message):
            return ""
        return f": {quoted(message)}"


def _parse_completion(http_response: HTTPResponse) -> Response:
    """Parse the body of a chat completion; RetryableError if it is incomplete."""
    try:
        completion = http_response.json()
        choice = completion["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        if text is None:  # The server's content filter removed the text; another attempt would not help.
            text = ""
        if not isinstance(text, str):
            raise TypeError("the content is not a string")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise RetryableError("its response is not a complete chat completion", billed=True) from error
    usage = completion.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Response(
        _storable(text),
        _storable(reason[:_MAX_REASON_CHARS]) if isinstance(reason, str) else None,
        _parse_count(counts.get("prompt_tokens")),
        _parse_count(counts.get("completion_tokens")),
    )


def _storable(text: str) -> str:
    """Return a text without the lone surrogates that JSON may have and a database may not."""
    return text.encode("utf-8", "replace").decode()


def _parse_count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None

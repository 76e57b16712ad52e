"""A server with an OpenAI-compatible endpoint (vLLM, mlx_lm.server, a hosted one): what is said to it for one request,
and what its reply means."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.augmentation.prompting import Request
from mlx_personal.augmentation.response_cache import Answer
from mlx_personal.errors import UserError, quoted
from mlx_personal.http_client import Reply, check_url

# Tokens that a server's chat template may add to a prompt.
_TEMPLATE: Final = 64
# What a header may hold, but for spaces.
_PRINTED: Final = "[!-~]+"


class AgainError(Exception):
    """This attempt failed and another may not.

    Args:
        what: went wrong.
        wait: seconds that the server asks for before the next one.
        billed: whether the server may bill the attempt all the same.
    """

    def __init__(self, what: str, wait: float = 0.0, billed: bool = False):
        self.wait = wait
        self.billed = billed
        super().__init__(what)


@dataclass(frozen=True)
class Server:
    """Where and how to ask. UserError for a URL that `web.check_url` refuses, ValueError for another setting that makes
    no sense.

    Args:
        url: up to and without `/chat/completions`, mostly ending in `/v1`.
        model: its name there.
        api_key: sent as the bearer's token; None for a server that wants none.
        temperature: of the sampling. The paper's is not public; at 0 a server that knows seeds ignores them.
        max_tokens: the longest answer.
        timeout: seconds for one attempt, the answer's generation included.
        tries: attempts at one request.
        backoff: seconds before the second attempt; they double with each, up to a minute, and are spread at random.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    temperature: float = 0.8
    max_tokens: int = 512
    timeout: float = 120.0
    tries: int = 5
    backoff: float = 1.0

    def __post_init__(self) -> None:
        check_url(self.url)
        if "?" in self.url or "#" in self.url:
            raise ValueError("the server's address must end with its path")
        # Without its value: an error is printed, and a key must not be.
        if self.api_key is not None and not re.fullmatch(_PRINTED, self.api_key):
            raise ValueError(
                "the key is empty or has characters that no key has; was a space or a line copied with it?"
            )
        if not self.model.strip():
            raise ValueError("the server's model has no name")
        if not self.model.isprintable():
            raise ValueError(f"{quoted(self.model)} is no name for a model")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"the temperature is {self.temperature}; it must lie in 0..2")
        for name in ("max_tokens", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.timeout > 0 or not self.backoff >= 0:
            raise ValueError(f"a timeout of {self.timeout} s, a back-off of {self.backoff} s; neither may be negative")

    @property
    def endpoint(self) -> str:
        """Where requests are posted."""
        return f"{self.url.rstrip('/')}/chat/completions"

    @property
    def headers(self) -> dict[str, str]:
        """What every request says besides its body."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    def key(self, request: Request) -> str:
        """What makes two requests the same, whoever is asked for: model, prompt, seed, temperature and max_tokens."""
        parts = [self.model, request.prompt, request.seed, self.temperature, self.max_tokens]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def payload(self, request: Request) -> dict[str, Any]:
        """The body of a request, before it is JSON."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": request.seed,
        }

    def most_tokens(self, request: Request) -> int:
        """More tokens than the request can cost with an answer as long as allowed: no token is less than a byte."""
        return len(request.prompt.encode()) + _TEMPLATE + self.max_tokens

    def charged(self, request: Request, answer: Answer) -> int:
        """The tokens that an answer has cost: those the server counted, or the most that may be."""
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            return self.most_tokens(request)
        return answer.prompt_tokens + answer.completion_tokens

    def read(self, reply: Reply) -> Answer:
        """The answer in a reply. AgainError where another attempt may bring one, UserError where none ever will."""
        if reply.status == 200:
            return _answer(reply)
        where, code = self.endpoint, f"HTTP {reply.status}"
        if reply.status in (408, 429) or reply.status >= 500:
            raise AgainError(f"it says {code}", reply.retry_after())
        if reply.status in (401, 403):
            what = "wants a key" if self.api_key is None else "refuses the key"
            hint = "check the key, and the environment variable that it is read from"
            raise UserError(f"the server {what} ({code})", where, hint)
        if reply.status == 404:
            hint = f"check the address, which mostly ends in /v1, and the model's name, {quoted(self.model)}"
            raise UserError(f"the server has no such page or model ({code})", where, hint)
        if 300 <= reply.status < 400:
            raise UserError(f"the server is elsewhere ({code})", where, "give the address that it has now")
        raise UserError(f"the server refuses the request ({code}{self._said(reply)})", where, "check the settings")

    def _said(self, reply: Reply) -> str:
        """The server's own words on a refusal, as an error may quote them; it may be the key that they quote."""
        try:
            words = reply.json()["error"]["message"]
        except (KeyError, TypeError, ValueError):
            return ""
        if not isinstance(words, str) or (self.api_key is not None and self.api_key in words):
            return ""
        return f": {quoted(words)}"


def _answer(reply: Reply) -> Answer:
    try:
        whole = reply.json()
        choice = whole["choices"][0]
        # None where the server's own filter took the answer away: asking again would not help.
        text, reason = choice["message"]["content"] or "", choice.get("finish_reason")
        if not isinstance(text, str):
            raise TypeError("the content is no text")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise AgainError("its reply is no whole answer", billed=True) from error
    usage = whole.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Answer(
        text.encode("utf-8", "replace").decode(),  # half a character cannot be stored
        reason if isinstance(reason, str) else None,
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None

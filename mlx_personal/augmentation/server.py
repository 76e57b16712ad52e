"""A server with an OpenAI-compatible endpoint, such as vLLM, mlx_lm.server or a hosted one.

This module has the settings of requests, builds their bodies, and parses what the server returns; `client` sends them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from mlx_personal.augmentation.completion import find_error, parse_completion, parse_usage
from mlx_personal.augmentation.error_body import ErrorReport, read_error
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.response_cache import Response
from mlx_personal.errors import Action, Remedy, UserError, quoted
from mlx_personal.http_client import HTTPResponse, check_url

# Fields of a request that can be left out; without `messages` there would be no question.
OPTIONAL_FIELDS: Final = ("model", "temperature", "max_tokens", "seed")
# The name that newer servers have for `max_tokens`.
_NEW_LENGTH_FIELD: Final = "max_completion_tokens"
# Tokens that a server's chat template may add to a prompt.
_TEMPLATE_TOKENS: Final = 64
# The characters that an API key may consist of: what a header may hold, without spaces.
_KEY_CHARACTERS: Final = "[!-~]+"
# Codes and words of errors that no repetition remedies, even if their status is that of a temporary one.
_QUOTA_CODES: Final = frozenset(
    {
        *("402", "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"),
        *("payment_required", "insufficient_balance", "insufficient_funds", "insufficient_credits"),
    }
)
_QUOTA_WORDS: Final = re.compile(
    r"\bbilling\b|\bpayment required\b|\binsufficient (?:quota|balance|funds|credits?)\b"
    r"|\b(?:out of|no(?: more)?|not enough) credits?\b|\bcredit balance\b",
    re.IGNORECASE,
)
# A limit of the rate ends by waiting, whatever is said about billing beside.
_RATE_WORDS: Final = re.compile(
    r"\brate.?limit|\bper (?:second|minute)\b|\b(?:try again|retry) (?:in|after)\b", re.IGNORECASE
)
_ACCESS_CODES: Final = frozenset(
    {
        *("401", "403", "invalid_api_key", "authentication_error", "permission_error", "permission_denied"),
        *("unauthenticated", "unauthorized", "forbidden", "access_denied", "account_deactivated"),
    }
)
_UNSUPPORTED_WORDS: Final = re.compile(
    r"unsupported|not supported|not support|unrecognized|unknown|unexpected|not permitted|not allowed|deprecated"
    r"|\bextra\b|\binstead\b|only the default",
    re.IGNORECASE,
)


class AttemptError(Exception):
    """An attempt brought no answer.

    Args:
        what: What went wrong.
        billed: Whether the server may bill the attempt.
        tokens: Tokens that it bills, as it reports them; None if it does not.
    """

    def __init__(self, what: str, billed: bool = False, tokens: int | None = None):
        self.billed = billed
        self.tokens = tokens
        super().__init__(what)


class RetryableError(AttemptError):
    """An attempt failed in a way that another attempt may not.

    Args:
        what: What went wrong.
        wait_s: Seconds that the server asks to wait before the next attempt.
        billed: Whether the server may bill the failed attempt.
        tokens: Tokens that it bills, as it reports them; None if it does not.
    """

    def __init__(self, what: str, wait_s: float = 0.0, billed: bool = False, tokens: int | None = None):
        self.wait_s = wait_s
        super().__init__(what, billed, tokens)


class NoAnswerError(AttemptError):
    """A response ended before an answer: thoughts took all its tokens. An equal request would end in the same way."""


class RequestRefusedError(UserError):
    """The server accepts no request of this form.

    Args:
        what: What the server says.
        where: URL of the endpoint.
        field: The field of the request that the server does not support; None if it names none.

    Attributes:
        field: The field of the request that the server does not support; None if it names none.
    """

    def __init__(self, what: str, where: str, field: str | None):
        self.field = field
        # `max_tokens` stands for its newer name, too.
        omitted = "max_tokens" if field == _NEW_LENGTH_FIELD else field
        remedy = None if omitted is None else Remedy(Action.OMIT_REQUEST_FIELD, {"field": omitted})
        super().__init__(what, where, "check the settings" if remedy is None else None, remedy=remedy)


@dataclass(frozen=True)
class LengthLimit:
    """How requests limit the length of a response.

    Attributes:
        field: Field of a request that has the limit; None if requests have none.
        tokens: Tokens of the longest response, thoughts included.
    """

    field: str | None
    tokens: int

    def renamed(self) -> LengthLimit:
        """Return the limit under the name that newer servers have for it."""
        return dataclasses.replace(self, field=_NEW_LENGTH_FIELD)


@dataclass(frozen=True)
class Server:
    """The URL of a server and the settings of requests to it.

    Attributes:
        url: URL up to and without `/chat/completions`, usually ending in `/v1`.
        model: Name of the model on the server.
        api_key: Sent as a bearer token; None if the server needs none.
        temperature: Sampling temperature. [Zhong25]'s is not public. At 0 the server ignores seeds.
        max_tokens: Tokens of the longest response, thoughts included. `client` allows more where they leave no answer.
        timeout_s: Seconds that one attempt may take, generation included.
        max_attempts: Attempts for one request.
        backoff_s: Seconds before the second attempt. They double with each attempt, up to a minute, with random jitter.
        omitted_fields: Fields that requests leave out, among `OPTIONAL_FIELDS`, for servers that do not support them.

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
    omitted_fields: frozenset[str] = frozenset()

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
        if unknown := sorted(self.omitted_fields.difference(OPTIONAL_FIELDS)):
            raise ValueError(
                f"the request field {quoted(unknown[0])} cannot be left out; only {', '.join(OPTIONAL_FIELDS)} can"
            )

    @property
    def endpoint(self) -> str:
        """URL that requests are posted to."""
        return f"{self.url.rstrip('/')}/chat/completions"

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    @property
    def length_limit(self) -> LengthLimit:
        """The limit of the length of a response, as requests have it at first."""
        return LengthLimit(None if "max_tokens" in self.omitted_fields else "max_tokens", self.max_tokens)

    def request_key(self, request: PromptRequest) -> str:
        """Return the key that identifies equal requests, whichever user they are for.

        It is a digest of model, prompt, seed, temperature, max_tokens and the omitted fields, and the key of the
        response cache.
        """
        identity: list[Any] = [self.model, request.prompt, request.seed, self.temperature, self.max_tokens]
        if self.omitted_fields:  # otherwise the key is that of versions without this setting
            identity.append(sorted(self.omitted_fields))
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def payload(self, request: PromptRequest, limit: LengthLimit | None = None) -> dict[str, Any]:
        """Return the body of a request, to be encoded as JSON.

        Args:
            request: The request.
            limit: Limit of the response's length; None for `length_limit`.
        """
        limit = limit or self.length_limit
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": request.prompt}],
            "temperature": self.temperature,
            limit.field or "max_tokens": limit.tokens,
            "seed": request.seed,
        }
        return {name: value for name, value in fields.items() if name not in self.omitted_fields}

    def max_request_tokens(self, request: PromptRequest, limit: LengthLimit | None = None) -> int:
        """Return an upper bound of the tokens that a request can cost: no token is shorter than a byte.

        Where requests have no limit of the response's length, the bound is that of a response of `max_tokens`.
        """
        return len(request.prompt.encode()) + _TEMPLATE_TOKENS + (limit or self.length_limit).tokens

    def response_tokens(self, request: PromptRequest, response: Response, limit: LengthLimit | None = None) -> int:
        """Return the tokens that a response cost, as the server counted, or else the upper bound."""
        if response.prompt_tokens is None or response.completion_tokens is None:
            return self.max_request_tokens(request, limit)
        return response.prompt_tokens + response.completion_tokens

    def parse_response(self, http_response: HTTPResponse, limit: LengthLimit | None = None) -> Response:
        """Parse what the server returned for a request.

        Args:
            http_response: What it returned.
            limit: Limit that the request had; None for `length_limit`.

        Raises:
            RetryableError: If another attempt may succeed.
            NoAnswerError: If the response ended before an answer.
            RequestRefusedError: If the server accepts no request of this form.
            UserError: If no attempt will succeed.
        """
        if http_response.status == 200:
            return self._parse_completion(http_response, limit or self.length_limit)
        raise self._error(http_response)

    def _parse_completion(self, http_response: HTTPResponse, limit: LengthLimit) -> Response:
        body: Any = None
        try:
            body = http_response.json()
            completion = parse_completion(body)
        except ValueError as error:
            tokens = parse_usage(body).total
            if (found := find_error(body)) is not None:  # some servers send their errors with status 200
                error_response = dataclasses.replace(http_response, body=json.dumps(found).encode())
                raise self._error(error_response, tokens) from error
            what = "its response is not a complete chat completion"
            raise RetryableError(what, billed=True, tokens=tokens) from error
        usage = parse_usage(body)
        if completion.is_withheld or completion.has_answer:
            text = completion.text or ""
        elif completion.is_cut_off:
            tokens_text = "" if limit.field is None else f" after {limit.tokens:,} tokens"
            what = f"the response was cut off{tokens_text}, before an answer"
            raise NoAnswerError(what, billed=True, tokens=usage.total)
        elif completion.has_reasoning:
            raise NoAnswerError("the response has reasoning and no answer", billed=True, tokens=usage.total)
        elif completion.text is None:
            raise RetryableError("its response has no content", billed=True, tokens=usage.total)
        else:
            text = completion.text
        return Response(text, completion.finish_reason, usage.prompt_tokens, usage.completion_tokens)

    def _error(self, http_response: HTTPResponse, tokens: int | None = None) -> RetryableError | UserError:
        """Return the error that an error response stands for, with the server's own reason.

        Args:
            http_response: The response.
            tokens: Tokens that the server bills for it; None if it does not say so.
        """
        report = read_error(http_response.body, self.api_key)
        status, where = http_response.status, self.endpoint
        reason = f"HTTP {status}: {report.reason}" if report.reason else f"HTTP {status}"
        # A status of 200 says nothing about an error; its code may.
        codes = {*report.codes, *([] if status == 200 else [str(status)])}
        if _is_quota_error(report, codes):
            hint = "check the plan and the billing of the account, then run it again; what was answered is stored"
            return UserError(f"the account has no quota or credit left ({reason})", where, hint)
        if codes & _ACCESS_CODES:
            what = "denies access with this key" if "403" in codes else "refuses the key"
            what = "requires a key" if self.api_key is None else what
            hint = "check the key, and the environment variable that it is read from"
            return UserError(f"the server {what} ({reason})", where, hint)
        if status in (200, 408, 429) or status >= 500:
            wait_s = http_response.retry_after_s()
            return RetryableError(f"it returned {reason}", wait_s, billed=tokens is not None, tokens=tokens)
        if status == 404:
            hint = f"check the URL, which usually ends in /v1, and the model's name, {quoted(self.model)}"
            return UserError(f"the server has no such page or model ({reason})", where, hint)
        if 300 <= status < 400:
            return UserError(f"the server has moved (HTTP {status})", where, "use its new URL")
        return RequestRefusedError(f"the server refuses the request ({reason})", where, _unsupported_field(report))


def _is_quota_error(report: ErrorReport, codes: set[str]) -> bool:
    """Return whether an account is used up; a limit per time is not meant."""
    if codes & _QUOTA_CODES:
        return True
    return bool(_QUOTA_WORDS.search(report.reason)) and not _RATE_WORDS.search(report.reason)


def _unsupported_field(report: ErrorReport) -> str | None:
    """Return the request field that an error says is not supported, the first one that it names; None for none."""
    if not _UNSUPPORTED_WORDS.search(report.reason):
        return None
    names = {*OPTIONAL_FIELDS, _NEW_LENGTH_FIELD}
    if named := names & report.fields:
        return min(named)
    # "Not supported by this model" does not mean the field `model`.
    match = re.search(rf"\b(?:{'|'.join(sorted(names - {'model'}))})\b", report.reason)
    return None if match is None else match.group()

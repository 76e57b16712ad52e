"""Cache a server's responses, so that no answered request is sent again and a stopped run can resume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlx_personal.storage.database import Database, utc_now


@dataclass(frozen=True)
class Response:
    """A server's response to one request.

    Attributes:
        text: The generated text; empty if the server withheld it.
        finish_reason: Why the generation ended, as the server reports it; None if it does not.
        prompt_tokens: Tokens of the prompt, as the server counts; None without a count.
        completion_tokens: Tokens of the text, as the server counts; None without a count.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ResponseCache:
    """The responses in a database, and the tokens that they and unanswered attempts have cost.

    Args:
        database: A database of `augmentation.database.SCHEMA`; its owner closes it.
    """

    def __init__(self, database: Database):
        self._database = database

    def get(self, key: str) -> Response | None:
        """Return the cached response to the request with this key; None without one."""
        row = self._database.fetch_one("SELECT * FROM answers WHERE key = ?", key)
        if row is None:
            return None
        return Response(row["text"], row["finish_reason"], row["prompt_tokens"], row["completion_tokens"])

    def begin_attempt(self, key: str, max_tokens: int) -> int:
        """Charge an attempt before it is made, because this process may not live to see its end.

        Args:
            key: Key of the request.
            max_tokens: The most tokens that the attempt can cost.

        Returns:
            The number of the attempt, for `store` or `discard_attempt`.
        """
        with self._database.transaction() as connection:
            attempt = connection.execute("INSERT INTO lost VALUES (?, ?)", (key, max_tokens)).lastrowid
        assert attempt is not None
        return attempt

    def store(self, attempt: int, key: str, response: Response, tokens: int) -> None:
        """Store the response of an attempt and replace the attempt's charge; an existing response stays.

        Args:
            attempt: Number of the attempt.
            key: Key of the request.
            response: The response.
            tokens: Tokens that it cost.
        """
        row = (
            key,
            response.text,
            response.finish_reason,
            response.prompt_tokens,
            response.completion_tokens,
            tokens,
            utc_now(),
        )
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute("DELETE FROM lost WHERE rowid = ?", (attempt,))

    def charge_attempt(self, attempt: int, tokens: int) -> None:
        """Replace the charge of an attempt that brought no response by the tokens that the server reports."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE lost SET charged = ? WHERE rowid = ?", (tokens, attempt))

    def discard_attempt(self, attempt: int) -> None:
        """Remove the charge of an attempt that brought no response and is not billed."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM lost WHERE rowid = ?", (attempt,))

    def total_tokens(self) -> int:
        """Return the tokens that all requests in this database have cost, unanswered attempts included."""
        query = "SELECT (SELECT COALESCE(SUM(charged), 0) FROM answers) + (SELECT COALESCE(SUM(charged), 0) FROM lost)"
        return self._database.fetch_int(query)

    def tokens_of(self, keys: Iterable[str]) -> int:
        """Return the tokens that the requests with these keys have cost, unanswered attempts included."""
        query = (
            "SELECT (SELECT COALESCE(SUM(charged), 0) FROM answers WHERE key = ?)"
            " + (SELECT COALESCE(SUM(charged), 0) FROM lost WHERE key = ?)"
        )
        return sum(self._database.fetch_int(query, key, key) for key in keys)

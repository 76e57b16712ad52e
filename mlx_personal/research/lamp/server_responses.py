"""Fetch what the users' methods need from a server: synthetic records, and answers to queries."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlx_personal.augmentation.client import RequestSummary, fetch_responses
from mlx_personal.augmentation.database import open_database
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.response_cache import ResponseCache
from mlx_personal.augmentation.server import Server
from mlx_personal.errors import Remedy
from mlx_personal.progress import Progress, as_stage
from mlx_personal.research.lamp.lamp_jobs import ServerResponses


def fetch_server_responses(
    responses: Mapping[int, ServerResponses],
    server: Server,
    folder: Path,
    *,
    answer_tokens: int,
    token_budget: int | None,
    on_progress: Progress,
) -> tuple[int, str | None, Remedy | None]:
    """Send the requests of all users to a server, and fill in its responses.

    Responses are cached in the folder of the run, so no request is sent again after it was answered.

    Args:
        responses: The requests of each user, by the user's index; their responses are filled in.
        server: The server, with the sampling settings for synthetic records.
        folder: Folder of the run.
        answer_tokens: Maximum tokens of an answer to a query.
        token_budget: Maximum tokens that all requests of the folder may cost; None for no limit.
        on_progress: Called with the progress.

    Returns:
        Tokens that all requests of the folder have cost until now; one line on why responses are missing, None if none
        is; and what to do about it, where the line does not say it.

    Raises:
        UserError: If the server refuses a request.
    """
    # Queries are answered greedily, and with no longer answers than on the device.
    greedy_server = dataclasses.replace(server, temperature=0.0, max_tokens=answer_tokens)
    with contextlib.ExitStack() as stack:
        # In a folder of its own, since a folder has one lock.
        cache = ResponseCache(stack.enter_context(open_database(folder / "answers")))
        ledger = stack.enter_context(Ledger(folder))

        def fetch(stage: str, server: Server, requests: Sequence[PromptRequest]) -> RequestSummary:
            progress = as_stage(stage, on_progress)
            return fetch_responses(requests, server, cache, ledger, token_budget=token_budget, on_progress=progress)

        synthetic = [
            (index, request)
            for index in sorted(responses)
            if (prepared := responses[index].prepared) is not None
            for request in prepared.requests
        ]
        summary = fetch("synthetic records", server, [request for _, request in synthetic])
        message, remedy = summary.message, summary.remedy
        for (index, _), text in zip(synthetic, summary.responses, strict=True):
            responses[index].synthetic.append(text)
            responses[index].may_get_more = bool(summary.failed or summary.remaining)

        queries = [
            (index, method, request)
            for index in sorted(responses)
            for method, requests in responses[index].queries.items()
            for request in requests
        ]
        start = time.perf_counter()
        summary = fetch("cloud answers", greedy_server, [request for *_, request in queries])
        each_s = (time.perf_counter() - start) / summary.new if summary.new else None
        for (index, method, _), text in zip(queries, summary.responses, strict=True):
            responses[index].answers.setdefault(method, []).append(text)
            responses[index].seconds_per_answer[method] = each_s
        if message is None:
            message, remedy = summary.message, summary.remedy
        return cache.total_tokens(), message, remedy

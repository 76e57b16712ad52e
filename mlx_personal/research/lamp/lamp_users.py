"""Read the users of LaMP's or OPPU's files one at a time, so that a file may be larger than memory.

LaMP has two files: `*_questions.json`, a list of `{id, input, profile}`, and `*_outputs.json` with the gold answers.
The two may be merged into one, where each question has its `output`. Each question is a user of its own, except where
it has a `user_id`, as in the time-based split: adjacent questions with the same `user_id` and the same profile belong
to one user. OPPU has one file, a list of `{user_id, profile, query: [{id, input, gold}]}`.

Items that lack a field of the task are skipped and counted. A question whose gold answer is empty is answered and
counted, and cannot be scored. Any other defect is an error, so that every question that is scored could also be
answered.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_personal.errors import UserError, quoted
from mlx_personal.research.lamp.json_stream import json_items
from mlx_personal.research.lamp.predictions import Outputs
from mlx_personal.research.lamp.tasks import LampTask, field_text, has_citations

_HINT: Final = "correct the file, or download it again"


@dataclass(frozen=True)
class Query:
    """One question to a user's model.

    Attributes:
        id: Identifier of the question, unique in its file.
        input: Official input.
        gold: The answer that the user gave; empty where the file has none, so that the question cannot be scored.
    """

    id: str
    input: str
    gold: str


@dataclass(frozen=True)
class LampUser:
    """One user of LaMP.

    Attributes:
        id: Identifier of the user, unique in its file.
        profile: Usable items, in the order of the file.
        queries: Questions of the user, in the order of the file.
    """

    id: str
    profile: tuple[dict[str, Any], ...]
    queries: tuple[Query, ...]


@dataclass
class FileCounts:
    """Counts of what a reader has read so far.

    Attributes:
        users: Users that were read.
        queries: Questions that were read.
        unscorable_queries: Questions among them with an empty gold answer.
        items: Usable items that were read.
        skipped_items: Items that lack a text or a valid answer.
        empty_profiles: Users without a usable item.
        single_items: Users with one usable item.
        users_without_queries: Users without a question, which are skipped.
        unasked_outputs: Gold answers without a question; known at the end of the file.
        distinct_golds: Different gold answers; filled in by `run_lamp`.
    """

    users: int = 0
    queries: int = 0
    unscorable_queries: int = 0
    items: int = 0
    skipped_items: int = 0
    empty_profiles: int = 0
    single_items: int = 0
    users_without_queries: int = 0
    unasked_outputs: int = 0
    distinct_golds: int = 0


def read_users(task: LampTask, path: Path, outputs: Outputs | None, counts: FileCounts) -> Iterator[LampUser]:
    """Yield the users of a file in LaMP's or OPPU's form who have questions, in the order of the file.

    Args:
        task: Task of the file.
        path: File to read.
        outputs: Gold answers of LaMP's questions, from `predictions.read_outputs`; None if the file contains them.
        counts: Updated while the users are read.

    Yields:
        The users.

    Raises:
        UserError: If the file cannot be read or holds no questions, an identifier is missing, occurs twice or has no
            output, an input is of another task, or a gold answer is not valid for this task.
    """
    with contextlib.closing(_entries(path)) as entries:
        is_merged = "input" in (first := next(entries)) and "output" in first
    if outputs is not None or is_merged:
        yield from _read_lamp_users(task, path, outputs, counts)
    else:
        yield from _read_oppu_users(task, path, counts)


def _read_lamp_users(
    task: LampTask, questions: Path, outputs: Outputs | None, counts: FileCounts
) -> Iterator[LampUser]:
    """Yield the users of a `*_questions.json`; without outputs, its questions have them."""
    query_ids: set[str] = set()
    owners: set[str] = set()
    owner = ""
    user: LampUser | None = None
    for number, entry in enumerate(_entries(questions), 1):
        where = f"question {number}"
        if "query" in entry:
            raise UserError("this is a history in OPPU's form, which has its golds in it", questions, "name no outputs")
        query_id = _required_id(entry, "id", questions, where)
        golds = {query_id: entry.get("output")} if outputs is None else outputs.by_id
        if query_id not in golds:
            hint = "name the outputs that belong to these questions"
            raise UserError(f"the question {quoted(query_id)} has no output", questions, hint)
        query = _query(task, query_id, entry.get("input"), golds[query_id], query_ids, questions)
        profile = _profile(entry, questions, where)
        previous_owner, owner = owner, field_text(entry, "user_id") or query_id
        if user is not None and owner == previous_owner and profile == user.profile:
            user = dataclasses.replace(user, queries=(*user.queries, query))
            continue
        if user is not None:
            yield _with_usable_items(task, user, counts)
        # The same `user_id` with another profile, or later in the file, is another user, named after the question.
        user = LampUser(f"{owner}/{query_id}" if owner in owners else owner, profile, (query,))
        owners.add(owner)
    if user is not None:
        yield _with_usable_items(task, user, counts)
    if outputs is not None:
        counts.unasked_outputs = len(outputs.by_id.keys() - query_ids)


def _read_oppu_users(task: LampTask, history: Path, counts: FileCounts) -> Iterator[LampUser]:
    """Yield the users of OPPU's `user_top_100_history.json` or `user_others.json`."""
    query_ids: set[str] = set()
    user_ids: set[str] = set()
    for number, entry in enumerate(_entries(history), 1):
        where = f"user {number}"
        if "input" in entry:
            raise UserError("these are LaMP's questions, without their answers", history, "name their outputs as well")
        user_id = _required_id(entry, "user_id", history, where)
        if user_id in user_ids:
            raise UserError(f"the user {quoted(user_id)} occurs twice", history, _HINT)
        user_ids.add(user_id)
        entries = entry.get("query")
        if not isinstance(entries, list) or not all(isinstance(query, Mapping) for query in entries):
            raise UserError(f"{where} has no list of queries", history, _HINT)
        ids = [_required_id(query, "id", history, f"a query of {where}") for query in entries]
        queries = [
            _query(task, query_id, query.get("input"), query.get("gold"), query_ids, history)
            for query_id, query in zip(ids, entries, strict=True)
        ]
        user = LampUser(user_id, _profile(entry, history, where), tuple(queries))
        if not queries:
            counts.users_without_queries += 1
            continue
        yield _with_usable_items(task, user, counts)


def _entries(path: Path) -> Generator[dict[str, Any], None, None]:
    """Yield the objects of a JSON list one at a time."""
    number = 0
    for number, entry in enumerate(json_items(path, "item"), 1):
        if not isinstance(entry, dict):
            raise UserError(f"entry {number} is not a JSON object", path, _HINT)
        yield entry
    if not number:
        raise UserError("no questions in this file", path, "name a list of questions, as LaMP's or OPPU's files are")


def _required_id(entry: Mapping[str, Any], key: str, path: Path, where: str) -> str:
    value = field_text(entry, key)
    if not value:
        raise UserError(f"{where} has no {key!r}", path, _HINT)
    return value


def _profile(entry: Mapping[str, Any], path: Path, where: str) -> tuple[Any, ...]:
    profile = entry.get("profile")
    if not isinstance(profile, list):
        raise UserError(f"{where} has no list 'profile'", path, _HINT)
    return tuple(profile)


def _query(task: LampTask, query_id: str, text: object, gold: object, query_ids: set[str], path: Path) -> Query:
    """Return a question that can be asked, and scored unless its gold is empty, and add its id to `query_ids`."""
    if query_id in query_ids:
        raise UserError(f"the question {quoted(query_id)} occurs twice", path, _HINT)
    query_ids.add(query_id)
    hint = "name the task that the file belongs to"
    try:
        if not isinstance(text, str):
            raise ValueError("no input")
        task.query_text(text)
    except ValueError as error:
        raise UserError(f"the question {quoted(query_id)} has {error}", path, hint) from error
    answer = task.normalize_answer(gold)
    if gold is None or (isinstance(gold, str) and not gold.strip()):
        answer = ""
    if answer is None:
        what = f"the gold {quoted(str(gold))} of {quoted(query_id)} is not an answer of LaMP-{task.name}"
        raise UserError(what, path, hint)
    return Query(query_id, text, answer)


def _with_usable_items(task: LampTask, user: LampUser, counts: FileCounts) -> LampUser:
    """Return the user with the usable items only, and update the counts."""
    usable = tuple(item for item in user.profile if task.is_usable(item))
    if task.name == "1" and has_citations(usable):
        # An adapter has one input template: where some items name the cited paper, those alone are used.
        usable = tuple(item for item in usable if has_citations([item]))
    counts.users += 1
    counts.queries += len(user.queries)
    counts.unscorable_queries += sum(not query.gold for query in user.queries)
    counts.items += len(usable)
    counts.skipped_items += len(user.profile) - len(usable)
    counts.empty_profiles += not usable
    counts.single_items += len(usable) == 1
    return dataclasses.replace(user, profile=usable)

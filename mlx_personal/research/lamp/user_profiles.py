"""LaMP's users, one after the other, out of its files or OPPU's: what a file holds beside one user stays on the disk.

LaMP has two files: `*_questions.json`, a list of `{id, input, profile}`, and `*_outputs.json` with the golds. There a
question is a user of its own, unless it carries `user_id` as those of the time-based split may: then neighbours with
the same `user_id` and profile are one user. OPPU has one file, a list of `{user_id, profile, query: [{id, input,
gold}]}`. An item that lacks what the task needs is left out and counted; anything else that is wrong is an error, so
that no question is scored that could not be answered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_personal.errors import UserError, quoted
from mlx_personal.research.lamp.json_stream import json_stream
from mlx_personal.research.lamp.predictions import Outputs
from mlx_personal.research.lamp.tasks import LampTask, cites, field

_MEND: Final = "mend the file, or download it again"


@dataclass(frozen=True)
class Query:
    """One question to a user's model, and the answer the user gave."""

    id: str
    input: str
    gold: str


@dataclass(frozen=True)
class User:
    """One user: the items of the profile, in the file's order, and the questions."""

    id: str
    profile: tuple[dict[str, Any], ...]
    queries: tuple[Query, ...]


@dataclass
class Counts:
    """What a reader met so far.

    Args:
        users, queries, items: that it gave.
        skipped_items: left out, as they lack a text or an answer of the task's.
        empty_profiles, single_items: users with no item, and with one.
        users_without_queries: left out.
        unasked_outputs: golds to which there is no question; known at the end of the file.
    """

    users: int = 0
    queries: int = 0
    items: int = 0
    skipped_items: int = 0
    empty_profiles: int = 0
    single_items: int = 0
    users_without_queries: int = 0
    unasked_outputs: int = 0


def official_users(task: LampTask, questions: Path, outputs: Outputs, counts: Counts) -> Iterator[User]:
    """The users of a `*_questions.json`, with the golds of `predictions.read_outputs`; `counts` grows on the way.

    UserError where the file cannot be read or holds no questions, for an id that is there twice or has no output, for
    an input of another task, and for a gold that is no answer of this one.
    """
    asked: set[str] = set()
    owners: set[str] = set()
    owner = ""
    group: User | None = None
    for number, entry in enumerate(_entries(questions), 1):
        where = f"question {number}"
        if "query" in entry:
            raise UserError("this is a history in OPPU's form, which has its golds in it", questions, "name no outputs")
        name = _id(entry, "id", questions, where)
        if name not in outputs.by_id:
            hint = "name the outputs that belong to these questions"
            raise UserError(f"the question {quoted(name)} has no output", questions, hint)
        query = _query(task, name, entry.get("input"), outputs.by_id[name], asked, questions)
        profile = _profile(entry, questions, where)
        previous, owner = owner, field(entry, "user_id") or name
        if group is not None and owner == previous and profile == group.profile:
            group = dataclasses.replace(group, queries=(*group.queries, query))
            continue
        if group is not None:
            yield _given(task, group, counts)
        # A user who comes back with another profile, or later in the file, is told apart by the question.
        group = User(f"{owner}/{name}" if owner in owners else owner, profile, (query,))
        owners.add(owner)
    if group is not None:
        yield _given(task, group, counts)
    counts.unasked_outputs = len(outputs.by_id.keys() - asked)


def oppu_users(task: LampTask, history: Path, counts: Counts) -> Iterator[User]:
    """The users of OPPU's `user_top_100_history.json`, or `user_others.json`; `counts` grows on the way.

    UserError as for `official_users`, and for a user who is there twice.
    """
    asked: set[str] = set()
    names: set[str] = set()
    for number, entry in enumerate(_entries(history), 1):
        where = f"user {number}"
        if "input" in entry:
            raise UserError("these are LaMP's questions, without their answers", history, "name their outputs as well")
        name = _id(entry, "user_id", history, where)
        if name in names:
            raise UserError(f"the user {quoted(name)} is there twice", history, _MEND)
        names.add(name)
        queries = entry.get("query")
        if not isinstance(queries, list) or not all(isinstance(query, Mapping) for query in queries):
            raise UserError(f"{where} has no list of queries", history, _MEND)
        ids = [_id(query, "id", history, f"a query of {where}") for query in queries]
        asks = [
            _query(task, key, query.get("input"), query.get("gold"), asked, history)
            for key, query in zip(ids, queries, strict=True)
        ]
        user = User(name, _profile(entry, history, where), tuple(asks))
        if not asks:
            counts.users_without_queries += 1
            continue
        yield _given(task, user, counts)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """The dicts of a list, one at a time."""
    number = 0
    with json_stream(path) as (ijson, file):
        for number, entry in enumerate(ijson.items(file, "item", use_float=True), 1):
            if not isinstance(entry, dict):
                raise UserError(f"entry {number} is no JSON object", path, _MEND)
            yield entry
    if not number:
        raise UserError("no questions in this file", path, "name a list of questions, as LaMP's or OPPU's files are")


def _id(entry: Mapping[str, Any], key: str, path: Path, where: str) -> str:
    name = field(entry, key)
    if not name:
        raise UserError(f"{where} has no {key!r}", path, _MEND)
    return name


def _profile(entry: Mapping[str, Any], path: Path, where: str) -> tuple[Any, ...]:
    profile = entry.get("profile")
    if not isinstance(profile, list):
        raise UserError(f"{where} has no list 'profile'", path, _MEND)
    return tuple(profile)


def _query(task: LampTask, name: str, text: object, gold: object, asked: set[str], path: Path) -> Query:
    """A question that can be asked and scored; its id joins `asked`."""
    if name in asked:
        raise UserError(f"the question {quoted(name)} is there twice", path, _MEND)
    asked.add(name)
    try:
        if not isinstance(text, str):
            raise ValueError("no input")
        task.query_text(text)
    except ValueError as error:
        raise UserError(
            f"the question {quoted(name)} has {error}", path, "name the task that the file is of"
        ) from error
    answer = task.valid_answer(gold)
    if answer is None:
        what = f"the gold {quoted(str(gold))} of {quoted(name)} is no answer of LaMP-{task.name}"
        raise UserError(what, path, "name the task that the file is of")
    return Query(name, text, answer)


def _given(task: LampTask, user: User, counts: Counts) -> User:
    """The user with the items that can be used; counted."""
    kept = tuple(item for item in user.profile if task.holds(item))
    if task.name == "1" and cites(kept):
        # One question for all that an adapter learns: whom the author cites, or what the abstracts say.
        kept = tuple(item for item in kept if cites([item]))
    counts.users += 1
    counts.queries += len(user.queries)
    counts.items += len(kept)
    counts.skipped_items += len(user.profile) - len(kept)
    counts.empty_profiles += not kept
    counts.single_items += len(kept) == 1
    return dataclasses.replace(user, profile=kept)

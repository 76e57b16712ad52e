"""The prompts that ask a server for records similar to a user's, and the parsing of its responses.

The template is a file, `prompts/augment.txt` by default. Every synthetic record has its own prompt, with its own
sample of the user's records, so that the synthetic records differ from each other. Template and sampling are this
project's own design: the prompts of [Zhong25] are not public.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from mlx_personal.augmentation.task import Record, Task
from mlx_personal.dialogue import strip_thoughts
from mlx_personal.dialogue.types import MAX_MESSAGE_CHARS
from mlx_personal.errors import UserError, from_os_error

DEFAULT_PROMPT: Final = Path(__file__).with_name("prompts") / "augment.txt"
_SLOTS: Final = ("{labels}", "{records}")
# A response of more characters has no record that a dialogue can hold.
_MAX_RESPONSE_CHARS: Final = 2 * MAX_MESSAGE_CHARS
# Opening braces that begin no JSON object, such as those of formulas in chatter.
_MAX_BRACES: Final = 100


@dataclass(frozen=True)
class PromptRequest:
    """One prompt that asks for one synthetic record.

    Attributes:
        user: Name of the user whose records the prompt shows.
        number: Which of the user's requests it is, from 0.
        prompt: The text to send.
        seed: Seed of the server's sampling, a different one for each request.
        demonstrations: Indices of the records that the prompt shows, in its order.
    """

    user: str
    number: int
    prompt: str
    seed: int
    demonstrations: tuple[int, ...]


def read_prompt(path: Path = DEFAULT_PROMPT) -> str:
    """Read a prompt template.

    Args:
        path: A text file with the slots `{labels}` and `{records}`.

    Returns:
        The template, without line breaks at its start and end.

    Raises:
        UserError: If the file cannot be read or lacks a slot.
    """
    try:
        text = path.read_text(encoding="utf-8").strip("\n")
    except OSError as error:
        raise from_os_error(error, path, "choose another file") from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", path, "choose another file") from error
    for slot in _SLOTS:
        if slot not in text:
            raise UserError(f"this prompt has no {slot}", path, f"add {slot} where it belongs")
    return text


def build_requests(
    user: str,
    task: Task,
    records: Sequence[Record],
    num_requests: int,
    num_demonstrations: int,
    seed: int,
    prompt: str | None = None,
) -> list[PromptRequest]:
    """Build the requests for a user, each with its own sample of the records in random order.

    No two requests show the same records in the same order as long as another sample exists. The first requests of a
    larger number are those of a smaller one, so raising the number only adds new requests.

    Args:
        user: The user's name, part of the random seed.
        task: The task of the records.
        records: The records that may be shown.
        num_requests: Number of requests.
        num_demonstrations: Records in each prompt; all of them if there are fewer.
        seed: Random seed.
        prompt: Template as returned by `read_prompt`; None for the default one.

    Returns:
        The requests, numbered from 0.

    Raises:
        ValueError: If there are no records.
    """
    if not records:
        raise ValueError("a user without records has nothing to show")
    template = read_prompt() if prompt is None else prompt
    # `Random` hashes a text seed with SHA-512, so it is the same on every machine.
    random = Random(f"{seed} {user}")
    shown = min(num_demonstrations, len(records))
    num_samples = math.perm(len(records), shown)
    seen: set[tuple[int, ...]] = set()
    requests = []
    for number in range(num_requests):
        sample = tuple(random.sample(range(len(records)), shown))
        while sample in seen and len(seen) < num_samples:
            sample = tuple(random.sample(range(len(records)), shown))
        seen.add(sample)
        text = fill_prompt(template, task, [records[i] for i in sample])
        requests.append(PromptRequest(user, number, text, random.randrange(2**31), sample))
    return requests


def format_record(record: Record) -> str:
    """Return a record as one line of JSON, the form that prompts show and responses should have."""
    return json.dumps({"text": record.text, "answer": record.answer}, ensure_ascii=False)


def fill_prompt(template: str, task: Task, records: Sequence[Record]) -> str:
    """Return the prompt that shows these records, one per line.

    Args:
        template: Template as returned by `read_prompt`.
        task: The task, whose labels are listed if it has any.
        records: The records to show.
    """
    labels = f"The answer is one of: {', '.join(task.labels)}.\n" if task.labels else ""
    values = {"{labels}": labels, "{records}": "\n".join(map(format_record, records))}
    # In one pass, because an inserted record may itself contain a slot.
    filled = re.sub("|".join(map(re.escape, _SLOTS)), lambda slot: values[slot.group()], template)
    # A lone surrogate, which JSON may hold, can be neither sent nor stored.
    return filled.encode("utf-8", "replace").decode()


def parse_record(response: str, task: Task) -> Record:
    """Parse the record in a response.

    The JSON object may be surrounded by thoughts, chatter and a code fence, and may have other fields. Its answer may
    be a number. An answer that equals a label except for its case becomes that label; any other answer is left to the
    filters.

    Args:
        response: The text that the server generated.
        task: The task of the records.

    Returns:
        The record, with surrounding white space removed.

    Raises:
        ValueError: If there is not exactly one JSON object with a text and an answer. The message gives the reason.
    """
    text_without_thoughts = strip_thoughts(response)
    if len(text_without_thoughts) > _MAX_RESPONSE_CHARS:
        raise ValueError("too long for a record")
    objects = _json_objects(text_without_thoughts)
    if len(objects) != 1:
        raise ValueError(f"{len(objects)} JSON objects instead of one")
    text, answer = objects[0].get("text"), objects[0].get("answer")
    if _is_number(answer):
        answer = str(answer)  # most models write a score as a number
    if not isinstance(text, str) or not isinstance(answer, str):
        raise ValueError("the text or the answer is missing or not a string")
    try:
        (text + answer).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a lone surrogate") from error
    return Record(text.strip(), _match_label(answer.strip(), task))


def _json_objects(text: str) -> list[dict[str, Any]]:
    """Return all outermost JSON objects in a text, in order."""
    decoder = json.JSONDecoder(strict=False)  # models write line breaks inside strings
    objects: list[dict[str, Any]] = []
    failures = 0
    start = text.find("{")
    while start >= 0:
        end = start + 1
        try:
            value, end = decoder.raw_decode(text, start)
            objects.append(value)
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error
        except json.JSONDecodeError as error:
            # Each failure may have read the rest of the text.
            failures += 1
            if failures >= _MAX_BRACES:
                raise ValueError("too many braces that are no JSON") from error
        start = text.find("{", end)
    return objects


def _is_number(value: object) -> bool:
    """Return whether a parsed value is a number of JSON, which has no NaN and no infinity, though Python reads them."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _match_label(answer: str, task: Task) -> str:
    """Return the only label that equals the answer, exactly or except for its case, or else the answer itself."""
    for normalize in (str, str.casefold):
        labels = [label for label in task.labels if normalize(label.strip()) == normalize(answer)]
        if len(labels) == 1:
            return labels[0]
    return answer

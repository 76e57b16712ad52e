"""The device's part: what is asked for one user, what is kept of the answers, and the adapter that learns them.

Nothing here talks to a network, and no placeholder's meaning leaves: it is worked out again from the user's own records
when answers have come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.filters import judge
from mlx_personal.augmentation.prompting import Request, parse, requests
from mlx_personal.augmentation.redaction import PatternRedactor, Placeholders
from mlx_personal.augmentation.sampling import pick, too_long
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.finetune import TrainingReport, finetune
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class Prepared:
    """What is asked for a user: `requests`; `sent`: the indices of the records that they show, redacted; `too_long`:
    how many records are over the budget of tokens alone."""

    requests: tuple[Request, ...]
    sent: tuple[int, ...]
    too_long: int = 0


@dataclass(frozen=True)
class Synthetic:
    """What became of all that was asked for a user.

    Args:
        records: that are kept.
        sources: for each, the index among the user's records that its first demonstration has.
        requests: for each, the index of the request that brought it.
        counts: how many requests met which fate: `unanswered`, `unparsable`, `placeholder` (the server made one up,
            which stands for nothing), or one of `filtering.REASONS`.
    """

    records: tuple[Record, ...]
    sources: tuple[int, ...]
    requests: tuple[int, ...]
    counts: dict[str, int]


def prepare(lm: LanguageModel, user: str, task: Task, records: Sequence[Record], config: AugmentConfig) -> Prepared:
    """Picks what to send of a user's records, takes out what must not leave, and makes the prompts.

    `lm` is without an adapter. No records, or none that fits the budget: nothing is asked.
    """
    sent = pick(lm, records, config.budget)
    redacted, _ = _redacted(task, records, config)
    shown = [redacted[i] for i in sent]
    asked = requests(user, task, shown, config.k, config.demonstrations, config.seed, config.prompt) if shown else []
    return Prepared(tuple(asked), tuple(sent), too_long(lm, records, config.budget))


def synthetic(
    lm: LanguageModel,
    task: Task,
    records: Sequence[Record],
    prepared: Prepared,
    answers: Sequence[str | None],
    config: AugmentConfig,
    forbidden: Sequence[str] = (),
) -> Synthetic:
    """The server's answers, one a request and None where there is none, read, restored and judged.

    `forbidden`: texts that nothing kept may repeat, those that the user will be tested on.
    """
    _, placeholders = _redacted(task, records, config)
    counts: Counter[str] = Counter()
    found: list[Record] = []
    numbers: list[int] = []
    for number, (_, answer) in enumerate(zip(prepared.requests, answers, strict=True)):
        if answer is None:
            counts["unanswered"] += 1
            continue
        try:
            record = parse(answer, task)
        except ValueError:
            counts["unparsable"] += 1
            continue
        # Labels were not redacted.
        said = [record.text] if task.labels else [record.text, record.answer]
        if any(map(placeholders.made_up, said)):
            counts["placeholder"] += 1
            continue
        restored = [placeholders.restore(text) for text in said]
        found.append(Record(restored[0], record.answer if task.labels else restored[1]))
        numbers.append(number)
    judged = judge(lm, task, records, found, len(prepared.requests), forbidden, config.filters)
    counts.update(one.reason for one in judged)
    kept = [i for i, one in enumerate(judged) if one.kept]
    requests_ = tuple(numbers[i] for i in kept)
    sources = tuple(prepared.sent[prepared.requests[i].demonstrations[0]] for i in requests_)
    return Synthetic(tuple(found[i] for i in kept), sources, requests_, dict(counts))


def learn(
    lm: LanguageModel, task: Task, records: Sequence[Record], made: Synthetic, config: AugmentConfig, folder: Path
) -> TrainingReport:
    """Trains a user's adapter on the real and the synthetic records, and writes it to `folder`; see `finetune`."""
    dialogues = [task.dialogue(record) for record in (*records, *made.records)]
    weights = [1.0] * len(records) + [config.synthetic_weight] * len(made.records)
    sources = [*range(len(records)), *made.sources]
    return finetune(lm, dialogues, config.training, folder, sources=sources, weights=weights)


def _redacted(task: Task, records: Sequence[Record], config: AugmentConfig) -> tuple[list[Record], Placeholders]:
    """All of a user's records without what must not leave, and what the placeholders stand for.

    Labels stay: they are the task's, and a prompt lists them all.
    """
    texts, answers = [record.text for record in records], [record.answer for record in records]
    redacted, placeholders = PatternRedactor(config.own_words).redact([*texts, *([] if task.labels else answers)])
    answers = answers if task.labels else redacted[len(texts) :]
    return [Record(text, answer) for text, answer in zip(redacted, answers, strict=False)], placeholders

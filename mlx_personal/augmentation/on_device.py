"""The steps on the device for one user: prepare the requests, filter the responses, train the adapter.

Nothing here uses a network. The values behind placeholders never leave the device: they are computed again from the
user's records when the responses have arrived.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.filters import apply_filters
from mlx_personal.augmentation.prompting import PromptRequest, build_requests, parse_record
from mlx_personal.augmentation.redaction import PatternRedactor, Placeholders
from mlx_personal.augmentation.sampling import count_too_long, sample_records
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.finetune import Example, TrainingReport, finetune
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class PreparedRequests:
    """The requests for a user.

    Attributes:
        requests: The requests, one for each synthetic record.
        sent: Indices of the user's records that they show, redacted.
        too_long: Number of records that are longer than the token budget.
    """

    requests: tuple[PromptRequest, ...]
    sent: tuple[int, ...]
    too_long: int = 0


@dataclass(frozen=True)
class SyntheticRecords:
    """The synthetic records of a user that were kept, and the outcomes of all requests.

    Attributes:
        records: The records.
        sources: For each record the index of the user's record that was its first demonstration.
        requests: For each record the index of its request.
        outcome_counts: Number of requests by outcome: `unanswered`, `unparsable`, `placeholder` (the server invented
            one, which has no value), or one of `filters.OUTCOMES`.
    """

    records: tuple[Record, ...]
    sources: tuple[int, ...]
    requests: tuple[int, ...]
    outcome_counts: dict[str, int]


def prepare_requests(
    lm: LanguageModel, user: str, task: Task, records: Sequence[Record], config: AugmentConfig
) -> PreparedRequests:
    """Sample the records to send, redact them and build the prompts.

    Args:
        lm: The device model without an adapter.
        user: The user's name.
        task: The task of the records.
        records: All of the user's records, oldest first.
        config: The settings.

    Returns:
        The requests; none if no record fits the budget.
    """
    sent = sample_records(lm, records, config.sample_budget)
    redacted, _ = _redact(task, records, config)
    requests: list[PromptRequest] = []
    if sent:
        requests = build_requests(
            user,
            task,
            [redacted[i] for i in sent],
            config.num_synthetic,
            config.num_demonstrations,
            config.seed,
            config.prompt,
        )
    return PreparedRequests(tuple(requests), tuple(sent), count_too_long(lm, records, config.sample_budget))


def filter_responses(
    lm: LanguageModel,
    task: Task,
    records: Sequence[Record],
    prepared: PreparedRequests,
    responses: Sequence[str | None],
    config: AugmentConfig,
    forbidden: Sequence[str] = (),
) -> SyntheticRecords:
    """Parse the responses, restore what was redacted, and filter the resulting records.

    Args:
        lm: The device model without an adapter.
        task: The task of the records.
        records: All of the user's records, the same as for `prepare_requests`.
        prepared: The requests.
        responses: The response to each request; None for a missing one.
        config: The settings.
        forbidden: Texts that no kept record may repeat, because the user will be tested on them.
    """
    _, placeholders = _redact(task, records, config)
    counts: Counter[str] = Counter()
    candidates: list[Record] = []
    request_indices: list[int] = []
    for index, (_, response) in enumerate(zip(prepared.requests, responses, strict=True)):
        if response is None:
            counts["unanswered"] += 1
            continue
        try:
            record = parse_record(response, task)
        except ValueError:
            counts["unparsable"] += 1
            continue
        # Labels are not redacted.
        redacted = [record.text] if task.labels else [record.text, record.answer]
        if any(map(placeholders.has_unknown, redacted)):
            counts["placeholder"] += 1
            continue
        restored = [placeholders.restore(text) for text in redacted]
        candidates.append(Record(restored[0], record.answer if task.labels else restored[1]))
        request_indices.append(index)
    filtered = apply_filters(lm, task, records, candidates, len(prepared.requests), forbidden, config.filters)
    counts.update(candidate.outcome for candidate in filtered)
    kept = [i for i, candidate in enumerate(filtered) if candidate.kept]
    kept_requests = tuple(request_indices[i] for i in kept)
    sources = tuple(prepared.sent[prepared.requests[index].demonstrations[0]] for index in kept_requests)
    return SyntheticRecords(tuple(candidates[i] for i in kept), sources, kept_requests, dict(counts))


def train_adapter(
    lm: LanguageModel,
    task: Task,
    records: Sequence[Record],
    synthetic: SyntheticRecords,
    config: AugmentConfig,
    adapter_folder: Path,
) -> TrainingReport:
    """Train a user's adapter on the real and the synthetic records and write it to `adapter_folder`; see `finetune`."""
    examples = [Example(task.to_dialogue(record), group) for group, record in enumerate(records)]
    examples += [
        Example(task.to_dialogue(record), group, config.synthetic_weight)
        for record, group in zip(synthetic.records, synthetic.sources, strict=True)
    ]
    return finetune(lm, examples, config.training, adapter_folder)


def _redact(task: Task, records: Sequence[Record], config: AugmentConfig) -> tuple[list[Record], Placeholders]:
    """Redact all of a user's records. Labels are left as they are: they belong to the task, and prompts list them."""
    texts, answers = [record.text for record in records], [record.answer for record in records]
    redactor = PatternRedactor(config.redacted_words)
    redacted, placeholders = redactor.redact([*texts, *([] if task.labels else answers)])
    answers = answers if task.labels else redacted[len(texts) :]
    return [Record(text, answer) for text, answer in zip(redacted, answers, strict=False)], placeholders

"""The two jobs of each user, run in worker processes: one builds the prompts for a server, one runs all methods.

A job receives all its inputs in its argument and returns all its results; it leaves no files behind. It can therefore
run on any machine that has this package and can read the model's folder. Worker processes keep their model from job to
job.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlx_personal.augmentation import on_device
from mlx_personal.augmentation.on_device import PreparedRequests
from mlx_personal.augmentation.prompting import PromptRequest, format_record
from mlx_personal.augmentation.redaction import PatternRedactor, Placeholders
from mlx_personal.augmentation.task import Record
from mlx_personal.dialogue import strip_thoughts
from mlx_personal.finetune import finetune
from mlx_personal.models import LanguageModel
from mlx_personal.models.loading import cached_model
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.research.lamp import answering
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.lamp.lamp_results import Count, MethodAnswers, MethodResult
from mlx_personal.research.lamp.lamp_users import LampUser
from mlx_personal.research.lamp.methods import Method
from mlx_personal.research.lamp.metrics import pair_statistics
from mlx_personal.research.lamp.retrieval import majority_label
from mlx_personal.research.lamp.tasks import TASKS
from mlx_personal.runtime.energy import EnergyMeter

# Sampling settings where the device's own model writes the synthetic records.
_TEMPERATURE: Final = 0.8
_MAX_RECORD_TOKENS = 512

# Fields of `MethodResult`.
_Costs = dict[str, Any]


@dataclass
class ServerResponses:
    """The requests to a server for one user, and its responses; None stands for a missing response.

    Attributes:
        prepared: Requests for synthetic records; None where no method needs them.
        queries: Requests for answers, by the name of the method.
        synthetic: The response to each request for synthetic records.
        answers: Responses to the queries, by the name of the method.
        seconds_per_answer: Seconds that each new answer of a method took; None where none is new.
        may_get_more: Whether another run may bring the synthetic records that are missing now.
    """

    prepared: PreparedRequests | None
    queries: dict[str, list[PromptRequest]]
    synthetic: list[str | None] = field(default_factory=list)
    answers: dict[str, list[str | None]] = field(default_factory=dict)
    seconds_per_answer: dict[str, float | None] = field(default_factory=dict)
    may_get_more: bool = False

    @property
    def num_unanswered(self) -> int:
        """Number of requests for synthetic records without a response."""
        return self.synthetic.count(None)

    def are_complete_for(self, method: Method) -> bool:
        """Return whether a method has an answer to each query, or all synthetic records that the budget allows."""
        if method.on_server:
            return None not in self.answers.get(method.name, [])
        return not self.may_get_more or None not in self.synthetic


@dataclass(frozen=True)
class LampJob:
    """One user and what to compute.

    Attributes:
        model_dir: Folder of the base model.
        task: Name of the task.
        user: The user.
        methods: Methods to run.
        config: Settings of the run.
        responses: Responses of a server, complete for the methods; None where the device's model writes the synthetic
            records itself.
    """

    model_dir: str
    task: str
    user: LampUser
    methods: tuple[Method, ...]
    config: LampConfig
    responses: ServerResponses | None = None


def build_server_prompts(job: LampJob) -> ServerResponses:
    """Return the requests to a server for a user, with private values redacted and without responses."""
    lm = cached_model(job.model_dir)
    is_augmented = any(method.training_data == "augmented" for method in job.methods)
    queries = {}
    for method in job.methods:
        if method.on_server:
            inputs, _ = _redacted_inputs(lm, job, method)
            queries[method.name] = [PromptRequest(job.user.id, i, text, 0, ()) for i, text in enumerate(inputs)]
    return ServerResponses(_prepare_requests(lm, job) if is_augmented else None, queries)


def run_methods(job: LampJob) -> dict[str, MethodAnswers]:
    """Run all methods of a job and return their answers, by the name of the method."""
    meter = EnergyMeter()
    answers = {}
    for method in job.methods:
        counts: Counter[str] = Counter()
        before = meter.read()
        if method.is_majority:
            texts, costs = _majority_answers(job, counts)
        elif method.on_server:
            texts, costs = _read_server_answers(job, method)
        else:
            texts, costs = _run_on_device(job, method, counts)
            costs["energy_joules"] = (meter.read() - before).total_joules
        answers[method.name] = _score(job, texts, costs, counts)
    return answers


def _score(job: LampJob, texts: Sequence[str], costs: _Costs, counts: Counter[str]) -> MethodAnswers:
    queries = job.user.queries
    scored = [(text, query.gold) for text, query in zip(texts, queries, strict=True) if query.gold]
    counts[Count.NO_GOLD] = len(queries) - len(scored)
    counts[Count.EMPTY_ANSWERS] = sum(not text for text in texts)
    statistics = pair_statistics(TASKS[job.task], [text for text, _ in scored], [gold for _, gold in scored])
    result = MethodResult(
        sums=statistics.sum(axis=0).tolist(),
        num_queries=len(queries),
        counts={name: count for name, count in counts.items() if count},
        **costs,
    )
    return MethodAnswers({query.id: text for query, text in zip(queries, texts, strict=True)}, result)


def _majority_answers(job: LampJob, counts: Counter[str]) -> tuple[list[str], _Costs]:
    start, num_queries = time.perf_counter(), len(job.user.queries)
    if not job.user.profile:
        counts[Count.NO_ITEMS] = num_queries
    texts = [majority_label(TASKS[job.task], job.user.profile)] * num_queries
    return texts, {"answer_s": time.perf_counter() - start}


def _run_on_device(job: LampJob, method: Method, counts: Counter[str]) -> tuple[list[str], _Costs]:
    task, user, config = TASKS[job.task], job.user, job.config
    lm = cached_model(job.model_dir)
    num_samples, adapter_bytes = 0, None
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary = answering.summarize_user(lm, task, user, config) if method.with_summary else ""
        try:
            if method.training_data != "none":
                num_samples, adapter_bytes = _train_adapter(lm, job, method, Path(folder, "adapter"), counts)
            # Without an adapter everything counts as answering, the summary of the user included.
            trained = start if method.training_data == "none" else time.perf_counter()
            inputs = answering.build_inputs(lm, task, user, method, config, counts, summary)
            answers = answering.answer_inputs(lm, task, inputs, config)
        finally:
            lm.detach_adapter()
    return answers.texts, {
        "train_s": trained - start,
        "answer_s": time.perf_counter() - trained,
        "tokens_read": answers.tokens_read,
        "tokens_written": answers.tokens_written,
        "adapter_bytes": adapter_bytes,
        "training_samples": num_samples,
    }


def _train_adapter(
    lm: LanguageModel, job: LampJob, method: Method, folder: Path, counts: Counter[str]
) -> tuple[int, int | None]:
    """Train and attach the user's adapter; return its number of samples and its bytes.

    Without any training data the base model answers, which is counted.
    """
    task, user, config = TASKS[job.task], job.user, job.config
    synthetic = _synthetic_records(lm, job, method, counts) if method.training_data == "augmented" else ()
    examples = answering.training_examples(lm, task, user, method, config, synthetic)
    counts[Count.NO_RECORD] += len(user.profile) + len(synthetic) - len(examples)
    if not examples:
        counts[Count.NO_TRAINING] += 1
        return 0, None
    report = finetune(lm, examples, config.augment.training, folder)
    counts[Count.TRUNCATED_SAMPLES] += report.truncated_samples
    counts[Count.DROPPED_SAMPLES] += report.dropped_samples
    lm.attach_adapter(folder)
    return report.samples, (folder / "adapters.safetensors").stat().st_size


def _synthetic_records(lm: LanguageModel, job: LampJob, method: Method, counts: Counter[str]) -> Sequence[Record]:
    """Return the synthetic records that pass the method's filters, from a server's responses or from the base model."""
    task, user, augment = TASKS[job.task], job.user, job.config.augment
    prepared = None if job.responses is None else job.responses.prepared
    prepared = _prepare_requests(lm, job) if prepared is None else prepared
    records = list(answering.training_records(task, user, job.config).values())
    written = job.responses.synthetic if job.responses else _write_records(lm, prepared, records, augment.seed)
    config = dataclasses.replace(
        augment, filters=dataclasses.replace(augment.filters, disabled=method.disabled_filters)
    )
    synthetic = on_device.filter_responses(
        lm,
        task.augmentation_task(user.profile),
        records,
        prepared,
        written,
        config,
        forbidden=[task.query_text(query.input) for query in user.queries],
    )
    counts.update({f"{Count.SYNTHETIC}{reason}": count for reason, count in synthetic.outcome_counts.items()})
    return synthetic.records


def _write_records(
    lm: LanguageModel, prepared: PreparedRequests, records: Sequence[Record], seed: int
) -> list[str | None]:
    """Let the base model write the synthetic records; a small one does so only if its response begins as a record."""
    start, end = '{"text": "', "}"
    prompts = [
        lm.tokenize_prompt([{"role": "user", "content": request.prompt}]) + lm.tokenize(start)
        for request in prepared.requests
    ]
    # Text that does not end is no record: cut it soon after the longest record of the user.
    longest = max((len(lm.tokenize(format_record(record))) for record in records), default=1)
    texts = lm.generate(
        prompts,
        max_tokens=min(2 * longest, _MAX_RECORD_TOKENS),
        sampling=SamplingParams(temperature=_TEMPERATURE, stop=(end,)),
        seed=seed,
    )
    return [f"{start}{text}{end}" for text in texts]


def _prepare_requests(lm: LanguageModel, job: LampJob) -> PreparedRequests:
    task, user = TASKS[job.task], job.user
    records = list(answering.training_records(task, user, job.config).values())
    return on_device.prepare_requests(lm, user.id, task.augmentation_task(user.profile), records, job.config.augment)


def _read_server_answers(job: LampJob, method: Method) -> tuple[list[str], _Costs]:
    """Return a server's answers, with the redacted words restored."""
    assert job.responses is not None
    _, placeholders = _redacted_inputs(cached_model(job.model_dir), job, method)
    answers = job.responses.answers[method.name]
    texts = [placeholders.restore(strip_thoughts(text or "")).strip() for text in answers]
    each_s = job.responses.seconds_per_answer[method.name]
    return texts, {"answer_s": None if each_s is None else each_s * len(texts)}


def _redacted_inputs(lm: LanguageModel, job: LampJob, method: Method) -> tuple[list[str], Placeholders]:
    inputs = answering.build_inputs(lm, TASKS[job.task], job.user, method, job.config, Counter())
    return PatternRedactor(job.config.augment.redacted_words).redact(inputs)

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.augmentation import on_device
from mlx_personal.augmentation.on_device import PreparedRequests
from mlx_personal.augmentation.prompting import PromptRequest
from mlx_personal.augmentation.redaction import PatternRedactor, Placeholders
from mlx_personal.augmentation.task import Record
from mlx_personal.dialogue import strip_thoughts
from mlx_personal.finetune import Example, finetune
from mlx_personal.models import LanguageModel
from mlx_personal.models.loading import cached_model
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.research.lamp import answering
from mlx_personal.research.lamp.lamp_config import LampConfig
from mlx_personal.research.lamp.lamp_results import Count, MethodResult
from mlx_personal.research.lamp.lamp_users import LampUser
from mlx_personal.research.lamp.methods import Method
from mlx_personal.research.lamp.tasks import TASKS
from mlx_personal.runtime.energy import EnergyMeter

# Sampling settings where the device's own model writes the synthetic records.
_TEMPERATURE: Final = 0.8
_MAX_RECORD_TOKENS = 512


@dataclass(frozen=True)
class JobResponses:
    """The responses of a server that a job uses.

    Attributes:
        prepared: Requests for synthetic records; None where no method needs them.
        synthetic: The response to each of these requests; None for a missing one.
        answers: Responses to the queries, by the name of the method.
        seconds_per_answer: Seconds that each answer of a method took; None for responses of an earlier run.
    """

    prepared: PreparedRequests | None
    synthetic: Sequence[str | None]
    answers: Mapping[str, Sequence[str]]
    seconds_per_answer: Mapping[str, float | None]


@dataclass(frozen=True)
class LampJob:
    """One user and what to compute.

    Attributes:
        model_dir: Folder of the base model.
        task: Name of the task.
        user: The user.
        methods: Methods to run.
        config: Settings of the run.
        responses: Responses of a server; None where the device's model writes the synthetic records itself.
    """

    model_dir: str
    task: str
    user: LampUser
    methods: tuple[Method, ...]
    config: LampConfig
    responses: JobResponses | None = None


@dataclass(frozen=True)
class ServerPrompts:
    """The requests to a server for one user.

    Attributes:
        prepared: Requests for synthetic records; None where no method needs them.
        queries: Requests for answers, by the name of the method.
    """

    prepared: PreparedRequests | None
    queries: dict[str, list[PromptRequest]]


def build_server_prompts(job: LampJob) -> ServerPrompts:
    """Build the requests to a server for a user, with private values redacted."""
    lm = cached_model(job.model_dir)
    is_augmented = any(method.training_data == "augmented" for method in job.methods)
    queries = {}
    for method in job.methods:
        if method.on_server:
            inputs, _ = _redacted_inputs(lm, job, method)
            queries[method.name] = [PromptRequest(job.user.id, i, text, 0, ()) for i, text in enumerate(inputs)]
    return ServerPrompts(_prepare_requests(lm, job) if is_augmented else None, queries)


def run_methods(job: LampJob) -> dict[str, MethodResult]:
    """Run all methods of a job and return their results, by the name of the method."""
    lm, meter = cached_model(job.model_dir), EnergyMeter()
    results = {}
    for method in job.methods:
        before = meter.read()
        if method.on_server:
            result = _read_server_answers(lm, job, method)
        else:
            result = _run_on_device(lm, job, method)
            result = dataclasses.replace(result, energy_joules=(meter.read() - before).total_joules)
        if num_unscorable := len(result.predictions) - len(result.golds):
            result = dataclasses.replace(result, counts={**result.counts, Count.NO_GOLD: num_unscorable})
        if num_empty := sum(not text for text in result.predictions.values()):
            result = dataclasses.replace(result, counts={**result.counts, Count.EMPTY_ANSWERS: num_empty})
        results[method.name] = result
    return results


def _run_on_device(lm: LanguageModel, job: LampJob, method: Method) -> MethodResult:
    task, user, config = TASKS[job.task], job.user, job.config
    counts: Counter[str] = Counter()
    num_samples, adapter_bytes = 0, None
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary = answering.summarize_user(lm, task, user, config) if method.with_summary else ""
        try:
            if method.training_data != "none":
                num_samples, adapter_bytes = _train_adapter(lm, job, method, Path(folder, "adapter"), counts)
            # Without an adapter everything counts as answering, the summary of the user included.
            trained = start if method.training_data == "none" else time.perf_counter()
            inputs = answering.build_inputs(lm, task, user, method, config, summary)
            answers = answering.answer_inputs(lm, task, inputs.inputs, config)
        finally:
            lm.detach_adapter()
    counts.update(inputs.counts)
    return MethodResult(
        predictions=dict(zip((query.id for query in user.queries), answers.texts, strict=True)),
        golds=_golds(user),
        train_s=trained - start,
        answer_s=time.perf_counter() - trained,
        tokens_read=answers.tokens_read,
        tokens_written=answers.tokens_written,
        adapter_bytes=adapter_bytes,
        training_samples=num_samples,
        counts={name: count for name, count in counts.items() if count},
    )


def _train_adapter(
    lm: LanguageModel, job: LampJob, method: Method, folder: Path, counts: Counter[str]
) -> tuple[int, int | None]:
    """Train and attach the user's adapter; return its number of samples and its bytes.

    Without any training data the base model answers, which is counted.
    """
    task, user, config = TASKS[job.task], job.user, job.config
    synthetic = _synthetic_records(lm, job, method, counts) if method.training_data == "augmented" else ()
    data = answering.training_dialogues(lm, task, user, method, config, synthetic)
    counts[Count.NO_RECORD] += len(user.profile) - data.num_real
    if not data.dialogues:
        counts[Count.NO_TRAINING] += 1
        return 0, None
    examples = [
        Example(dialogue, weight=1.0 if index < data.num_real else config.augment.synthetic_weight)
        for index, dialogue in enumerate(data.dialogues)
    ]
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
    if job.responses is None:
        prompts = [lm.tokenize_prompt([{"role": "user", "content": r.prompt}]) for r in prepared.requests]
        written: Sequence[str | None] = lm.generate(
            prompts,
            max_tokens=_MAX_RECORD_TOKENS,
            sampling=SamplingParams(temperature=_TEMPERATURE),
            seed=augment.seed,
        )
    else:
        written = job.responses.synthetic
    config = dataclasses.replace(
        augment, filters=dataclasses.replace(augment.filters, disabled=method.disabled_filters)
    )
    synthetic = on_device.filter_responses(
        lm,
        task.augmentation_task(user.profile),
        list(answering.training_records(task, user, job.config).values()),
        prepared,
        written,
        config,
        forbidden=[task.query_text(query.input) for query in user.queries],
    )
    counts.update({f"{Count.SYNTHETIC}{reason}": count for reason, count in synthetic.outcome_counts.items()})
    return synthetic.records


def _prepare_requests(lm: LanguageModel, job: LampJob) -> PreparedRequests:
    task, user = TASKS[job.task], job.user
    records = list(answering.training_records(task, user, job.config).values())
    return on_device.prepare_requests(lm, user.id, task.augmentation_task(user.profile), records, job.config.augment)


def _read_server_answers(lm: LanguageModel, job: LampJob, method: Method) -> MethodResult:
    """Return a server's answers, with the redacted words restored."""
    assert job.responses is not None
    _, placeholders = _redacted_inputs(lm, job, method)
    pairs = zip(job.user.queries, job.responses.answers[method.name], strict=True)
    predictions = {query.id: placeholders.restore(strip_thoughts(text)).strip() for query, text in pairs}
    each_s = job.responses.seconds_per_answer[method.name]
    return MethodResult(predictions, _golds(job.user), answer_s=None if each_s is None else each_s * len(predictions))


def _redacted_inputs(lm: LanguageModel, job: LampJob, method: Method) -> tuple[list[str], Placeholders]:
    inputs = answering.build_inputs(lm, TASKS[job.task], job.user, method, job.config).inputs
    return PatternRedactor(job.config.augment.redacted_words).redact(inputs)


def _golds(user: LampUser) -> dict[str, str]:
    return {query.id: query.gold for query in user.queries if query.gold}

"""The two jobs of each user, in a worker process that keeps its model: what a server is asked, and every method.

A job gets all it needs in its argument and gives back all that came of it: it writes no file that outlives it, so it
may run on any machine that has the package and sees the model's folder.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_personal.augmentation import device
from mlx_personal.augmentation.device import Prepared
from mlx_personal.augmentation.prompting import Request
from mlx_personal.augmentation.redaction import PatternRedactor, Placeholders
from mlx_personal.augmentation.task import Record
from mlx_personal.dialogue import strip_thoughts
from mlx_personal.finetune import finetune
from mlx_personal.models import LanguageModel
from mlx_personal.models.cached_model import cached_model
from mlx_personal.research.lamp import answering
from mlx_personal.research.lamp.methods import Method
from mlx_personal.research.lamp.run_config import RunConfig
from mlx_personal.research.lamp.tasks import TASKS, LampTask
from mlx_personal.research.lamp.user_profiles import User
from mlx_personal.runtime.energy import EnergyMeter

# Of the sampling, where the device's own model writes the synthetic records.
_TEMPERATURE, _LONGEST = 0.8, 512


@dataclass(frozen=True)
class Work:
    """One user and what is to be done.

    Args:
        model: folder of the base that answers and is adapted.
        task: a name in `TASKS`.
        prepared, written: what was asked for the user's synthetic records, and a server's answers; None where the
            device's own model is to write them.
        cloud: a server's answers to the queries, by the method's name, and the `seconds` that each took; None for
            answers of an earlier run.
    """

    model: str
    task: str
    user: User
    methods: tuple[Method, ...]
    config: RunConfig
    prepared: Prepared | None = None
    written: Sequence[str | None] | None = None
    cloud: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seconds: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Prompts:
    """What a server is asked for one user: `prepared`, for synthetic records, and each cloud method's queries."""

    prepared: Prepared | None
    cloud: dict[str, list[Request]]


def prompts(work: Work) -> Prompts:
    """What `work` needs of a server; nothing that `redaction` finds is in it."""
    lm, task, user = cached_model(work.model), TASKS[work.task], work.user
    prepared = _prepared(lm, work) if any(method.learns == "augmented" for method in work.methods) else None
    cloud = {}
    for method in work.methods:
        if method.cloud:
            inputs, _ = _redacted(lm, task, user, method, work.config)
            cloud[method.name] = [Request(user.id, i, text, 0, ()) for i, text in enumerate(inputs)]
    return Prompts(prepared, cloud)


def perform(work: Work) -> dict[str, dict[str, Any]]:
    """The result of every method, by its name, as JSON has it:

    `predictions` and `golds` by the query's id, `seconds` of training and answering, `tokens` read and written on the
    device, `joules` of both (None where no counter tells), `adapter_bytes`, `rows` learnt, `counts` of what was left
    out or dropped, and of empty answers.
    """
    lm, meter = cached_model(work.model), EnergyMeter()
    results = {}
    for method in work.methods:
        before = meter.read()
        result = _cloud(lm, work, method) if method.cloud else _device(lm, work, method)
        result["joules"] = None if method.cloud else (meter.read() - before).total
        result["golds"] = {query.id: query.gold for query in work.user.queries}
        if empty := sum(not text for text in result["predictions"].values()):
            result["counts"]["empty answers"] = empty
        results[method.name] = result
    return results


def _device(lm: LanguageModel, work: Work, method: Method) -> dict[str, Any]:
    task, user, config = TASKS[work.task], work.user, work.config
    counts: Counter[str] = Counter()
    result: dict[str, Any] = {"rows": 0, "adapter_bytes": None}
    tokens: Counter[str] = Counter()

    def on_tokens(read: int, written: int) -> None:
        tokens.update(read=read, written=written)

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        about = answering.described(lm, task, user, config) if method.profile else ""
        try:
            if method.learns != "nothing":
                result |= _learn(lm, work, method, Path(folder, "adapter"), counts)
            # A sentence about the user is no training: its time is that of the answers.
            trained = start if method.learns == "nothing" else time.perf_counter()
            asked = answering.asked(lm, task, user, method, config, about)
            given = answering.answers(lm, task, asked.inputs, config, on_tokens)
        finally:
            lm.detach_adapter()
    counts.update(asked.counts)
    seconds = {"train": trained - start, "answer": time.perf_counter() - trained}
    predictions = dict(zip((query.id for query in user.queries), given, strict=True))
    shown = {name: count for name, count in counts.items() if count}
    return {**result, "predictions": predictions, "seconds": seconds, "tokens": dict(tokens), "counts": shown}


def _learn(lm: LanguageModel, work: Work, method: Method, folder: Path, counts: Counter[str]) -> dict[str, Any]:
    """Trains and attaches the user's adapter; without anything to learn the base answers, which is counted."""
    task, user, config = TASKS[work.task], work.user, work.config
    synthetic: Sequence[Record] = ()
    if method.learns == "augmented":
        synthetic = _synthetic(lm, work, method, counts)
    found, own = answering.lessons(lm, task, user, method, config, synthetic)
    counts["items without a lesson"] += len(user.profile) - own
    if not found:
        counts["nothing to learn"] += 1
        return {}
    weights = [1.0] * own + [config.augment.synthetic_weight] * (len(found) - own)
    report = finetune(lm, found, config.augment.training, folder, weights=weights)
    counts["rows that lost their beginning"] += report.truncated_rows
    counts["rows that do not fit"] += report.dropped_rows
    lm.attach_adapter(folder)
    return {"rows": report.rows, "adapter_bytes": (folder / "adapters.safetensors").stat().st_size}


def _synthetic(lm: LanguageModel, work: Work, method: Method, counts: Counter[str]) -> Sequence[Record]:
    task, user, augment = TASKS[work.task], work.user, work.config.augment
    prepared, written = work.prepared or _prepared(lm, work), work.written
    if written is None:
        questions = [lm.prompt_tokens([{"role": "user", "content": r.prompt}]) for r in prepared.requests]
        written = lm.generate(questions, max_tokens=_LONGEST, temperature=_TEMPERATURE, seed=augment.seed)
    config = dataclasses.replace(augment, filters=dataclasses.replace(augment.filters, off=method.off))
    made = device.synthetic(
        lm,
        task.collaboration_task(user.profile),
        list(answering.records(task, user, work.config).values()),
        prepared,
        written,
        config,
        forbidden=[task.query_text(query.input) for query in user.queries],
    )
    counts.update({f"synthetic: {reason}": count for reason, count in made.counts.items()})
    return made.records


def _prepared(lm: LanguageModel, work: Work) -> Prepared:
    task, user, config = TASKS[work.task], work.user, work.config
    known = list(answering.records(task, user, config).values())
    return device.prepare(lm, user.id, task.collaboration_task(user.profile), known, config.augment)


def _cloud(lm: LanguageModel, work: Work, method: Method) -> dict[str, Any]:
    """A server's answers, with what was taken out of the inputs put back."""
    _, placeholders = _redacted(lm, TASKS[work.task], work.user, method, work.config)
    pairs = zip(work.user.queries, work.cloud[method.name], strict=True)
    predictions = {query.id: placeholders.restore(strip_thoughts(text)).strip() for query, text in pairs}
    each = work.seconds[method.name]
    seconds = {"train": 0.0, "answer": None if each is None else each * len(predictions)}
    return {
        "predictions": predictions,
        "seconds": seconds,
        "tokens": {},
        "counts": {},
        "rows": 0,
        "adapter_bytes": None,
    }


def _redacted(
    lm: LanguageModel, task: LampTask, user: User, method: Method, config: RunConfig
) -> tuple[list[str], Placeholders]:
    inputs = answering.asked(lm, task, user, method, config).inputs
    return PatternRedactor(config.augment.own_words).redact(inputs)

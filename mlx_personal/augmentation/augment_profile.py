"""Augment the annotated dialogues of a profile; the next training run uses the synthetic ones, too.

The annotations are read from the profile's store, and the synthetic dialogues are stored there as a synthesis, which
replaces older ones of the same annotations. Consent, ledger and responses are in the profile's folder `augment`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.augmentation import on_device
from mlx_personal.augmentation.augment_users import RequestBody, unanswered_bodies
from mlx_personal.augmentation.client import RequestSummary, fetch_responses
from mlx_personal.augmentation.config import AugmentConfig
from mlx_personal.augmentation.consent import Consent
from mlx_personal.augmentation.database import open_database
from mlx_personal.augmentation.ledger import Ledger
from mlx_personal.augmentation.response_cache import ResponseCache
from mlx_personal.augmentation.server import Server
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.augmentation.user_files import record_from_dialogue
from mlx_personal.dialogue import rouge1
from mlx_personal.errors import Action, UserError
from mlx_personal.personalizer import Personalizer
from mlx_personal.profile.records import NewSynthetic
from mlx_personal.progress import Progress

FOLDER: Final = "augment"
# Part of the random seed of the demonstrations; a profile has only one user.
_USER: Final = "owner"
_TASK: Final = Task()


@dataclass(frozen=True)
class ProfileAugmentationResult:
    """The result of `augment_profile`.

    Attributes:
        records: Records made of the annotated dialogues.
        skipped: Number of annotated dialogues that cannot be made into records, by reason.
        sent: Records that the server saw.
        too_long: Records that are longer than the token budget.
        outcome_counts: Requests by outcome, see `SyntheticRecords`.
        kept: Synthetic dialogues that were kept.
        up_to_date: Whether nothing has changed since the last run, so nothing was stored.
        incomplete: Whether responses are missing, so nothing was filtered; the next run continues.
        request_summary: Result of the requests.
    """

    records: int
    skipped: dict[str, int]
    sent: int
    too_long: int
    outcome_counts: dict[str, int]
    kept: int
    up_to_date: bool
    incomplete: bool
    request_summary: RequestSummary

    def to_json(self) -> dict[str, Any]:
        """Return everything but the responses, under the keys of version 0.1."""
        return {
            "records": self.records,
            "skipped": self.skipped,
            "sent": self.sent,
            "too_long": self.too_long,
            "counts": self.outcome_counts,
            "kept": self.kept,
            "found": self.up_to_date,
            "left": self.incomplete,
            "asked": self.request_summary.to_json(),
        }


def augment_profile(
    personalizer: Personalizer,
    server: Server,
    config: AugmentConfig,
    *,
    concurrency: int = 8,
    token_budget: int | None = None,
    on_progress: Progress | None = None,
) -> ProfileAugmentationResult:
    """Request dialogues similar to the annotated ones that are not held out, filter them, and store those that pass.

    Args:
        personalizer: The profile, open for writing.
        server: The server. Consent for it must be recorded in the profile's folder `augment`.
        config: The settings. `training` and `synthetic_weight` have no effect: the profile has its own.
        concurrency: See `fetch_responses`.
        token_budget: See `fetch_responses`.
        on_progress: See `fetch_responses`.

    Returns:
        What was sent and what was kept.

    Raises:
        UserError: If no dialogue is annotated, consent is missing, the server refuses a request, or a file cannot be
            written.
        StoppedError: On SIGTERM or Ctrl-C while requests are sent.
    """
    folder = personalizer.folder / FOLDER
    Consent(folder).require(server.url, server.model)
    annotated = _annotated_records(personalizer)
    lm = personalizer.base_model()
    prepared = on_device.prepare_requests(lm, _USER, _TASK, annotated.records, config)
    with open_database(folder) as database, Ledger(folder) as ledger:
        summary = fetch_responses(
            prepared.requests,
            server,
            ResponseCache(database),
            ledger,
            concurrency=concurrency,
            token_budget=token_budget,
            on_progress=on_progress,
        )
    result = ProfileAugmentationResult(
        records=len(annotated.records),
        skipped=annotated.skipped,
        sent=len(prepared.sent),
        too_long=prepared.too_long,
        outcome_counts={},
        kept=0,
        up_to_date=False,
        incomplete=False,
        request_summary=summary,
    )
    if summary.failed or summary.remaining:
        return dataclasses.replace(result, incomplete=True)
    forbidden = [turn for dialogue in personalizer.held_out_dialogues() for turn in dialogue.user_turns]
    settings = {"augment": config.to_json(), "model": server.model, "temperature": server.temperature}
    records = [(record.text, record.answer) for record in annotated.records]
    identity = [personalizer.fingerprint, annotated.annotation_ids, records, forbidden, settings, summary.responses]
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    last = personalizer.last_synthesis()
    if last is not None and last.config.get("key") == key and last.result is not None:
        counts, kept = last.result["counts"], last.result["kept"]
        return dataclasses.replace(result, outcome_counts=counts, kept=kept, up_to_date=True)
    synthetic = on_device.filter_responses(lm, _TASK, annotated.records, prepared, summary.responses, config, forbidden)
    texts = [
        NewSynthetic(
            annotation_id=annotated.annotation_ids[source],
            dialogue=_TASK.to_dialogue(record),
            raw_text=summary.responses[request] or "",
            rouge1=rouge1(record.text, annotated.records[source].text),
            kept=True,
            reason="kept",
        )
        for record, source, request in zip(synthetic.records, synthetic.sources, synthetic.requests, strict=True)
    ]
    outcome = {"counts": synthetic.outcome_counts, "kept": len(texts)}
    personalizer.record_synthesis({"key": key, **settings}, texts, outcome)
    return dataclasses.replace(result, outcome_counts=synthetic.outcome_counts, kept=len(texts))


def preview_profile(personalizer: Personalizer, server: Server, config: AugmentConfig) -> list[RequestBody]:
    """Return the bodies that `augment_profile` would send with the same arguments; see `preview_users`."""
    records = _annotated_records(personalizer).records
    prepared = on_device.prepare_requests(personalizer.base_model(), _USER, _TASK, records, config)
    return unanswered_bodies(personalizer.folder / FOLDER, prepared.requests, server)


@dataclass(frozen=True)
class _AnnotatedRecords:
    """The records of a profile, the id of each one's annotation, and the skipped annotations by reason."""

    records: tuple[Record, ...]
    annotation_ids: tuple[int, ...]
    skipped: dict[str, int]


def _annotated_records(personalizer: Personalizer) -> _AnnotatedRecords:
    records: list[Record] = []
    annotation_ids: list[int] = []
    skipped: Counter[str] = Counter()
    for annotation in personalizer.training_annotations():
        assert annotation.preferred is not None
        try:
            records.append(record_from_dialogue(annotation.preferred, _TASK))
        except ValueError as error:
            skipped[str(error)] += 1
        else:
            annotation_ids.append(annotation.id)
    if not records:
        reasons = "".join(f", {count} skipped: {reason}" for reason, count in skipped.items())
        raise UserError(f"no annotated dialogue to send{reasons}", personalizer.folder, remedy=Action.ANNOTATE)
    return _AnnotatedRecords(tuple(records), tuple(annotation_ids), dict(skipped))

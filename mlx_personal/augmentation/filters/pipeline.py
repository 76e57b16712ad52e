"""Apply all filters: first the measurements by the model, in batches, then the decisions, one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlx_personal.augmentation.filters.balance import label_limits
from mlx_personal.augmentation.filters.config import FILTERS, FilterConfig
from mlx_personal.augmentation.filters.copies import max_overlap
from mlx_personal.augmentation.filters.labels import label_confidences, winning_labels
from mlx_personal.augmentation.filters.perplexity import answer_nats_per_token
from mlx_personal.augmentation.filters.style import distance_band
from mlx_personal.augmentation.record_embedding import record_vectors
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.dialogue.similarity import NEAR_DUPLICATE_THRESHOLD
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class FilteredRecord:
    """A candidate and its outcome.

    Attributes:
        record: The candidate.
        outcome: One of `OUTCOMES`: `kept`, or the first check that rejected it.
        measurements: Measured values by name; those of disabled filters are missing. `overlap`: largest overlap with an
            own or a kept text. Only for candidates that copy no own text: `distance`, 1 - cosine to the nearest own
            record; `confidence`, see `label_confidences`, where no vote confirmed the label; `nats`, mean loss of the
            answer per token.
    """

    record: Record
    outcome: str
    measurements: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether the record passed all filters."""
        return self.outcome == "kept"


@dataclass
class _Measured:
    """The measurements of a candidate, and the names of the filters that reject it."""

    measurements: dict[str, float] = field(default_factory=dict)
    rejecting: set[str] = field(default_factory=set)


def apply_filters(
    lm: LanguageModel,
    task: Task,
    own_records: Sequence[Record],
    candidates: Sequence[Record],
    num_requested: int,
    forbidden: Sequence[str] = (),
    config: FilterConfig | None = None,
) -> list[FilteredRecord]:
    """Decide which synthetic records are kept.

    Args:
        lm: The device model without an adapter.
        task: The task of the records.
        own_records: All of the user's records, including those that were not sent.
        candidates: Synthetic records with placeholders restored.
        num_requested: Records that were requested from the server.
        forbidden: Texts that the user is tested on; a near-duplicate of one (`NEAR_DUPLICATE_THRESHOLD`) is never kept.
        config: Settings of the filters; None for the defaults.

    Returns:
        Every candidate with its outcome, in their order. The same arguments give the same outcomes.

    Raises:
        ValueError: If there are candidates but no records of the user to compare them with.
    """
    config = config or FilterConfig()
    if not candidates:
        return []
    if not own_records:
        raise ValueError("a user without records")
    exclusions = [_exclusion(task, candidate, forbidden) for candidate in candidates]
    overlaps = {
        i: max_overlap(candidate.text, (record.text for record in own_records)) if config.is_enabled("copy") else 0.0
        for i, candidate in enumerate(candidates)
        if exclusions[i] is None
    }
    new = [i for i, overlap in overlaps.items() if overlap < config.max_copy_overlap]
    measured = dict(zip(new, _measure(lm, task, own_records, [candidates[i] for i in new], config), strict=True))
    limits: dict[str, int] = {}
    if config.is_enabled("balance"):
        limits = label_limits(task.labels, [record.answer for record in own_records], num_requested)
    filtered: list[FilteredRecord] = []
    for i, candidate in enumerate(candidates):
        exclusion = exclusions[i]
        if exclusion is not None:
            filtered.append(FilteredRecord(candidate, exclusion))
            continue
        current = measured.get(i, _Measured())
        if config.is_enabled("copy"):
            kept_texts = (other.record.text for other in filtered if other.kept)
            overlap = max(overlaps[i], max_overlap(candidate.text, kept_texts))
            current.measurements["overlap"] = overlap
            if overlap >= config.max_copy_overlap:
                current.rejecting.add("copy")
        # Answers that are no labels are left to the `label` filter.
        if limits.get(candidate.answer, 1) < 1:
            current.rejecting.add("balance")
        outcome = next((name for name in FILTERS if name in current.rejecting), "kept")
        filtered.append(FilteredRecord(candidate, outcome, current.measurements))
        if outcome == "kept" and candidate.answer in limits:
            limits[candidate.answer] -= 1
    return filtered


def _exclusion(task: Task, candidate: Record, forbidden: Sequence[str]) -> str | None:
    """Return why a candidate is excluded whatever the settings; None if it is not."""
    try:
        # A server may write anything, such as characters that no dialogue can have, or nothing but thoughts.
        task.to_dialogue(candidate).without_thoughts()
    except ValueError:
        return "unusable"
    return "forbidden" if max_overlap(candidate.text, forbidden) >= NEAR_DUPLICATE_THRESHOLD else None


def _measure(
    lm: LanguageModel, task: Task, own_records: Sequence[Record], candidates: Sequence[Record], config: FilterConfig
) -> list[_Measured]:
    """Apply the filters that need a model."""
    measured = [_Measured() for _ in candidates]
    if not candidates:
        return measured
    check_labels = bool(task.labels) and config.is_enabled("label")
    if check_labels or config.is_enabled("style"):
        own_vectors = record_vectors(lm, own_records)
        cosines = record_vectors(lm, candidates) @ own_vectors.T
    if check_labels:
        winners = winning_labels(cosines, [record.answer for record in own_records], config.label_neighbors)
        labeled = [i for i, candidate in enumerate(candidates) if candidate.answer in task.labels]
        unconfirmed = [i for i in labeled if candidates[i].answer not in winners[i]]
        values = label_confidences(lm, task, own_records, [candidates[i] for i in unconfirmed]).tolist()
        confidences = dict(zip(unconfirmed, values, strict=True))
        for i, current in enumerate(measured):
            if i in confidences:
                current.measurements["confidence"] = confidences[i]
            if i not in labeled or confidences.get(i, 1.0) < config.min_label_confidence:
                current.rejecting.add("label")
    if config.is_enabled("style"):
        low, high = distance_band(own_vectors, config.style_band)
        for current, distance in zip(measured, (1.0 - cosines.max(axis=1)).tolist(), strict=True):
            current.measurements["distance"] = distance
            if not low <= distance <= high:
                current.rejecting.add("style")
    if config.is_enabled("perplexity"):
        own_mean = answer_nats_per_token(lm, task, own_records).mean()
        low, high = (fraction * own_mean for fraction in config.perplexity_band)
        for current, nats in zip(measured, answer_nats_per_token(lm, task, candidates).tolist(), strict=True):
            current.measurements["nats"] = nats
            if not low <= nats <= high:
                current.rejecting.add("perplexity")
    return measured

"""All filters together: the model's figures for all candidates in batches, then one candidate after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlx_personal.augmentation.filters.balance import most_of_each
from mlx_personal.augmentation.filters.config import FILTERS, FilterConfig
from mlx_personal.augmentation.filters.copies import most_overlap
from mlx_personal.augmentation.filters.labels import by_model, by_vote
from mlx_personal.augmentation.filters.perplexity import nats_per_token
from mlx_personal.augmentation.filters.style import own_band
from mlx_personal.augmentation.record_embedding import vectors
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.dialogue.similarity import NEAR_DUPLICATE_THRESHOLD
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class Judged:
    """A candidate and what became of it.

    Args:
        reason: one of `REASONS`: `kept`, or what stood against it first.
        figures: what was measured of it. `overlap`: the largest ROUGE-1 with an own or a kept text. Of candidates that
            repeat no own text also `distance`: 1 - cosine to the nearest own record; `confidence`: the model's in the
            label, see `labels.by_model`, where no vote confirmed it; `nats`: of the answer, a token. Those that only
            filters would need that are off are left out.
    """

    record: Record
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        """Whether it is to be learnt."""
        return self.reason == "kept"


def judge(
    lm: LanguageModel,
    task: Task,
    own: Sequence[Record],
    candidates: Sequence[Record],
    wanted: int,
    forbidden: Sequence[str] = (),
    config: FilterConfig | None = None,
) -> list[Judged]:
    """Every candidate with what became of it, in their order. The same arguments give the same ones.

    ValueError for candidates of a user without records: there is nothing to judge them by.

    Args:
        lm: the device model without an adapter.
        own: all of the user's records, those that were not sent among them.
        candidates: synthetic records with placeholders restored.
        wanted: how many were asked for.
        forbidden: texts that the user is tested on; a near-duplicate of one (`NEAR_DUPLICATE_THRESHOLD`) is never kept.
        config: the filters' settings.
    """
    config = config or FilterConfig()
    if not candidates:
        return []
    if not own:
        raise ValueError("a user without records")
    against = [_against(task, candidate, forbidden) for candidate in candidates]
    overlaps = {
        i: most_overlap(candidate.text, (record.text for record in own)) if config.asks("copy") else 0.0
        for i, candidate in enumerate(candidates)
        if against[i] is None
    }
    new = [i for i, overlap in overlaps.items() if overlap < config.copy]
    measured = dict(zip(new, _measured(lm, task, own, [candidates[i] for i in new], config), strict=True))
    room = most_of_each(task.labels, [record.answer for record in own], wanted) if config.asks("balance") else {}
    found: list[Judged] = []
    for i, candidate in enumerate(candidates):
        reason = against[i]
        if reason is not None:
            found.append(Judged(candidate, reason))
            continue
        figures, refusing = measured.get(i, ({}, set()))
        if config.asks("copy"):
            kept = (one.record.text for one in found if one.kept)
            figures["overlap"] = max(overlaps[i], most_overlap(candidate.text, kept))
            if figures["overlap"] >= config.copy:
                refusing.add("copy")
        # An answer that is no label is the filter `label`'s matter.
        if room.get(candidate.answer, 1) < 1:
            refusing.add("balance")
        found.append(Judged(candidate, next((name for name in FILTERS if name in refusing), "kept"), figures))
        if found[-1].kept and candidate.answer in room:
            room[candidate.answer] -= 1
    return found


def _against(task: Task, candidate: Record, forbidden: Sequence[str]) -> str | None:
    """What rules a candidate out whatever the settings; None for nothing."""
    try:
        # What a server writes may be anything: characters that no text has, or nothing but thoughts.
        task.dialogue(candidate).without_thoughts()
    except ValueError:
        return "unusable"
    return "forbidden" if most_overlap(candidate.text, forbidden) >= NEAR_DUPLICATE_THRESHOLD else None


def _measured(
    lm: LanguageModel, task: Task, own: Sequence[Record], candidates: Sequence[Record], config: FilterConfig
) -> list[tuple[dict[str, float], set[str]]]:
    """For each candidate its figures by the model, and which of the filters that need a model refuse it."""
    found: list[tuple[dict[str, float], set[str]]] = [({}, set()) for _ in candidates]
    if not candidates:
        return found
    by_label = bool(task.labels) and config.asks("label")
    if by_label or config.asks("style"):
        own_vectors = vectors(lm, own)
        cosines = vectors(lm, candidates) @ own_vectors.T
    if by_label:
        winners = by_vote(cosines, [record.answer for record in own], config.neighbours)
        named = [i for i, candidate in enumerate(candidates) if candidate.answer in task.labels]
        unsure = [i for i in named if candidates[i].answer not in winners[i]]
        confidences = dict(zip(unsure, by_model(lm, task, own, [candidates[i] for i in unsure]).tolist(), strict=True))
        for i, (figures, refusing) in enumerate(found):
            if i in confidences:
                figures["confidence"] = confidences[i]
            if i not in named or confidences.get(i, 1.0) < config.label:
                refusing.add("label")
    if config.asks("style"):
        low, high = own_band(own_vectors, config.style)
        for (figures, refusing), distance in zip(found, (1.0 - cosines.max(axis=1)).tolist(), strict=True):
            figures["distance"] = distance
            if not low <= distance <= high:
                refusing.add("style")
    if config.asks("perplexity"):
        usual = nats_per_token(lm, task, own).mean()
        for (figures, refusing), nats in zip(found, nats_per_token(lm, task, candidates).tolist(), strict=True):
            figures["nats"] = nats
            if not config.perplexity[0] * usual <= nats <= config.perplexity[1] * usual:
                refusing.add("perplexity")
    return found

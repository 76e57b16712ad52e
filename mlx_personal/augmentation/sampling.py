"""Sample the records that the server sees: those that the selector of [Qin24 §3.2] keeps, within a budget.

[Zhong25] only says that a user has few records to begin with. This rule is the project's own design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.augmentation.prompting import format_record
from mlx_personal.augmentation.record_embedding import embed_records, record_text
from mlx_personal.augmentation.task import Record
from mlx_personal.models import LanguageModel
from mlx_personal.scoring import Lexicons, entropies_of_embedding
from mlx_personal.selection import Buffer, QualityPolicy, SelectionCandidate, Selector


@dataclass(frozen=True)
class SampleBudget:
    """Limits on the records of one user that are sent.

    Attributes:
        max_records: Maximum number of records.
        max_tokens: Maximum tokens of their JSON lines, counted by the device model's tokenizer.

    Raises:
        ValueError: If a limit is below 1.
    """

    max_records: int = 32
    max_tokens: int = 4096

    def __post_init__(self) -> None:
        for name, limit in (("records", self.max_records), ("tokens", self.max_tokens)):
            if limit < 1:
                raise ValueError(f"a budget of {limit} {name}; at least 1 is needed")


def sample_records(lm: LanguageModel, records: Sequence[Record], budget: SampleBudget) -> list[int]:
    """Select the records to send.

    Records that fit into the token budget alone are offered, in their order, to the package's selector with as many
    bins as the budget has records. With fewer records than bins it keeps all but near-duplicates. The selected records
    then fill the token budget in the order of their mean rank in EOE, DSS and IDD, best first, ties by age. A record
    that no longer fits is skipped.

    Args:
        lm: The device model without an adapter.
        records: All of the user's records, oldest first.
        budget: Limits on records and tokens.

    Returns:
        Increasing indices into `records`. The same arguments give the same indices.
    """
    lengths = _token_counts(lm, records)
    offered = [i for i, length in enumerate(lengths) if length <= budget.max_tokens]
    if not offered:
        return []
    buffer, lexicons = Buffer(budget.max_records), Lexicons.load()
    selector = Selector(buffer, QualityPolicy())
    embeddings = embed_records(lm, [records[i] for i in offered])
    entropies = entropies_of_embedding([embedding.states for embedding in embeddings])
    for position, (i, embedding, eoe) in enumerate(zip(offered, embeddings, entropies, strict=True)):
        text = record_text(records[i])
        domain = lexicons.domain_specific_score(text)
        selector.offer(SelectionCandidate(i, position, text, embedding.vector, eoe, domain.dss, domain.domain))
    ranked = sorted(zip(_mean_ranks(buffer.scores()), (b.dialogue_id for b in buffer.bins), strict=True))
    sampled: list[int] = []
    tokens_left = budget.max_tokens
    for _, i in ranked:
        if lengths[i] <= tokens_left:
            sampled.append(i)
            tokens_left -= lengths[i]
    return sorted(sampled)


def count_too_long(lm: LanguageModel, records: Sequence[Record], budget: SampleBudget) -> int:
    """Return how many records are longer than the token budget, so that `sample_records` never selects them."""
    return sum(length > budget.max_tokens for length in _token_counts(lm, records))


def _token_counts(lm: LanguageModel, records: Sequence[Record]) -> list[int]:
    return [len(lm.tokenize(format_record(record))) for record in records]


def _mean_ranks(scores: np.ndarray) -> list[float]:
    """Return for each row of scores [N, 3] the mean over the columns of how many rows score higher there."""
    return [float(rank) for rank in (scores[None] > scores[:, None]).sum(axis=1).mean(axis=1)]

"""Which of a user's records are sent: those that selection (paper 1, 3.2) would keep, within a budget.

Paper 2 says no more in public than that few records are there to begin with; the rule is this project's design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.augmentation.prompting import record_line
from mlx_personal.augmentation.record_embedding import embed, said
from mlx_personal.augmentation.task import Record
from mlx_personal.models import LanguageModel
from mlx_personal.scoring import Lexicons, entropies_of_embedding
from mlx_personal.selection import Buffer, Candidate, QualityPolicy, Selector


@dataclass(frozen=True)
class Budget:
    """The most that is sent of one user: `records`, and `tokens` of their JSON lines by the device's tokenizer."""

    records: int = 32
    tokens: int = 4096

    def __post_init__(self) -> None:
        for name in ("records", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"a budget of {getattr(self, name)} {name}; at least 1 is needed")


def pick(lm: LanguageModel, records: Sequence[Record], budget: Budget) -> list[int]:
    """Indices of the records to send, rising. The same arguments give the same ones.

    All records that fit into the budget of tokens alone are offered, in their order, to the product's own selector with
    as many bins as the budget has records. So where there are fewer records than bins all of them are kept, except that
    no near-duplicate of one is. Then the token budget is filled: the kept records are taken by the mean of their ranks
    in EOE, DSS and IDD, the best first, and among equals the oldest; one that does not fit any more is passed over.

    `lm` is the device model without an adapter.
    """
    lengths = _lengths(lm, records)
    offered = [i for i, length in enumerate(lengths) if length <= budget.tokens]
    if not offered:
        return []
    buffer, lexicons = Buffer(budget.records), Lexicons.load()
    selector = Selector(buffer, QualityPolicy())
    embeddings = embed(lm, [records[i] for i in offered])
    entropies = entropies_of_embedding([embedding.states for embedding in embeddings])
    for position, (i, embedding, eoe) in enumerate(zip(offered, embeddings, entropies, strict=True)):
        text = said(records[i])
        domain = lexicons.domain_specific_score(text)
        selector.offer(Candidate(i, position, text, embedding.vector, eoe, domain.dss, domain.domain))
    ranked = sorted(zip(_mean_ranks(buffer.scores()), (b.dialogue_id for b in buffer.bins), strict=True))
    picked: list[int] = []
    room = budget.tokens
    for _, i in ranked:
        if lengths[i] <= room:
            picked.append(i)
            room -= lengths[i]
    return sorted(picked)


def too_long(lm: LanguageModel, records: Sequence[Record], budget: Budget) -> int:
    """How many records are over the budget of tokens alone, so that `pick` never takes them."""
    return sum(length > budget.tokens for length in _lengths(lm, records))


def _lengths(lm: LanguageModel, records: Sequence[Record]) -> list[int]:
    return [len(lm.text_tokens(record_line(record))) for record in records]


def _mean_ranks(scores: np.ndarray) -> list[float]:
    """For each row of scores [n, 3], the mean over the columns of how many rows are higher there."""
    return [float(rank) for rank in (scores[None] > scores[:, None]).sum(axis=1).mean(axis=1)]

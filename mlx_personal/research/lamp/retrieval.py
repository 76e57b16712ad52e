"""Which of a user's items stand before an input: LaMP's BM25, recency and random.

BM25 is `rank_bm25.BM25Okapi` on words between spaces, as in LaMP's scripts; among equal scores the later item of the
file comes first. Random draws no item twice, where LaMP's script may. LaMP's Contriever is left out: it is a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.research.lamp.tasks import Item, LampTask

RETRIEVERS: Final = ("random", "recency", "bm25")


class Retrieval:
    """One user's profile, to be asked for items; UserError where BM25 is asked for and rank-bm25 not installed.

    Args:
        retriever: one of `RETRIEVERS`; ValueError for another.
        profile: items that the task holds (`LampTask.holds`).
    """

    def __init__(self, task: LampTask, retriever: str, profile: Sequence[Item]):
        if retriever not in RETRIEVERS:
            raise ValueError(f"there is no retriever {retriever!r}")
        self.task, self.retriever, self.profile = task, retriever, profile
        # Oldest first; those without a date before all others, in the file's order.
        self._order = sorted(range(len(profile)), key=lambda i: _date(profile[i]))
        self._words = [task.corpus_text(item).split() for item in profile] if retriever == "bm25" else []
        self._whole: Any = _bm25(self._words) if self._words else None

    def best(self, query: str, items: int, *, seed: str = "", before: int | None = None) -> list[Item]:
        """At most `items` items for a query, the best first.

        Args:
            query: `LampTask.query_text` of an input, or the text of an item that is learnt.
            seed: of the random draw: the user's and the query's ids, say.
            before: only items that are older than the one at this place of the profile, as OPPU learns; by date where
                both have one, else by the order of the file.
        """
        pool = sorted(self._order if before is None else self._order[: self._order.index(before)])
        if not pool or items < 1:
            return []
        if self.retriever == "random":
            chosen = Random(seed).sample(pool, min(items, len(pool)))
        elif self.retriever == "recency":
            allowed = set(pool)
            chosen = [i for i in reversed(self._order) if i in allowed][:items]
        else:
            index = self._whole if len(pool) == len(self.profile) else _bm25([self._words[i] for i in pool])
            ranked = np.argsort(index.get_scores(query.split()), kind="stable")[::-1]
            chosen = [pool[i] for i in ranked[:items]]
        return [self.profile[i] for i in chosen]


def _bm25(corpus: list[list[str]]) -> Any:
    try:
        from rank_bm25 import BM25Okapi
    except ImportError as error:
        hint = "pip install 'mlx-personal[lamp]'"
        raise UserError("BM25 needs rank-bm25, which is not installed", hint=hint) from error
    return BM25Okapi(corpus)


def _date(item: Item) -> tuple[int, ...]:
    """A date like 2014-05-12, or a year alone, to compare; empty where there is none."""
    try:
        return tuple(int(part) for part in str(item["date"]).split("-"))
    except (KeyError, ValueError):
        return ()

"""Retrieve items of a user's profile for an input by BM25, recency or at random; and find the most frequent label.

BM25 [Robertson09] is `rank_bm25.BM25Okapi` on words separated by spaces, as in LaMP's scripts; among equal scores, the
later item of the file comes first. Random retrieval draws no item twice, while LaMP's script may. LaMP's Contriever is
left out because it needs a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, Final

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.research.lamp.tasks import Item, LampTask

RETRIEVERS: Final = ("random", "recency", "bm25")


class ProfileRetriever:
    """Retrieves items of one user's profile.

    Args:
        task: Task of the items.
        retriever: One of `RETRIEVERS`.
        profile: Usable items of the user (`LampTask.is_usable`).

    Raises:
        ValueError: If the retriever is not one of `RETRIEVERS`.
        UserError: If the retriever is BM25 and rank-bm25 is not installed.
    """

    def __init__(self, task: LampTask, retriever: str, profile: Sequence[Item]):
        if retriever not in RETRIEVERS:
            raise ValueError(f"there is no retriever {retriever!r}")
        self.task, self.retriever, self.profile = task, retriever, profile
        self._oldest_first = _oldest_first(profile)
        self._words = [task.retrieval_text(item).split() for item in profile] if retriever == "bm25" else []
        self._whole_index: Any = _bm25_index(self._words) if self._words else None

    def retrieve(self, query: str, count: int, *, seed: str = "", older_than: int | None = None) -> list[Item]:
        """Return the best items for a query, the best first.

        Args:
            query: `LampTask.query_text` of an input, or the text of an item that an adapter is trained on.
            count: Maximum number of items.
            seed: Seed of random retrieval, such as the identifiers of the user and the query.
            older_than: Index in the profile; only older items are retrieved, as in OPPU's training [Tan24]. Items are
                compared by date where both have one, else by the order of the file.
        """
        order = self._oldest_first
        candidates = sorted(order if older_than is None else order[: order.index(older_than)])
        if not candidates or count < 1:
            return []
        if self.retriever == "random":
            selected = Random(seed).sample(candidates, min(count, len(candidates)))
        elif self.retriever == "recency":
            allowed = set(candidates)
            selected = [i for i in reversed(order) if i in allowed][:count]
        else:
            is_whole = len(candidates) == len(self.profile)
            index = self._whole_index if is_whole else _bm25_index([self._words[i] for i in candidates])
            ranked = np.argsort(index.get_scores(query.split()), kind="stable")[::-1]
            selected = [candidates[i] for i in ranked[:count]]
        return [self.profile[i] for i in selected]


def majority_label(task: LampTask, profile: Sequence[Item]) -> str:
    """Return the most frequent label of a user's items; of several the newest item's, and without items no text.

    Args:
        task: A task whose items have a label (`LampTask.has_labelled_items`).
        profile: Usable items of the user.
    """
    labels = [task.normalize_answer(profile[i][str(task.answer_field)]) for i in reversed(_oldest_first(profile))]
    # Among equal counts, `most_common` keeps the order of the first occurrences.
    return next((label for label, _ in Counter(labels).most_common(1) if label), "")


def _oldest_first(profile: Sequence[Item]) -> list[int]:
    """Return the indices of items; those without a date come before all others, in the order of the file."""
    return sorted(range(len(profile)), key=lambda i: _date(profile[i]))


def _bm25_index(corpus: list[list[str]]) -> Any:
    try:
        from rank_bm25 import BM25Okapi
    except ImportError as error:
        hint = "pip install 'mlx-personal[lamp]'"
        raise UserError("BM25 needs rank-bm25, which is not installed", hint=hint) from error
    return BM25Okapi(corpus)


def _date(item: Item) -> tuple[int, ...]:
    """Return a date such as 2014-05-12, or a year alone, for comparison; empty where there is none."""
    try:
        return tuple(int(part) for part in str(item["date"]).split("-"))
    except (KeyError, ValueError):
        return ()

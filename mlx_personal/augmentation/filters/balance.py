"""The `balance` filter: kept records have the labels in about the user's own proportions.

Without it the adapter would learn the proportions of the server.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

# Standard deviations above the expected count that are attributed to chance.
_DEVIATIONS = 2.0


def label_limits(labels: Sequence[str], own_labels: Sequence[str], num_requested: int) -> dict[str, int]:
    """Return how many records of each label are kept at most.

    The limit is the count that n draws from the user's own proportions rarely exceed, ceil(n p + 2 sqrt(n p (1 - p))),
    where p = (count + 1) / (total count + L) for L labels. The added ones account for labels that the user has but that
    are not among the few records.

    Args:
        labels: All L labels of the task.
        own_labels: Answers of the user's records; those that are no labels are ignored.
        num_requested: Records that were requested, n.

    Returns:
        The limit by label.
    """
    counts = Counter(own_labels)
    total = sum(counts[label] for label in labels) + len(labels)
    shares = {label: (counts[label] + 1) / total for label in labels}
    return {
        label: math.ceil(num_requested * p + _DEVIATIONS * math.sqrt(num_requested * p * (1 - p)))
        for label, p in shares.items()
    }

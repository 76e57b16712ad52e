"""`balance`: kept records have the labels in about the user's own shares, or the adapter would learn the server's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

# Standard deviations above the expected count that chance may bring.
_CHANCE = 2.0


def most_of_each(labels: Sequence[str], own: Sequence[str], wanted: int) -> dict[str, int]:
    """How many records of each label are kept at most: as many as `wanted` draws by the user's own shares would hardly
    exceed, ceil(n p + 2 sqrt(n p (1 - p))).

    p = (count + 1) / (all counts + L), as if each of the L labels had been seen once more: a few records do not tell
    which labels a user has.

    Args:
        labels: all there are.
        own: the answers of the user's records; those that are no labels do not count.
        wanted: how many records were asked for.
    """
    counts = Counter(own)
    total = sum(counts[label] for label in labels) + len(labels)
    shares = {label: (counts[label] + 1) / total for label in labels}
    return {label: math.ceil(wanted * p + _CHANCE * math.sqrt(wanted * p * (1 - p))) for label, p in shares.items()}

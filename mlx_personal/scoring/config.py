"""Settings of the scoring, importable without MLX."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final

# The keys of `entropy.ESTIMATORS`, which cannot be imported without MLX.
ESTIMATOR_NAMES: Final = ("spectral", "spectral-whole", "histogram")


@dataclass(frozen=True)
class ScoringConfig:
    """Settings of the scoring.

    Attributes:
        entropy_estimator: Estimator of EOE, a name in `ESTIMATOR_NAMES`.

    Raises:
        ValueError: If no estimator has this name.
    """

    entropy_estimator: str = "spectral"

    def __post_init__(self) -> None:
        check_estimator(self.entropy_estimator)


def check_estimator(name: str) -> None:
    """Check that there is an entropy estimator with this name.

    Args:
        name: The name.

    Raises:
        ValueError: If no estimator has this name; the message suggests the closest one.
    """
    if name not in ESTIMATOR_NAMES:
        nearest = difflib.get_close_matches(name, ESTIMATOR_NAMES, n=1, cutoff=0.0)[0]
        raise ValueError(f"no entropy estimator is named {name!r}; the nearest is {nearest!r}")

"""The filters' names and settings. What a model measures is bounded by the user's own records, so any model will do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

FILTERS: Final = ("copy", "balance", "label", "style", "perplexity")
"""In the order in which they are asked: those that need no model first. The first that says no is the reason."""

REASONS: Final = ("kept", "unusable", "forbidden", *FILTERS)
"""All that may become of a candidate. What is unusable or forbidden is never learnt, whichever filters are off."""


@dataclass(frozen=True)
class FilterConfig:
    """What is asked of a candidate; ValueError for a setting that makes no sense.

    Args:
        off: names in `FILTERS` of those that are not asked.
        copy: the ROUGE-1 (0..1) from which a text repeats another.
        neighbours: how many of the user's records vote on a label at most.
        label: how probable the model must find a label, as a share of how probable it finds it on average.
        style: the lowest and highest distance to the user's nearest record, as shares of the median and of the largest
            distance between neighbours among the user's own.
        perplexity: the lowest and highest loss of an answer, as shares of the mean of the user's own answers.
    """

    off: frozenset[str] = frozenset()
    # One word in ten or less is new above it; the upper bound of `SynthesisConfig.band`.
    copy: float = 0.9
    neighbours: int = 5
    # Half: a model that cannot tell finds every label about as probable as on average and stops none; one that can
    # finds most wrong ones several times less probable.
    label: float = 0.5
    # What is written after demonstrations lies nearer to them than the user's records to each other, so only what
    # restates one (a tenth) is too near; what lies a tenth beyond the user's own outlier is somebody else's.
    style: tuple[float, float] = (0.1, 1.1)
    # Of 150 of the demo's dialogues 5 % lie below a quarter of their mean. Of 300 headlines that a teacher of the LaMP
    # world got wrong three in four lie above 1.7 times the user's mean, of 320 right tags three in four below 1.5.
    perplexity: tuple[float, float] = (0.25, 1.5)

    def __post_init__(self) -> None:
        unknown = sorted(self.off - set(FILTERS))
        if unknown:
            raise ValueError(f"no filter is named {unknown[0]!r}; there are {', '.join(FILTERS)}")
        if not 0 < self.copy <= 1:
            raise ValueError(f"copy is {self.copy}; it must be above 0 and at most 1")
        if self.neighbours < 1:
            raise ValueError(f"neighbours is {self.neighbours}; it must be at least 1")
        if not 0 <= self.label <= 1:
            raise ValueError(f"label is {self.label}; it must lie in 0..1")
        for name in ("style", "perplexity"):
            low, high = getattr(self, name)
            if not 0 <= low < 1 <= high:
                raise ValueError(f"{name} is {low}..{high}; it must begin in 0..1, 1 left out, and end at 1 or above")

    def asks(self, name: str) -> bool:
        """Whether this filter is on."""
        return name not in self.off

"""The settings of the filters.

Values that a model measures are compared with those of the user's own records, so the settings hold for any model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

FILTERS: Final = ("copy", "balance", "label", "style", "perplexity")
"""Names of the filters in the order in which they apply, those without a model first. The first rejection counts."""

OUTCOMES: Final = ("kept", "unusable", "forbidden", *FILTERS)
"""All outcomes of a candidate. Unusable and forbidden ones are never kept, whichever filters are disabled."""


@dataclass(frozen=True)
class FilterConfig:
    """The settings of the filters.

    Attributes:
        disabled: Names in `FILTERS` of the filters that do not apply.
        max_copy_overlap: ROUGE-1, 0..1, from which a text counts as a copy of another.
        label_neighbors: Records of the user that vote on a label, at most.
        min_label_confidence: Probability that the model must give to a label, as a fraction of the label's average.
        style_band: Lowest and highest distance to the user's nearest record, as fractions of the median and of the
            largest distance between nearest neighbors among the user's own records.
        perplexity_band: Lowest and highest loss of an answer, as fractions of the mean loss of the user's own answers.

    Raises:
        ValueError: If a setting is out of its range.
    """

    disabled: frozenset[str] = frozenset()
    # Above it at most one word in ten is new; the upper bound of `SynthesisConfig.band`.
    max_copy_overlap: float = 0.9
    label_neighbors: int = 5
    # A model that cannot discriminate gives every label about its average probability and rejects none. A model that
    # can gives most wrong labels several times less.
    min_label_confidence: float = 0.5
    # Text written after demonstrations lies nearer to them than the user's records lie to each other, so only
    # restatements (a tenth) are too near. A tenth beyond the user's own outlier is another person's style.
    style_band: tuple[float, float] = (0.1, 1.1)
    # 5 % of 150 dialogues of the demo lie below a quarter of their mean. Three in four of 300 wrong headlines by the
    # teacher of the LaMP world lie above 1.7 times the user's mean, three in four of 320 correct tags below 1.5 times.
    perplexity_band: tuple[float, float] = (0.25, 1.5)

    def __post_init__(self) -> None:
        unknown = sorted(self.disabled - set(FILTERS))
        if unknown:
            raise ValueError(f"no filter is named {unknown[0]!r}; there are {', '.join(FILTERS)}")
        if not 0 < self.max_copy_overlap <= 1:
            raise ValueError(f"max_copy_overlap is {self.max_copy_overlap}; it must be above 0 and at most 1")
        if self.label_neighbors < 1:
            raise ValueError(f"label_neighbors is {self.label_neighbors}; it must be at least 1")
        if not 0 <= self.min_label_confidence <= 1:
            raise ValueError(f"min_label_confidence is {self.min_label_confidence}; it must lie in 0..1")
        for name in ("style_band", "perplexity_band"):
            low, high = getattr(self, name)
            if not 0 <= low < 1 <= high:
                raise ValueError(f"{name} is {low}..{high}; it must start in 0..1, 1 excluded, and end at 1 or above")

    def is_enabled(self, name: str) -> bool:
        """Check whether the filter of this name applies."""
        return name not in self.disabled

    def to_json(self) -> dict[str, Any]:
        """Return all settings under the keys of version 0.1, which digests of stored results depend on."""
        return {
            "off": sorted(self.disabled),
            "copy": self.max_copy_overlap,
            "neighbours": self.label_neighbors,  # codespell:ignore neighbours
            "label": self.min_label_confidence,
            "style": self.style_band,
            "perplexity": self.perplexity_band,
        }

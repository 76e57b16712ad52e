"""The three scores of a dialogue."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scores:
    """The three scores of a dialogue [Qin24 §3.2].

    Attributes:
        eoe: Entropy of embedding.
        dss: Domain-specific score.
        idd: In-domain dissimilarity.
    """

    eoe: float
    dss: float
    idd: float

"""The three scores of a dialogue (paper 1, 3.2), each 0..1, higher is better, none with a label."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_personal.scoring.dissimilarity import in_domain_dissimilarity, leave_one_out_dissimilarity
from mlx_personal.scoring.entropy import ESTIMATORS, check_estimator, entropies_of_embedding, entropy_of_embedding
from mlx_personal.scoring.lexicon import OTHER, DomainScore, Lexicons
from mlx_personal.scoring.suggest import Suggestion, suggest_lexicons


@dataclass(frozen=True)
class Scores:
    """EOE (entropy of embedding), DSS (domain specific score) and IDD (in-domain dissimilarity) of one dialogue."""

    eoe: float
    dss: float
    idd: float


@dataclass(frozen=True)
class ScoringConfig:
    """`entropy`: the estimator of EOE, a name in `ESTIMATORS`."""

    entropy: str = "spectral"

    def __post_init__(self) -> None:
        check_estimator(self.entropy)


__all__ = [
    "ESTIMATORS",
    "OTHER",
    "DomainScore",
    "Lexicons",
    "Scores",
    "ScoringConfig",
    "Suggestion",
    "entropies_of_embedding",
    "entropy_of_embedding",
    "in_domain_dissimilarity",
    "leave_one_out_dissimilarity",
    "suggest_lexicons",
]

"""The three scores of a dialogue [Qin24 §3.2], each 0..1, higher is better, computed without labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.scoring.config import ScoringConfig
    from mlx_personal.scoring.dissimilarity import in_domain_dissimilarity, leave_one_out_dissimilarity
    from mlx_personal.scoring.entropy import ESTIMATORS, entropies_of_embedding, entropy_of_embedding
    from mlx_personal.scoring.lexicon import OTHER, DomainScore, Lexicons
    from mlx_personal.scoring.scores import Scores
    from mlx_personal.scoring.suggest import Suggestion, dominant_topics, suggest_lexicons
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "ScoringConfig": "config",
            "in_domain_dissimilarity": "dissimilarity",
            "leave_one_out_dissimilarity": "dissimilarity",
            "ESTIMATORS": "entropy",
            "entropies_of_embedding": "entropy",
            "entropy_of_embedding": "entropy",
            "OTHER": "lexicon",
            "DomainScore": "lexicon",
            "Lexicons": "lexicon",
            "Scores": "scores",
            "Suggestion": "suggest",
            "dominant_topics": "suggest",
            "suggest_lexicons": "suggest",
        },
    )

__all__ = [
    "ESTIMATORS",
    "OTHER",
    "DomainScore",
    "Lexicons",
    "Scores",
    "ScoringConfig",
    "Suggestion",
    "dominant_topics",
    "entropies_of_embedding",
    "entropy_of_embedding",
    "in_domain_dissimilarity",
    "leave_one_out_dissimilarity",
    "suggest_lexicons",
]

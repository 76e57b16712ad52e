"""Synthesis (paper 1, 3.3): the model rewrites each kept dialogue, and what is worth training on is kept."""

from mlx_personal.synthesis.prompts import (
    REWRITE_DIALOGUE,
    REWRITE_QUESTION,
    parse_dialogue,
    parse_question,
    render_dialogue,
)
from mlx_personal.synthesis.synthesize import Candidate, SynthesisConfig, rewrite_tasks, synthesize

__all__ = [
    "REWRITE_DIALOGUE",
    "REWRITE_QUESTION",
    "Candidate",
    "SynthesisConfig",
    "parse_dialogue",
    "parse_question",
    "render_dialogue",
    "rewrite_tasks",
    "synthesize",
]

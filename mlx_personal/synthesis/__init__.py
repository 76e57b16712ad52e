"""Synthesis [Qin24 §3.3]: the model rewrites each annotated dialogue, and useful rewrites are kept for training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.synthesis.config import SynthesisConfig
    from mlx_personal.synthesis.prompts import (
        REWRITE_DIALOGUE,
        REWRITE_QUESTION,
        parse_dialogue,
        parse_question,
        render_dialogue,
    )
    from mlx_personal.synthesis.rewriting import RewriteCandidate, RewritePrompt, rewrite_prompts, synthesize
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "SynthesisConfig": "config",
            "REWRITE_DIALOGUE": "prompts",
            "REWRITE_QUESTION": "prompts",
            "parse_dialogue": "prompts",
            "parse_question": "prompts",
            "render_dialogue": "prompts",
            "RewriteCandidate": "rewriting",
            "RewritePrompt": "rewriting",
            "rewrite_prompts": "rewriting",
            "synthesize": "rewriting",
        },
    )

__all__ = [
    "REWRITE_DIALOGUE",
    "REWRITE_QUESTION",
    "RewriteCandidate",
    "RewritePrompt",
    "SynthesisConfig",
    "parse_dialogue",
    "parse_question",
    "render_dialogue",
    "rewrite_prompts",
    "synthesize",
]

"""Synthesis [Qin24 §3.3]: the model rewrites each annotated dialogue, and useful rewrites are kept for training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.synthesis.calibration import Calibration, StyleRate, calibrate
    from mlx_personal.synthesis.config import STYLE_NAMES, SynthesisConfig
    from mlx_personal.synthesis.content import content_kept
    from mlx_personal.synthesis.dialogues import synthesize
    from mlx_personal.synthesis.prompts import (
        REWRITE_DIALOGUE,
        REWRITE_QUESTION,
        parse_dialogue,
        parse_question,
        render_dialogue,
    )
    from mlx_personal.synthesis.rewriting import RewriteCandidate, rewrite
    from mlx_personal.synthesis.styles import STYLES, PromptStyle
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "Calibration": "calibration",
            "StyleRate": "calibration",
            "calibrate": "calibration",
            "STYLE_NAMES": "config",
            "SynthesisConfig": "config",
            "content_kept": "content",
            "synthesize": "dialogues",
            "REWRITE_DIALOGUE": "prompts",
            "REWRITE_QUESTION": "prompts",
            "parse_dialogue": "prompts",
            "parse_question": "prompts",
            "render_dialogue": "prompts",
            "RewriteCandidate": "rewriting",
            "rewrite": "rewriting",
            "STYLES": "styles",
            "PromptStyle": "styles",
        },
    )

__all__ = [
    "REWRITE_DIALOGUE",
    "REWRITE_QUESTION",
    "STYLES",
    "STYLE_NAMES",
    "Calibration",
    "PromptStyle",
    "RewriteCandidate",
    "StyleRate",
    "SynthesisConfig",
    "calibrate",
    "content_kept",
    "parse_dialogue",
    "parse_question",
    "render_dialogue",
    "rewrite",
    "synthesize",
]

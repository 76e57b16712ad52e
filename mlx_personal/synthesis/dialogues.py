"""Synthesis of dialogues: choose a prompt style for the model, and rewrite dialogues with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_personal.dialogue import Dialogue
from mlx_personal.progress import Progress
from mlx_personal.synthesis.calibration import calibrate
from mlx_personal.synthesis.config import AUTO, SynthesisConfig
from mlx_personal.synthesis.rewriting import RewriteCandidate, rewrite
from mlx_personal.synthesis.styles import STYLES

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel
    from mlx_personal.synthesis.styles import PromptStyle


def synthesize(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    config: SynthesisConfig | None = None,
    on_progress: Progress | None = None,
    held_out: Sequence[Dialogue] = (),
    style: PromptStyle | None = None,
) -> list[RewriteCandidate]:
    """Generate and check rewrites of each dialogue, until `config.k` are kept or its budget is spent.

    Args:
        lm: The model that rewrites.
        dialogues: The originals.
        config: Settings of the rewriting; None for the defaults.
        on_progress: Receives an event of stage `synthesis` for each generated text.
        held_out: Dialogues held out for evaluation; a rewrite that is a near-duplicate of one is dropped.
        style: How the model is asked; by default the style that the settings name, or that calibration finds.

    Returns:
        The candidates in the order of the dialogues, including those that were dropped. They are a function of the
        arguments.

    Raises:
        ValueError: If an assistant turn of a dialogue consists of thoughts only.
    """
    config = config or SynthesisConfig()
    if style is None:
        name = calibrate(lm, dialogues, config).style if config.style == AUTO else config.style
        style = STYLES[name]
    return rewrite(lm, dialogues, style, config, on_progress, held_out)

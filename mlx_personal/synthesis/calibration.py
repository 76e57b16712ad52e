"""Find the prompt style that works with a model, by trying the registered ones on a few dialogues."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlx_personal.dialogue import Dialogue
from mlx_personal.progress import Progress
from mlx_personal.synthesis.config import STYLE_NAMES, StyleName, SynthesisConfig
from mlx_personal.synthesis.content import content_kept
from mlx_personal.synthesis.languages import detect_language
from mlx_personal.synthesis.rewriting import rewrite
from mlx_personal.synthesis.styles import STYLES

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel

# Each style draws twelve rewrites of at most so many dialogues, enough to separate a kept rate of 0.4 from one of 0.8.
_MAX_DIALOGUES: Final = 6
# With fewer dialogues each is rewritten more often, because one lucky rewrite of a few says nothing.
_DRAWS: Final = 12
# The first style that would get this share of the wanted rewrites is taken. Styles are tried in the order in which they
# leave less to the model, since rewrites differ more from each other where it is free.
ENOUGH_GOT: Final = 0.75
# Without a chat template, worked examples as chat turns would be the same plain text as those of the last style.
_WITHOUT_TEMPLATE: Final[tuple[StyleName, ...]] = ("zero-shot", "completion")


@dataclass(frozen=True)
class StyleRate:
    """How well a style worked on the dialogues of a calibration.

    Attributes:
        kept_rate: Share of the drawn rewrites that were kept, 0..1.
        content_kept: Mean share of the content words that the kept rewrites have, 0..1; 0 if none was kept.
    """

    kept_rate: float
    content_kept: float


@dataclass(frozen=True)
class Calibration:
    """The style that was chosen for a model, and the styles that were tried.

    Attributes:
        style: The style in use.
        mode: The rewriting mode that it was tried with.
        rates: What the tried styles kept, by name.
    """

    style: StyleName
    mode: str
    rates: Mapping[str, StyleRate]

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as it is stored with a model."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, stored: object) -> Calibration | None:
        """Return a stored calibration; None if it is none, or names a style that is not registered any more."""
        try:
            rates = {str(name): StyleRate(**rate) for name, rate in stored["rates"].items()}  # type: ignore[index]
            return cls(STYLES[stored["style"]].name, str(stored["mode"]), rates)  # type: ignore[index]
        except (KeyError, TypeError, AttributeError):
            return None


def calibrate(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    config: SynthesisConfig,
    on_progress: Progress | None = None,
) -> Calibration:
    """Try the prompt styles in order until one keeps enough; otherwise take the one that keeps most.

    Args:
        lm: The model.
        dialogues: The dialogues to rewrite, of which a few are tried.
        config: Settings of the rewriting.
        on_progress: Receives an event of stage `synthesis` for each generated text.

    Returns:
        The calibration, a function of the arguments.
    """
    sample = _spread(dialogues, _MAX_DIALOGUES)
    rewrites = math.ceil(_DRAWS / max(len(sample), 1))
    trial = dataclasses.replace(config, k=rewrites, max_attempts=1)
    names = STYLE_NAMES if lm.tokenizer.has_chat_template else _WITHOUT_TEMPLATE
    rates: dict[str, StyleRate] = {}
    for name in names:
        candidates = rewrite(lm, sample, STYLES[name], trial, on_progress)
        kept = [(sample[c.original_index], c.dialogue) for c in candidates if c.kept and c.dialogue is not None]
        contents = [_content_kept(original, rewrite) for original, rewrite in kept]
        rates[name] = StyleRate(len(kept) / max(len(candidates), 1), sum(contents) / max(len(contents), 1))
        if 1 - (1 - rates[name].kept_rate) ** config.max_attempts >= ENOUGH_GOT or not sample:
            return Calibration(name, config.mode, rates)
    # Of equal ones a guided style, which keeps the sentences that passed and draws only the others again.
    best = max(names, key=lambda name: (rates[name].kept_rate, STYLES[name].is_guided, rates[name].content_kept))
    return Calibration(best, config.mode, rates)


def _spread(dialogues: Sequence[Dialogue], count: int) -> list[Dialogue]:
    """Return at most `count` dialogues, evenly spread over all."""
    if len(dialogues) <= count:
        return list(dialogues)
    return [dialogues[i * len(dialogues) // count] for i in range(count)]


def _content_kept(original: Dialogue, rewrite: Dialogue) -> float:
    text = "\n".join(original.user_turns)
    return content_kept(text, "\n".join(rewrite.user_turns), detect_language(text))

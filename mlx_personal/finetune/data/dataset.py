"""From dialogues to what a training sees: which are learnt, which are held out, which general ones are replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.dialogue import Dialogue
from mlx_personal.errors import UserError
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.samples import TrainingData, make_samples
from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class PreparedData:
    """What a training sees; how many of the owner's rows were dropped and cut; what did not come as it was set."""

    data: TrainingData
    dropped: int
    truncated: int
    notes: tuple[str, ...]


def prepare_data(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    config: LoRAConfig,
    sources: Sequence[object] | None = None,
    general: Sequence[Dialogue] = (),
    weights: Sequence[float] | None = None,
) -> PreparedData:
    """Rows of the dialogues, as `finetune` takes them; UserError if there is nothing to learn."""
    longest = min(config.max_tokens, lm.context_length)
    origins = list(range(len(dialogues))) if sources is None else list(sources)
    weights = [1.0] * len(dialogues) if weights is None else weights
    chosen = _set_aside(origins, config)
    given = list(zip(dialogues, origins, weights, strict=True))
    kept = [(dialogue, weight) for dialogue, origin, weight in given if origin not in chosen]
    learnt = make_samples(lm, [dialogue for dialogue, _ in kept], longest, [weight for _, weight in kept])
    validation = make_samples(lm, [dialogue for dialogue, origin, _ in given if origin in chosen], longest)
    if not learnt.rows:
        raise UserError(
            f"nothing to train on: {learnt.dropped} rows have no target, or none that fits into {longest} tokens",
            hint="annotate some dialogues first, or raise max_tokens",
        )
    measured = make_samples(lm, general[::2], longest).rows
    # As many as make up the share of an epoch, the same in each.
    wanted = round(config.replay / (1 - config.replay) * len(learnt.rows))
    replay = make_samples(lm, general[1::2], longest).rows
    picked = np.random.default_rng([config.seed, 1]).permutation(len(replay))[:wanted]
    notes = []
    if config.validation and not validation.rows:
        why = "all dialogues come from one" if not chosen else "those that were chosen have nothing to learn"
        notes.append(f"nothing was set aside for `validation`, since {why}: the last epoch's adapter is taken")
    if len(replay) < wanted:
        notes.append(f"`replay` asks for {wanted} general rows, and half of those under `general` are {len(replay)}")
    if general and not measured:
        notes.append("the general dialogues have nothing to learn: what is forgotten cannot be measured")
    return PreparedData(
        TrainingData(learnt.rows, [replay[i] for i in picked], validation.rows, measured),
        learnt.dropped + validation.dropped,
        learnt.truncated + validation.truncated,
        tuple(notes),
    )


def _set_aside(origins: Sequence[object], config: LoRAConfig) -> set[object]:
    """The sources whose dialogues are validated on: the configured share of them, at least one, never all."""
    different = list(dict.fromkeys(origins))
    if not config.validation or len(different) < 2:
        return set()
    count = min(max(1, round(config.validation * len(different))), len(different) - 1)
    order = np.random.default_rng([config.seed, 2]).permutation(len(different))
    return {different[i] for i in order[:count]}

"""Make a profile of some dialogues with the product's own steps, and measure it in each answer mode."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import LoRAConfig
from mlx_personal.memory import MemoryConfig
from mlx_personal.models import LanguageModel
from mlx_personal.personalizer import Personalizer
from mlx_personal.personalizer.answering import mode_in_use
from mlx_personal.personalizer.memory import profile_memory
from mlx_personal.profile import NewSynthetic
from mlx_personal.research.study.cell import BASE
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import SynthesisConfig

# The answer modes of a profile, with whether there is an adapter and whether there is a memory.
MEMORY, ADAPTER, BOTH = "memory", "adapter", "adapter and memory"
MODES: Final[Mapping[str, tuple[bool, bool]]] = {
    BASE: (False, False),
    MEMORY: (False, True),
    ADAPTER: (True, False),
    BOTH: (True, True),
}
# The base model with as many kept dialogues in the prompt as fit, in the order of the stream.
LONG_CONTEXT: Final = "long context"
_LONG_CONTEXT: Final = MemoryConfig(
    examples=64, max_tokens=100_000, min_similarity=-1.0, min_bm25=0.0, order="received"
)
# More rewrites are drawn than are used, because those that are kept differ in number from dialogue to dialogue.
_SPARE_REWRITES: Final = 1

Ask = Callable[[Dialogue], Dialogue]
"""Puts the examples of a mode before a question."""
Measure = Callable[[LanguageModel, Ask], Any]
"""Measures a model whose questions are asked in a certain way."""


def profile_config(
    training: LoRAConfig, seed: int, bins: int, examples: int, answer_tokens: int, synthetic: int = 0
) -> Config:
    """Return the settings of a profile: the defaults of the product, with the sizes of an experiment.

    Args:
        training: Settings of the adapter; its seed is not used.
        seed: The seed of everything.
        bins: Number of bins, at least that of the dialogues.
        examples: Number of examples before a question, with memory.
        answer_tokens: Maximum number of tokens of a generated answer.
        synthetic: Synthetic dialogues per dialogue that is trained on.
    """
    return Config(
        selection=SelectionConfig(bins=bins, seed=seed),
        annotation=AnnotationConfig(questions_per_day=1_000_000),
        synthesis=SynthesisConfig(k=synthetic + _SPARE_REWRITES, seed=seed),
        finetune=dataclasses.replace(training, seed=seed),
        memory=MemoryConfig(examples=examples),
        # What decides is the likelihood, so the other likelihoods need not be computed on the held-out dialogues.
        evaluation=EvaluationConfig(max_tokens=answer_tokens, choices=0, other_questions=0, seed=seed),
    )


def run_profile(
    lm: LanguageModel,
    model: str,
    dialogues: Sequence[Dialogue],
    config: Config,
    measured: Sequence[str],
    measure: Measure,
    synthetic: int = 0,
) -> dict[str, Any]:
    """Let the owner accept all dialogues, train, let the held-out ones decide what answers, and measure the modes.

    Args:
        lm: The base model; afterwards it has no adapter.
        model: Its folder.
        dialogues: The dialogues, in the order of the stream.
        config: Settings of the profile, with a bin for each dialogue.
        measured: Names of modes: those of `MODES`, and `LONG_CONTEXT`.
        measure: Called for each of them.
        synthetic: Synthetic dialogues per dialogue that is trained on.

    Returns:
        `modes`: by name what `measure` returned; `default`: the mode that the profile uses from then on; the numbers of
        dialogues that were `trained` on, `synthetic` and `held_out`; and `train_seconds`.
    """
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Personalizer.create(Path(folder, "profile"), model, config, lm) as profile,
        ):
            profile.observe(dialogues)
            for question in profile.annotations.open_questions():
                profile.annotations.record(question.dialogue_id, "accept")
            num_synthetic = _synthesize(profile, synthetic) if synthetic else 0
            trained = profile.train()
            modes = {}
            for name in measured:
                ask = _ask(profile, name)
                has_adapter = name != LONG_CONTEXT and MODES[name][0]
                modes[name] = measure(profile.adapted_model(trained.adapter if has_adapter else None), ask)
            in_use = mode_in_use(profile.store, profile.config.memory)
            used = (in_use.adapter is not None, in_use.uses_memory)
            num_trained, num_held_out = len(profile.training_annotations()), len(profile.held_out_dialogues())
    finally:
        lm.detach_adapter()
    return {
        "modes": modes,
        "default": next(name for name, mode in MODES.items() if mode == used),
        "trained": num_trained,
        "synthetic": num_synthetic,
        "held_out": num_held_out,
        "train_seconds": round(trained.report.elapsed_s, 1),
    }


def _ask(profile: Personalizer, mode: str) -> Ask:
    """Return how questions are asked in a mode."""
    if mode != LONG_CONTEXT and not MODES[mode][1]:
        return lambda dialogue: dialogue
    config = profile.config
    if mode == LONG_CONTEXT:
        config = dataclasses.replace(config, memory=_LONG_CONTEXT)
    return profile_memory(profile.store, config, profile.base_model(), uses_memory=True).with_examples


def _synthesize(profile: Personalizer, number: int) -> int:
    """Rewrite the dialogues that are trained on, keep as many rewrites as are wanted, and return how many.

    The first rewrite of each dialogue is taken, then the second one, and so on, so that every profile gets the same
    number wherever there are enough.
    """
    profile.synthesize()
    rows = profile.synthetic()
    by_original: dict[int, list[int]] = {}
    for row in rows:
        if row.kept:
            by_original.setdefault(row.annotation_id, []).append(row.id)
    in_rounds = [row_id for ids in itertools.zip_longest(*by_original.values()) for row_id in ids if row_id is not None]
    chosen = set(in_rounds[: number * len(profile.training_annotations())])
    texts = [
        NewSynthetic(row.annotation_id, row.dialogue, "", row.rouge1, row.id in chosen, row.reason) for row in rows
    ]
    profile.record_synthesis({}, texts, {})
    return len(chosen)

"""The settings of the demo's profile: one set for the embedded model, and one for every other chat model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mlx_personal.annotation import AnnotationConfig
from mlx_personal.chat import ChatConfig
from mlx_personal.config import Config
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import LoRAConfig
from mlx_personal.models.model_names import DEMO_MODEL
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import SynthesisConfig

# All questions are asked in one day. The preferred answers have at most 70 tokens.
_ANNOTATION: Final = AnnotationConfig(questions_per_day=1000)
_MAX_ANSWER_TOKENS: Final = 80

# Differences from the defaults: 96 bins, because the stream has only 480 conversations; a higher learning rate, because
# the embedded model is a thousand times smaller than the models that the default is for.
EMBEDDED_MODEL_CONFIG: Final = Config(
    selection=SelectionConfig(bins=96),
    annotation=_ANNOTATION,
    finetune=LoRAConfig(learning_rate=4e-3, epochs=4),
    evaluation=EvaluationConfig(max_tokens=_MAX_ANSWER_TOKENS),
    chat=ChatConfig(max_tokens=_MAX_ANSWER_TOKENS),
)

# Measured with SmolLM2-135M-Instruct, for the whole loop in a few minutes on two CPU cores.
# Answers of `chat` are greedy whatever the model's own settings, to be comparable with those of the evaluation.
CHAT_MODEL_CONFIG: Final = Config(
    selection=SelectionConfig(bins=96),
    annotation=_ANNOTATION,
    synthesis=SynthesisConfig(k=2),
    finetune=LoRAConfig(learning_rate=2e-3, epochs=3, num_layers=16, dropout=0.0),
    evaluation=EvaluationConfig(holdout_ratio=0.2, max_tokens=_MAX_ANSWER_TOKENS),
    chat=ChatConfig(temperature=0.0, repetition_penalty=1.0, max_tokens=_MAX_ANSWER_TOKENS),
)


def demo_config(model: str | Path) -> Config:
    """Return the settings of the demo's profile on a model.

    Args:
        model: The model's name, as for `load_language_model`.
    """
    return EMBEDDED_MODEL_CONFIG if str(model) == DEMO_MODEL else CHAT_MODEL_CONFIG

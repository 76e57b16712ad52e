"""The settings of the demo's profile: one set for the embedded model, and one for every other chat model."""

from __future__ import annotations

import dataclasses
from typing import Final

from mlx_personal.annotation import AnnotationConfig
from mlx_personal.chat import ChatConfig
from mlx_personal.config import Config
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import LoRAConfig
from mlx_personal.memory import MemoryConfig
from mlx_personal.selection import SelectionConfig
from mlx_personal.synthesis import SynthesisConfig

# All questions are asked in one day.
_ANNOTATION: Final = AnnotationConfig(questions_per_day=1000)
# The demo shows what the adapter learned; `demo --memory` shows what kept dialogues before a question add.
_MEMORY: Final = MemoryConfig(use="never")
# A little more than the preferred answers need. Answers of an unadapted model are longer and are cut off.
MAX_ANSWER_TOKENS: Final = 80

# Differences from the defaults: 96 bins, because the stream has only 421 different conversations; a higher learning
# rate, because the embedded model is a thousand times smaller than the models that the default is for.
EMBEDDED_MODEL_CONFIG: Final = Config(
    selection=SelectionConfig(bins=96),
    annotation=_ANNOTATION,
    finetune=LoRAConfig(learning_rate=4e-3, epochs=4),
    evaluation=EvaluationConfig(initial_holdout_ratio=0.1, max_tokens=MAX_ANSWER_TOKENS),
    memory=_MEMORY,
    chat=ChatConfig(max_tokens=MAX_ANSWER_TOKENS),
)

# Hidden size of SmolLM2-135M-Instruct, with which the settings of chat models were found.
_MEASURED_HIDDEN_SIZE: Final = 576

# For the whole loop in a few minutes on two CPU cores. Against the defaults:
# - 96 bins and a fifth held out: about 20 held-out dialogues, enough for an interval of +-0.1;
# - 2 rewrites of each dialogue instead of 6 and 2 attempts instead of 3, because synthesis takes a quarter of the time;
# - the last 16 layers, as in mlx-lm: with the last 8 ROUGE-1 was lower;
# - few pairs of questions and answers, because on a CPU each takes as long as training on it;
# - a higher learning rate: 2e-3 reached a ROUGE-1 of 0.73 where 1e-3 reached 0.64;
# - answers of `chat` that are greedy whatever the model's own settings, like those of the evaluation.
CHAT_MODEL_CONFIG: Final = Config(
    selection=SelectionConfig(bins=96),
    annotation=_ANNOTATION,
    synthesis=SynthesisConfig(k=2, max_attempts=2),
    finetune=LoRAConfig(learning_rate=2e-3, epochs=3, num_layers=16, dropout=0.0),
    evaluation=EvaluationConfig(holdout_ratio=0.2, max_tokens=MAX_ANSWER_TOKENS, choices=4, other_questions=1),
    memory=_MEMORY,
    chat=ChatConfig(temperature=0.0, repetition_penalty=1.0, max_tokens=MAX_ANSWER_TOKENS),
)


def chat_model_config(hidden_size: int) -> Config:
    """Return the settings of the demo's profile on a chat model.

    Args:
        hidden_size: Width of the model's hidden states.

    Returns:
        The measured settings, with a learning rate that falls as 1 / hidden size for larger models, as the best one of
        Adam does [Yang22]. At the width of a 7B model it is about the default.
    """
    ratio = min(1.0, _MEASURED_HIDDEN_SIZE / hidden_size)
    finetune = CHAT_MODEL_CONFIG.finetune
    finetune = dataclasses.replace(finetune, learning_rate=ratio * finetune.learning_rate)
    return dataclasses.replace(CHAT_MODEL_CONFIG, finetune=finetune)

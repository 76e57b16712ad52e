"""Whether a model fits into this machine's memory, for chat and for training, from the sizes of its weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.planning.layer_memory import MicroBatchSize, forward_bytes
from mlx_personal.finetune.planning.memory import MemoryPlan, SampleSizes, estimate_memory
from mlx_personal.finetune.planning.model_spec import ModelSpec, spec_from_folder, spec_from_gguf
from mlx_personal.models.gguf.file import GGUFFile

# A conversation of some turns; dialogues of usual length, half of whose tokens are answers.
CHAT_TOKENS: Final = 2048
SAMPLE_TOKENS: Final = 256
_SAMPLES = SampleSizes([SAMPLE_TOKENS] * 8, [SAMPLE_TOKENS // 2] * 8)
# The number of epochs changes the time of the estimate and not its result.
_CONFIG = LoRAConfig(epochs=1)
_SMALLEST_PLAN = MemoryPlan(micro_batch_tokens=SAMPLE_TOKENS, gradient_checkpointing=True)


@dataclass(frozen=True)
class MemoryNeeds:
    """The least memory that a model needs on this machine.

    Attributes:
        chat_bytes: For a conversation of `CHAT_TOKENS` tokens.
        training_bytes: For training with the default settings on dialogues of `SAMPLE_TOKENS` tokens.
    """

    chat_bytes: int
    training_bytes: int


def memory_needs(model: Path | GGUFFile) -> MemoryNeeds:
    """Estimate the memory that a model needs, without reading its weights.

    Args:
        model: The model's folder, or its GGUF file.

    Raises:
        UserError: If its files are damaged, or its layers cannot be recognized.
    """
    spec = spec_from_gguf(model) if isinstance(model, GGUFFile) else spec_from_folder(model)
    training = estimate_memory(spec, _SAMPLES, _CONFIG, _SMALLEST_PLAN, cache_limit_bytes=0)
    return MemoryNeeds(chat_bytes(spec, CHAT_TOKENS), training.peak_bytes)


def chat_bytes(spec: ModelSpec, tokens: int) -> int:
    """Estimate the peak memory of a conversation: weights, cached keys and values, and a forward pass of its prompt.

    Args:
        spec: The model.
        tokens: Number of tokens of the conversation.
    """
    cache = 2 * spec.dtype_bytes * tokens * sum(layer.key_width for layer in spec.layers)
    forward = max(forward_bytes(spec, layer, MicroBatchSize.packed([tokens], [1])) for layer in spec.layers)
    return spec.bytes + cache + forward

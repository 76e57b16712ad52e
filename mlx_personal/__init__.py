"""mlx-personal: a Mac learns from its owner's own conversations, privately, on MLX.

Names are imported when they are first used, so that `import mlx_personal` imports neither MLX nor transformers.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports
from mlx_personal.runtime import blas_hook

# A BLAS that is loaded after mlx.core has no effect.
blas_hook.install()
# The application decides whether and where this package's log lines appear.
logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from mlx_personal.config import Config
    from mlx_personal.dialogue import Dialogue, Message
    from mlx_personal.embedding import HiddenStateEmbedder
    from mlx_personal.errors import UserError
    from mlx_personal.evaluation import Evaluation, compare_answers, generate_answers
    from mlx_personal.finetune import (
        Example,
        LoRAConfig,
        PreferencePair,
        TrainingEstimate,
        TrainingReport,
        TrainingStep,
        estimate_training,
        finetune,
    )
    from mlx_personal.finetune.fuse import fuse
    from mlx_personal.importers import load_dialogues, read_dialogues
    from mlx_personal.memory import Memory, MemoryConfig, MemoryEntry
    from mlx_personal.models import LanguageModel, SamplingParams, load_language_model
    from mlx_personal.personalizer import Personalizer
    from mlx_personal.progress import Progress, ProgressEvent
    from mlx_personal.scoring import Lexicons, entropy_of_embedding
    from mlx_personal.synthesis import SynthesisConfig, synthesize
else:
    _get_export = lazy_exports(
        __name__,
        {
            "Config": "config",
            "Dialogue": "dialogue",
            "Evaluation": "evaluation",
            "Example": "finetune",
            "HiddenStateEmbedder": "embedding",
            "LanguageModel": "models",
            "Lexicons": "scoring",
            "LoRAConfig": "finetune",
            "Memory": "memory",
            "MemoryConfig": "memory",
            "MemoryEntry": "memory",
            "Message": "dialogue",
            "Personalizer": "personalizer",
            "PreferencePair": "finetune",
            "Progress": "progress",
            "ProgressEvent": "progress",
            "SamplingParams": "models",
            "SynthesisConfig": "synthesis",
            "TrainingEstimate": "finetune",
            "TrainingReport": "finetune",
            "TrainingStep": "finetune",
            "UserError": "errors",
            "compare_answers": "evaluation",
            "entropy_of_embedding": "scoring",
            "estimate_training": "finetune",
            "fuse": "finetune.fuse",
            "generate_answers": "evaluation",
            "load_dialogues": "importers",
            "load_language_model": "models",
            "read_dialogues": "importers",
            "synthesize": "synthesis",
        },
    )

    def __getattr__(name: str) -> object:
        # `finetune` is both a subpackage and its main function; the subpackage is callable like the function.
        if name == "finetune":
            return importlib.import_module("mlx_personal.finetune")
        return _get_export(name)


__version__ = "0.2.0"
__all__ = [
    "Config",
    "Dialogue",
    "Evaluation",
    "Example",
    "HiddenStateEmbedder",
    "LanguageModel",
    "Lexicons",
    "LoRAConfig",
    "Memory",
    "MemoryConfig",
    "MemoryEntry",
    "Message",
    "Personalizer",
    "PreferencePair",
    "Progress",
    "ProgressEvent",
    "SamplingParams",
    "SynthesisConfig",
    "TrainingEstimate",
    "TrainingReport",
    "TrainingStep",
    "UserError",
    "compare_answers",
    "entropy_of_embedding",
    "estimate_training",
    "finetune",
    "fuse",
    "generate_answers",
    "load_dialogues",
    "load_language_model",
    "read_dialogues",
    "synthesize",
]

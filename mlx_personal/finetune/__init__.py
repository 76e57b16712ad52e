"""Fine-tuning (paper 1, 3.4): a LoRA adapter trained on the annotated and the synthetic dialogues.

From the ground up:

- rows: `rows` and `data` make them of dialogues; `batches`, `packing`, `grouping` and `rearrange` lay them out;
- one loss: `network`, `calls` and `adapted` run mlx-lm's model in parts; `loss` and `objective` make a loss of it;
  `exactness` holds it against the plain one, and `choices` remembers what it found;
- one step: `frozen`, `checkpointing` and `dropout` under `computing`; `anatomy` and `memory` plan what it takes;
- a training: `schedule`, `flat`, `state`, `interruption` and `distributed` under `training`;
- for callers: `trainer`, `assisting` (on other machines), `fusing`, `forecasting`, `report`, `plot`, `config`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports

if TYPE_CHECKING:
    from mlx_personal.finetune.config import LoRAConfig
    from mlx_personal.finetune.data.dataset import Example
    from mlx_personal.finetune.data.samples import TrainingData
    from mlx_personal.finetune.fuse import fuse
    from mlx_personal.finetune.loop import DivergedError, InterruptedTrainingError, train
    from mlx_personal.finetune.planning.estimate import TrainingEstimate, estimate_training
    from mlx_personal.finetune.report import TrainingReport, TrainingStep
    from mlx_personal.finetune.trainer import finetune
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "LoRAConfig": "config",
            "Example": "data.dataset",
            "TrainingData": "data.samples",
            "fuse": "fuse",
            "DivergedError": "loop",
            "InterruptedTrainingError": "loop",
            "train": "loop",
            "TrainingEstimate": "planning.estimate",
            "estimate_training": "planning.estimate",
            "TrainingReport": "report",
            "TrainingStep": "report",
            "finetune": "trainer",
        },
    )

__all__ = [
    "DivergedError",
    "InterruptedTrainingError",
    "LoRAConfig",
    "TrainingData",
    "TrainingEstimate",
    "TrainingReport",
    "TrainingStep",
    "estimate_training",
    "finetune",
    "fuse",
    "train",
]

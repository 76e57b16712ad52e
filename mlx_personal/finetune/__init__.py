"""Fine-tuning: a LoRA adapter trained on annotated and synthetic dialogues [Qin24 §3.4].

`trainer.finetune` reads top to bottom: examples, samples, plan, verification, loop, adapter.

- `config`: the settings; `schedule`: learning rates and early stopping;
- `data/`: examples and samples (`dataset`, `samples`), packing (`packing`), steps and batches (`batching`);
- `plan`: the plan of a training; `planning/`: its memory, and an estimate without running it;
- `forward/`: losses and gradients, several times as fast as mlx-lm's forward pass and checked against it;
- `loop`: the optimizer steps; `trainer_state`: what changes in them; `flat_parameters`: weights in one array;
- `checkpoint`: the files of an unfinished training; `identity`: which training they belong to; `resume`: both together;
- `distributed`, `worker`: training on several machines;
- `trainer`: the whole from examples to an adapter on disk; `fuse`: merge an adapter into its base model;
- `report`, `plot`: the results as numbers and as a picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports, make_callable

if TYPE_CHECKING:
    from mlx_personal.finetune.config import LoRAConfig
    from mlx_personal.finetune.data.dataset import Example
    from mlx_personal.finetune.data.samples import TrainingData
    from mlx_personal.finetune.loop import DivergedError, InterruptedTrainingError, train
    from mlx_personal.finetune.plan import TrainingPlan, plan_training
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
            "DivergedError": "loop",
            "InterruptedTrainingError": "loop",
            "train": "loop",
            "TrainingPlan": "plan",
            "plan_training": "plan",
            "TrainingEstimate": "planning.estimate",
            "estimate_training": "planning.estimate",
            "TrainingReport": "report",
            "TrainingStep": "report",
            "finetune": "trainer",
        },
    )
    # `from mlx_personal import finetune` is this package or its function of the same name: both can be called.
    make_callable(__name__, "finetune")

__all__ = [
    "DivergedError",
    "Example",
    "InterruptedTrainingError",
    "LoRAConfig",
    "TrainingData",
    "TrainingEstimate",
    "TrainingPlan",
    "TrainingReport",
    "TrainingStep",
    "estimate_training",
    "finetune",
    "plan_training",
    "train",
]

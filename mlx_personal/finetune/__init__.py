"""Fine-tuning: a LoRA adapter trained on annotated and synthetic dialogues [Qin24 §3.4], and on preference pairs.

`trainer.finetune` reads top to bottom: examples, samples, plan, equivalence check, loop, adapter.

- `config`: the settings; `schedule`: learning rates and early stopping;
- `data/`: examples and samples (`dataset`, `samples`), packing (`packing`), steps and batches (`batching`);
- `plan`: the plan of a training run; `planning/`: its memory, and an estimate without running it;
- `forward/`: losses (of preference pairs too) and gradients, several times as fast as mlx-lm's forward pass and
  checked against it;
- `loop`: the optimizer steps; `trainer_state`: the state that they change; `flat_parameters`: weights in one array;
- `checkpoint`: checkpoint files; `identity`: which training run they belong to; `resume`: save and resume with both;
- `distributed`, `worker`: training on several machines;
- `trainer`: from examples to an adapter on disk; `fuse`: merge an adapter into its base model;
- `report`, `plot`: the results as numbers and as a plot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_personal.lazy_imports import lazy_exports, make_callable

if TYPE_CHECKING:
    from mlx_personal.finetune.config import LoRAConfig
    from mlx_personal.finetune.data.examples import Example, PreferencePair
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
            "Example": "data.examples",
            "PreferencePair": "data.examples",
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
    # `from mlx_personal import finetune` imports this package or its function of the same name; both are callable.
    make_callable(__name__, "finetune")

__all__ = [
    "DivergedError",
    "Example",
    "InterruptedTrainingError",
    "LoRAConfig",
    "PreferencePair",
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

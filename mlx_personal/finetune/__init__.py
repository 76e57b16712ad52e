"""Fine-tuning (paper 1, 3.4): a LoRA adapter trained on the annotated and the synthetic dialogues."""

from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.forecasting import Forecast, forecast
from mlx_personal.finetune.report import Step, TrainingReport
from mlx_personal.finetune.rows import TrainingData
from mlx_personal.finetune.trainer import finetune
from mlx_personal.finetune.training import DivergedError, InterruptedTrainingError, train

__all__ = [
    "DivergedError",
    "Forecast",
    "InterruptedTrainingError",
    "LoRAConfig",
    "Step",
    "TrainingData",
    "TrainingReport",
    "finetune",
    "forecast",
    "train",
]

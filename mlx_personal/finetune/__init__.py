"""Fine-tuning (paper 1, 3.4): a LoRA adapter trained on the annotated and the synthetic dialogues."""

from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.trainer import Step, TrainingReport, finetune

__all__ = ["LoRAConfig", "Step", "TrainingReport", "finetune"]

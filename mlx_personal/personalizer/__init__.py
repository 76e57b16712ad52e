"""The loop on one profile, joined from the rooms below."""

from mlx_personal.personalizer.pending import PendingStep
from mlx_personal.personalizer.personalizer import ObserveResult, Personalizer, SynthesisResult, TrainResult
from mlx_personal.personalizer.promotion import PromotionResult

__all__ = ["PendingStep", "PromotionResult", "ObserveResult", "Personalizer", "SynthesisResult", "TrainResult"]

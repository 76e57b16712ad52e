"""The loop on one profile, joined from the rooms below."""

from mlx_personal.personalizer.pending import Due
from mlx_personal.personalizer.personalizer import Observed, Personalizer, Synthesized, Trained
from mlx_personal.personalizer.promotion import Judgement

__all__ = ["Due", "Judgement", "Observed", "Personalizer", "Synthesized", "Trained"]

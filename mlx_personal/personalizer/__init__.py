"""The loop on one profile, joined from the rooms below."""

from mlx_personal.personalizer.due import Due
from mlx_personal.personalizer.judging import Judgement
from mlx_personal.personalizer.personalizer import Observed, Personalizer, Synthesized, Trained

__all__ = ["Due", "Judgement", "Observed", "Personalizer", "Synthesized", "Trained"]

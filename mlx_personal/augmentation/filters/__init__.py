"""Which synthetic records are learnt: the device judges each by the user's own records and by its own model.

This project's design: of paper 2 only the outline is public. `config` says what is asked of a candidate, `judging` asks
it; each filter is a file: `copies`, `balance`, `labels`, `style`, `perplexity`.
"""

from mlx_personal.augmentation.filters.config import FILTERS, REASONS, FilterConfig
from mlx_personal.augmentation.filters.pipeline import Judged, judge

__all__ = ["FILTERS", "REASONS", "FilterConfig", "Judged", "judge"]

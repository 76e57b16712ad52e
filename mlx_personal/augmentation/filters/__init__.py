"""The filters, which decide by the user's own records and the device model which synthetic records are kept.

The filters are this project's own design; those of [Zhong25] are not public. `config` has their settings, `pipeline`
applies all of them, and each has a module: `copies`, `balance`, `labels`, `style`, `perplexity`.
"""

from mlx_personal.augmentation.filters.config import FILTERS, OUTCOMES, FilterConfig
from mlx_personal.augmentation.filters.pipeline import FilteredRecord, apply_filters

__all__ = ["FILTERS", "OUTCOMES", "FilterConfig", "FilteredRecord", "apply_filters"]

"""The report of a study from any set of finished cells: tables in Markdown, figures, and the same results as JSON.

- `page`: write the report; the entry point.
- `model_study`, `cell_group`: the cells of one base model, grouped by their settings.
- `analysis`, `pairing`, `statistics`, `other_metrics`: compare groups; the results are `findings`.
- `base_models`, `inventory`, `caveats`: base models, the cells that ran, and the limits of the results.
- `tables`, `weighted_tables`, `figures`, `sweep_figures`, `json_format`: present the results.
- `labels`, `drawing`, `published`: names and numbers, figure styles, and the scores of [Qin24].
"""

from mlx_personal.research.study.report.page import summarize, write_report

__all__ = ["summarize", "write_report"]

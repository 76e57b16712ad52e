"""A study's report, from whatever cells are finished: tables in Markdown, figures, and the same numbers as JSON.

Cells become groups of seeds (`groups`), which are compared by their settings (`comparing`, `pairing`, `statistics`);
`measures` and `beyond` make findings of that, and `tables`, `own_tables`, `bases`, `figures` and `sweep_figures` show
them, with the paper's own numbers (`published`) beside; `inventory` and `caveats` say what ran and how sure it is.
`page` puts all of it together.
"""

from mlx_personal.research.study.report.page import summary, write_report

__all__ = ["summary", "write_report"]

"""The experiments of [Qin24 §4] on real models: six data sets, selection policies, adapter and memory.

- `study_run`: run a study from its specification; the entry point.
- `cell`, `grid`: the settings of one run, and the cells of each experiment.
- `datasets`, `schemas`: load the data sets.
- `stream`, `topics`: split a data set into a stream and evaluation dialogues.
- `cell_selection`: run a policy along a stream.
- `cell_jobs`, `profile_run`: embed; make a profile, train and measure it; in worker processes.
- `study_scheduler`, `study_folder`: run the missing cells, and store their results.
- `histories`, `history_run`: long personal histories of single users.
- `report`, `history_report`, `figures`: the results as a page.

No other package of `mlx_personal` depends on this one, except the command line.
"""

from mlx_personal.research.study.cell import Cell
from mlx_personal.research.study.study_folder import StudyFolder
from mlx_personal.research.study.study_run import StudySpec, run_study
from mlx_personal.research.study.study_scheduler import StudyResult

__all__ = ["Cell", "StudyFolder", "StudyResult", "StudySpec", "run_study"]

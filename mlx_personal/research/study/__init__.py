"""The experiments of [Qin24 §4], repeated as a grid of cells: six data sets, baselines, ablation and sweeps.

- `study_run`: run a study from its specification; the entry point.
- `cell`, `grid`: the settings of one run, and the cells of each experiment.
- `datasets`, `schemas`, `file_formats`: load the data sets.
- `stream`, `topics`: split a data set into a stream and evaluation dialogues.
- `cell_selection`, `authors_script`, `checkpoint_data`: select dialogues, and assemble the training data.
- `cell_jobs`: train and evaluate, in worker processes.
- `study_scheduler`, `study_database`: run the missing cells, and store their results.
- `report`: tables and figures of the results.

No other package of `mlx_personal` depends on this one, except the command line.
"""

from mlx_personal.research.study.cell import Cell
from mlx_personal.research.study.study_database import StudyDatabase
from mlx_personal.research.study.study_run import StudySpec, run_study
from mlx_personal.research.study.study_scheduler import StudyResult

__all__ = ["Cell", "StudyDatabase", "StudyResult", "StudySpec", "run_study"]

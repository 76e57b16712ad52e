"""The selection paper's evidence, to be run again: six data sets, its baselines, ablation and sweeps (paper 1, 4).

`request` says what is asked for; `datasets` and `stream` give the dialogues; `grid` makes cells (`settings`) of an
experiment; `run` computes what `records` lacks, through the jobs in `jobs`; `report` turns what is there into tables
and figures. A guest: it uses the product's rooms and none uses it.
"""

from mlx_personal.research.study.cell import Cell
from mlx_personal.research.study.study_run import Request, run_study
from mlx_personal.research.study.scheduler import Outcome
from mlx_personal.research.study.study_database import Records

__all__ = ["Cell", "Outcome", "Records", "Request", "run_study"]

"""The cells of each experiment.

An experiment is a grid of cells, divided into blocks. A block holds the cells that are compared with each other: all
policies on one data set, with one seed. Blocks are ordered by seed, so that a run that stops early leaves complete
comparisons with fewer seeds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlx_personal.research.study.cell import BASE, Cell

# The policy and the baselines of [Qin24 §3.2, §4.1].
PAPER_POLICIES: Final = ("quality", "random", "fifo", "k-center")
# This project's policies.
OWN_POLICIES: Final = ("weighted", "facility-location")
# The data sets on which synthesis is compared, which takes as long as everything else.
_SYNTHESIS_DATASETS: Final = ("alpaca", "dolly", "meddialog")


@dataclass(frozen=True)
class CellBlock:
    """Cells that are compared with each other.

    Attributes:
        name: Experiment, data set and seed.
        cells: The cells, the base model first.
    """

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Experiment:
    """The settings that an experiment varies.

    Attributes:
        policies: The policies.
        part: The part of the data.
        synthesis: Whether there are synthetic dialogues.
    """

    policies: tuple[str, ...]
    part: str = "all"
    synthesis: bool = False


EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    # All policies and answer modes.
    "main": Experiment((*PAPER_POLICIES, *OWN_POLICIES)),
    # The same number of synthetic dialogues for every policy.
    "synthesis": Experiment(("quality", "random", "facility-location"), synthesis=True),
    # The policies of this project were designed on the first halves of the data, and are tested on the second halves.
    "tuning": Experiment(("quality", "random", *OWN_POLICIES), part="first"),
    "own": Experiment(("quality", "random", *OWN_POLICIES), part="second"),
}


def experiment_blocks(
    template: Cell,
    sources: Mapping[str, str],
    num_seeds: int,
    synthetic: int,
    experiments: Sequence[str],
    policies: Sequence[str] | None = None,
) -> list[CellBlock]:
    """Return the blocks of some experiments in the order in which to run them; no cell occurs twice.

    Args:
        template: All settings that the experiments do not vary.
        sources: `Cell.source` of each data set.
        num_seeds: Number of seeds; they are 0, 1, ...
        synthetic: Synthetic dialogues per dialogue that is trained on, for experiments with synthesis.
        experiments: Names in `EXPERIMENTS`.
        policies: The policies to run; None for all of them.
    """
    seen: set[str] = set()
    blocks = []
    for name, cells in _all_blocks(template, sources, num_seeds, synthetic, experiments):
        wanted = [cell for cell in cells if policies is None or cell.policy in (BASE, *policies)]
        new = {cell.key: cell for cell in wanted if cell.key not in seen}
        seen |= set(new)
        if new:
            blocks.append(CellBlock(name, tuple(new.values())))
    return blocks


def _all_blocks(
    template: Cell, sources: Mapping[str, str], num_seeds: int, synthetic: int, experiments: Sequence[str]
) -> Iterator[tuple[str, list[Cell]]]:
    """Yield the name and the cells of every block; cells may repeat."""
    for seed, name in itertools.product(range(num_seeds), experiments):
        experiment = EXPERIMENTS[name]
        datasets = [data for data in sources if not experiment.synthesis or data in _SYNTHESIS_DATASETS]
        received = template.received if experiment.part == "all" else max(1, template.received // 2)
        for data in datasets:
            shared = dataclasses.replace(
                template, data=data, source=sources[data], seed=seed, part=experiment.part, received=received
            )
            number = synthetic if experiment.synthesis else 0
            cells = [dataclasses.replace(shared, policy=policy, synthetic=number) for policy in experiment.policies]
            # All gains are measured against the base model.
            yield f"{name} on {data}, seed {seed}", [dataclasses.replace(shared, policy=BASE), *cells]

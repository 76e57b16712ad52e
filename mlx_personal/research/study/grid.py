"""The cells of each experiment.

An experiment is a grid of cells, divided into blocks. A block holds the cells that are compared with each other: all
policies of one comparison, on one data set, with one seed. Blocks are ordered by seed, so that a run that stops early
leaves complete comparisons with fewer seeds.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.research.study.cell import (
    AUTHORS_SCRIPTS,
    BASE,
    PAPER_POLICIES,
    SINGLE_SCORES,
    WEIGHTED,
    Cell,
    describe_synthetic,
)
from mlx_personal.scoring import ESTIMATORS

# The data set on which [Qin24 §4.2] varies its settings.
SWEEP_DATASET: Final = "meddialog"

# Phrases for the settings in a block's name. Settings that follow from the experiment or from these are omitted.
_PHRASES: Final[Mapping[str, Callable[[Any], str]]] = {
    "part": lambda part: f"the {part} half",
    "order": str,
    "strength": lambda strength: f"strength {strength:g}",
    "bins": lambda bins: f"{bins} bins",
    "annotations": lambda limit: "no limit of annotations" if limit is None else f"at most {limit} annotations",
    "synthetic": describe_synthetic,
}

# Changes to the template: one list of cells per block.
Variants = list[list[dict[str, Any]]]


@dataclass(frozen=True)
class CellBlock:
    """Cells that are compared with each other.

    Attributes:
        name: Experiment, data set, shared settings and seed.
        cells: The cells.
    """

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Experiment:
    """The settings that an experiment varies.

    Attributes:
        variants: Returns the changes to a template, given the template and a number of synthetic dialogues.
        all_datasets: Run on all data sets; otherwise on `SWEEP_DATASET`, or on the first one where that is missing.
    """

    variants: Callable[[Cell, int], Variants]
    all_datasets: bool = False


def _policies(*policies: str) -> Callable[[Cell, int], Variants]:
    """Vary the policy, once without synthetic dialogues and once with the given number of them."""

    def variants(template: Cell, synthetic: int) -> Variants:
        return [[{"policy": p, "synthetic": s} for p in policies] for s in dict.fromkeys((0, synthetic))]

    return variants


def _half(template: Cell, part: str) -> dict[str, Any]:
    """Return the settings of a run on half of the data: half of the stream, and one checkpoint at its end."""
    received = max(1, template.received // 2)
    return {"part": part, "received": received, "every": received}


def _weighted(template: Cell, synthetic: int) -> Variants:
    half = _half(template, "second")
    return [[{**half, **change} for change in block] for block in _policies("quality", WEIGHTED)(template, synthetic)]


def _weights(template: Cell, synthetic: int) -> Variants:
    half = _half(template, "first")
    weights = [{**half, "policy": WEIGHTED, "weight": weight} for weight in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)]
    return [[{**half, "policy": "quality"}, *weights]]


def _synthetic_counts(template: Cell, synthetic: int) -> Variants:
    # Twelve candidates are enough for nine synthetic dialogues: at least two thirds pass the filters.
    synthesis = dataclasses.replace(template.synthesis, k=max(template.synthesis.k, 12))
    return [[{"policy": "quality", "synthetic": n, "synthesis": synthesis} for n in range(10)]]


def _orders(template: Cell, synthetic: int) -> Variants:
    orders: list[dict[str, Any]] = [{"order": "in-order"}, {"order": "shuffled"}]
    orders += [{"order": "correlated", "strength": s} for s in (0.5, 0.9, 1.0)]
    return [[{**order, "policy": p} for p in PAPER_POLICIES] for order in orders]


def _annotation_limits(template: Cell, synthetic: int) -> Variants:
    limits = [max(1, template.bins // 2), template.bins, 2 * template.bins, None]
    return [[{"annotations": limit, "policy": p} for p in PAPER_POLICIES] for limit in limits]


EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    # The policy and the baselines of [Qin24].
    "main": Experiment(_policies(*PAPER_POLICIES), all_datasets=True),
    # Each score alone [Qin24 Table 4].
    "ablation": Experiment(_policies("quality", *SINGLE_SCORES), all_datasets=True),
    # This project's policy `weighted` on the second half of the data; the name is used on command lines.
    "own": Experiment(_weighted, all_datasets=True),
    # The policy `weighted` with several weights on the first half of the data.
    "tuning": Experiment(_weights, all_datasets=True),
    # The base model.
    "base": Experiment(lambda template, synthetic: [[{"policy": BASE}]], all_datasets=True),
    # The authors' released scripts as they behave.
    "scripts": Experiment(_policies(*AUTHORS_SCRIPTS), all_datasets=True),
    # 0 to 9 synthetic dialogues per selected one [Qin24 Fig. 3].
    "synthesis": Experiment(_synthetic_counts),
    # The size of the buffer.
    "buffer": Experiment(
        lambda template, synthetic: [
            [{"policy": p, "bins": bins} for p in ("quality", "random")] for bins in (32, 64, 128, 256, 512)
        ],
    ),
    # The estimators of EOE.
    "entropy": Experiment(
        lambda template, synthetic: [[{"policy": p, "entropy": e} for p in ("quality", "eoe") for e in ESTIMATORS]],
    ),
    # The number of dialogues that the user annotates.
    "annotations": Experiment(_annotation_limits),
    # The order of the stream.
    "order": Experiment(_orders),
}


def experiment_blocks(
    template: Cell, sources: Mapping[str, str], num_seeds: int, synthetic: int, experiments: Sequence[str]
) -> list[CellBlock]:
    """Return the blocks of some experiments in the order in which to run them; no cell occurs twice.

    Args:
        template: All settings that the experiments do not vary.
        sources: `Cell.source` of each data set.
        num_seeds: Number of seeds; they are 0, 1, ...
        synthetic: Synthetic dialogues per selected one, for experiments that use them.
        experiments: Names in `EXPERIMENTS`.
    """
    seen: set[str] = set()
    blocks = []
    for name, cells in _candidate_blocks(template, sources, num_seeds, synthetic, experiments):
        new_cells = {cell.key: cell for cell in cells if cell.key not in seen}
        seen |= set(new_cells)
        if new_cells:
            blocks.append(CellBlock(name, tuple(new_cells.values())))
    return blocks


def _candidate_blocks(
    template: Cell, sources: Mapping[str, str], num_seeds: int, synthetic: int, experiments: Sequence[str]
) -> Iterator[tuple[str, list[Cell]]]:
    """Yield the name and the cells of every block; cells may repeat."""
    for seed, name in itertools.product(range(num_seeds), experiments):
        experiment = EXPERIMENTS[name]
        sweep_dataset = SWEEP_DATASET if SWEEP_DATASET in sources else next(iter(sources))
        datasets = list(sources) if experiment.all_datasets else [sweep_dataset]
        for changes, data in itertools.product(experiment.variants(template, synthetic), datasets):
            defaults = dataclasses.replace(template, data=data, source=sources[data], seed=seed)
            cells = [dataclasses.replace(defaults, **change) for change in changes]
            # Win rates and forgetting are measured against the base model.
            base = dataclasses.replace(cells[0], policy=BASE)
            yield ", ".join([f"{name} on {data}", *_shared_settings(changes), f"seed {seed}"]), [base, *cells]


def _shared_settings(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return phrases for the varied settings that all cells of a block share."""
    return [
        phrase(changes[0][setting])
        for setting, phrase in _PHRASES.items()
        if all(setting in change and change[setting] == changes[0][setting] for change in changes)
    ]

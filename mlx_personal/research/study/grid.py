"""Which cells an experiment has.

A block is the smallest part of a grid that says something: all policies of one comparison, on one data set with one
seed. Blocks are ordered so that a grid cut off anywhere is a smaller grid, not half a table: first one seed of
everything, then the next.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.research.study.cell import BASE, OWN, PAPER_POLICIES, SCRIPTS, SINGLE_SCORES, Cell, synthetic_text
from mlx_personal.scoring import ESTIMATORS

# The data set on which the paper sweeps its settings.
SWEPT: Final = "meddialog"

# Settings as a block's name says them; what follows from the experiment's name or from these is not said.
_WORDS: Final[Mapping[str, Callable[[Any], str]]] = {
    "part": lambda part: f"the {part} half",
    "order": str,
    "strength": lambda strength: f"strength {strength:g}",
    "bins": lambda bins: f"{bins} bins",
    "annotations": lambda most: "no limit of questions" if most is None else f"at most {most} questions",
    "synthetic": synthetic_text,
}

Variants = list[list[dict[str, Any]]]


@dataclass(frozen=True)
class Block:
    """Cells that are compared with each other; `name`: experiment, data set, what else they share, seed."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Experiment:
    """What is varied. `variants` gives, for a template and a number of synthetic sets, lists of changes, one list a
    block; `everywhere`: on all data sets, or on `SWEPT` alone (the first one, where that is missing)."""

    variants: Callable[[Cell, int], Variants]
    everywhere: bool = False


def _policies(*policies: str) -> Callable[[Cell, int], Variants]:
    """Each policy without synthetic sets, and each with the same number of them."""

    def variants(template: Cell, synthetic: int) -> Variants:
        return [[{"policy": p, "synthetic": s} for p in policies] for s in dict.fromkeys((0, synthetic))]

    return variants


def _half(template: Cell, part: str) -> dict[str, Any]:
    """Half of the data has room for half of the stream; its end alone counts."""
    received = max(1, template.received // 2)
    return {"part": part, "received": received, "every": received}


def _own(template: Cell, synthetic: int) -> Variants:
    half = _half(template, "second")
    return [[{**half, **change} for change in block] for block in _policies("quality", OWN)(template, synthetic)]


def _weights(template: Cell, synthetic: int) -> Variants:
    half = _half(template, "first")
    weights = [{**half, "policy": OWN, "weight": weight} for weight in (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)]
    return [[{**half, "policy": "quality"}, *weights]]


def _numbers(template: Cell, synthetic: int) -> Variants:
    # Nine kept of twelve written, where two thirds and more pass the checks.
    enough = dataclasses.replace(template.synthesis, k=max(template.synthesis.k, 12))
    return [[{"policy": "quality", "synthetic": n, "synthesis": enough} for n in range(10)]]


def _orders(template: Cell, synthetic: int) -> Variants:
    orders: list[dict[str, Any]] = [{"order": "in-order"}, {"order": "shuffled"}]
    orders += [{"order": "correlated", "strength": s} for s in (0.5, 0.9, 1.0)]
    return [[{**order, "policy": p} for p in PAPER_POLICIES] for order in orders]


def _annotations(template: Cell, synthetic: int) -> Variants:
    budgets = [max(1, template.bins // 2), template.bins, 2 * template.bins, None]
    return [[{"annotations": budget, "policy": p} for p in PAPER_POLICIES] for budget in budgets]


EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    # The paper's policy and its baselines.
    "main": Experiment(_policies(*PAPER_POLICIES), True),
    # One score alone (Table 4).
    "ablation": Experiment(_policies("quality", *SINGLE_SCORES), True),
    # This project's policy: on the second half of the data, and at several weights on the first.
    "own": Experiment(_own, True),
    "tuning": Experiment(_weights, True),
    # The model as it is.
    "base": Experiment(lambda template, synthetic: [[{"policy": BASE}]], True),
    # The authors' scripts as they behave.
    "scripts": Experiment(_policies(*SCRIPTS), True),
    # 0 to 9 synthetic sets for each kept one (Fig. 3).
    "synthesis": Experiment(_numbers),
    "buffer": Experiment(
        lambda template, synthetic: [
            [{"policy": p, "bins": bins} for p in ("quality", "random")] for bins in (32, 64, 128, 256, 512)
        ],
    ),
    # The estimators of EOE.
    "entropy": Experiment(
        lambda template, synthetic: [[{"policy": p, "entropy": e} for p in ("quality", "eoe") for e in ESTIMATORS]],
    ),
    # How many questions the owner answers.
    "annotations": Experiment(_annotations),
    "order": Experiment(_orders),
}


def plan(
    template: Cell, sources: Mapping[str, str], seeds: int, synthetic: int, experiments: Sequence[str]
) -> list[Block]:
    """The blocks of some experiments, no cell twice, in the order in which they are to be run.

    Args:
        template: all settings that an experiment does not vary.
        sources: of each data set, as `Cell.source`.
        seeds: 0 to this number, that left out.
        synthetic: synthetic sets for each kept one, where an experiment has some.
        experiments: names in `EXPERIMENTS`.
    """
    seen: set[str] = set()
    blocks = []
    for name, cells in _blocks(template, sources, seeds, synthetic, experiments):
        fresh = {cell.key: cell for cell in cells if cell.key not in seen}
        seen |= set(fresh)
        if fresh:
            blocks.append(Block(name, tuple(fresh.values())))
    return blocks


def _blocks(
    template: Cell, sources: Mapping[str, str], seeds: int, synthetic: int, experiments: Sequence[str]
) -> Iterator[tuple[str, list[Cell]]]:
    for seed, experiment in itertools.product(range(seeds), experiments):
        wanted = EXPERIMENTS[experiment]
        named = list(sources) if wanted.everywhere else [SWEPT if SWEPT in sources else next(iter(sources))]
        for changes, data in itertools.product(wanted.variants(template, synthetic), named):
            own = dataclasses.replace(template, data=data, source=sources[data], seed=seed)
            cells = [dataclasses.replace(own, **change) for change in changes]
            # What the model answers without an adapter is what win rates and forgetting are measured against.
            base = dataclasses.replace(cells[0], policy=BASE)
            yield ", ".join([f"{experiment} on {data}", *_shared(changes), f"seed {seed}"]), [base, *cells]


def _shared(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is varied and yet the same for all cells of a block, in words."""
    return [
        words(changes[0][setting])
        for setting, words in _WORDS.items()
        if all(setting in change and change[setting] == changes[0][setting] for change in changes)
    ]

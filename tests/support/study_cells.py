"""Finished cells in the form in which a study stores them, without running any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_personal.research.hashing import digest
from mlx_personal.research.study.cell import BASE, Cell
from mlx_personal.research.study.profile_run import ADAPTER, BOTH, MEMORY

NUM_DIALOGUES = 12
# Gains over the base model: of the answer modes, and of the policies on top.
MODE_GAINS = {BASE: 0.0, MEMORY: 0.05, ADAPTER: 0.1, BOTH: 0.2}
POLICY_GAINS = {"quality": 0.04, "weighted": 0.06}

FinishedCell = tuple[Cell, dict[str, Any]]


def make_cell(policy: str = "quality", seed: int = 0, data: str = "alpaca", **changes: Any) -> Cell:
    """Return the settings of a cell."""
    defaults: dict[str, Any] = {"source": "a file", "received": 300, "evaluation": NUM_DIALOGUES, "bins": 32}
    return Cell(data=data, seed=seed, policy=policy, **({"model": "f" * 32, "model_name": "tiny"} | defaults | changes))


def make_result(cell: Cell, default: str = BOTH) -> dict[str, Any]:
    """Return a result whose values follow from the gains and a little noise.

    Args:
        cell: The cell.
        default: The mode that its profile chose.
    """

    def values(mode: str) -> dict[str, list[float]]:
        rng = np.random.default_rng(int(digest([cell.to_json(), mode])[:8], 16))
        base = np.random.default_rng([len(cell.data), cell.seed]).uniform(0.2, 0.4, NUM_DIALOGUES)
        gain = MODE_GAINS[mode] + (0.0 if mode == BASE else POLICY_GAINS.get(cell.policy, 0.0))
        scores = base + gain + rng.normal(0, 0.004, NUM_DIALOGUES)
        return {
            "rouge1": scores.tolist(),
            "log_likelihood": (scores - 3).tolist(),
            "reciprocal_rank": scores[:8].tolist(),
        }

    if cell.policy == BASE:
        one_answer = (np.array(values(BASE)["rouge1"]) + 0.13).tolist()
        return {"modes": {BASE: values(BASE)}, "one_answer": {"rouge1": one_answer}, "seconds": 9.0}
    modes = {mode: values(mode) for mode in (MEMORY, ADAPTER, BOTH)}
    counts = {"trained": 26, "synthetic": 26 * cell.synthetic, "held_out": 6}
    return {"modes": modes, "default": default, **counts, "train_seconds": 6.0, "seconds": 60.0}


def finished_grid(
    policies: Sequence[str] = ("quality", "random", "weighted"),
    data: Sequence[str] = ("alpaca", "dolly"),
    seeds: int = 3,
    default: str = BOTH,
    **changes: Any,
) -> list[FinishedCell]:
    """Return all seeds of some policies, and of the base model; `changes` are arguments of `make_cell`."""
    cells = [
        make_cell(policy, seed, name, **changes)
        for name in data
        for policy in (BASE, *policies)
        for seed in range(seeds)
    ]
    return [(cell, make_result(cell, default)) for cell in cells]

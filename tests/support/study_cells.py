"""Finished cells in the form in which a study stores them, without running any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_personal.research.hashing import digest
from mlx_personal.research.study.cell import Cell

NUM_DIALOGUES = 12
GAINS = {"quality": 0.10, "random": 0.10, "fifo": 0.02, "k-center": 0.16, "weighted": 0.18}

FinishedCell = tuple[Cell, dict[str, Any]]


def make_cell(policy: str = "quality", seed: int = 0, data: str = "alpaca", **changes: Any) -> Cell:
    """Return the settings of a cell."""
    defaults: dict[str, Any] = {
        "source": "a file",
        "received": 300,
        "every": 100,
        "evaluation": NUM_DIALOGUES,
        "bins": 32,
        "model": "f" * 32,
        "model_name": "tiny",
    }
    return Cell(data=data, seed=seed, policy=policy, **(defaults | changes))


def make_result(
    cell: Cell, gain: float | None = None, noise: float = 0.004, synthetic_share: float = 1.0
) -> dict[str, Any]:
    """Return a result whose scores follow from a gain and a little noise.

    All cells of a data set have the same dialogues, and each selects 4.

    Args:
        cell: The cell.
        gain: Gain over the base model; None for that of the cell's policy.
        noise: Standard deviation of the noise.
        synthetic_share: Share of the requested synthetic dialogues that were available.
    """
    rng = np.random.default_rng(int(digest(cell.to_json())[:8], 16))
    base_scores = np.random.default_rng(len(cell.data)).uniform(0.2, 0.4, NUM_DIALOGUES)
    tokens = np.arange(5, 5 + NUM_DIALOGUES)
    gain = GAINS.get(cell.policy, 0.0) if gain is None else gain
    received = [0] if cell.policy == "base" else cell.checkpoints
    checkpoints: list[dict[str, Any]] = []
    for n, count in enumerate(received):
        scores = base_scores + gain * (n + 1) / len(received) + rng.normal(0, noise, NUM_DIALOGUES)
        checkpoints.append(
            {
                "received": count,
                "kept": [1],
                "questions": 10 * (n + 1),
                "rows": 32,
                "annotated": 4,
                "synthetic": round(synthetic_share * 4 * cell.synthetic),
                "train_seconds": 6.0 * (1 + cell.synthetic),
                "epochs": 3,
                "answer_words": 7.5,
                "rouge1": scores.tolist(),
                "rougeL": (scores - 0.05).tolist(),
            }
        )
    if cell.policy == "base":
        constant = (base_scores + 0.13).tolist()
        checkpoints[0]["one_answer"] = {"rouge1": constant, "rougeL": constant, "answer_words": 9.0}
    final = {
        "nats": (tokens * (3 - gain)).tolist(),
        "tokens": tokens.tolist(),
        "general_nats": (tokens * (3.3 if received[0] else 3.0)).tolist(),
        "general_tokens": tokens.tolist(),
    }
    return {"checkpoints": checkpoints, "final": final, "machine": {"chip": "a chip"}, "seconds": 60.0}


def finished(*cells: Cell, **changes: Any) -> list[FinishedCell]:
    """Return cells with results; `changes` are arguments of `make_result`."""
    return [(cell, make_result(cell, **changes)) for cell in cells]


def finished_grid(
    policies: Sequence[str] = ("quality", "random", "fifo", "k-center"),
    data: Sequence[str] = ("alpaca",),
    synthetic: Sequence[int] = (0, 2),
    **changes: Any,
) -> list[FinishedCell]:
    """Return three seeds of some policies, and the base model; `changes` are arguments of `make_cell`."""
    cells = [
        make_cell(policy, seed, name, synthetic=number, **changes)
        for name in data
        for policy in policies
        for number in synthetic
        for seed in range(3)
    ]
    return finished(*cells, *(make_cell("base", data=name, **changes) for name in data))

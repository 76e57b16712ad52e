"""Finished cells as a study stores them, without running any: shared by the tests of its report."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlx_personal.research.study.cell import Cell, digest

DIALOGUES = 12
GAINS = {"quality": 0.10, "random": 0.10, "fifo": 0.02, "k-center": 0.16, "weighted": 0.18}


def cell(policy: Any = "quality", seed: Any = 0, data: Any = "alpaca", **changes: Any) -> Any:
    usual = {
        "received": 300,
        "every": 100,
        "evaluation": DIALOGUES,
        "bins": 32,
        "model": "f" * 32,
        "model_name": "tiny",
    }
    return Cell(data=data, seed=seed, policy=policy, **({"source": "a file"} | usual | changes))


def result(cell: Any, gain: Any = None, noise: Any = 0.004, written: Any = 1.0) -> Any:
    """Scores that a policy's gain and a little noise decide; the dialogues are the same for all cells of a data set.

    `written`: the share of the synthetic sets asked for that there were, for 4 kept ones.
    """
    rng = np.random.default_rng(int(digest(cell.to_json())[:8], 16))
    items = np.random.default_rng(len(cell.data)).uniform(0.2, 0.4, DIALOGUES)
    tokens = np.arange(5, 5 + DIALOGUES)
    gain = GAINS.get(cell.policy, 0.0) if gain is None else gain
    places = [0] if cell.policy == "base" else cell.checkpoints
    checkpoints = []
    for n, received in enumerate(places):
        scores = items + gain * (n + 1) / len(places) + rng.normal(0, noise, DIALOGUES)
        checkpoint = {"received": received, "kept": [1], "questions": 10 * (n + 1), "rows": 32, "annotated": 4}
        checkpoint |= {"synthetic": round(written * 4 * cell.synthetic)}
        checkpoint |= {"train_seconds": 6.0 * (1 + cell.synthetic), "epochs": 3, "answer_words": 7.5}
        checkpoints.append(checkpoint | {"rouge1": scores.tolist(), "rougeL": (scores - 0.05).tolist()})
    if cell.policy == "base":
        one = (items + 0.13).tolist()
        checkpoints[0]["one_answer"] = {"rouge1": one, "rougeL": one, "answer_words": 9.0}
    final = {"nats": (tokens * (3 - gain)).tolist(), "tokens": tokens.tolist()}
    general = {"general_nats": (tokens * (3.3 if places[0] else 3.0)).tolist(), "general_tokens": tokens.tolist()}
    return {"checkpoints": checkpoints, "final": final | general, "machine": {"chip": "a chip"}, "seconds": 60.0}


def finished(*cells: Any, **changes: Any) -> Any:
    return [(c, result(c, **changes)) for c in cells]


def grid(
    policies: Any = ("quality", "random", "fifo", "k-center"),
    data: Any = ("alpaca",),
    synthetic: Any = (0, 2),
    **changes: Any,
) -> Any:
    """Three seeds of some policies, and the untrained model."""
    cells = [
        cell(policy, seed, name, synthetic=number, **changes)
        for name in data
        for policy in policies
        for number in synthetic
        for seed in range(3)
    ]
    return finished(*cells, *(cell("base", data=name, **changes) for name in data))

"""Cells: their settings and keys, and the selection along a stream."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.study import Cell
from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.cell_selection import ScoredDialogue, select_from_stream
from mlx_personal.selection import Buffer, SelectionCandidate, Selector, make_policy
from mlx_personal.selection.config import POLICIES

CELL = Cell("alpaca", "abc", "tiny", "f00", 1, "quality", received=50, bins=6, evaluation=5)


def scored_dialogues(count: int = 60) -> list[ScoredDialogue]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        ScoredDialogue(
            text=f"set {i} says {rng.integers(1000)}",
            vector=vector,
            eoe=float(rng.random()),
            dss=float(rng.random()) / 10,
            domain=("cars", "pets")[i % 2],
        )
        for i, vector in enumerate(vectors)
    ]


def changed(cell: Cell = CELL, **changes: Any) -> Cell:
    return dataclasses.replace(cell, **changes)


@pytest.mark.parametrize(
    "cell",
    [CELL, changed(policy=BASE), changed(synthetic=3), changed(order="shuffled"), changed(training=LoRAConfig(rank=4))],
    ids=["plain", "base", "synthetic", "shuffled", "training"],
)
def test_a_cell_restored_from_json_has_the_same_key(cell: Cell) -> None:
    restored = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert (restored.key, restored.to_json()) == (cell.key, cell.to_json())


@pytest.mark.parametrize(
    "change",
    [
        *({"seed": 2}, {"policy": "fifo"}, {"bins": 7}, {"synthetic": 1}, {"examples": 3}, {"choices": 5}),
        *({"strength": 0.5}, {"training": LoRAConfig(epochs=9)}, {"source": "other"}, {"part": "first"}),
    ],
)
def test_settings_that_affect_the_result_change_the_key(change: dict[str, Any]) -> None:
    assert changed(**change).key != CELL.key


def test_settings_without_effect_do_not_change_the_key() -> None:
    assert changed(training=LoRAConfig(seed=5)).key == CELL.key
    shuffled = changed(order="shuffled")
    assert changed(shuffled, strength=0.2).key == shuffled.key
    base = changed(policy=BASE)
    assert changed(base, bins=99, received=7, order="in-order", training=LoRAConfig(epochs=9)).key == base.key
    assert changed(base, evaluation=6).key != base.key
    # The evaluation dialogues are drawn by the seed.
    assert changed(base, seed=8).key != base.key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(({"policy": "best"}, "policy"), ({"bins": 0}, "bins"), ({"synthetic": 10}, "synthetic")),
        *(({"seed": -1}, "seed"), ({"choices": 1}, "choices"), ({"examples": 0}, "examples")),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**change)


def test_a_cell_is_named_by_what_differs_between_cells() -> None:
    assert CELL.text() == "quality on alpaca, seed 1"
    assert changed(part="second", synthetic=2).text() == "quality on alpaca (second half), 2 synthetic, seed 1"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_keeps_what_the_products_selector_keeps(policy: str) -> None:
    stream = scored_dialogues()
    buffer = Buffer(6)
    selector = Selector(buffer, make_policy(policy, 1), 0.9, 1)
    for i, d in enumerate(stream):
        selector.offer(SelectionCandidate(i, i, d.text, d.vector, d.eoe, d.dss, d.domain))
    expected = sorted(bin_.dialogue_id for bin_ in buffer.bins)
    kept = select_from_stream(changed(policy=policy), stream)
    assert kept == expected and len(kept) == 6


def test_a_stream_shorter_than_the_buffer_is_kept_whole() -> None:
    assert select_from_stream(changed(bins=99), scored_dialogues(9)) == list(range(9))
    assert select_from_stream(CELL, []) == []

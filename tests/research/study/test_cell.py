"""Cells: their settings and keys, the selection along a stream, and the training data of a checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mlx_personal import Dialogue
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.study import Cell
from mlx_personal.research.study.authors_script import AuthorsScriptSelection
from mlx_personal.research.study.cell import AUTHORS_SCRIPTS, BASE, POLICIES
from mlx_personal.research.study.cell_selection import (
    ScoredDialogue,
    SelectionCheckpoint,
    cell_policy,
    select_from_stream,
)
from mlx_personal.research.study.checkpoint_data import checkpoint_data, synthesis_key
from mlx_personal.research.study.grid import EXPERIMENTS, experiment_blocks
from mlx_personal.selection import SelectionCandidate

CELL = Cell("alpaca", "abc", "tiny", "f00", 1, "quality", received=50, every=20, bins=6, evaluation=5)


def scored_dialogues(count: int = 60, seed: int = 0) -> dict[int, ScoredDialogue]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {
        i: ScoredDialogue(
            text=f"set {i} says {rng.integers(1000)}",
            vector=vectors[i],
            entropies={name: float(rng.random()) for name in ("spectral", "spectral-whole", "histogram")},
            dss=float(rng.random()) / 10,
            domain=("cars", "pets")[i % 2],
        )
        for i in range(count)
    }


def changed(cell: Cell = CELL, **changes: Any) -> Cell:
    return dataclasses.replace(cell, **changes)


# Settings


@pytest.mark.parametrize(
    "cell",
    [CELL, changed(policy=BASE), changed(synthetic=3, writer="w"), changed(order="shuffled"), changed(annotations=9)],
    ids=["plain", "base", "synthetic", "shuffled", "annotations"],
)
def test_a_cell_restored_from_json_has_the_same_key(cell: Cell) -> None:
    restored = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert restored.key == cell.key
    assert restored.to_json() == cell.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"policy": "fifo"},
        {"bins": 7},
        {"policy": "weighted", "weight": 3.0},
        {"synthetic": 1},
        {"annotations": 4},
        {"strength": 0.5},
        {"training": LoRAConfig(epochs=9)},
        {"source": "other"},
        {"general": "g"},
        {"part": "first"},
    ],
)
def test_settings_that_affect_the_result_change_the_key(change: dict[str, Any]) -> None:
    assert changed(**change).key != CELL.key


def test_settings_without_effect_do_not_change_the_key() -> None:
    assert changed(writer="w").key == CELL.key
    assert changed(weight=3.0).key == CELL.key
    assert changed(policy="weighted", weight=3.0).key != changed(policy="weighted").key
    assert changed(training=LoRAConfig(seed=5)).key == CELL.key
    shuffled = changed(order="shuffled")
    assert changed(shuffled, strength=0.2).key == shuffled.key
    base = changed(policy=BASE)
    assert changed(base, seed=8, bins=99, received=7, every=3, order="in-order").key == base.key
    assert changed(base, evaluation=6).key != base.key
    assert changed(base, training=LoRAConfig(epochs=9)).key == base.key
    assert changed(base, training=LoRAConfig(max_seq_length=9)).key != base.key


def test_checkpoints_are_evenly_spaced_and_include_the_end() -> None:
    assert CELL.checkpoints == [20, 40, 50]
    assert changed(received=40).checkpoints == [20, 40]
    assert changed(received=15).checkpoints == [15]
    assert Cell("a", "b", "c", "d", 0, "quality").checkpoints == [800, 1600, 2400, 3200, 4000, 4600]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "best"}, "policy"),
        ({"bins": 0}, "bins"),
        ({"weight": -1.0}, "weight"),
        ({"synthetic": 10}, "synthetic"),
        ({"seed": -1}, "seed"),
        ({"annotations": 0}, "annotations"),
        ({"entropy": "spectrum"}, "spectral"),
    ],
)
def test_invalid_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(**change)


# The authors' scripts

Offer = tuple[str, Sequence[float], float]


def script_after(score: str, offers: Sequence[Offer], capacity: int) -> AuthorsScriptSelection:
    """Return a script's selection after some candidates, each (domain, vector, score)."""
    selection = AuthorsScriptSelection(score, capacity)
    for number, (domain, vector, value) in enumerate(offers):
        unit = np.array(vector, np.float32) / np.linalg.norm(vector)
        selection.offer(SelectionCandidate(number, number, "", unit, value, value, domain))
    return selection


@pytest.mark.parametrize("score", ["eoe", "dss"])
def test_a_script_keeps_lower_scores_of_the_same_domain(score: str) -> None:
    offers: list[Offer] = [
        ("a", [1, 0], 0.5),
        ("b", [1, 0], 0.9),
        ("a", [1, 0], 0.7),
        ("a", [1, 0], 0.4),
        ("b", [1, 0], 0.95),
    ]
    # The buffer is full after three. 0.4 replaces 0.5, the lowest score of its domain; 0.95 is above that of its own.
    assert script_after(score, offers, 3).checkpoint() == [3, 2, 1]


def test_a_script_stores_a_dialogue_twice_if_it_scores_lower_than_a_stored_one() -> None:
    assert script_after("eoe", [("a", [1, 0], 0.5), ("a", [1, 0], 0.4)], 4).checkpoint() == [1, 1]


def test_the_idd_script_measures_similarity_and_keeps_dissimilar_dialogues() -> None:
    offers: list[Offer] = [("a", [1, 0], 0), ("a", [1, 0.1], 0), ("a", [0, 1], 0)]
    # Similarity at arrival: 0 (empty domain), near 1, near 0.05. None is below the first one's 0, which never changes.
    assert script_after("idd", offers, 2).checkpoint() == [0, 1]
    assert script_after("idd", [*offers, ("a", [-1, -1], 0)], 2).checkpoint() == [3, 1]


def test_a_script_writes_out_and_empties_its_buffer() -> None:
    selection = script_after("eoe", [("a", [1, 0], 0.1), ("a", [1, 0], 0.2)], 2)
    assert selection.checkpoint() == [0, 1]
    selection.offer(SelectionCandidate(2, 2, "", np.array([1, 0], np.float32), 0.3, 0.3, "a"))
    assert selection.checkpoint() == [0, 1, 2]


# Selection along a stream


@pytest.mark.parametrize("policy", ["random", "weighted"])
def test_a_random_policy_depends_on_the_seed(policy: str) -> None:
    selections = [
        select_from_stream(changed(policy=policy, seed=seed), list(range(50)), scored_dialogues())[-1].selected
        for seed in range(4)
    ]
    assert len({tuple(indices) for indices in selections}) == 4


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_selects_streamed_dialogues_at_every_checkpoint(policy: str) -> None:
    stream = list(np.random.default_rng(3).permutation(60)[:50])
    checkpoints = select_from_stream(changed(policy=policy), stream, scored_dialogues())
    assert [checkpoint.received for checkpoint in checkpoints] == [20, 40, 50]
    for checkpoint in checkpoints:
        assert set(checkpoint.selected) <= set(stream[: checkpoint.received])
        assert checkpoint.annotated == checkpoint.selected
        if policy not in AUTHORS_SCRIPTS:
            assert len(set(checkpoint.selected)) == 6
    assert checkpoints == select_from_stream(changed(policy=policy), stream, scored_dialogues())


def test_a_longer_stream_starts_like_a_shorter_one() -> None:
    stream, scored = list(range(50)), scored_dialogues()
    shorter = select_from_stream(changed(received=40), stream[:40], scored)
    assert shorter == select_from_stream(CELL, stream, scored)[:2]


def test_the_selection_depends_on_the_estimator_of_entropy() -> None:
    stream, scored = list(range(50)), scored_dialogues()
    selections = [
        select_from_stream(changed(policy="eoe", entropy=estimator), stream, scored)[-1].selected
        for estimator in scored[0].entropies
    ]
    assert len({tuple(indices) for indices in selections}) == 3


def test_limited_annotations_go_to_the_oldest_dialogues_and_never_twice_to_one() -> None:
    stream, scored = list(range(50)), scored_dialogues()
    unlimited = select_from_stream(changed(policy="fifo"), stream, scored)
    assert [checkpoint.questions for checkpoint in unlimited] == [6, 12, 18]
    limited = select_from_stream(changed(policy="fifo", annotations=8), stream, scored)
    assert [checkpoint.questions for checkpoint in limited] == [6, 8, 8]
    assert [sorted(checkpoint.annotated) for checkpoint in limited] == [[14, 15, 16, 17, 18, 19], [34, 35], []]
    assert [checkpoint.selected for checkpoint in limited] == [checkpoint.selected for checkpoint in unlimited]


def test_an_authors_script_is_no_policy_of_the_package() -> None:
    with pytest.raises(KeyError):
        cell_policy(changed(policy="eoe-script"))


# Training data


def test_policies_get_the_same_number_of_synthetic_dialogues_if_originals_have_different_numbers() -> None:
    originals = [Dialogue.of(f"Question {i}?", f"Answer {i}.") for i in range(3)]
    synthetic = [[Dialogue.of(f"Other {i} {n}?", f"Answer {i}.") for n in range(5)] for i in range(3)]
    available = {originals[0].key: synthetic[0], originals[2].key: synthetic[2][:2]}
    checkpoint = SelectionCheckpoint(20, [4, 5, 6], [4, 5, 6], 3)
    data = checkpoint_data(checkpoint, originals, available, 2)
    # The first one of each original, the second one of each, then the remaining ones of the first original.
    assert [example.dialogue for example in data.examples] == [
        *originals,
        *(synthetic[0][0], synthetic[2][0], synthetic[0][1], synthetic[2][1], synthetic[0][2], synthetic[0][3]),
    ]
    assert [example.group for example in data.examples] == [0, 1, 2, 0, 2, 0, 2, 0, 0]
    assert data.metadata == {"received": 20, "kept": [4, 5, 6], "questions": 3, "annotated": 3, "synthetic": 6}
    without = checkpoint_data(checkpoint, originals, available, 0)
    assert [example.dialogue for example in without.examples] == originals
    assert checkpoint_data(checkpoint, originals, available, 9).metadata["synthetic"] == 7  # all that are available


def test_cells_share_synthetic_dialogues_unless_their_generation_differs() -> None:
    cell = changed(synthetic=3, writer="w")
    same: list[dict[str, Any]] = [
        {"policy": "fifo"},
        {"bins": 9},
        {"synthetic": 5},
        {"order": "shuffled"},
        {"training": LoRAConfig(rank=2)},
    ]
    assert {synthesis_key(changed(cell, **change)) for change in same} == {synthesis_key(cell)}
    different: list[dict[str, Any]] = [{"seed": 2}, {"data": "dolly"}, {"writer": "v"}, {"part": "first"}]
    for change in (*different, {"model": "m"}):
        assert synthesis_key(changed(cell, **change)) != synthesis_key(cell)


# The grid


def test_no_cell_is_planned_twice_and_every_block_has_its_base_model() -> None:
    sources = {"dolly": "d", "meddialog": "m"}
    blocks = experiment_blocks(CELL, sources, 2, 3, list(EXPERIMENTS))
    cells = [cell for block in blocks for cell in block.cells]
    keys = [cell.key for cell in cells]
    assert len(keys) == len(set(keys))
    for data, part in itertools.product(sources, ("all", "first", "second")):
        assert any(c.policy == BASE and c.data == data and c.part == part for c in cells)


def test_the_main_experiment_has_all_policies_with_and_without_synthetic_dialogues() -> None:
    blocks = experiment_blocks(CELL, {"dolly": "d"}, 3, 3, ["main", "ablation"])
    cells = [c for block in blocks for c in block.cells if c.policy != BASE]
    assert len(cells) == 7 * 2 * 3
    assert {(c.policy, c.synthetic, c.seed) for c in cells} == set(
        itertools.product(("quality", "random", "fifo", "k-center", "eoe", "dss", "idd"), (0, 3), range(3))
    )


def test_blocks_are_ordered_by_seed() -> None:
    blocks = experiment_blocks(CELL, {"dolly": "d", "alpaca": "a"}, 3, 3, ["main", "own"])
    seeds = [cell.seed for block in blocks for cell in block.cells if cell.policy != BASE]
    assert seeds == sorted(seeds)


def test_sweeps_run_on_the_data_set_of_the_papers_sweeps() -> None:
    for sources, data in (({"dolly": "d", "meddialog": "m"}, "meddialog"), ({"dolly": "d"}, "dolly")):
        blocks = experiment_blocks(CELL, sources, 1, 3, ["synthesis", "buffer"])
        cells = [c for block in blocks for c in block.cells if c.policy != BASE]
        assert {c.data for c in cells} == {data}
        assert {c.synthetic for c in cells if c.bins == 6} == set(range(10))
        assert {c.bins for c in cells if c.policy == "random"} == {32, 64, 128, 256, 512}

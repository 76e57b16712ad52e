"""A study's cells, what their policies keep, and what is learnt: settings, scripts, checkpoints, lessons, the grid."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import numpy as np
import pytest

from mlx_personal import Dialogue
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.study import Cell
from mlx_personal.research.study.authors_script import ScriptSelection
from mlx_personal.research.study.cell import BASE, POLICIES, SCRIPTS
from mlx_personal.research.study.cell_selection import Kept, Scored, policy_of, select
from mlx_personal.research.study.grid import EXPERIMENTS, plan
from mlx_personal.research.study.training_sets import lesson, written_by
from mlx_personal.selection import Candidate

CELL = Cell("alpaca", "abc", "tiny", "f00", 1, "quality", received=50, every=20, bins=6, evaluation=5)


def scored(count: Any = 60, seed: Any = 0) -> Any:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {
        i: Scored(
            text=f"set {i} says {rng.integers(1000)}",
            vector=vectors[i],
            entropies={name: float(rng.random()) for name in ("spectral", "spectral-whole", "histogram")},
            dss=float(rng.random()) / 10,
            domain=("cars", "pets")[i % 2],
        )
        for i in range(count)
    }


def changed(cell: Any = CELL, **changes: Any) -> Any:
    return dataclasses.replace(cell, **changes)


# Settings


@pytest.mark.parametrize(
    "cell",
    [CELL, changed(policy=BASE), changed(synthetic=3, writer="w"), changed(order="shuffled"), changed(annotations=9)],
    ids=["plain", "base", "synthetic", "shuffled", "annotations"],
)
def test_a_cell_survives_json_with_its_key(cell: Any) -> None:
    again = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert again.key == cell.key
    assert again.to_json() == cell.to_json()


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
def test_every_setting_that_matters_changes_the_key(change: Any) -> None:
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
    assert changed(base, training=LoRAConfig(max_tokens=9)).key != base.key


def test_checkpoints_come_every_so_often_and_at_the_end() -> None:
    assert CELL.checkpoints == [20, 40, 50]
    assert changed(received=40).checkpoints == [20, 40]
    assert changed(received=15).checkpoints == [15]
    assert Cell("a", "b", "c", "d", 0, "quality").checkpoints == [800, 1600, 2400, 3200, 4000, 4600]


@pytest.mark.parametrize(
    ("change", "says"),
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
def test_settings_that_make_no_sense_are_refused(change: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        changed(**change)


# The authors' scripts


def offered(score: Any, rows: Any, capacity: Any) -> Any:
    selection = ScriptSelection(score, capacity)
    for number, (domain, vector, value) in enumerate(rows):
        unit = np.array(vector, np.float32) / np.linalg.norm(vector)
        selection.offer(Candidate(number, number, "", unit, value, value, domain))
    return selection


@pytest.mark.parametrize("score", ["eoe", "dss"])
def test_a_script_keeps_lower_scores_of_the_same_domain(score: str) -> None:
    rows = [("a", [1, 0], 0.5), ("b", [1, 0], 0.9), ("a", [1, 0], 0.7), ("a", [1, 0], 0.4), ("b", [1, 0], 0.95)]
    # Full after the first three; 0.4 takes the place of the lowest of its domain, 0.5; 0.95 is above the lowest of its.
    assert offered(score, rows, 3).checkpoint() == [3, 2, 1]


def test_a_script_stores_a_set_twice_when_it_scores_lower_than_what_is_there() -> None:
    assert offered("eoe", [("a", [1, 0], 0.5), ("a", [1, 0], 0.4)], 4).checkpoint() == [1, 1]


def test_a_script_measures_likeness_and_keeps_the_unlike() -> None:
    rows = [("a", [1, 0], 0), ("a", [1, 0.1], 0), ("a", [0, 1], 0)]
    # Likeness on arrival: 0 (an empty domain), near 1, near 0.05: not below the first's 0, which never changes.
    assert offered("idd", rows, 2).checkpoint() == [0, 1]
    assert offered("idd", [*rows, ("a", [-1, -1], 0)], 2).checkpoint() == [3, 1]


def test_a_script_writes_out_and_empties_its_buffer() -> None:
    selection = offered("eoe", [("a", [1, 0], 0.1), ("a", [1, 0], 0.2)], 2)
    assert selection.checkpoint() == [0, 1]
    selection.offer(Candidate(2, 2, "", np.array([1, 0], np.float32), 0.3, 0.3, "a"))
    assert selection.checkpoint() == [0, 1, 2]


# Selection along a stream


@pytest.mark.parametrize("policy", ["random", "weighted"])
def test_the_seed_reaches_what_a_policy_draws(policy: str) -> None:
    kept = [select(changed(policy=policy, seed=seed), list(range(50)), scored())[-1].kept for seed in range(4)]
    assert len({tuple(ids) for ids in kept}) == 4


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_keeps_sets_of_the_stream_at_every_checkpoint(policy: Any) -> None:
    stream = list(np.random.default_rng(3).permutation(60)[:50])
    found = select(changed(policy=policy), stream, scored())
    assert [kept.received for kept in found] == [20, 40, 50]
    for kept in found:
        assert set(kept.kept) <= set(stream[: kept.received])
        assert kept.annotated == kept.kept
        if policy not in SCRIPTS:
            assert len(set(kept.kept)) == 6
    assert found == select(changed(policy=policy), stream, scored())


def test_a_longer_stream_begins_like_a_shorter_one() -> None:
    stream, table = list(range(50)), scored()
    assert select(changed(received=40), stream[:40], table) == select(CELL, stream, table)[:2]


def test_the_estimator_of_entropy_decides_who_stays() -> None:
    stream, table = list(range(50)), scored()
    by = {e: select(changed(policy="eoe", entropy=e), stream, table)[-1].kept for e in table[0].entropies}
    assert len({tuple(kept) for kept in by.values()}) == 3


def test_an_owner_with_a_limit_is_asked_about_the_oldest_first_and_never_twice() -> None:
    stream, table = list(range(50)), scored()
    free = select(changed(policy="fifo"), stream, table)
    assert [kept.questions for kept in free] == [6, 12, 18]
    limited = select(changed(policy="fifo", annotations=8), stream, table)
    assert [kept.questions for kept in limited] == [6, 8, 8]
    assert [sorted(kept.annotated) for kept in limited] == [[14, 15, 16, 17, 18, 19], [34, 35], []]
    assert [kept.kept for kept in limited] == [kept.kept for kept in free]


def test_a_name_without_a_policy_is_an_error() -> None:
    with pytest.raises(KeyError):
        policy_of(changed(policy="eoe-script"))


# Lessons


def test_policies_get_the_same_number_of_synthetic_sets_though_originals_have_different_numbers() -> None:
    originals = [Dialogue.of(f"Question {i}?", f"Answer {i}.") for i in range(3)]
    sets = [[Dialogue.of(f"Other {i} {n}?", f"Answer {i}.") for n in range(5)] for i in range(3)]
    written = {originals[0].key: sets[0], originals[2].key: sets[2][:2]}
    kept = Kept(20, [4, 5, 6], [4, 5, 6], 3)
    two = lesson(kept, originals, written, 2)
    # The first of each, the second of each, then what is left of the one that has more.
    assert list(two.dialogues) == [*originals, sets[0][0], sets[2][0], sets[0][1], sets[2][1], sets[0][2], sets[0][3]]
    assert list(two.sources) == [0, 1, 2, 0, 2, 0, 2, 0, 0]
    assert two.facts == {"received": 20, "kept": [4, 5, 6], "questions": 3, "annotated": 3, "synthetic": 6}
    assert lesson(kept, originals, written, 0).dialogues == originals
    assert lesson(kept, originals, written, 9).facts["synthetic"] == 7  # all there are


def test_cells_share_synthetic_sets_unless_what_writes_them_differs() -> None:
    cell = changed(synthetic=3, writer="w")
    shared = [
        {"policy": "fifo"},
        {"bins": 9},
        {"synthetic": 5},
        {"order": "shuffled"},
        {"training": LoRAConfig(rank=2)},
    ]
    assert {written_by(changed(cell, **change)) for change in shared} == {written_by(cell)}
    for change in ({"seed": 2}, {"data": "dolly"}, {"writer": "v"}, {"part": "first"}, {"model": "m"}):
        assert written_by(changed(cell, **change)) != written_by(cell)


# The grid


def test_no_cell_is_planned_twice_and_every_block_has_its_base() -> None:
    sources = {"dolly": "d", "meddialog": "m"}
    blocks = plan(CELL, sources, 2, 3, list(EXPERIMENTS))
    keys = [cell.key for block in blocks for cell in block.cells]
    assert len(keys) == len(set(keys))
    cells = [cell for block in blocks for cell in block.cells]
    for data, part in itertools.product(sources, ("all", "first", "second")):
        assert any(c.policy == BASE and c.data == data and c.part == part for c in cells)


def test_the_main_experiment_is_all_policies_with_and_without_synthetic_sets() -> None:
    cells = [c for b in plan(CELL, {"dolly": "d"}, 3, 3, ["main", "ablation"]) for c in b.cells if c.policy != BASE]
    assert len(cells) == 7 * 2 * 3
    assert {(c.policy, c.synthetic, c.seed) for c in cells} == set(
        itertools.product(("quality", "random", "fifo", "k-center", "eoe", "dss", "idd"), (0, 3), range(3))
    )


def test_a_grid_cut_off_anywhere_has_whole_seeds_first() -> None:
    blocks = plan(CELL, {"dolly": "d", "alpaca": "a"}, 3, 3, ["main", "own"])
    seeds = [cell.seed for block in blocks for cell in block.cells if cell.policy != BASE]
    assert seeds == sorted(seeds)


def test_sweeps_run_where_the_paper_ran_them() -> None:
    for sources, data in (({"dolly": "d", "meddialog": "m"}, "meddialog"), ({"dolly": "d"}, "dolly")):
        cells = [c for b in plan(CELL, sources, 1, 3, ["synthesis", "buffer"]) for c in b.cells if c.policy != BASE]
        assert {c.data for c in cells} == {data}
        assert {c.synthetic for c in cells if c.bins == 6} == set(range(10))
        assert {c.bins for c in cells if c.policy == "random"} == {32, 64, 128, 256, 512}

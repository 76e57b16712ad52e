"""What a run says of its methods: official figures, intervals over users, paired differences, and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal.errors import UserError
from mlx_personal.research.lamp import lamp_report
from mlx_personal.research.lamp.lamp_database import Records, Result
from mlx_personal.research.lamp.lamp_report import markdown, rows, write_report
from mlx_personal.research.lamp.tasks import TASKS

REVIEWS, MOVIES = TASKS["3"], TASKS["2M"]
FACTS = {"task": "3", "model_name": "small", "server": None}


def result(user: Any, method: Any, pairs: Any, task: Any = "3", **changes: Any) -> Any:
    """A user's result: (prediction, gold) of each query."""
    plain = {
        "predictions": {f"{user}-{i}": said for i, (said, _) in enumerate(pairs)},
        "golds": {f"{user}-{i}": gold for i, (_, gold) in enumerate(pairs)},
        "seconds": {"train": 2.0, "answer": 0.5 * len(pairs)},
        "tokens": {"read": 100 * len(pairs), "written": 3 * len(pairs)},
        "joules": None,
        "adapter_bytes": None,
        "rows": 0,
        "counts": {},
    }
    return Result(task, "s", method, user, {**plain, **changes})


def test_the_figures_are_those_worked_out_by_hand() -> None:
    # Errors 0, 1 | 2, and 4 for what is no number (5 is farther from 1).
    found = rows(
        REVIEWS, [result("a", "oppu", [("5", "5"), ("3", "4")]), result("b", "oppu", [("3", "1"), ("?", "1")])]
    )
    (row,) = found
    assert (row.method, row.users, row.queries, row.differences) == ("oppu", 2, 4, {})
    assert row.metrics["MAE"].value == pytest.approx((0 + 1 + 2 + 4) / 4)
    assert row.metrics["RMSE"].value == pytest.approx(np.sqrt((0 + 1 + 4 + 16) / 4))
    # Of two users a resample is one of them twice, or both: the interval's ends are the two users' own.
    assert (row.metrics["MAE"].low, row.metrics["MAE"].high) == (0.5, 3.0)


def test_a_label_counts_by_its_queries_and_macro_f1_over_all_labels() -> None:
    pairs = [("action", "action"), ("comedy", "action"), ("comedy", "comedy"), ("nonsense", "comedy")]
    (row,) = rows(MOVIES, [result("a", "oppu", pairs, "2M")])
    assert row.metrics["accuracy"].value == 0.5
    # action: precision 1, recall 1/2; comedy: 1/2 and 1/2; thirteen more labels have 0.
    assert row.metrics["f1"].value == pytest.approx((2 / 3 + 1 / 2) / 15)


def users_with_errors(method: Any, errors: Any) -> Any:
    """A user for each list of errors, on golds of 1."""
    return [result(f"u{i}", method, [(str(1 + e), "1") for e in own]) for i, own in enumerate(errors)]


def test_an_interval_is_that_of_users_drawn_with_all_their_queries() -> None:
    """The reference: a bootstrap written out, user by user."""
    rng = np.random.default_rng(3)
    errors = [list(rng.integers(0, 5, rng.integers(1, 6))) for _ in range(12)]
    (row,) = rows(REVIEWS, users_with_errors("oppu", errors))
    means = []
    for _ in range(20_000):
        drawn = np.concatenate([errors[i] for i in rng.integers(0, 12, 12)])
        means.append(drawn.mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert row.metrics["MAE"].low == pytest.approx(low, abs=0.05)
    assert row.metrics["MAE"].high == pytest.approx(high, abs=0.05)
    assert row.metrics["MAE"].value == pytest.approx(np.concatenate(errors).mean())


def test_an_interval_holds_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lamp_report, "RESAMPLES", 400)
    rng, held = np.random.default_rng(0), 0
    for _ in range(200):
        sums = users_with_errors("oppu", rng.integers(0, 5, (40, 1)).tolist())
        (row,) = rows(REVIEWS, sums)
        held += row.metrics["MAE"].low <= 2.0 <= row.metrics["MAE"].high
    assert 180 <= held <= 199


def test_a_difference_is_paired_user_by_user() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 4, (30, 3))
    found = rows(REVIEWS, [*users_with_errors("bm25", base + 1), *users_with_errors("oppu", base)])
    worse, reference = found
    # Users differ by much, each user's two methods by exactly 1.
    assert (worse.metrics["MAE"].high - worse.metrics["MAE"].low) > 0.3
    difference = worse.differences["MAE"]
    assert (difference.value, difference.low, difference.high) == pytest.approx((1.0, 1.0, 1.0))
    assert difference.sign == 1
    assert reference.differences == {}


def test_a_difference_is_taken_on_users_that_both_have() -> None:
    found = rows(REVIEWS, [*users_with_errors("oppu", [[0], [0], [4]]), *users_with_errors("cdcda", [[1], [1]])])
    assert found[1].differences["MAE"].value == 1.0 and found[1].users == 2
    alone = [*users_with_errors("oppu", [[0]]), result("somebody", "cdcda", [("1", "1")])]
    assert rows(REVIEWS, alone)[1].differences == {}


def test_without_the_reference_the_first_method_is_one() -> None:
    found = rows(REVIEWS, [*users_with_errors("bm25", [[0], [2]]), *users_with_errors("profile", [[0], [2]])])
    assert found[0].differences == {}
    same = found[1].differences["MAE"]
    assert (same.value, same.low, same.high, same.sign) == (0.0, 0.0, 0.0, 0)
    text = markdown(REVIEWS, found)
    assert "MAE, difference to bm25" in text and "+0.000 [+0.000, +0.000], no difference" in text


def test_costs_are_means_and_what_nobody_measured_is_none() -> None:
    learnt = {"adapter_bytes": 2048, "rows": 6, "joules": 8.0, "counts": {"no items": 2}}
    of_a = result("a", "oppu", [("1", "1")] * 3, **learnt)
    of_b = result("b", "oppu", [("1", "1")], **{**learnt, "rows": 8, "joules": 4.0, "counts": {"no items": 1}})
    cloud = result("a", "cloud", [("1", "1")], tokens={}, seconds={"train": 0.0, "answer": 2.0})
    row, server = rows(REVIEWS, [of_a, of_b, cloud])
    assert (row.train_seconds, row.answer_seconds) == (2.0, 0.5)
    assert (row.tokens_read, row.tokens_written, row.joules) == (100.0, 3.0, 6.0)
    assert (row.adapter_kb, row.rows, row.counts) == (2.0, 7.0, {"no items": 3})
    assert (server.tokens_read, server.joules, server.adapter_kb, server.answer_seconds) == (None, None, None, 2.0)
    text = markdown(REVIEWS, [row, server])
    assert "- oppu: 3 no items" in text and "- cloud" not in text


def test_a_table_has_a_line_a_method(tmp_path: Path) -> None:
    found = [*users_with_errors("oppu", [[0], [2]]), *users_with_errors("cdcda", [[0], [0]])]
    with Records(tmp_path / "run", write=True) as records:
        records.add_setting("s", FACTS)
        records.add_setting("empty", FACTS)
        for place, one in enumerate(found):
            records.add(str(place), place, one)
        text = write_report(records, tmp_path / "tables.md")
    assert (tmp_path / "tables.md").read_text() == text
    assert text.startswith("## LaMP-3, small; synthetic records by the model itself\n")
    lines = [line for line in text.splitlines() if line.startswith("| oppu")]
    assert len(lines) == 2 and "1.000 [0.000, 2.000]" in lines[0]
    assert text.count("## ") == 1


def test_a_run_without_results_says_so(tmp_path: Path) -> None:
    with Records(tmp_path / "run", write=True) as records:
        records.add_setting("s", FACTS)
        with pytest.raises(UserError, match="this run has no results yet"):
            write_report(records)
    assert rows(REVIEWS, []) == []


def test_a_newer_result_takes_the_place_of_the_old_and_all_come_back_in_the_files_order(tmp_path: Path) -> None:
    first, other = result("a", "oppu", [("1", "1")]), result("b", "oppu", [("2", "2")])
    with Records(tmp_path / "run", write=True) as records:
        records.add("2", 1, other)
        records.add("1", 0, other)
        records.add("1", 0, first)
    with Records(tmp_path / "run") as records:
        assert records.results("s") == [first, other] and records.results("t") == []
        assert records.unanswered("1") == 0 and records.unanswered("3") is None


def test_one_user_tells_no_difference(tmp_path: Path) -> None:
    found = rows(TASKS["3"], [result("a", "oppu", [("1", "1")]), result("a", "bm25", [("1", "3")])])
    assert [row.differences for row in found] == [{}, {}]
    assert "[" not in markdown(TASKS["3"], found)

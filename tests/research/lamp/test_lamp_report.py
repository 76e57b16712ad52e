"""Tables of a run: official metrics, intervals over users, paired differences, and costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal.errors import UserError
from mlx_personal.research.lamp import lamp_report
from mlx_personal.research.lamp.lamp_database import LampDatabase
from mlx_personal.research.lamp.lamp_report import method_rows, method_tables, write_report
from mlx_personal.research.lamp.lamp_results import MethodResult, StoredResult
from mlx_personal.research.lamp.tasks import TASKS

REVIEWS, MOVIES = TASKS["3"], TASKS["2M"]
METADATA = {"task": "3", "model_name": "small", "server": None}


def stored(user: str, method: str, pairs: list[tuple[str, str]], task: str = "3", **changes: Any) -> StoredResult:
    """Return a user's result for (prediction, gold) of each query."""
    fields: dict[str, Any] = {
        "predictions": {f"{user}-{i}": prediction for i, (prediction, _) in enumerate(pairs)},
        "golds": {f"{user}-{i}": gold for i, (_, gold) in enumerate(pairs)},
        "train_s": 2.0,
        "answer_s": 0.5 * len(pairs),
        "tokens_read": 100 * len(pairs),
        "tokens_written": 3 * len(pairs),
        **changes,
    }
    return StoredResult(task, "s", method, user, MethodResult(**fields))


def test_the_metrics_are_those_computed_by_hand() -> None:
    # Errors 0, 1 | 2, and 4 for a text that is not a number (5 is farther from 1).
    rows = method_rows(
        REVIEWS, [stored("a", "oppu", [("5", "5"), ("3", "4")]), stored("b", "oppu", [("3", "1"), ("?", "1")])]
    )
    (row,) = rows
    assert (row.method, row.num_users, row.num_queries, row.differences) == ("oppu", 2, 4, {})
    assert row.metrics["MAE"].value == pytest.approx((0 + 1 + 2 + 4) / 4)
    assert row.metrics["RMSE"].value == pytest.approx(np.sqrt((0 + 1 + 4 + 16) / 4))
    # A resample of two users is one of them twice, or both: the bounds are the values of the two users.
    assert (row.metrics["MAE"].low, row.metrics["MAE"].high) == (0.5, 3.0)


def test_accuracy_is_over_queries_and_macro_f1_over_all_labels() -> None:
    pairs = [("action", "action"), ("comedy", "action"), ("comedy", "comedy"), ("no label", "comedy")]
    (row,) = method_rows(MOVIES, [stored("a", "oppu", pairs, "2M")])
    assert row.metrics["accuracy"].value == 0.5
    # action: precision 1, recall 1/2; comedy: 1/2 and 1/2; thirteen more labels have 0.
    assert row.metrics["f1"].value == pytest.approx((2 / 3 + 1 / 2) / 15)


def users_with_errors(method: str, errors: Iterable[Iterable[int]]) -> list[StoredResult]:
    """Return a user for each list of errors, on gold ratings of 1."""
    return [stored(f"u{i}", method, [(str(1 + error), "1") for error in of_user]) for i, of_user in enumerate(errors)]


def test_users_are_resampled_with_all_their_queries() -> None:
    """The reference is a bootstrap that draws user by user."""
    rng = np.random.default_rng(3)
    errors = [list(rng.integers(0, 5, rng.integers(1, 6))) for _ in range(12)]
    (row,) = method_rows(REVIEWS, users_with_errors("oppu", errors))
    means = []
    for _ in range(20_000):
        drawn = np.concatenate([errors[i] for i in rng.integers(0, 12, 12)])
        means.append(drawn.mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert row.metrics["MAE"].low == pytest.approx(low, abs=0.05)
    assert row.metrics["MAE"].high == pytest.approx(high, abs=0.05)
    assert row.metrics["MAE"].value == pytest.approx(np.concatenate(errors).mean())


def test_the_interval_covers_the_true_value_in_95_percent_of_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lamp_report, "NUM_RESAMPLES", 400)
    rng, num_covered = np.random.default_rng(0), 0
    for _ in range(200):
        (row,) = method_rows(REVIEWS, users_with_errors("oppu", rng.integers(0, 5, (40, 1)).tolist()))
        num_covered += row.metrics["MAE"].low <= 2.0 <= row.metrics["MAE"].high
    assert 180 <= num_covered <= 199


def test_a_difference_is_paired_by_user() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 4, (30, 3))
    results = [*users_with_errors("bm25", base + 1), *users_with_errors("oppu", base)]
    worse, reference = method_rows(REVIEWS, results)
    # The users differ much, the two methods of each user by exactly 1.
    assert (worse.metrics["MAE"].high - worse.metrics["MAE"].low) > 0.3
    difference = worse.differences["MAE"]
    assert (difference.value, difference.low, difference.high) == pytest.approx((1.0, 1.0, 1.0))
    assert difference.sign == 1
    assert reference.differences == {}


def test_a_difference_is_over_the_users_of_both_methods() -> None:
    results = [*users_with_errors("oppu", [[0], [0], [4]]), *users_with_errors("cdcda", [[1], [1]])]
    _, row = method_rows(REVIEWS, results)
    assert row.differences["MAE"].value == 1.0 and row.num_users == 2
    alone = [*users_with_errors("oppu", [[0]]), stored("somebody", "cdcda", [("1", "1")])]
    assert method_rows(REVIEWS, alone)[1].differences == {}


def test_without_the_reference_the_first_method_is_the_reference() -> None:
    results = [*users_with_errors("bm25", [[0], [2]]), *users_with_errors("profile", [[0], [2]])]
    reference, other = method_rows(REVIEWS, results)
    assert reference.differences == {}
    equal = other.differences["MAE"]
    assert (equal.value, equal.low, equal.high, equal.sign) == (0.0, 0.0, 0.0, 0)
    text = method_tables(REVIEWS, [reference, other])
    assert "MAE, difference to bm25" in text and "+0.000 [+0.000, +0.000], no difference" in text


def test_costs_are_means_and_none_where_not_measured() -> None:
    costs: dict[str, Any] = {
        "adapter_bytes": 2048,
        "training_samples": 6,
        "energy_joules": 8.0,
        "counts": {"no items": 2},
    }
    of_a = stored("a", "oppu", [("1", "1")] * 3, **costs)
    costs |= {"training_samples": 8, "energy_joules": 4.0, "counts": {"no items": 1, "no sentence": 4}}
    of_b = stored("b", "oppu", [("1", "1")], **costs)
    cloud = stored("a", "cloud", [("1", "1")], tokens_read=None, tokens_written=None, train_s=0.0, answer_s=2.0)
    row, server = method_rows(REVIEWS, [of_a, of_b, cloud])
    assert (row.train_s, row.answer_s) == (2.0, 0.5)
    assert (row.tokens_read, row.tokens_written, row.energy_joules) == (100.0, 3.0, 6.0)
    assert (row.adapter_kb, row.training_samples) == (2.0, 7.0)
    assert row.counts == {"no items": 3, "no sentence": 4}
    assert (server.tokens_read, server.energy_joules, server.adapter_kb, server.answer_s) == (None, None, None, 2.0)
    text = method_tables(REVIEWS, [row, server])
    assert "- oppu: 3 no items, 4 queries without a summary of the user\n" in text and "- cloud" not in text


def test_a_table_has_a_line_for_each_method(tmp_path: Path) -> None:
    results = [*users_with_errors("oppu", [[0], [2]]), *users_with_errors("cdcda", [[0], [0]])]
    with LampDatabase(tmp_path / "run", write=True) as database:
        database.save_setting("s", METADATA)
        database.save_setting("empty", METADATA)
        for index, result in enumerate(results):
            database.save_result(str(index), index, result)
        text = write_report(database, tmp_path / "tables.md")
    assert (tmp_path / "tables.md").read_text() == text
    assert text.startswith("## LaMP-3, small; synthetic records by the model itself\n")
    lines = [line for line in text.splitlines() if line.startswith("| oppu")]
    assert len(lines) == 2 and "1.000 [0.000, 2.000]" in lines[0]
    assert text.count("## ") == 1


def test_a_run_without_results_is_a_user_error(tmp_path: Path) -> None:
    with LampDatabase(tmp_path / "run", write=True) as database:
        database.save_setting("s", METADATA)
        with pytest.raises(UserError, match="this run has no results yet"):
            write_report(database)
    assert method_rows(REVIEWS, []) == []


def test_a_newer_result_replaces_the_old_one_and_results_keep_the_order_of_the_file(tmp_path: Path) -> None:
    first, other = stored("a", "oppu", [("1", "1")]), stored("b", "oppu", [("2", "2")])
    with LampDatabase(tmp_path / "run", write=True) as database:
        database.save_result("2", 1, other)
        database.save_result("1", 0, other)
        database.save_result("1", 0, first)
    with LampDatabase(tmp_path / "run") as database:
        assert database.results("s") == [first, other] and database.results("t") == []
        assert database.num_unanswered("1") == 0 and database.num_unanswered("3") is None


def test_one_user_gives_no_interval_and_no_difference() -> None:
    rows = method_rows(TASKS["3"], [stored("a", "oppu", [("1", "1")]), stored("a", "bm25", [("1", "3")])])
    assert [row.differences for row in rows] == [{}, {}]
    assert "[" not in method_tables(TASKS["3"], rows)


HEADLINES = TASKS["4"]


def test_a_metric_that_cannot_score_any_gold_says_so() -> None:
    results = [
        *(stored(user, "oppu", [("дождь и снег", "снег")], "4") for user in "ab"),
        *(stored(user, "bm25", [("дождь", "снег")], "4") for user in "ab"),
    ]
    rows = method_rows(HEADLINES, results)
    assert [row.metrics["rouge-1"].value for row in rows] == [0.0, 0.0]
    assert [row.metrics["rouge-1 (Unicode)"].value for row in rows] == [pytest.approx(1 / 2), 0.0]
    assert rows[1].differences["rouge-1 (Unicode)"].value == pytest.approx(-1 / 2)
    assert rows[0].to_json()["unscorable"] == {"rouge-1": 2, "rouge-L": 2}
    text = method_tables(HEADLINES, rows)
    header, _, oppu, bm25 = text.splitlines()[:4]
    assert "| rouge-1 (Unicode) | rouge-L (Unicode) |" in header
    assert oppu.count("not scorable") == 2 and "0.500 [0.500, 0.500]" in oppu
    assert bm25.count("not scorable") == 3 and "-0.500 [-0.500, -0.500]" in bm25 and "no difference" not in text
    assert "2 of 2 gold answers have none of a-z and 0-9, so they count 0 in LaMP's." in text


def test_what_no_tokenizer_can_score_is_counted_beside_the_rest() -> None:
    rows = method_rows(HEADLINES, [stored("a", "oppu", [("sun", "sun"), ("sun", "..."), ("sun", "Sonne ☀")], "4")])
    assert rows[0].metrics["rouge-1"].value == pytest.approx(1 / 3)
    assert rows[0].to_json()["unscorable"] == dict.fromkeys(rows[0].metrics, 1)
    assert "1 have no word and no emoji, so they count 0 in both." in method_tables(HEADLINES, rows)


def test_a_table_of_ascii_texts_has_lamps_metrics_alone() -> None:
    text = method_tables(HEADLINES, method_rows(HEADLINES, [stored("a", "oppu", [("sun", "sun and rain")], "4")]))
    assert "Unicode" not in text and "| rouge-1 | rouge-L |" in text


def test_users_without_a_gold_answer_are_not_scored() -> None:
    without = stored("b", "oppu", [("3", "")], golds={})
    results = [stored("a", "oppu", [("5", "4")]), without, stored("c", "oppu", [("1", "3")])]
    others = [dataclasses.replace(result, method="bm25") for result in results]
    row, other = method_rows(REVIEWS, [*results, *others])
    assert row.metrics["MAE"].value == pytest.approx(1.5)
    assert (row.metrics["MAE"].low, row.metrics["MAE"].high) == (1.0, 2.0)
    assert (row.num_users, row.num_queries, other.differences["MAE"].value) == (3, 3, 0.0)
    assert method_rows(REVIEWS, [without]) == []

"""Tables of a run: official metrics, intervals over users, paired gains, costs, and what a file of results may hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal.errors import UserError
from mlx_personal.research.lamp.lamp_config import PROTOCOL
from mlx_personal.research.lamp.lamp_folder import LampFolder, LampSetting, writable_folder
from mlx_personal.research.lamp.lamp_report import MethodRow, method_rows, method_tables, write_report
from mlx_personal.research.lamp.lamp_results import MethodAnswers, MethodResult
from mlx_personal.research.lamp.lamp_users import FileCounts
from mlx_personal.research.lamp.metrics import pair_statistics
from mlx_personal.research.lamp.tasks import TASKS

METADATA = {"protocol": PROTOCOL, "task": "3", "model_name": "small", "server": None}

Pairs = list[tuple[str, str]]


def user_result(pairs: Pairs, task: str = "3", **changes: Any) -> MethodResult:
    """Return a user's result for (prediction, gold) of each query."""
    scored = [(prediction, gold) for prediction, gold in pairs if gold]
    sums = pair_statistics(TASKS[task], [text for text, _ in scored], [gold for _, gold in scored]).sum(axis=0)
    fields: dict[str, Any] = {
        "train_s": 2.0,
        "answer_s": 0.5 * len(pairs),
        "tokens_read": 100 * len(pairs),
        "tokens_written": 3 * len(pairs),
        **changes,
    }
    return MethodResult(sums.tolist(), len(pairs), **fields)


def rows_of(task: str = "3", /, **methods: Sequence[Pairs | MethodResult]) -> list[MethodRow]:
    """Return the rows of methods with a list of pairs, or a result, for each user; `_` stands for `-`."""
    results = {
        name.replace("_", "-"): {
            number: of_user if isinstance(of_user, MethodResult) else user_result(of_user, task)
            for number, of_user in enumerate(users)
        }
        for name, users in methods.items()
    }
    return method_rows(LampSetting(TASKS[task], METADATA, FileCounts(), results))


def errors(values: Iterable[Iterable[int]]) -> list[Pairs | MethodResult]:
    """Return a user for each list of errors, on gold ratings of 1."""
    return [[(str(1 + error), "1") for error in of_user] for of_user in values]


def test_the_metrics_are_those_computed_by_hand() -> None:
    # Errors 0, 1 | 2, and 4 for a text that is not a number (5 is farther from 1).
    (row,) = rows_of(oppu=[[("5", "5"), ("3", "4")], [("3", "1"), ("?", "1")]])
    assert (row.method, row.num_users, row.num_queries, row.gains) == ("oppu", 2, 4, {})
    # A resample of two users is one of them twice, or both: the ends are the values of the two users.
    assert row.metrics["MAE"] == pytest.approx(((0 + 1 + 2 + 4) / 4, 0.5, 3.0))
    assert row.metrics["RMSE"].value == pytest.approx(np.sqrt((0 + 1 + 4 + 16) / 4))


def test_accuracy_is_over_queries_and_macro_f1_over_all_labels() -> None:
    pairs = [("action", "action"), ("comedy", "action"), ("comedy", "comedy"), ("no label", "comedy")]
    (row,) = rows_of("2M", oppu=[pairs])
    assert row.metrics["accuracy"].value == 0.5
    # action: precision 1, recall 1/2; comedy: 1/2 and 1/2; thirteen more labels have 0.
    assert row.metrics["f1"].value == pytest.approx((2 / 3 + 1 / 2) / 15)


def test_users_are_resampled_with_all_their_queries() -> None:
    """The reference is a bootstrap that draws user by user."""
    rng = np.random.default_rng(3)
    values = [list(rng.integers(0, 5, rng.integers(1, 6))) for _ in range(12)]
    (row,) = rows_of(oppu=errors(values))
    means = [np.concatenate([values[i] for i in rng.integers(0, 12, 12)]).mean() for _ in range(10_000)]
    expected = (np.concatenate(values).mean(), *np.quantile(means, [0.025, 0.975]))
    assert row.metrics["MAE"] == pytest.approx(expected, abs=0.05)


def test_a_gain_is_paired_by_user_and_positive_where_the_error_is_lower() -> None:
    base = np.random.default_rng(1).integers(0, 4, (30, 3))
    worse, better = rows_of(non_personalized=errors(base + 1), oppu=errors(base))
    # The users differ much, the two methods of each user by exactly 1.
    assert (worse.metrics["MAE"].high - worse.metrics["MAE"].low) > 0.3
    assert better.gains["non-personalized"]["MAE"] == pytest.approx((1.0, 1.0, 1.0))
    assert worse.gains["oppu"]["MAE"] == pytest.approx((-1.0, -1.0, -1.0))
    text = method_tables(TASKS["3"], [worse, better])
    assert "Gains: how much lower MAE is, paired by user.\n" in text
    assert "| method | gain over non-personalized | gain over oppu |\n" in text
    assert "| oppu | +1.000 (+1.000 to +1.000) | - |\n" in text


def test_a_gain_in_accuracy_is_positive_where_it_is_higher() -> None:
    wrong, right = [("action", "comedy")], [("comedy", "comedy")]
    row, _ = rows_of("2M", cdcda=[right, right, wrong], majority=[wrong, right, wrong])
    gain = row.gains["majority"]["accuracy"]
    assert gain.value == pytest.approx(1 / 3) and (gain.low, gain.sign) == (0.0, 0)
    text = method_tables(TASKS["2M"], [row])
    assert "how much higher accuracy is" in text and "+0.333 (+0.000 to +1.000), no difference" in text


def test_a_gain_is_over_the_users_of_both_methods() -> None:
    _, row = rows_of(oppu=errors([[0], [0], [4]]), cdcda=errors([[1], [1]]))
    assert row.gains["oppu"]["MAE"].value == -1.0 and row.num_users == 2
    assert [row.gains for row in rows_of(oppu=errors([[0]]), cdcda=errors([[1]]))] == [{}, {}]


def test_methods_are_compared_with_the_references_only() -> None:
    rows = rows_of(profile=errors([[0], [2]]), recency=errors([[0], [2]]))
    assert [row.gains for row in rows] == [{}, {}] and "Gains" not in method_tables(TASKS["3"], rows)
    users = errors([[0], [2]])
    *_, row = rows_of(non_personalized=users, majority=users, bm25=users, oppu=users, cdcda=users)
    assert list(row.gains) == ["non-personalized", "majority", "bm25", "oppu"]


def test_costs_are_means_and_none_where_not_measured() -> None:
    costs: dict[str, Any] = {
        "adapter_bytes": 2048,
        "training_samples": 6,
        "energy_joules": 8.0,
        "counts": {"items shortened": 2},
    }
    of_a = user_result([("1", "1")] * 3, **costs)
    costs |= {"training_samples": 8, "energy_joules": 4.0, "counts": {"items shortened": 1, "empty answers": 4}}
    of_b = user_result([("1", "1")], **costs)
    cloud = user_result([("1", "1")], tokens_read=None, tokens_written=None, train_s=0.0, answer_s=2.0)
    row, server = rows_of(oppu=[of_a, of_b], cloud=[cloud])
    assert row.costs == {
        "train_seconds": 2.0,
        "answer_seconds": 0.5,
        "tokens_read": 100.0,
        "tokens_written": 3.0,
        "joules": 6.0,
        "adapter_kb": 2.0,
        "training_samples": 7.0,
    }
    assert row.counts == {"items shortened": 3, "empty answers": 4}
    unknown = [name for name, cost in server.costs.items() if cost is None]
    assert unknown == ["tokens_read", "tokens_written", "joules", "adapter_kb"]
    assert server.costs["answer_seconds"] == 2.0 and server.to_json()["answer_seconds"] == 2.0
    text = method_tables(TASKS["3"], [row, server])
    assert "- oppu: 3 items shortened, 4 empty answers\n" in text and "- cloud" not in text


def test_one_user_gives_no_interval_and_no_gain() -> None:
    rows = rows_of(oppu=[[("1", "1")]], bm25=[[("1", "3")]])
    assert [row.gains for row in rows] == [{}, {}]
    assert " to " not in method_tables(TASKS["3"], rows)


HEADLINES = TASKS["4"]


def test_a_metric_that_cannot_score_any_gold_says_so() -> None:
    rows = rows_of("4", oppu=[[("дождь и снег", "снег")]] * 2, bm25=[[("дождь", "снег")]] * 2)
    assert [row.metrics["rouge-1"].value for row in rows] == [0.0, 0.0]
    assert [row.metrics["rouge-1 (Unicode)"].value for row in rows] == [pytest.approx(1 / 2), 0.0]
    assert rows[1].gains["oppu"]["rouge-1 (Unicode)"].value == pytest.approx(-1 / 2)
    assert rows[0].to_json()["unscorable"] == {"rouge-1": 2, "rouge-L": 2}
    text = method_tables(HEADLINES, rows)
    header, _, oppu, bm25 = text.splitlines()[:4]
    assert "| rouge-1 (Unicode) | rouge-L (Unicode) |" in header
    assert oppu.count("not scorable") == 2 and "0.500 (0.500 to 0.500)" in oppu and bm25.count("not scorable") == 2
    assert "| bm25 | - | not scorable |\n" in text and "| bm25 | - | -0.500 (-0.500 to -0.500) |\n" in text
    assert "2 of 2 gold answers have none of a-z and 0-9, so they count 0 in LaMP's." in text


def test_what_no_tokenizer_can_score_is_counted_beside_the_rest() -> None:
    rows = rows_of("4", oppu=[[("sun", "sun"), ("sun", "..."), ("sun", "Sonne ☀")]])
    assert rows[0].metrics["rouge-1"].value == pytest.approx(1 / 3)
    assert rows[0].to_json()["unscorable"] == dict.fromkeys(rows[0].metrics, 1)
    assert "1 have no word and no emoji, so they count 0 in both." in method_tables(HEADLINES, rows)


def test_a_table_of_ascii_texts_has_lamps_metrics_alone() -> None:
    text = method_tables(HEADLINES, rows_of("4", oppu=[[("sun", "sun and rain")]]))
    assert "Unicode" not in text and "| rouge-1 | rouge-L |" in text


def test_users_without_a_gold_answer_are_not_scored() -> None:
    users: list[Pairs] = [[("5", "4")], [("3", "")], [("1", "3")]]
    row, other = rows_of(oppu=users, bm25=users)
    assert row.metrics["MAE"] == pytest.approx((1.5, 1.0, 2.0))
    assert (row.num_users, row.num_queries, other.gains["oppu"]["MAE"].value) == (3, 3, 0.0)
    assert rows_of(oppu=[[("3", "")]]) == []


# A folder of results


def write_run(path: Path, *settings: str, **counts: int) -> LampFolder:
    """Write a run with two users, whose first result was replaced."""
    with writable_folder(path) as folder:
        for setting in settings:
            folder.add_setting(setting, METADATA, FileCounts(users=2, queries=2, items=4, **counts))
        for user, prediction in ((1, "3"), (0, "5"), (0, "1")):
            folder.add_answers(
                "s", user, "oppu", MethodAnswers({f"q{user}": prediction}, user_result([(prediction, "1")]))
            )
    return folder


def test_a_table_has_a_line_for_each_method(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "s", "without results", empty_profiles=1)
    folder = LampFolder(tmp_path / "run")
    text = write_report(folder, tmp_path / "tables.md")
    assert (tmp_path / "tables.md").read_text() == text
    assert text.startswith("## LaMP-3, small; synthetic records by the model itself\n")
    assert "\n2 users, 2 queries, 4 items.\n1 users have no items.\n" in text
    lines = [line for line in text.splitlines() if line.startswith("| oppu")]
    assert len(lines) == 2 and "1.000 (0.000 to 2.000)" in lines[0]
    assert text.count("## ") == 1


def test_a_newer_result_replaces_the_old_one_and_reading_gives_what_was_written(tmp_path: Path) -> None:
    written = write_run(tmp_path / "run", "s")
    read = LampFolder(tmp_path / "run")
    assert read.settings == written.settings and list(read.settings["s"].results) == ["oppu"]
    assert read.result("s", 0, "oppu") == user_result([("1", "1")]) and read.result("s", 2, "oppu") is None
    assert read.predictions("s") == {"oppu": {0: {"q0": "1"}, 1: {"q1": "3"}}}
    # The counts of the most users are those of the report.
    with writable_folder(tmp_path / "run") as folder:
        for users in (3, 1):
            folder.add_setting("s", METADATA, FileCounts(users=users))
    again = LampFolder(tmp_path / "run").settings["s"]
    assert again.counts.users == 3 and again.results == read.settings["s"].results


def test_a_run_without_results_is_a_user_error(tmp_path: Path) -> None:
    with writable_folder(tmp_path / "run") as folder:
        folder.add_setting("s", METADATA, FileCounts())
    with pytest.raises(UserError, match="no results of a LaMP run here"):
        write_report(LampFolder(tmp_path / "run"))


def edit_lines(path: Path, number: int, **changes: Any) -> None:
    """Change fields of a line of a file of results."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[number].update(changes)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_results_of_another_version_are_left_out_and_counted(tmp_path: Path) -> None:
    write_run(tmp_path, "s")
    file = tmp_path / "results.jsonl"
    edit_lines(file, 0, metadata={**METADATA, "protocol": PROTOCOL - 1})
    with pytest.raises(UserError, match="all 3 results are of another version of mlx-personal"):
        write_report(LampFolder(tmp_path))
    new = file.read_text().replace('"s"', '"t"').replace(f'"protocol": {PROTOCOL - 1}', f'"protocol": {PROTOCOL}')
    file.write_text(file.read_text() + new)
    text = write_report(LampFolder(tmp_path))
    assert "| oppu | 2 | 2 |" in text and "Left out: 3 results of another version of mlx-personal.\n" in text


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (0, {"metadata": {"protocol": PROTOCOL, "task": "9"}}),
        (0, {"files": {"visitors": 3}}),
        (0, {"metadata": 5}),
        (1, {"user": "nobody"}),
        (1, {"result": {"sums": [1.0, 2.0, 4.0]}}),
        (1, {"result": {"sums": [1.0], "num_queries": 1}}),
        (1, {"result": {"sums": ["a", "b", "c"], "num_queries": 1}}),
        (1, {"result": dataclasses.asdict(user_result([("1", "1")])) | {"mood": "good"}}),
    ],
)
def test_a_line_that_cannot_be_read_is_a_user_error(tmp_path: Path, number: int, changes: dict[str, Any]) -> None:
    write_run(tmp_path, "s")
    edit_lines(tmp_path / "results.jsonl", number, **changes)
    with pytest.raises(UserError) as raised:
        LampFolder(tmp_path)
    assert f"results.jsonl: line {number + 1} is not one that this version" in raised.value.line()
    assert "\n" not in raised.value.line()


def test_a_run_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        writable_folder(tmp_path),
        pytest.raises(UserError, match="in use by another process"),
        writable_folder(tmp_path),
    ):
        pass

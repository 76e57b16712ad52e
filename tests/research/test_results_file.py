"""Results as JSON Lines: appended one by one, and read again after an interruption or damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import UserError
from mlx_personal.research.results_file import append_result, read_results

ROWS: list[dict[str, Any]] = [{"a": 1}, {"b": [0.5, "ü"]}, {"c": None}]


def test_rows_are_read_in_the_order_in_which_they_were_appended(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "results.jsonl"
    assert read_results(file) == []
    for row in ROWS:
        append_result(file, row)
    assert read_results(file) == ROWS
    assert [json.loads(line) for line in file.read_text().splitlines()] == ROWS


@pytest.mark.parametrize("kept_bytes", range(1, 8))
def test_an_incomplete_last_line_is_left_out_and_overwritten(tmp_path: Path, kept_bytes: int) -> None:
    file = tmp_path / "results.jsonl"
    append_result(file, ROWS[0])
    complete = file.read_bytes()
    append_result(file, ROWS[1])
    file.write_bytes(file.read_bytes()[: len(complete) + kept_bytes])
    assert read_results(file) == ROWS[:1]
    append_result(file, ROWS[2])
    assert read_results(file) == [ROWS[0], ROWS[2]]


@pytest.mark.parametrize("line", ["{not json}", "[1, 2]", "", "\x00\x00"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(f'{{"a": 1}}\n{line}\n{{"b": 2}}\n')
    with pytest.raises(UserError, match="line 2 is not a JSON object; restore the file, or remove that line"):
        read_results(file)


def test_a_value_that_json_does_not_have_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="JSON"):
        append_result(file, {"a": float("nan")})
    assert not file.exists()


def test_a_folder_instead_of_the_file_is_one_line(tmp_path: Path) -> None:
    for use in (read_results, lambda path: append_result(path, {})):
        with pytest.raises(UserError) as raised:
            use(tmp_path)
        assert "\n" not in raised.value.line()

"""The page of a study: which cells are compared, what the tables and figures show."""

from __future__ import annotations

import json
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mlx_personal import UserError
from mlx_personal.research.statistics import gain_interval
from mlx_personal.research.study.cell import BASE
from mlx_personal.research.study.profile_run import ADAPTER, BOTH, MEMORY
from mlx_personal.research.study.report import DEFAULT, ONE_ANSWER, group_cells, summarize, write_report
from tests.support.study_cells import MODE_GAINS, POLICY_GAINS, finished_grid, make_cell, make_result

CELLS = finished_grid()


def test_the_cells_of_a_setting_are_grouped_over_their_seeds() -> None:
    groups = group_cells(CELLS)
    assert {(group.cell.data, group.cell.policy) for group in groups} == {
        (data, policy) for data in ("alpaca", "dolly") for policy in ("quality", "random", "weighted")
    }
    assert all(sorted(group.results) == sorted(group.base) == [0, 1, 2] for group in groups)
    # Without its base model a cell cannot be compared.
    assert group_cells([(make_cell(), make_result(make_cell()))]) == []
    two = [*CELLS, *finished_grid(data=["alpaca"], synthetic=2, seeds=1)]
    assert len(group_cells(two)) == len(groups) + 3


@pytest.mark.parametrize("mode", [MEMORY, ADAPTER, BOTH])
def test_gains_are_those_of_paired_values(mode: str) -> None:
    group = next(group for group in group_cells(CELLS) if group.cell.policy == "quality")
    stored = {cell.key: result for cell, result in CELLS}
    before = [v for s in range(3) for v in stored[make_cell(BASE, s).key]["modes"][BASE]["rouge1"]]
    after = [v for s in range(3) for v in stored[make_cell("quality", s).key]["modes"][mode]["rouge1"]]
    gain = group.gain(mode, BASE, "rouge1")
    assert gain is not None and gain.value == pytest.approx(statistics.fmean(after) - statistics.fmean(before))
    assert gain.low < MODE_GAINS[mode] + POLICY_GAINS["quality"] < gain.high
    assert gain == gain_interval(before, after)


def test_the_default_is_what_each_profile_chose() -> None:
    cells = finished_grid(["quality"], ["alpaca"], seeds=2)
    cells[2][1]["default"], cells[3][1]["default"] = BASE, ADAPTER
    (group,) = group_cells(cells)
    expected = [*cells[0][1]["modes"][BASE]["rouge1"], *cells[3][1]["modes"][ADAPTER]["rouge1"]]
    assert group.values(DEFAULT, "rouge1") == expected
    gain = group.gain(ONE_ANSWER, BASE, "rouge1")
    assert gain is not None and gain.value == pytest.approx(0.13)


def test_the_page_counts_the_data_sets_on_which_the_default_is_better(tmp_path: Path) -> None:
    write_report([*finished_grid(data=["alpaca"]), *finished_grid(data=["dolly"], default=BASE)], tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "on 1 of 2 in log-likelihood, 1 of 2 in MRR, 1 of 2 in ROUGE-1" in page
    assert "better than one answer for all on 1 of 2 in ROUGE-1" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| DOLLY | ROUGE-1")]
    assert row.endswith("| +0.000 (+0.000 to +0.000) |")
    assert "| ALPACA | weighted | 26 | +0.0" in page and "| ALPACA | random |" not in page


def test_settings_that_differ_are_not_compared(tmp_path: Path) -> None:
    cells = [*finished_grid(data=["alpaca"]), *finished_grid(data=["alpaca"], part="first", bins=16)]
    files = write_report(cells, tmp_path)
    assert [section["setting"] for section in summarize(cells)["settings"]] == [
        "tiny: streams of up to 300 dialogues, 32 bins, 2 examples in the prompt, 3 epochs at 0.0003",
        "tiny, the first half of the data: streams of up to 300 dialogues, 16 bins, 2 examples in the prompt, 3 epochs "
        "at 0.0003",
    ]
    assert [file.name for file in files] == [
        *("report.md", "report.json", "modes-1.svg", "policies-1.svg", "modes-2.svg", "policies-2.svg")
    ]
    for file in files[2:]:
        text = "".join(ElementTree.fromstring(file.read_text()).itertext())
        assert file.read_text() == (tmp_path / file.name).read_text() and text is not None
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(summarize(cells)))


def test_a_page_without_the_papers_policy_or_the_baseline_has_the_other_table(tmp_path: Path) -> None:
    write_report(finished_grid(["weighted", "random"], ["alpaca"]), tmp_path / "a")
    assert "default over base" not in (tmp_path / "a" / "report.md").read_text()
    files = write_report(finished_grid(["quality"], ["alpaca"]), tmp_path / "b")
    assert "### Policies" not in (tmp_path / "b" / "report.md").read_text()
    assert "policies-1.svg" not in [file.name for file in files]


def test_the_same_cells_give_the_same_files(tmp_path: Path) -> None:
    first, second = (write_report(CELLS, tmp_path / name) for name in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_without_a_comparable_cell_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no cell with its base model has finished; run more of the study first"):
        write_report([(make_cell(), make_result(make_cell()))], tmp_path)


def test_a_data_set_with_one_answer_has_no_choice(tmp_path: Path) -> None:
    cells = finished_grid(data=["alpaca"])
    for _, result in cells:
        for values in result["modes"].values():
            values["reciprocal_rank"] = []
    write_report(cells, tmp_path)
    (row,) = [line for line in (tmp_path / "report.md").read_text().splitlines() if "| MRR |" in line]
    assert row == "| ALPACA | MRR | - | - | - | - | - | - | - |"

"""The report of finished cells: how they are grouped, what is computed from them, and the written files."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

from mlx_personal.errors import UserError
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.study import report
from mlx_personal.research.study.cell import Cell
from mlx_personal.research.study.report import figures, page, tables, weighted_tables
from mlx_personal.research.study.report.analysis import analyze, main_comparisons
from mlx_personal.research.study.report.cell_group import CellGroup
from mlx_personal.research.study.report.findings import OtherMetrics, count_verdicts
from mlx_personal.research.study.report.inventory import take_inventory
from mlx_personal.research.study.report.model_study import ModelStudy, split_by_model
from mlx_personal.research.study.report.published import published_datasets
from mlx_personal.research.study.report.statistics import NO_DIFFERENCE, TOO_FEW_SEEDS
from tests.support.study_cells import (
    NUM_DIALOGUES,
    FinishedCell,
    finished,
    finished_grid,
    make_cell,
    make_result,
)


def find_group(
    study: ModelStudy, policy: str, synthetic: int = 0, part: str | None = None, data: str = "alpaca"
) -> CellGroup:
    group = study.find_group(data, policy, synthetic, part)
    assert group is not None
    return group


def base_of(study: ModelStudy, group: CellGroup) -> CellGroup:
    base = study.base_of(group)
    assert base is not None
    return base


def main_tables(study: ModelStudy) -> str:
    return tables.main_tables(analyze(study))


# Grouping


def test_cells_that_differ_only_in_the_seed_are_a_group() -> None:
    study = ModelStudy(finished_grid())
    group = find_group(study, "fifo")
    assert list(group.results) == [0, 1, 2]
    assert group.scores("rouge1").shape == (3, NUM_DIALOGUES)
    assert len(study.groups) == 4 * 2 + 1


def test_the_seed_of_the_training_settings_is_ignored() -> None:
    cells = [make_cell(seed=seed, training=LoRAConfig(seed=seed + 3)) for seed in range(2)]
    assert len(ModelStudy(finished(*cells)).groups) == 1


def test_the_main_protocol_is_the_one_with_the_most_policies() -> None:
    sweeps = [make_cell(seed=seed, bins=bins) for bins in (64, 128) for seed in range(9)]
    tuning = [make_cell(policy, seed, part="first") for policy in ("quality", "weighted") for seed in range(9)]
    study = ModelStudy(finished(*sweeps, *tuning) + finished_grid())
    assert find_group(study, "quality").cell.bins == 32
    assert {group.cell.part for group in study.protocol("alpaca")} == {"all"}
    assert study.find_group("alpaca", "weighted", 0) is None
    assert study.find_group("alpaca", "weighted", 0, "first") is not None


def test_the_main_tables_have_the_most_common_number_of_synthetic_dialogues() -> None:
    sweep = [make_cell(synthetic=number) for number in range(10)]
    assert ModelStudy(finished(*sweep) + finished_grid(synthetic=(0, 3))).synthetic_settings() == [3, 0]
    assert ModelStudy(finished_grid(synthetic=(0,))).synthetic_settings() == [0]


def test_of_two_writers_the_one_of_most_policies_is_compared() -> None:
    others = [make_cell(seed=seed, synthetic=2, writer="another") for seed in range(5)]
    assert find_group(ModelStudy(finished(*others) + finished_grid()), "quality", 2).cell.writer == ""


def test_the_base_model_is_compared_on_the_same_dialogues() -> None:
    other = finished(make_cell("base", answer_tokens=16), make_cell(answer_tokens=16), make_cell(answer_tokens=8))
    study = ModelStudy(finished_grid() + other)
    groups = {group.cell.answer_tokens: group for group in study.groups.values() if group.cell.policy != "base"}
    assert base_of(study, groups[16]).cell.answer_tokens == 16
    assert base_of(study, groups[128]).cell.answer_tokens == 128
    assert study.base_of(groups[8]) is None


def test_the_cells_of_a_sweep_differ_in_nothing_else() -> None:
    different = make_cell(bins=512, answer_tokens=16)
    cells = [make_cell(bins=128), different, make_cell(bins=64), make_cell("random", bins=32)]
    (sweep,) = ModelStudy(finished(*cells)).sweeps("bins")
    assert list(sweep.groups) == [64, 128]
    assert (sweep.data, sweep.policy, sweep.synthetic) == ("alpaca", "quality", 0)


def test_two_numbers_of_synthetic_dialogues_are_no_sweep() -> None:
    assert "synthetic" not in analyze(ModelStudy(finished_grid())).sweeps
    findings = analyze(ModelStudy(finished(*(make_cell(synthetic=n) for n in (0, 4, 9)))))
    (line,) = findings.sweeps["synthetic"].lines
    assert {n: point.seconds_per_epoch for n, point in line.points.items()} == {0: 2.0, 4: 10.0, 9: 20.0}


def test_orders_and_limits_are_sorted_and_no_limit_is_last() -> None:
    orders = [
        make_cell(order="correlated", strength=0.5),
        make_cell(order="shuffled"),
        make_cell(order="in-order"),
        make_cell(strength=0.1),
    ]
    (sweep,) = ModelStudy(finished(*orders)).sweeps("order", "strength")
    assert list(sweep.groups) == [("in-order", 0.0), ("shuffled", 0.0), ("correlated", 0.1), ("correlated", 0.5)]
    (sweep,) = ModelStudy(finished(*(make_cell(annotations=n) for n in (None, 64, 8)))).sweeps("annotations")
    assert list(sweep.groups) == [8, 64, None]


def test_models_are_separate_and_the_one_with_the_most_cells_is_first() -> None:
    other = finished(make_cell(model="e" * 32, model_name="large"))
    assert [study.model_name for study in split_by_model(other + finished_grid())] == ["tiny", "large"]


def test_seeds_with_different_numbers_of_scores_give_a_one_line_error() -> None:
    short = make_result(make_cell(seed=1))
    short["checkpoints"][-1]["rouge1"].pop()
    with pytest.raises(UserError, match=r"alpaca, quality: its seeds have 12, 11 values of rouge1"):
        analyze(ModelStudy([*finished(make_cell()), (make_cell(seed=1), short)]))


# Findings


def test_means_are_over_seeds_and_dialogues_and_differences_over_common_seeds() -> None:
    cells = [item for item in finished_grid() if (item[0].policy, item[0].seed) != ("random", 1)]
    comparison = main_comparisons(ModelStudy(cells))[-2]
    assert (comparison.score, comparison.rows[0].synthetic, comparison.family_size) == ("rouge1", 0, 3)
    entry = comparison.rows[0].entries["random"]
    scores = {
        (c.policy, c.seed): r["checkpoints"][-1]["rouge1"] for c, r in cells if c.synthetic == 0 and c.policy != "base"
    }
    assert entry.score.value == pytest.approx(np.mean([scores["random", seed] for seed in (0, 2)]))
    paired = [np.subtract(scores["random", seed], scores["quality", seed]).mean() for seed in (0, 2)]
    assert entry.difference is not None
    assert entry.difference.value == pytest.approx(np.mean(paired))
    assert (entry.difference.seeds, entry.difference.dialogues) == (2, NUM_DIALOGUES)


def test_a_correction_covers_all_comparisons_of_its_family() -> None:
    comparison = main_comparisons(ModelStudy(finished_grid(data=("alpaca", "dolly"))))[0]
    assert comparison.family_size == 6
    differences = [d for row in comparison.rows for d in row.differences]
    assert max(d.adjusted_p_value / d.p_value for d in differences) == pytest.approx(6)


def test_a_difference_whose_interval_covers_zero_is_printed_as_none() -> None:
    section = main_tables(ModelStudy(finished_grid(synthetic=(0,)))).split("###")[1]
    (line,) = [line for line in section.splitlines() if "| difference |" in line]
    base, constant, quality, random_, fifo, center = (text.strip() for text in line.split("|")[3:-1])
    assert (base, constant, quality) == ("-", "-", "-")
    assert re.fullmatch(r"no difference \[-0\.\d{4}, \+0\.\d{4}\]", random_)
    assert re.fullmatch(r"-0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\]", fifo)
    assert re.fullmatch(r"\+0\.\d{4} \[\+0\.\d{4}, \+0\.\d{4}\]", center)


def test_the_best_score_is_bold_only_if_it_differs_from_all_others() -> None:
    assert main_tables(ModelStudy(finished_grid(synthetic=(0,)))).count("**") == 2 * 2  # K-center, in both scores
    similar = [item for item in finished_grid(synthetic=(0,)) if item[0].policy in ("quality", "random", "base")]
    assert "**" not in main_tables(ModelStudy(similar))


def test_published_scores_are_labeled_as_such() -> None:
    text = main_tables(ModelStudy(finished_grid()))
    line = "|  | Qin et al. 2024 | - | - | 0.3736 | 0.265 (digitized) | 0.233 (digitized) | 0.270 (digitized) |"
    assert text.count(line) == 2
    assert "Qin et al. 2024" not in main_tables(ModelStudy(finished_grid(data=("my own",), synthetic=(0,))))


def test_the_ablation_distinguishes_the_authors_script_from_the_paper() -> None:
    cells = finished_grid(("quality", "eoe", "eoe-script"), synthetic=(0,))
    text = tables.ablation_tables(analyze(ModelStudy(cells)))
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")] == [
        "policy",
        "quality",
        "Qin et al. 2024, all three",
        "EOE",
        "difference",
        "Qin et al. 2024, EOE",
        "EOE, authors' script",
        "difference",
    ]


@pytest.mark.parametrize(
    ("num_datasets", "outcome"),
    [(3, "weighted (ours) beats quality."), (2, "These are too few data sets for a conclusion.")],
)
def test_the_weighted_policy_is_compared_on_the_second_halves(num_datasets: int, outcome: str) -> None:
    data = published_datasets()[:num_datasets]
    second = finished_grid(("quality", "weighted"), data, synthetic=(0,), part="second")
    first = finished_grid(("quality", "weighted"), data, synthetic=(0,), part="first")
    findings = analyze(ModelStudy(second + first))
    counts = {"higher": num_datasets, "lower": 0, NO_DIFFERENCE: 0, TOO_FEW_SEEDS: 0}
    assert count_verdicts(findings.weighted[0], "weighted") == counts
    expected = f"higher on {num_datasets}, lower on 0, and no different on 0 of {num_datasets} data sets. {outcome}"
    assert expected in weighted_tables.weighted_tables(findings)


def test_a_policy_that_is_lower_on_one_data_set_does_not_beat_the_reference() -> None:
    cells = finished_grid(("quality", "weighted"), published_datasets()[:4], synthetic=(0,), part="second")
    changed = [(c, make_result(c, gain=0.0) if (c.policy, c.data) == ("weighted", "dolly") else r) for c, r in cells]
    text = weighted_tables.weighted_tables(analyze(ModelStudy(changed)))
    assert "weighted (ours) does not beat quality." in text


def metrics_by_policy(cells: list[FinishedCell]) -> dict[str, OtherMetrics]:
    return {metrics.policy: metrics for metrics in analyze(ModelStudy(cells)).other_metrics}


def test_other_metrics_compare_a_policy_with_the_base_model() -> None:
    metrics = metrics_by_policy(finished_grid(synthetic=(0,)))
    quality, fifo, base = metrics["quality"], metrics["fifo"], metrics["base"]
    assert quality.win_rate is not None and quality.win_rate.value == 1.0
    assert quality.forgetting is not None and quality.forgetting.value == pytest.approx(0.1)
    assert fifo.perplexity is not None and fifo.perplexity.value == pytest.approx(np.exp(2.98))
    assert fifo.perplexity_difference is not None
    assert fifo.perplexity_difference.value == pytest.approx(np.exp(2.98) - np.exp(2.9))
    assert base.perplexity is not None and base.perplexity.value == pytest.approx(np.exp(3))
    assert base.answer_words == 7.5


def test_without_the_base_model_there_is_no_win_rate_and_the_report_says_so() -> None:
    study = ModelStudy([item for item in finished_grid() if item[0].policy != "base"])
    assert all(m.win_rate is None and m.forgetting is None for m in analyze(study).other_metrics)
    assert any("the base model on ALPACA" in line for line in take_inventory(study).missing)


def test_a_diverged_training_has_no_perplexity() -> None:
    cells = finished_grid(synthetic=(0,))
    for cell, result in cells:
        if cell.policy == "fifo":
            result["final"]["nats"][0] = float("inf")
    metrics = metrics_by_policy(cells)
    assert metrics["fifo"].perplexity is None
    assert metrics["fifo"].perplexity_difference is None
    assert metrics["random"].perplexity is not None


def test_missing_cells_are_listed() -> None:
    cells = [(c, r) for c, r in finished_grid() if not (c.policy == "fifo" and c.seed == 2 and c.synthetic)]
    missing = take_inventory(ModelStudy(cells)).missing
    absent = "DOLLY, Prosocial-Dialog, Empathetic-Dialog, OPENORCA, MedDialog"
    assert f"data sets of Qin et al. 2024 without a cell: {absent}" in missing
    assert "ALPACA, FIFO, 2 synthetic dialogues per selected one: 2 of 3 seeds" in missing
    assert "ALPACA, EOE, no synthetic dialogues: not run" in missing
    assert "the sweep of bins" in missing
    assert not any("random" in line for line in missing)


# The files


@pytest.fixture
def without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "can_plot", lambda: False)


def cells_of_every_kind() -> list[FinishedCell]:
    policies = ("quality", "random", "fifo", "k-center", "eoe", "dss-script")
    swept: list[Cell] = [
        make_cell(p, seed, bins=bins) for p in ("quality", "random") for seed in range(2) for bins in (32, 64, 128)
    ]
    swept += [make_cell(synthetic=n) for n in range(4)]
    swept += [make_cell(entropy=estimator) for estimator in ("histogram", "spectral-whole")]
    swept += [make_cell(annotations=n) for n in (4, 16)]
    swept += [make_cell(order=order) for order in ("in-order", "shuffled")]
    second = finished_grid(("quality", "weighted"), ("alpaca", "my own"), part="second")
    return finished_grid(policies, ("alpaca", "my own")) + finished(*swept) + second


@pytest.mark.usefixtures("without_matplotlib")
def test_any_part_of_a_study_makes_a_report(tmp_path: Path) -> None:
    cells = cells_of_every_kind()
    rng = random.Random(0)
    for size in (1, 2, 5, 12, 30, len(cells)):
        markdown_file, json_file = report.write_report(rng.sample(cells, size), tmp_path)
        json.loads(json_file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        text = markdown_file.read_text()
        assert "matplotlib is not installed" in text
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "### ROUGE-L, no synthetic dialogues" in text
    for section in (
        "Ablation",
        "Buffer size",
        "Number of synthetic",
        "Estimators",
        "Annotation",
        "Order",
        "second halves",
    ):
        assert re.search(f"^## .*{section}", text, re.MULTILINE), section


@pytest.mark.usefixtures("without_matplotlib")
def test_the_base_model_alone_makes_a_report(tmp_path: Path) -> None:
    markdown_file, _ = report.write_report(finished(make_cell("base")), tmp_path)
    assert "only the base model was run" in markdown_file.read_text()


@pytest.mark.usefixtures("without_matplotlib")
def test_the_json_file_has_the_keys_of_version_0_1(tmp_path: Path) -> None:
    cells = cells_of_every_kind()
    _, json_file = report.write_report(cells, tmp_path)
    document = json.loads(json_file.read_text())
    (model,) = document["models"]
    findings, inventory = model["findings"], model["inventory"]
    assert list(findings) == [
        *("model", "main", "ablation", "own", "curves", "sweeps", "beyond", "own_beyond", "tuning", "unwritten"),
        "own_unwritten",
    ]
    comparison = findings["main"][0]
    assert list(comparison) == ["score", "reference", "rows", "family"]
    row = comparison["rows"][0]
    assert list(row) == ["data", "synthetic", "base", "entries", "one_answer", "policy", "value"]
    entry = row["entries"]["fifo"]
    assert list(entry) == ["score", "difference", "best", "sets"]
    assert list(entry["sets"]) == ["each", "wanted", "got", "short", "none"]
    assert list(entry["difference"]) == [
        *("value", "low", "high", "seeds", "dialogues", "p", "adjusted", "seed_spread", "verdict"),
    ]
    assert entry["difference"]["verdict"] == "lower"
    assert list(findings["beyond"][0]) == [
        *("data", "policy", "synthetic", "perplexity", "perplexity_difference", "win_rate", "forgetting"),
        *("answer_words", "sets", "unequal"),
    ]
    assert list(inventory) == [
        *("model", "fingerprint", "cells", "base_cells", "seeds", "seconds", "machines", "protocols", "missing"),
        *("hidden", "departures"),
    ]
    assert inventory["cells"] + inventory["base_cells"] == len(cells)
    (line,) = findings["sweeps"]["annotations"]["lines"]
    assert list(line["points"]) == ["4", "16", "none"]
    assert list(line["points"]["4"]) == ["score", "seconds_an_epoch", "questions", "sets"]
    assert list(document["bases"][0]) == [
        *("model", "fingerprint", "alone", "data", "part", "dialogues", "rouge1", "rouge_l", "perplexity", "tokens"),
        *("answer_words", "one_answer"),
    ]
    assert document["paper"]["source"] == "arXiv 2311.12275"


def test_a_summary_is_short_and_json() -> None:
    summary = report.summarize(finished_grid())
    assert json.loads(json.dumps(summary)) == summary
    (model,) = summary["models"]
    counts = {"higher": 0, "lower": 1, NO_DIFFERENCE: 0, TOO_FEW_SEEDS: 0}
    assert model["main"][0]["against quality"]["fifo"] == counts
    assert model["main"][0]["means"]["alpaca"]["k-center"] == pytest.approx(0.46, abs=0.03)


@pytest.mark.usefixtures("without_matplotlib")
def test_missing_cells_and_an_invalid_folder_give_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished cell to report on; run the study"):
        report.summarize([])
    with pytest.raises(UserError, match="no finished cell"):
        report.write_report([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        report.write_report(finished_grid(), tmp_path / "file")


@pytest.mark.slow
def test_figures_are_valid_linked_and_reproducible(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cells = cells_of_every_kind() + finished(make_cell(model="e" * 32, model_name="a $model_1/$"))
    written = report.write_report([(dataclasses.replace(c), r) for c, r in cells], tmp_path)
    markdown_file, _, *figure_files = written
    names = ["differences", "curves", "own", "bins", "synthetic", "annotations", "order"]
    assert [file.name for file in figure_files] == [f"{name}-1-tiny.svg" for name in names] + ["curves-2-a-model-1.svg"]
    for file in figure_files:
        xml.etree.ElementTree.parse(file)
        assert f"]({file.name})" in markdown_file.read_text()
    findings = analyze(split_by_model(cells)[1])
    assert figures.draw_figures(findings)["curves"] == figure_files[-1].read_text()

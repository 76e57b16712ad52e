"""Limits that a report must state: missing synthetic dialogues, missing references, changed files, and few seeds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal.errors import UserError
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.study import report
from mlx_personal.research.study.cell import Cell
from mlx_personal.research.study.report import page, sweep_figures, tables
from mlx_personal.research.study.report.analysis import analyze, analyze_tuning, main_comparisons
from mlx_personal.research.study.report.base_models import base_model_scores, base_model_table
from mlx_personal.research.study.report.caveats import describe_certainty, describe_deviations
from mlx_personal.research.study.report.findings import OtherMetrics, SyntheticCounts, WeightTuning, count_verdicts
from mlx_personal.research.study.report.inventory import inventory_text, take_inventory
from mlx_personal.research.study.report.model_study import ModelStudy, split_by_model
from mlx_personal.research.study.report.published import published_datasets
from mlx_personal.research.study.report.statistics import TOO_FEW_SEEDS
from mlx_personal.research.study.report.weighted_tables import other_metrics_tables, tuning_table, weighted_tables
from mlx_personal.selection.weighted import DEFAULT_WEIGHT
from tests.support.study_cells import (
    NUM_DIALOGUES,
    FinishedCell,
    finished,
    finished_grid,
    make_cell,
    make_result,
)

SYNTHESIS_FAILED = "no synthetic dialogue passed the filters"


def with_results(
    cells: Sequence[FinishedCell], condition: Callable[[Cell], object], **changes: Any
) -> list[FinishedCell]:
    """Return the cells with new results for those that meet a condition."""
    return [(c, make_result(c, **changes) if condition(c) else r) for c, r in cells]


def written_report(
    folder: Path, cells: Sequence[FinishedCell], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, Any]]:
    """Return the text and the JSON document of a report without figures."""
    monkeypatch.setattr(page, "can_plot", lambda: False)
    markdown_file, json_file = report.write_report(cells, folder)
    return markdown_file.read_text(), json.loads(json_file.read_text())


def synthetic_counts(cells: Sequence[FinishedCell], synthetic: int) -> SyntheticCounts:
    group = ModelStudy(cells).find_group("alpaca", "quality", synthetic)
    assert group is not None and group.synthetic_counts is not None
    return group.synthetic_counts


def metrics_by_policy(cells: Sequence[FinishedCell]) -> dict[str, OtherMetrics]:
    return {metrics.policy: metrics for metrics in analyze(ModelStudy(cells)).other_metrics}


# Synthetic dialogues


def test_available_synthetic_dialogues_are_shown_and_cells_with_too_few_are_listed() -> None:
    cells = with_results(finished_grid(), lambda c: c.policy == "fifo" and c.seed == 1, synthetic_share=0.5)
    findings = analyze(ModelStudy(cells))
    counts = findings.main[0].rows[0].entries["fifo"].synthetic_counts
    assert counts is not None
    assert counts.requested == 8
    assert counts.available == pytest.approx(20 / 3)
    assert counts.shortfalls == {1: (100, 4, 8)}
    with_synthetic, without = tables.main_tables(findings).split("### ROUGE-1, no synthetic dialogues")
    assert "|  | synthetic dialogues | - | - | 8 of 8 | 8 of 8 | 6.7 of 8 | 8 of 8 |" in with_synthetic
    shortfalls = (
        "less than 95 % of the requested synthetic dialogues:\n\n- ALPACA, FIFO, seed 1: 4 of 8, at 100 received"
    )
    assert f"{shortfalls}\n\n" in with_synthetic
    assert "synthetic dialogues |" not in without
    assert "| FIFO | 19.69" in other_metrics_tables(findings.other_metrics)
    assert "| 6.7 of 8 |" in other_metrics_tables(findings.other_metrics)


def test_a_shortfall_before_the_last_checkpoint_is_listed() -> None:
    cells = finished(*(make_cell(seed=seed, synthetic=2) for seed in range(3)))
    cells[1][1]["checkpoints"][1]["synthetic"] = 7
    counts = synthetic_counts(cells, 2)
    assert (counts.available, counts.shortfalls) == (8, {1: (200, 7, 8)})


def test_a_small_shortfall_is_not_listed() -> None:
    cells = finished(*(make_cell(seed=seed, synthetic=5) for seed in range(3)))
    for _, result in cells:
        result["checkpoints"][-1]["synthetic"] = 19
    assert synthetic_counts(cells, 5).shortfalls == {}


def test_without_any_synthetic_dialogue_there_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = with_results(finished_grid(), lambda c: c.synthetic, synthetic_share=0.0)
    text, document = written_report(tmp_path, cells, monkeypatch)
    setting = "2 synthetic dialogues per selected one"
    reason = f"{SYNTHESIS_FAILED}, so it would repeat the results without them."
    assert f"With {setting} there is no table: {reason}" in text
    assert "### ROUGE-1, 2 synthetic" not in text
    assert "### ROUGE-1, no synthetic dialogues" in text
    assert f"- {setting}: {SYNTHESIS_FAILED}\n" in text
    (model,) = document["models"]
    assert {row["synthetic"] for c in model["findings"]["main"] for row in c["rows"]} == {0}
    assert len(model["findings"]["unwritten"]) == 4


def test_a_policy_without_synthetic_dialogues_is_left_out_and_named() -> None:
    cells = with_results(finished_grid(), lambda c: c.synthetic and c.policy == "random", synthetic_share=0.0)
    study = ModelStudy(cells)
    findings = analyze(study)
    assert "random" not in findings.main[0].columns
    assert "random" in findings.main[-1].columns
    setting = "2 synthetic dialogues per selected one"
    assert f"Left out of the tables with {setting}, because {SYNTHESIS_FAILED}: ALPACA, random." in (
        tables.main_tables(findings)
    )
    assert f"ALPACA, random, {setting}: {SYNTHESIS_FAILED}" in take_inventory(study).missing


def test_the_sweep_of_synthetic_dialogues_shows_how_many_were_available() -> None:
    cells = [(c, make_result(c, synthetic_share=0.7)) for c in (make_cell(synthetic=n) for n in (0, 5, 9))]
    findings = analyze(ModelStudy(cells))
    text = tables.sweep_table("synthetic", findings.sweeps["synthetic"])
    lines = text.splitlines()
    available = next(line for line in lines if "quality: synthetic dialogues per selected one" in line).split("|")
    requested = next(line for line in lines if line.startswith("|  | 0 |")).split("|")
    by_requested = {int(r): a.strip() for r, a in zip(requested[2:-1], available[2:-1], strict=True)}
    assert (by_requested[0], by_requested[5], by_requested[9]) == ("0.00", "3.50", "6.25")
    assert "Differences are from no synthetic dialogues." in text
    pytest.importorskip("matplotlib")
    figure = sweep_figures.draw_synthetic(findings)
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert (labels[0], labels[1], labels[5]) == ("0\n0.0", "1", "5\n3.5")


# References


def test_a_row_without_the_reference_has_no_differences_and_the_report_says_so() -> None:
    cells = [(c, r) for c, r in finished_grid(data=("alpaca", "dolly")) if (c.policy, c.data) != ("quality", "dolly")]
    comparison = main_comparisons(ModelStudy(cells))[-2]
    assert comparison.family_size == 3
    assert all(row.differences == [] for row in comparison.rows if row.data == "dolly")
    assert not any(entry.is_best for entry in comparison.rows[1].entries.values())
    note = "No differences for DOLLY: quality is missing there."
    assert note in tables.main_tables(analyze(ModelStudy(cells)))


def test_without_the_reference_nothing_is_compared() -> None:
    cells = finished_grid(("random", "fifo"), synthetic=(0,))
    text = tables.main_tables(analyze(ModelStudy(cells)))
    assert "Nothing is compared here. No differences for ALPACA: quality is missing there." in text
    assert "against quality" not in text
    estimators = [make_cell(entropy=estimator) for estimator in ("histogram", "spectral-whole")]
    findings = analyze(ModelStudy(finished(*estimators)))
    assert "from spectral." not in tables.sweep_table("entropy", findings.sweeps["entropy"])


def test_losses_of_different_tokens_are_not_compared() -> None:
    cells = finished_grid(synthetic=(0,))
    for cell, result in cells:
        if cell.policy == "fifo":
            result["final"]["general_tokens"][0] += 1
        if cell.policy == "random":
            result["final"]["tokens"][0] += 1
    metrics = metrics_by_policy(cells)
    assert metrics["fifo"].forgetting is None
    assert metrics["fifo"].perplexity_difference is not None
    assert metrics["random"].perplexity_difference is None
    assert metrics["random"].forgetting is not None
    text = other_metrics_tables(list(metrics.values()))
    assert "ALPACA, FIFO: no forgetting, because the two sides do not have the same tokens." in text
    assert "ALPACA, random: no perplexity to that of quality, because the two" in text


def test_a_base_model_on_other_dialogues_gives_a_one_line_error() -> None:
    cells = finished_grid(synthetic=(0,))
    for checkpoint in cells[-1][1]["checkpoints"]:
        checkpoint["rouge1"] = checkpoint["rouge1"][:-1]
    with pytest.raises(UserError, match="alpaca: they cannot be compared: quality has 12 dialogues, base 11"):
        analyze(ModelStudy(cells))


# Changed files


def test_of_two_sources_with_as_many_cells_the_last_one_is_shown() -> None:
    new, old = (finished_grid(synthetic=(0,), source=name * 20) for name in ("new", "old"))
    for first, last in ((old, new), (new, old)):
        study = ModelStudy(first + last)
        group = study.find_group("alpaca", "fifo", 0)
        assert group is not None and group.cell.source == last[0][0].source
        inventory = take_inventory(study)
        assert inventory.protocols[0]["source"] == last[0][0].source[:12]
        assert inventory.num_hidden == 12
        assert "\n12 trained cells of other protocols or sources, not shown.\n" in inventory_text(inventory)


def test_a_source_with_more_policies_is_shown_although_it_is_older() -> None:
    newer = finished_grid(("quality", "random"), synthetic=(0,), source="new")
    study = ModelStudy(finished_grid(source="old") + newer)
    group = study.find_group("alpaca", "quality", 0)
    assert group is not None and group.cell.source == "old"
    assert take_inventory(study).num_hidden == 6


def test_sweeps_and_halves_of_an_older_file_are_not_shown() -> None:
    swept = [make_cell(bins=bins, source="old") for bins in (64, 128, 256)]
    second = finished_grid(("quality", "weighted"), part="second", source="old", synthetic=(0,))
    study = ModelStudy(finished(*swept) + second + finished_grid())
    findings = analyze(study)
    assert (dict(findings.sweeps), findings.weighted, findings.weighted_other_metrics) == ({}, [], [])
    assert take_inventory(study).num_hidden == 3 + 6


def test_hidden_cells_are_mentioned_only_if_there_are_any() -> None:
    inventory = take_inventory(ModelStudy(finished_grid()))
    assert inventory.num_hidden == 0
    assert "not shown" not in inventory_text(inventory)


# The policy `weighted`


def tuning_cells(
    gains: Mapping[float, float], data: Sequence[str] = ("alpaca", "dolly"), seeds: int = 3
) -> list[FinishedCell]:
    """Return cells of the first halves: the reference policy with a gain of 0.1, and each weight with its gain."""
    half = {"part": "first", "received": 150, "every": 150}
    quality = finished(*(make_cell("quality", s, d, **half) for d in data for s in range(seeds)), noise=0)
    weighted = [
        (c, make_result(c, gain=gain, noise=0))
        for weight, gain in gains.items()
        for c in (make_cell("weighted", s, d, weight=weight, **half) for d in data for s in range(seeds))
    ]
    return quality + weighted


def tune(cells: Sequence[FinishedCell]) -> WeightTuning:
    tuning = analyze_tuning(ModelStudy(cells))
    assert tuning is not None
    return tuning


def test_the_tuning_shows_the_reference_and_the_rule_and_marks_the_best_weight() -> None:
    tuning = tune(tuning_cells({0.0: 0.1, 4.0: 0.11, 8.0: 0.13, 16.0: 0.12}))
    assert tuning.comparison.columns == ["quality", 0.0, 4.0, 8.0, 16.0]
    assert tuning.comparison.family_size == 8
    scores = [row.entries["quality"].score.value for row in tuning.comparison.rows]
    assert tuning.relative_gains[8.0] == pytest.approx(np.mean([0.03 / score for score in scores]))
    assert tuning.relative_gains[0.0] == pytest.approx(0)
    assert tuning.best_weight == DEFAULT_WEIGHT == 8.0
    text = tuning_table(tuning)
    assert "| quality | weight 0 | weight 4 | weight 8 | weight 16 |" in text
    assert "|  | weight 0 | weight 4 | **weight 8** | weight 16 |" in text
    assert "divided by the score of quality. It was fixed before the second halves were evaluated." in text
    assert "at least 3 seeds here. This is 8 (bold), the default weight of the policy." in text


def test_the_rule_uses_the_seeds_that_all_weights_have() -> None:
    cells = [item for item in tuning_cells({0.0: 0.1, 8.0: 0.2}) if (item[0].weight, item[0].seed) != (8.0, 2)]
    tuning = tune(with_results(cells, lambda c: c.policy == "weighted" and c.seed == 2, gain=9.0))
    assert (tuning.best_weight, tuning.num_seeds) == (8.0, 2)
    assert tuning.relative_gains[0.0] == pytest.approx(0)


def test_the_report_says_if_the_rule_selects_another_weight_than_the_default() -> None:
    text = tuning_table(tune(tuning_cells({0.0: 0.1, 4.0: 0.2, 8.0: 0.1})))
    assert "By these cells this is 4 (bold), while the default weight of the policy is 8." in text


def test_a_weight_that_is_missing_on_a_data_set_is_not_selected() -> None:
    tuning = tune(tuning_cells({0.0: 0.1}) + tuning_cells({8.0: 0.2}, data=("alpaca",)))
    assert (tuning.relative_gains[8.0], tuning.best_weight) == (None, 0.0)
    without_reference = tune([item for item in tuning_cells({0.0: 0.1}) if item[0].policy == "weighted"])
    assert without_reference.best_weight is None
    assert "No weight can be selected" in tuning_table(without_reference)


def test_only_one_comparison_is_primary_and_has_an_outcome() -> None:
    cells = finished_grid(("quality", "weighted"), published_datasets()[:3], part="second")
    text = weighted_tables(analyze(ModelStudy(cells)))
    headings = [line for line in text.splitlines() if line.startswith("### ROUGE")]
    assert headings[0] == "### ROUGE-1, no synthetic dialogues (primary)"
    assert len(headings) == 4
    assert all(heading.endswith("(secondary)") for heading in headings[1:])
    assert text.count("weighted (ours) beats quality.") == 1


def test_without_the_primary_comparison_there_is_no_outcome() -> None:
    cells = finished_grid(("quality", "weighted"), published_datasets()[:3], part="second", synthetic=(2,))
    text = weighted_tables(analyze(ModelStudy(cells)))
    assert "The primary comparison was not run." in text
    assert "weighted (ours) beats quality." not in text


# Base models


def test_all_base_models_are_in_one_table_and_one_without_training_is_the_upper_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned: dict[str, Any] = {"model": "e" * 32, "model_name": "tuned"}
    data = ("alpaca", "dolly")
    cells = finished_grid(data=data) + finished(*(make_cell("base", data=name, **tuned) for name in data))
    scores = base_model_scores(split_by_model(cells))
    assert [(s.data, s.model, s.only_base) for s in scores] == [
        ("alpaca", "tiny", False),
        ("alpaca", "tuned", True),
        ("dolly", "tiny", False),
        ("dolly", "tuned", True),
    ]
    stored = dict(cells)[make_cell("base", **tuned)]["checkpoints"][0]
    assert scores[1].rouge1.value == pytest.approx(np.mean(stored["rouge1"]))
    assert scores[1].rouge_l.value == pytest.approx(np.mean(stored["rougeL"]))
    assert scores[1].perplexity is not None and scores[1].perplexity.value == pytest.approx(np.exp(3))
    constant = scores[1].constant_answer
    assert constant is not None and constant.rouge1.value == pytest.approx(np.mean(stored["one_answer"]["rouge1"]))
    text, document = written_report(tmp_path, cells, monkeypatch)
    assert text.index("## Base models") < text.index("# `tiny`")
    note = (
        "Upper reference: `tuned` without an adapter (only its base model was run, and it is not part of any "
        f"comparison), ROUGE-1 {scores[1].rouge1.value:.4f} on ALPACA, "
    )
    assert note in text
    assert len(document["bases"]) == 4
    # The constant answer is shown once per data set, below the models.
    (row,) = (line for line in text.splitlines() if line.startswith("| DOLLY | constant answer |"))
    assert scores[3].constant_answer is not None
    constant_score = f"{scores[3].constant_answer.rouge1.value:.4f}"
    assert f" | - | 9.0 | {NUM_DIALOGUES} |" in row and constant_score in row
    # It is also shown beside the policies.
    assert "| base | constant answer | quality |" in text
    (dolly,) = {line.split(" | ")[3] for line in text.splitlines() if line.startswith("| DOLLY | score |")} - {""}
    assert dolly == constant_score


def test_the_constant_answer_of_any_model_is_shown() -> None:
    other = finished(make_cell("base", model="e" * 32, model_name="tuned"))
    other[0][1]["checkpoints"][0]["one_answer"] = None
    lines = base_model_table(base_model_scores(split_by_model(finished_grid() + other))).splitlines()
    names = [line.split(" | ")[1] for line in lines if line.startswith("| ALPACA")]
    assert names == ["`tiny`", "`tuned`", "constant answer"]


def test_a_base_model_without_the_constant_answer_is_shown_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = finished_grid()
    for _, result in cells:
        result["checkpoints"][0].pop("one_answer", None)
    text, _ = written_report(tmp_path, cells, monkeypatch)
    assert "| constant answer |" not in text and "| base | quality |" in text


def test_base_models_on_other_dialogues_are_not_compared() -> None:
    cells = finished_grid() + finished(make_cell("base", model="e" * 32, model_name="tuned", evaluation=99))
    assert [s.model for s in base_model_scores(split_by_model(cells))] == ["tiny"]


def test_of_base_models_alone_the_last_source_is_shown() -> None:
    cells = finished(make_cell("base", source="new"), make_cell("base", source="old"))
    for order in (cells, cells[::-1]):
        (shown,) = base_model_scores(split_by_model(order))
        assert shown.rouge1.value == pytest.approx(np.mean(order[1][1]["checkpoints"][0]["rouge1"]))


def test_perplexities_of_models_with_different_tokens_are_marked() -> None:
    other = finished(make_cell("base", model="e" * 32, model_name="tuned"))
    text = base_model_table(base_model_scores(split_by_model(finished_grid() + other)))
    assert "perplexities cannot be compared" not in text
    other[0][1]["final"]["tokens"][0] += 1
    text = base_model_table(base_model_scores(split_by_model(finished_grid() + other)))
    assert "On ALPACA the models split the answers into different numbers of tokens, so their perplexities" in text


# What the numbers can show


def test_fewer_than_three_seeds_get_no_verdict() -> None:
    cells = [item for item in finished_grid(synthetic=(0,)) if item[0].seed < 2]
    findings = analyze(ModelStudy(cells))
    comparison = findings.main[0]
    assert count_verdicts(comparison, "fifo")[TOO_FEW_SEEDS] == 1
    assert not any(entry.is_best for entry in comparison.rows[0].entries.values())
    text = tables.main_tables(findings)
    assert text.count("] (too few seeds)") == 2 * 3
    assert "- FIFO against quality: higher on 0, lower on 0, no difference on 0 of 1, too few seeds on 1" in text


def test_a_win_rate_around_one_half_and_no_forgetting_are_no_difference() -> None:
    cells = with_results(finished_grid(("quality", "fifo"), synthetic=(0,)), lambda c: c.policy == "fifo", gain=0.0)
    for cell, result in cells:
        if cell.policy == "fifo":
            result["final"]["general_nats"] = [n * (3 / 3.3) for n in result["final"]["general_nats"]]
    metrics = metrics_by_policy(cells)
    win_rate, forgetting = metrics["fifo"].win_rate, metrics["fifo"].forgetting
    assert win_rate is not None and forgetting is not None
    assert win_rate.low < 0.5 < win_rate.high
    lines = other_metrics_tables(list(metrics.values())).splitlines()
    fifo = next(line for line in lines if "| FIFO |" in line)
    assert fifo.count("no difference [") == 1 + (forgetting.low <= 0 <= forgetting.high)
    quality = next(line for line in lines if "| quality |" in line)
    assert "no difference" not in quality


def test_the_report_describes_what_three_seeds_can_show() -> None:
    text = describe_certainty([analyze(ModelStudy(finished_grid()))])
    rates = "7 %, 11 %, 20 % if the standard deviation of the seeds is 1, 2 and 5 times the standard error"
    assert rates in text
    assert "In the 12 differences of the main table and the second halves of `tiny`" in text


def test_deviations_from_the_paper_are_described_by_the_cells_settings() -> None:
    training = LoRAConfig(epochs=7, num_layers=2)
    cells = [make_cell(p, s, training=training) for p in ("quality", "fifo") for s in range(3)]
    lines = describe_deviations(ModelStudy(finished(*cells)))
    text = "\n".join(lines)
    streams = (
        "Streams have 300 dialogues with a checkpoint after every 100; those of Qin et al. 2024 have 4,600 and 800."
    )
    assert streams in text
    assert "a fixed sample of 12 dialogues" in text
    assert "rank 8 on every linear layer of the last 2 blocks, batch size 8, 7 epochs" in text
    assert "as far as known" in text
    assert describe_deviations(ModelStudy(finished(make_cell("base")))) == []
    same_sizes = describe_deviations(ModelStudy(finished(make_cell(received=4600, every=800))))
    assert len(same_sizes) == len(lines) - 1


# Cells of another version


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda result: result.pop("checkpoints"), "no checkpoints"),
        (lambda result: result.pop("final"), "no final"),
        (lambda result: result["checkpoints"][1].pop("rougeL"), "no rougeL"),
        (lambda result: result["checkpoints"][1].update(rouge1=[]), "no rouge1"),
        (lambda result: result["checkpoints"][0].pop("annotated"), "no annotated"),
    ],
)
def test_an_incomplete_result_gives_a_one_line_error(damage: Callable[[dict[str, Any]], object], message: str) -> None:
    cells = finished_grid()
    index = next(i for i, (c, _) in enumerate(cells) if (c.policy, c.seed, c.synthetic) == ("fifo", 1, 2))
    damage(cells[index][1])
    where = rf"the cell {cells[index][0].key[:8]} \(alpaca, fifo, seed 1\): its result has {message}"
    with pytest.raises(UserError, match=where) as error:
        report.summarize(cells)
    assert "\n" not in error.value.line()


def test_seeds_with_different_checkpoints_give_a_one_line_error() -> None:
    cells = finished(make_cell(seed=0), make_cell(seed=1))
    cells[1][1]["checkpoints"].pop()
    with pytest.raises(UserError, match="alpaca, quality: its seeds have different checkpoints"):
        analyze(ModelStudy(cells))

"""What a report makes of finished cells: which belong together, what is said of them; any part of them will do."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal.errors import UserError
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.study import report
from mlx_personal.research.study.report import inventory, measures, page, published, tables, weighted_tables
from mlx_personal.research.study.report.findings import verdicts
from mlx_personal.research.study.report.grouped_cells import Study, studies
from mlx_personal.research.study.report.statistics import NO_DIFFERENCE, TOO_FEW
from tests.support.study_cells import DIALOGUES, cell, finished, grid, result


def text_of(study: Any) -> Any:
    found = measures.measure(study)
    return tables.main_tables(found)


# Which cells belong together


def test_cells_that_differ_in_the_seed_alone_are_a_group() -> None:
    study = Study(grid())
    group = study.group("alpaca", "fifo", 0)
    assert list(group.results) == [0, 1, 2]
    assert group.scores("rouge1").shape == (3, DIALOGUES)
    assert len(study.groups) == 4 * 2 + 1


def test_the_seed_of_a_training_says_nothing() -> None:
    study = Study(finished(cell(seed=0, training=LoRAConfig(seed=3)), cell(seed=1, training=LoRAConfig(seed=4))))
    assert len(study.groups) == 1


def test_the_main_protocol_is_the_one_that_most_policies_share() -> None:
    sweeps = [cell(seed=seed, bins=bins) for bins in (64, 128) for seed in range(9)]
    tuning = [cell(policy, seed, part="first") for policy in ("quality", "weighted") for seed in range(9)]
    study = Study(finished(*sweeps, *tuning) + grid())
    assert study.group("alpaca", "quality", 0).cell.bins == 32
    assert {group.cell.part for group in study.protocol("alpaca")} == {"all"}
    assert study.group("alpaca", "weighted", 0) is None
    assert study.group("alpaca", "weighted", 0, "first") is not None


def test_the_main_tables_have_the_number_of_synthetic_sets_that_most_cells_have() -> None:
    sweep = [cell(synthetic=number) for number in range(10)]
    assert Study(finished(*sweep) + grid(synthetic=(0, 3))).settings() == [3, 0]
    assert Study(grid(synthetic=(0,))).settings() == [0]


def test_of_two_writers_the_one_of_most_policies_is_compared() -> None:
    others = [cell(seed=seed, synthetic=2, writer="another") for seed in range(5)]
    assert Study(finished(*others) + grid()).group("alpaca", "quality", 2).cell.writer == ""


def test_the_base_model_is_that_of_the_same_dialogues() -> None:
    other = finished(cell("base", answer_tokens=16), cell(answer_tokens=16), cell(answer_tokens=8))
    study = Study(grid() + other)
    groups = {group.cell.answer_tokens: group for group in study.groups.values() if group.cell.policy != "base"}
    assert study.base(groups[16]).cell.answer_tokens == 16
    assert study.base(groups[128]).cell.answer_tokens == 128
    assert study.base(groups[8]) is None


def test_a_sweep_is_of_cells_that_differ_in_nothing_else() -> None:
    odd = cell(bins=512, answer_tokens=16)
    (sweep,) = Study(finished(cell(bins=128), odd, cell(bins=64), cell("random", bins=32))).sweeps("bins")
    assert list(sweep.points) == [64, 128]
    assert (sweep.data, sweep.policy, sweep.synthetic) == ("alpaca", "quality", 0)


def test_with_and_without_synthetic_sets_is_no_sweep_of_them() -> None:
    assert "synthetic" not in measures.measure(Study(grid())).sweeps
    found = measures.measure(Study(finished(*(cell(synthetic=n) for n in (0, 4, 9)))))
    (line,) = found.sweeps["synthetic"].lines
    assert {n: point.seconds_an_epoch for n, point in line.points.items()} == {0: 2.0, 4: 10.0, 9: 20.0}


def test_orders_and_budgets_are_sorted_and_no_limit_is_last() -> None:
    orders = [
        cell(order="correlated", strength=0.5),
        cell(order="shuffled"),
        cell(order="in-order"),
        cell(strength=0.1),
    ]
    (sweep,) = Study(finished(*orders)).sweeps("order", "strength")
    assert list(sweep.points) == [("in-order", 0.0), ("shuffled", 0.0), ("correlated", 0.1), ("correlated", 0.5)]
    (sweep,) = Study(finished(*(cell(annotations=n) for n in (None, 64, 8)))).sweeps("annotations")
    assert list(sweep.points) == [8, 64, None]


def test_models_are_apart_that_with_most_cells_first() -> None:
    other = finished(cell(model="e" * 32, model_name="large"))
    assert [study.name for study in studies(other + grid())] == ["tiny", "large"]


def test_seeds_of_other_lengths_are_told_in_one_line() -> None:
    short = result(cell(seed=1))
    short["checkpoints"][-1]["rouge1"].pop()
    with pytest.raises(UserError, match=r"alpaca, quality: its seeds have 12, 11 values of rouge1"):
        measures.measure(Study([*finished(cell()), (cell(seed=1), short)]))


# What they say


def test_a_mean_is_over_seeds_and_dialogues_and_a_difference_over_shared_seeds() -> None:
    cells = [item for item in grid() if (item[0].policy, item[0].seed) != ("random", 1)]
    study = Study(cells)
    comparison = measures.main(study)[-2]
    assert (comparison.score, comparison.rows[0].synthetic, comparison.family) == ("rouge1", 0, 3)
    entry = comparison.rows[0].entries["random"]
    values = {
        (c.policy, c.seed): r["checkpoints"][-1]["rouge1"] for c, r in cells if c.synthetic == 0 and c.policy != "base"
    }
    assert entry.score.value == pytest.approx(np.mean([values["random", seed] for seed in (0, 2)]))
    paired = [np.subtract(values["random", seed], values["quality", seed]).mean() for seed in (0, 2)]
    assert entry.difference.value == pytest.approx(np.mean(paired))
    assert (entry.difference.seeds, entry.difference.dialogues) == (2, DIALOGUES)


def test_a_family_is_corrected_over_its_own_comparisons() -> None:
    comparison = measures.main(Study(grid(data=("alpaca", "dolly"))))[0]
    assert comparison.family == 6
    found = [d for row in comparison.rows for d in row.differences]
    assert sorted(d.adjusted / d.p for d in found)[-1] == pytest.approx(6)


def test_a_difference_whose_interval_covers_zero_is_printed_as_none() -> None:
    (line,) = [x for x in text_of(Study(grid(synthetic=(0,)))).split("###")[1].splitlines() if "| difference |" in x]
    base, one, quality, random, fifo, center = (text.strip() for text in line.split("|")[3:-1])
    assert (base, one, quality) == ("-", "-", "-")
    assert re.fullmatch(r"no difference \[-0\.\d{4}, \+0\.\d{4}\]", random)
    assert re.fullmatch(r"-0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\]", fifo)
    assert re.fullmatch(r"\+0\.\d{4} \[\+0\.\d{4}, \+0\.\d{4}\]", center)


def test_the_best_is_bold_only_where_it_differs_from_all_others() -> None:
    assert text_of(Study(grid(synthetic=(0,)))).count("**") == 2 * 2  # K-center, in both scores
    alike = [item for item in grid(synthetic=(0,)) if item[0].policy in ("quality", "random", "base")]
    assert "**" not in text_of(Study(alike))


def test_the_papers_figures_stand_under_ours_as_the_papers() -> None:
    text = text_of(Study(grid()))
    assert text.count("|  | paper | - | - | 0.3736 | 0.265 (digitised) | 0.233 (digitised) | 0.270 (digitised) |") == 2
    assert "paper" not in text_of(Study(grid(data=("my own",), synthetic=(0,))))


def test_the_ablation_tells_the_authors_script_from_the_paper() -> None:
    cells = grid(("quality", "eoe", "eoe-script"), synthetic=(0,))
    text = tables.ablation_tables(measures.measure(Study(cells)))
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")] == [
        "policy",
        "quality",
        "paper, all three",
        "EOE",
        "difference",
        "paper, EOE",
        "EOE, authors' script",
        "difference",
    ]


@pytest.mark.parametrize(("sets", "said"), [(3, "It beats it"), (2, "Too few to say")])
def test_the_own_policy_is_judged_on_the_second_halves(sets: int, said: str) -> None:
    data = published.names()[:sets]
    cells = grid(("quality", "weighted"), data, synthetic=(0,), part="second")
    tuned = grid(("quality", "weighted"), data, synthetic=(0,), part="first")
    found = measures.measure(Study(cells + tuned))
    assert verdicts(found.own[0], "weighted") == {"higher": sets, "lower": 0, NO_DIFFERENCE: 0, TOO_FEW: 0}
    assert (
        f"higher on {sets}, lower on 0, and no different on 0 of {sets} data sets. {said}"
        in weighted_tables.own_tables(found)
    )


def test_a_policy_that_loses_on_one_does_not_beat_the_papers() -> None:
    cells = grid(("quality", "weighted"), published.names()[:4], synthetic=(0,), part="second")
    lost = [(c, result(c, gain=0.0) if (c.policy, c.data) == ("weighted", "dolly") else r) for c, r in cells]
    assert "It does not beat it" in weighted_tables.own_tables(measures.measure(Study(lost)))


def test_beyond_rouge_a_policy_is_compared_with_the_untrained_model() -> None:
    found = {b.policy: b for b in measures.measure(Study(grid(synthetic=(0,)))).beyond}
    assert found["quality"].win_rate.value == 1.0
    assert found["quality"].forgetting.value == pytest.approx(0.1)
    assert found["fifo"].perplexity.value == pytest.approx(np.exp(2.98))
    assert found["fifo"].perplexity_difference.value == pytest.approx(np.exp(2.98) - np.exp(2.9))
    assert found["base"].perplexity.value == pytest.approx(np.exp(3))
    assert found["base"].answer_words == 7.5


def test_without_the_untrained_model_there_is_no_win_rate_and_the_report_says_so() -> None:
    cells = [item for item in grid() if item[0].policy != "base"]
    found = measures.measure(Study(cells))
    assert all(b.win_rate is None and b.forgetting is None for b in found.beyond)
    assert any("the base model on ALPACA" in line for line in inventory.inventory(Study(cells)).missing)


def test_a_training_that_went_astray_has_no_perplexity() -> None:
    cells = grid(synthetic=(0,))
    for c, r in cells:
        if c.policy == "fifo":
            r["final"]["nats"][0] = float("inf")
    found = {b.policy: b for b in measures.measure(Study(cells)).beyond}
    assert found["fifo"].perplexity is None
    assert found["fifo"].perplexity_difference is None
    assert found["random"].perplexity is not None


def test_what_is_missing_is_named() -> None:
    cells = [(c, r) for c, r in grid() if not (c.policy == "fifo" and c.seed == 2 and c.synthetic)]
    missing = inventory.inventory(Study(cells)).missing
    assert (
        "data sets of the paper without a cell: DOLLY, Prosocial-Dialog, Empathetic-Dialog, OPENORCA, MedDialog"
        in missing
    )
    assert "ALPACA, FIFO, 2 synthetic sets for each kept one: 2 of 3 seeds" in missing
    assert "ALPACA, EOE, no synthetic sets: not run" in missing
    assert "the sweep of bins" in missing
    assert not any("random" in line for line in missing)


# The files


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "can_plot", lambda: False)


def everything() -> Any:
    policies = ("quality", "random", "fifo", "k-center", "eoe", "dss-script")
    swept = [cell(p, seed, bins=bins) for p in ("quality", "random") for seed in range(2) for bins in (32, 64, 128)]
    swept += [cell(synthetic=n) for n in range(4)] + [cell(entropy=e) for e in ("histogram", "spectral-whole")]
    swept += [cell(annotations=n) for n in (4, 16)] + [cell(order=o) for o in ("in-order", "shuffled")]
    second = grid(("quality", "weighted"), ("alpaca", "my own"), part="second")
    return grid(policies, ("alpaca", "my own")) + finished(*swept) + second


def test_any_part_of_a_study_makes_a_report(tmp_path: Path, undrawn: Any) -> None:
    cells = everything()
    rng = random.Random(0)
    for size in (1, 2, 5, 12, 30, len(cells)):
        page, data = report.write_report(rng.sample(cells, size), tmp_path)
        json.loads(data.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        text = page.read_text()
        assert "matplotlib is not installed" in text
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "### ROUGE-L, no synthetic sets" in text
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


def test_the_untrained_model_alone_makes_a_report(tmp_path: Path, undrawn: Any) -> None:
    page, _ = report.write_report(finished(cell("base")), tmp_path)
    assert "only the base model was run" in page.read_text()


def test_the_numbers_are_there_for_machines(tmp_path: Path, undrawn: Any) -> None:
    cells = everything()
    _, data = report.write_report(cells, tmp_path)
    read = json.loads(data.read_text())
    (model,) = read["models"]
    row = model["findings"]["main"][0]["rows"][0]
    assert row["entries"]["fifo"]["difference"]["verdict"] == "lower"
    assert model["inventory"]["cells"] + model["inventory"]["base_cells"] == len(cells)
    (line,) = [x for x in model["findings"]["sweeps"]["annotations"]["lines"]]
    assert list(line["points"]) == ["4", "16", "none"]
    assert read["paper"]["source"] == "arXiv 2311.12275"


def test_a_summary_is_short_and_json() -> None:
    found = report.summary(grid())
    assert json.loads(json.dumps(found)) == found
    (model,) = found["models"]
    assert model["main"][0]["against quality"]["fifo"] == {"higher": 0, "lower": 1, NO_DIFFERENCE: 0, TOO_FEW: 0}
    assert model["main"][0]["means"]["alpaca"]["k-center"] == pytest.approx(0.46, abs=0.03)


def test_no_cells_and_no_folder_are_told_in_one_line(tmp_path: Path, undrawn: Any) -> None:
    with pytest.raises(UserError, match="no finished cell to report on; run the study first"):
        report.summary([])
    with pytest.raises(UserError, match="no finished cell"):
        report.write_report([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        report.write_report(grid(), tmp_path / "file")


def test_figures_of_all_there_is_are_pictures_that_do_not_change(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    cells = everything() + finished(cell(model="e" * 32, model_name="a $model_1/$"))
    written = report.write_report([(dataclasses.replace(c), r) for c, r in cells], tmp_path)
    markdown, _, *pictures = written
    names = ["differences", "curves", "own", "bins", "synthetic", "annotations", "order"]
    assert [file.name for file in pictures] == [f"{name}-1-tiny.svg" for name in names] + ["curves-2-a-model-1.svg"]
    for file in pictures:
        xml.etree.ElementTree.parse(file)
        assert f"]({file.name})" in markdown.read_text()
    found = measures.measure(studies(cells)[1])
    assert page.figures.draw(found)["curves"] == pictures[-1].read_text()

"""What a report must not leave unsaid: sets that were not written, references that are missing, files that changed, and
how little three seeds tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal.errors import UserError
from mlx_personal.finetune import LoRAConfig
from mlx_personal.research.study import report
from mlx_personal.research.study.report import (
    base_models,
    caveats,
    inventory,
    measures,
    page,
    published,
    sweep_figures,
    tables,
    weighted_tables,
)
from mlx_personal.research.study.report.findings import verdicts
from mlx_personal.research.study.report.grouped_cells import Study, studies
from mlx_personal.research.study.report.statistics import TOO_FEW
from mlx_personal.selection.weighted import DEFAULT_WEIGHT
from tests.support.study_cells import DIALOGUES, cell, finished, grid, result


def replaced(cells: Any, when: Any, **changes: Any) -> Any:
    """The cells, with other results for those that `when` holds of."""
    return [(c, result(c, **changes) if when(c) else r) for c, r in cells]


def written(path: Any, cells: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(page, "can_plot", lambda: False)
    text, data = report.write_report(cells, path)
    return text.read_text(), json.loads(data.read_text())


# Synthetic sets


def test_the_synthetic_sets_got_stand_under_the_scores_and_short_cells_are_named() -> None:
    cells = replaced(grid(), lambda c: c.policy == "fifo" and c.seed == 1, written=0.5)
    found = measures.measure(Study(cells))
    sets = found.main[0].rows[0].entries["fifo"].sets
    assert (sets.wanted, sets.got) == (8, pytest.approx(20 / 3))
    assert sets.short == {1: (100, 4, 8)}
    text = tables.main_tables(found)
    with_sets, without = text.split("### ROUGE-1, no synthetic sets")
    assert "|  | synthetic sets | - | - | 8 of 8 | 8 of 8 | 6.7 of 8 | 8 of 8 |" in with_sets
    assert "under 95 % of those asked for:\n\n- ALPACA, FIFO, seed 1: 4 of 8, at 100 received\n\n" in with_sets
    assert "synthetic sets |" not in without
    assert "| FIFO | 19.69" in weighted_tables.beyond_tables(found.beyond)
    assert "| 6.7 of 8 |" in weighted_tables.beyond_tables(found.beyond)


def test_a_checkpoint_that_was_short_is_named_though_the_last_one_was_not() -> None:
    cells = finished(*(cell(seed=seed, synthetic=2) for seed in range(3)))
    cells[1][1]["checkpoints"][1]["synthetic"] = 7
    sets = Study(cells).group("alpaca", "quality", 2).sets
    assert (sets.got, sets.short) == (8, {1: (200, 7, 8)})


def test_a_few_sets_less_are_not_named() -> None:
    cells = finished(*(cell(seed=seed, synthetic=5) for seed in range(3)))
    for _, r in cells:
        r["checkpoints"][-1]["synthetic"] = 19
    assert Study(cells).group("alpaca", "quality", 5).sets.short == {}


def test_sets_of_which_none_passed_are_no_second_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = replaced(grid(), lambda c: c.synthetic, written=0.0)
    text, data = written(tmp_path, cells, monkeypatch)
    said = "no synthetic set passed the checks"
    assert f"With 2 synthetic sets for each kept one there is no table: {said}, so it is no second condition." in text
    assert "### ROUGE-1, 2 synthetic" not in text
    assert "### ROUGE-1, no synthetic sets" in text
    assert f"- 2 synthetic sets for each kept one: {said}\n" in text
    (model,) = data["models"]
    assert {row["synthetic"] for c in model["findings"]["main"] for row in c["rows"]} == {0}
    assert len(model["findings"]["unwritten"]) == 4


def test_a_policy_without_a_set_is_left_out_and_named() -> None:
    cells = replaced(grid(), lambda c: c.synthetic and c.policy == "random", written=0.0)
    study = Study(cells)
    found = measures.measure(study)
    assert "random" not in found.main[0].columns
    assert "random" in found.main[-1].columns
    said = "no synthetic set passed the checks"
    assert f"Left out of the tables with 2 synthetic sets for each kept one: {said} of ALPACA, random." in (
        tables.main_tables(found)
    )
    assert f"ALPACA, random, 2 synthetic sets for each kept one: {said}" in inventory.inventory(study).missing


def test_the_sweep_of_synthetic_sets_shows_what_was_got() -> None:
    cells = [(c, result(c, written=0.7)) for c in (cell(synthetic=n) for n in (0, 5, 9))]
    found = measures.measure(Study(cells))
    text = tables.sweep_table("synthetic", found.sweeps["synthetic"])
    row = next(line for line in text.splitlines() if "sets got a kept one" in line).split("|")[2:-1]
    asked = next(line for line in text.splitlines() if line.startswith("|  | 0 |")).split("|")[2:-1]
    got = {int(a): g.strip() for a, g in zip(asked, row, strict=True)}
    assert (got[0], got[5], got[9]) == ("0.00", "3.50", "6.25")
    assert "Differences are to no synthetic sets." in text
    pytest.importorskip("matplotlib")
    figure = sweep_figures.draw_synthetic(found)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert (labels[0], labels[1], labels[5]) == ("0\n0.0", "1", "5\n3.5")


# References


def test_a_row_without_the_reference_has_no_differences_and_says_so() -> None:
    cells = [(c, r) for c, r in grid(data=("alpaca", "dolly")) if (c.policy, c.data) != ("quality", "dolly")]
    comparison = measures.main(Study(cells))[-2]
    assert comparison.family == 3
    assert all(row.differences == [] for row in comparison.rows if row.data == "dolly")
    assert not any(entry.best for entry in comparison.rows[1].entries.values())
    assert "No differences for DOLLY: quality is missing there." in tables.main_tables(measures.measure(Study(cells)))


def test_without_the_reference_nothing_is_compared() -> None:
    cells = grid(("random", "fifo"), synthetic=(0,))
    text = tables.main_tables(measures.measure(Study(cells)))
    assert "Nothing is compared here. No differences for ALPACA: quality is missing there." in text
    assert "against quality" not in text
    found = measures.measure(Study(finished(*(cell(entropy=e) for e in ("histogram", "spectral-whole")))))
    assert "to spectral." not in tables.sweep_table("entropy", found.sweeps["entropy"])


def test_losses_of_other_tokens_are_not_compared() -> None:
    cells = grid(synthetic=(0,))
    for c, r in cells:
        if c.policy == "fifo":
            r["final"]["general_tokens"][0] += 1
        if c.policy == "random":
            r["final"]["tokens"][0] += 1
    found = {b.policy: b for b in measures.measure(Study(cells)).beyond}
    assert found["fifo"].forgetting is None
    assert found["fifo"].perplexity_difference is not None
    assert found["random"].perplexity_difference is None
    assert found["random"].forgetting is not None
    text = weighted_tables.beyond_tables(list(found.values()))
    assert "ALPACA, FIFO: no forgetting, for the two sides do not have the same tokens." in text
    assert "ALPACA, random: no perplexity to that of quality, for the two" in text


def test_a_base_of_other_dialogues_is_told_in_one_line() -> None:
    cells = grid(synthetic=(0,))
    for checkpoint in cells[-1][1]["checkpoints"]:
        checkpoint["rouge1"] = checkpoint["rouge1"][:-1]
    with pytest.raises(UserError, match="alpaca: they cannot be compared: quality has 12 dialogues, base 11"):
        measures.measure(Study(cells))


# Files that changed


def test_of_two_sources_with_as_many_cells_the_last_one_is_shown() -> None:
    new, old = grid(synthetic=(0,), source="new" * 20), grid(synthetic=(0,), source="old" * 20)
    for first, last in ((old, new), (new, old)):
        study = Study(first + last)
        assert study.group("alpaca", "fifo", 0).cell.source == last[0][0].source
        ran = inventory.inventory(study)
        assert ran.protocols[0]["source"] == last[0][0].source[:12]
        assert ran.hidden == 12
        assert "\n12 trained cells of other protocols or sources, not shown.\n" in inventory.inventory_text(ran)


def test_a_source_with_more_policies_is_shown_though_it_is_older() -> None:
    part = grid(("quality", "random"), synthetic=(0,), source="new")
    study = Study(grid(source="old") + part)
    assert study.group("alpaca", "quality", 0).cell.source == "old"
    assert inventory.inventory(study).hidden == 6


def test_sweeps_and_halves_of_an_older_file_are_not_shown() -> None:
    swept = [cell(bins=bins, source="old") for bins in (64, 128, 256)]
    second = grid(("quality", "weighted"), part="second", source="old", synthetic=(0,))
    study = Study(finished(*swept) + second + grid())
    found = measures.measure(study)
    assert (dict(found.sweeps), found.own, found.own_beyond) == ({}, [], [])
    assert inventory.inventory(study).hidden == 3 + 6


def test_when_all_is_shown_nothing_is_said() -> None:
    assert inventory.inventory(Study(grid())).hidden == 0
    assert "not shown" not in inventory.inventory_text(inventory.inventory(Study(grid())))


# This project's policy


def tuned(gains: Any, data: Any = ("alpaca", "dolly"), seeds: Any = 3) -> Any:
    """Cells of the first halves: the paper's policy at 0.1, each weight with its gain over the base."""
    half = {"part": "first", "received": 150, "every": 150}
    quality = finished(*(cell("quality", s, d, **half) for d in data for s in range(seeds)), noise=0)
    own = [
        (c, result(c, gain=gain, noise=0))
        for weight, gain in gains.items()
        for c in (cell("weighted", s, d, weight=weight, **half) for d in data for s in range(seeds))
    ]
    return quality + own


def test_the_tuning_shows_quality_and_the_rule_and_marks_the_winner() -> None:
    found = measures.tuning(Study(tuned({0.0: 0.1, 4.0: 0.11, 8.0: 0.13, 16.0: 0.12})))
    assert found.comparison.columns == ["quality", 0.0, 4.0, 8.0, 16.0]
    assert found.comparison.family == 8
    scores = [row.entries["quality"].score.value for row in found.comparison.rows]
    assert found.gains[8.0] == pytest.approx(np.mean([0.03 / score for score in scores]))
    assert found.gains[0.0] == pytest.approx(0)
    assert found.best == DEFAULT_WEIGHT == 8.0
    text = weighted_tables.tuning_table(found)
    assert "| quality | weight 0 | weight 4 | weight 8 | weight 16 |" in text
    assert "|  | weight 0 | weight 4 | **weight 8** | weight 16 |" in text
    assert "divided by quality's own score; settled before the second halves were looked at." in text
    assert "at least 3 seeds here. That is 8 (bold), the policy's weight." in text


def test_the_rule_goes_by_the_seeds_that_all_weights_have() -> None:
    cells = [item for item in tuned({0.0: 0.1, 8.0: 0.2}) if (item[0].weight, item[0].seed) != (8.0, 2)]
    lucky = replaced(cells, lambda c: c.policy == "weighted" and c.seed == 2, gain=9.0)
    found = measures.tuning(Study(lucky))
    assert (found.best, found.seeds) == (8.0, 2)
    assert found.gains[0.0] == pytest.approx(0)


def test_a_weight_that_the_rule_would_not_choose_is_said_to_be_so() -> None:
    text = weighted_tables.tuning_table(measures.tuning(Study(tuned({0.0: 0.1, 4.0: 0.2, 8.0: 0.1}))))
    assert "By these cells that is 4 (bold), while the policy's weight is 8." in text


def test_a_weight_that_ran_on_some_data_sets_only_is_not_chosen() -> None:
    found = measures.tuning(Study(tuned({0.0: 0.1}) + tuned({8.0: 0.2}, data=("alpaca",))))
    assert (found.gains[8.0], found.best) == (None, 0.0)
    alone = measures.tuning(Study([item for item in tuned({0.0: 0.1}) if item[0].policy == "weighted"]))
    assert alone.best is None
    assert "Nothing to go by" in weighted_tables.tuning_table(alone)


def test_one_comparison_is_primary_and_is_judged_alone() -> None:
    cells = grid(("quality", "weighted"), published.names()[:3], part="second")
    text = weighted_tables.own_tables(measures.measure(Study(cells)))
    headings = [line for line in text.splitlines() if line.startswith("### ROUGE")]
    assert headings[0] == "### ROUGE-1, no synthetic sets (primary)"
    assert len(headings) == 4
    assert all(heading.endswith("(secondary)") for heading in headings[1:])
    assert text.count("It beats it") == 1


def test_without_the_primary_comparison_nothing_beats_anything() -> None:
    cells = grid(("quality", "weighted"), published.names()[:3], part="second", synthetic=(2,))
    text = weighted_tables.own_tables(measures.measure(Study(cells)))
    assert "The primary comparison was not run." in text
    assert "It beats it" not in text


# Models as they are


def test_all_models_stand_in_one_table_and_one_without_training_is_the_upper_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned_model = {"model": "e" * 32, "model_name": "tuned"}
    data = ("alpaca", "dolly")
    cells = grid(data=data) + finished(*(cell("base", data=name, **tuned_model) for name in data))
    found = base_models.untrained(studies(cells))
    assert [(u.data, u.model, u.alone) for u in found] == [
        ("alpaca", "tiny", False),
        ("alpaca", "tuned", True),
        ("dolly", "tiny", False),
        ("dolly", "tuned", True),
    ]
    scores = dict(cells)[cell("base", **tuned_model)]["checkpoints"][0]
    assert found[1].rouge1.value == pytest.approx(np.mean(scores["rouge1"]))
    assert found[1].rouge_l.value == pytest.approx(np.mean(scores["rougeL"]))
    assert found[1].perplexity.value == pytest.approx(np.exp(3))
    assert found[1].one_answer.rouge1.value == pytest.approx(np.mean(scores["one_answer"]["rouge1"]))
    text, read = written(tmp_path, cells, monkeypatch)
    assert text.index("## Models as they are") < text.index("# `tiny`")
    said = "Upper reference: `tuned` as it is (only its base was run, and it is no side of a comparison), ROUGE-1 "
    assert f"{said}{found[1].rouge1.value:.4f} on ALPACA, " in text
    assert len(read["bases"]) == 4
    # Once for each data set, below its models.
    (row,) = (line for line in text.splitlines() if line.startswith("| DOLLY | one answer for all |"))
    one = f"{found[3].one_answer.rouge1.value:.4f}"
    assert f" | - | 9.0 | {DIALOGUES} |" in row and one in row
    # And beside the policies.
    assert "| base | one answer for all | quality |" in text
    (dolly,) = {line.split(" | ")[3] for line in text.splitlines() if line.startswith("| DOLLY | score |")} - {""}
    assert dolly == one


def test_the_one_answer_of_any_model_is_shown() -> None:
    other = finished(cell("base", model="e" * 32, model_name="tuned"))
    other[0][1]["checkpoints"][0]["one_answer"] = None
    lines = base_models.untrained_table(base_models.untrained(studies(grid() + other))).splitlines()
    names = [line.split(" | ")[1] for line in lines if line.startswith("| ALPACA")]
    assert names == ["`tiny`", "`tuned`", "one answer for all"]


def test_a_base_without_the_one_answer_is_shown_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = grid()
    for _, old in cells:
        old["checkpoints"][0].pop("one_answer", None)
    text, _ = written(tmp_path, cells, monkeypatch)
    assert "| one answer for all |" not in text and "| base | quality |" in text


def test_bases_of_other_dialogues_do_not_stand_side_by_side() -> None:
    cells = grid() + finished(cell("base", model="e" * 32, model_name="tuned", evaluation=99))
    assert [u.model for u in base_models.untrained(studies(cells))] == ["tiny"]


def test_of_bases_alone_the_last_source_is_shown() -> None:
    cells = finished(cell("base", source="new"), cell("base", source="old"))
    for order in (cells, cells[::-1]):
        (shown,) = base_models.untrained(studies(order))
        assert shown.rouge1.value == pytest.approx(np.mean(order[1][1]["checkpoints"][0]["rouge1"]))


def test_models_of_other_tokens_have_perplexities_that_do_not_compare() -> None:
    other = finished(cell("base", model="e" * 32, model_name="tuned"))
    assert "perplexities do not compare" not in base_models.untrained_table(
        base_models.untrained(studies(grid() + other))
    )
    other[0][1]["final"]["tokens"][0] += 1
    assert "On ALPACA models cut" in base_models.untrained_table(base_models.untrained(studies(grid() + other)))


# What the numbers can tell


def test_fewer_than_three_seeds_get_no_verdict() -> None:
    cells = [item for item in grid(synthetic=(0,)) if item[0].seed < 2]
    found = measures.measure(Study(cells))
    comparison = found.main[0]
    assert verdicts(comparison, "fifo")[TOO_FEW] == 1
    assert not any(entry.best for entry in comparison.rows[0].entries.values())
    text = tables.main_tables(found)
    assert text.count("] (too few seeds)") == 2 * 3
    assert "- FIFO against quality: higher on 0, lower on 0, no difference on 0 of 1, too few seeds on 1" in text


def test_a_win_rate_about_one_half_and_no_forgetting_are_no_difference() -> None:
    cells = replaced(grid(("quality", "fifo"), synthetic=(0,)), lambda c: c.policy == "fifo", gain=0.0)
    for c, r in cells:
        if c.policy == "fifo":
            r["final"]["general_nats"] = [n * (3 / 3.3) for n in r["final"]["general_nats"]]
    found = {b.policy: b for b in measures.measure(Study(cells)).beyond}
    assert found["fifo"].win_rate.low < 0.5 < found["fifo"].win_rate.high
    line = next(x for x in weighted_tables.beyond_tables(list(found.values())).splitlines() if "| FIFO |" in x)
    assert line.count("no difference [") == 1 + (found["fifo"].forgetting.low <= 0 <= found["fifo"].forgetting.high)
    quality = next(x for x in weighted_tables.beyond_tables(list(found.values())).splitlines() if "| quality |" in x)
    assert "no difference" not in quality


def test_the_report_says_what_three_seeds_can_tell() -> None:
    text = caveats.certainty([measures.measure(Study(grid()))])
    assert "7 %, 11 %, 20 % where the seeds' standard deviation is 1, 2 and 5 times" in text
    assert "In the 12 differences of the main table and the second halves of `tiny`" in text


def test_departures_from_the_paper_are_the_cells_own() -> None:
    cells = [cell(p, s, training=LoRAConfig(epochs=7, num_layers=2)) for p in ("quality", "fifo") for s in range(3)]
    lines = caveats.departures(Study(finished(*cells)))
    text = "\n".join(lines)
    assert "Streams are of 300 sets with a checkpoint after every 100; the paper's are of 4,600 and 800." in text
    assert "a fixed sample of 12 dialogues" in text
    assert "rank 8 on every linear layer of the last 2 blocks, batch size 8, 7 epochs" in text
    assert "as far as known" in text
    assert caveats.departures(Study(finished(cell("base")))) == []
    alike = caveats.departures(Study(finished(cell(received=4600, every=800))))
    assert len(alike) == len(lines) - 1


# Cells of another version


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r.pop("checkpoints"), "no checkpoints"),
        (lambda r: r.pop("final"), "no final"),
        (lambda r: r["checkpoints"][1].pop("rougeL"), "no rougeL"),
        (lambda r: r["checkpoints"][1].update(rouge1=[]), "no rouge1"),
        (lambda r: r["checkpoints"][0].pop("annotated"), "no annotated"),
    ],
)
def test_a_cell_that_lacks_something_is_named_in_one_line(spoil: Any, said: str) -> None:
    cells = grid()
    chosen = next(i for i, (c, _) in enumerate(cells) if (c.policy, c.seed, c.synthetic) == ("fifo", 1, 2))
    spoil(cells[chosen][1])
    where = rf"the cell {cells[chosen][0].key[:8]} \(alpaca, fifo, seed 1\): its result has {said}"
    with pytest.raises(UserError, match=where) as error:
        report.summary(cells)
    assert "\n" not in error.value.line()


def test_seeds_of_other_checkpoints_are_told_in_one_line() -> None:
    cells = finished(cell(seed=0), cell(seed=1))
    cells[1][1]["checkpoints"].pop()
    with pytest.raises(UserError, match="alpaca, quality: its seeds have other checkpoints"):
        measures.measure(Study(cells))

"""The page of a study: which answer mode and which policy is better, on which data set, by which metric.

Gains are paired: the same evaluation dialogues of the same seeds. Their intervals are bootstrapped over all dialogues.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlx_personal.errors import UserError
from mlx_personal.reporting import can_plot, counted, markdown_table
from mlx_personal.research.statistics import Interval, gain_interval
from mlx_personal.research.study.cell import BASE, HISTORY, Cell
from mlx_personal.research.study.datasets import find_dataset
from mlx_personal.research.study.figures import Gains, draw_gains
from mlx_personal.research.study.history_report import history_section
from mlx_personal.research.study.profile_run import ADAPTER, BOTH, MEMORY
from mlx_personal.research.study.study_folder import FinishedCell
from mlx_personal.storage.files import atomic_write

# The mode that the held-out dialogues of each profile chose, and one answer given to every question.
DEFAULT, ONE_ANSWER = "default", "one answer"
# The metrics of the page, with their titles.
SHOWN_METRICS: Final[Mapping[str, str]] = {
    "log_likelihood": "log-likelihood",
    "reciprocal_rank": "MRR",
    "rouge1": "ROUGE-1",
}
# The policy whose modes are compared, and the baseline of the policies.
PAPER_POLICY, BASELINE = "quality", "random"


@dataclass(frozen=True)
class CellGroup:
    """The cells of one setting with all seeds.

    Attributes:
        cell: The settings, with the seed of any of the cells.
        results: The result of each seed.
        base: The result of the base model for each of these seeds.
    """

    cell: Cell
    results: Mapping[int, Mapping[str, Any]]
    base: Mapping[int, Mapping[str, Any]]

    def values(self, mode: str, metric: str, seeds: Sequence[int] | None = None) -> list[float]:
        """Return the values of all seeds, one after the other.

        Args:
            mode: A name in `profile_run.MODES`, or `DEFAULT` or `ONE_ANSWER`.
            metric: A metric of `answer_metrics`; for `ONE_ANSWER` one of answers.
            seeds: The seeds; None for all.
        """
        return [
            value
            for seed in (sorted(self.results) if seeds is None else seeds)
            for value in self._of(seed, mode, metric)
        ]

    def gain(self, mode: str, over: str, metric: str) -> Interval | None:
        """Return the gain of a mode over another one; None without values, as MRR where all answers are the same."""
        return _gain(self.values(over, metric), self.values(mode, metric))

    def gain_over(self, other: CellGroup, mode: str, metric: str) -> Interval | None:
        """Return the gain in a mode over another group of cells; None without values of the same seeds."""
        seeds = sorted(self.results.keys() & other.results.keys())
        return _gain(other.values(mode, metric, seeds), self.values(mode, metric, seeds))

    def _of(self, seed: int, mode: str, metric: str) -> list[float]:
        result, base = self.results[seed], self.base[seed]
        mode = result["default"] if mode == DEFAULT else mode
        values = base["one_answer"] if mode == ONE_ANSWER else (base if mode == BASE else result)["modes"][mode]
        return list(values[metric])


def group_cells(cells: Sequence[FinishedCell]) -> list[CellGroup]:
    """Return the groups of cells that differ in their seeds only, without those whose base model is missing.

    Args:
        cells: The finished cells.
    """
    by_key = {cell.key: result for cell, result in cells}
    grouped: dict[str, list[FinishedCell]] = {}
    for cell, result in cells:
        if cell.policy not in (BASE, HISTORY) and dataclasses.replace(cell, policy=BASE).key in by_key:
            grouped.setdefault(dataclasses.replace(cell, seed=0).key, []).append((cell, result))
    return [
        CellGroup(
            members[0][0],
            {cell.seed: result for cell, result in members},
            {cell.seed: by_key[dataclasses.replace(cell, policy=BASE).key] for cell, _ in members},
        )
        for members in grouped.values()
    ]


def write_report(cells: Sequence[FinishedCell], folder: Path) -> list[Path]:
    """Write report.md, report.json, and with matplotlib two figures for each setting.

    Args:
        cells: The finished cells.
        folder: The folder, which is created if it does not exist.

    Returns:
        The files.

    Raises:
        UserError: If no cell can be compared with the base model, or a file cannot be written.
    """
    sections, histories = _sections(group_cells(cells)), history_section(cells)
    if not sections and not histories:
        raise UserError("no cell with its base model has finished", hint="run more of the study first")
    files = {"report.md": _page(sections, histories), "report.json": json.dumps(summarize(cells), indent=1) + "\n"}
    if can_plot():
        for number, groups in enumerate(sections, 1):
            if modes := _mode_gains(groups):
                files[f"modes-{number}.svg"] = draw_gains(modes, SHOWN_METRICS, "gain over the base model")
            if policies := _policy_gains(groups):
                files[f"policies-{number}.svg"] = draw_gains(policies, SHOWN_METRICS, f"gain over {BASELINE} selection")
    for name, content in files.items():
        atomic_write(folder / name, content)
    return [folder / name for name in files]


def summarize(cells: Sequence[FinishedCell]) -> dict[str, Any]:
    """Return the numbers of the page as a JSON object.

    Args:
        cells: The finished cells.
    """
    return {
        "settings": [
            {
                "setting": setting_text(groups[0].cell),
                "groups": [
                    {
                        "data": group.cell.data,
                        "policy": group.cell.policy,
                        "seeds": sorted(group.results),
                        "defaults": {seed: result["default"] for seed, result in group.results.items()},
                        "gains_over_base": {
                            mode: {
                                metric: gain._asdict()
                                for metric in SHOWN_METRICS
                                if (gain := group.gain(mode, BASE, metric))
                            }
                            for mode in (MEMORY, ADAPTER, BOTH, DEFAULT)
                        },
                        "one_answer_rouge1": statistics.fmean(group.values(ONE_ANSWER, "rouge1")),
                    }
                    for group in groups
                ],
            }
            for groups in _sections(group_cells(cells))
        ]
    }


def setting_text(cell: Cell) -> str:
    """Return the settings that all cells of a section share.

    Args:
        cell: One of the cells.
    """
    part = "" if cell.part == "all" else f", the {cell.part} half of the data"
    synthetic = f", {cell.synthetic} synthetic per dialogue" if cell.synthetic else ""
    return (
        f"{cell.model_name}{part}{synthetic}: streams of up to {cell.received} dialogues, {cell.bins} bins, "
        f"{cell.examples} examples in the prompt, {cell.training.epochs} epochs at {cell.training.learning_rate:g}"
    )


def _sections(groups: Sequence[CellGroup]) -> list[list[CellGroup]]:
    """Return the groups that can be compared: those that differ in data set and policy only."""
    sections: dict[str, list[CellGroup]] = {}
    for group in groups:
        shared = dataclasses.replace(group.cell, data="", source="", seed=0, policy=PAPER_POLICY)
        sections.setdefault(shared.key, []).append(group)
    return list(sections.values())


def _page(sections: Sequence[Sequence[CellGroup]], histories: str) -> str:
    lines = ["# Study\n"]
    for number, groups in enumerate(sections, 1):
        of_paper = [group for group in groups if group.cell.policy == PAPER_POLICY]
        seeds = sorted({seed for group in groups for seed in group.results})
        lines.append(f"## {setting_text(groups[0].cell)}\n\n{counted(len(seeds), 'seed')}.\n")
        if of_paper:
            lines += [_summary(of_paper), _mode_table(of_paper)]
            if can_plot():
                lines.append(f"![Gains of the answer modes](modes-{number}.svg)\n")
        if policies := list(_policy_rows(groups)):
            titles = [f"{title}, over {BASELINE}" for title in SHOWN_METRICS.values()]
            lines.append(f"### Policies, with `{BOTH}`\n")
            lines.append(markdown_table(["data", "policy", "kept for training", *titles], policies))
            if can_plot():
                lines.append(f"![Gains of the policies](policies-{number}.svg)\n")
    if histories:
        lines.append(histories)
    lines.append(
        "`default` is the mode that the held-out part of each profile chose. Gains are paired, with 95 % bootstrap "
        "intervals over the evaluation dialogues of all seeds. Log-likelihoods are of the preferred answers, in nats "
        "a token; MRR is of the choice of the own answer among others of like length.\n"
    )
    return "\n".join(lines)


def _summary(groups: Sequence[CellGroup]) -> str:
    """Return on how many data sets the default is better than the base model and than one answer for all."""

    def wins(over: str, metric: str) -> int:
        return sum((gain := group.gain(DEFAULT, over, metric)) is not None and gain.low > 0 for group in groups)

    of_metrics = [f"{wins(BASE, metric)} of {len(groups)} in {title}" for metric, title in SHOWN_METRICS.items()]
    return (
        f"With the paper's policy the default is better than the base model, its interval above 0, on "
        f"{', '.join(of_metrics)}; and better than one answer for all on {wins(ONE_ANSWER, 'rouge1')} of "
        f"{len(groups)} in ROUGE-1.\n"
    )


def _mode_table(groups: Sequence[CellGroup]) -> str:
    columns = ["data", "metric", BASE, MEMORY, ADAPTER, BOTH, DEFAULT, ONE_ANSWER, "default over base"]
    rows = [
        [
            _title_of(group),
            title,
            *(_mean_text(group.values(mode, metric)) for mode in (BASE, MEMORY, ADAPTER, BOTH, DEFAULT)),
            _mean_text(group.values(ONE_ANSWER, metric)) if metric == "rouge1" else None,
            _text(group.gain(DEFAULT, BASE, metric)),
        ]
        for group in groups
        for metric, title in SHOWN_METRICS.items()
    ]
    return markdown_table(columns, rows)


def _policy_rows(groups: Sequence[CellGroup]) -> Iterator[list[object]]:
    """Yield a row for each data set and policy other than the baseline."""
    baselines = {group.cell.data: group for group in groups if group.cell.policy == BASELINE}
    for group in sorted(groups, key=lambda group: group.cell.data):
        if group.cell.policy == BASELINE or group.cell.data not in baselines:
            continue
        gains = [group.gain_over(baselines[group.cell.data], BOTH, metric) for metric in SHOWN_METRICS]
        trained = statistics.fmean(result["trained"] for result in group.results.values())
        yield [
            _title_of(group),
            group.cell.policy,
            f"{trained:.0f}",
            *map(_text, gains),
        ]


def _mode_gains(groups: Sequence[CellGroup]) -> Gains:
    """Return the gains of the modes over the base model, with the paper's policy."""
    gains: Gains = {}
    for group in groups:
        for metric in SHOWN_METRICS if group.cell.policy == PAPER_POLICY else ():
            for mode in (MEMORY, ADAPTER, BOTH, DEFAULT, *([ONE_ANSWER] if metric == "rouge1" else [])):
                if gain := group.gain(mode, BASE, metric):
                    gains.setdefault(metric, {}).setdefault(mode, {})[_title_of(group)] = gain
    return gains


def _policy_gains(groups: Sequence[CellGroup]) -> Gains:
    """Return the gains of the policies over the baseline."""
    baselines = {group.cell.data: group for group in groups if group.cell.policy == BASELINE}
    gains: Gains = {}
    for group in groups:
        baseline = baselines.get(group.cell.data)
        for metric in SHOWN_METRICS if baseline is not None and group is not baseline else ():
            assert baseline is not None
            if gain := group.gain_over(baseline, BOTH, metric):
                gains.setdefault(metric, {}).setdefault(group.cell.policy, {})[_title_of(group)] = gain
    return gains


def _text(gain: Interval | None) -> str | None:
    return None if gain is None else gain.text(signed=True)


def _gain(before: Sequence[float], after: Sequence[float]) -> Interval | None:
    return gain_interval(before, after) if before else None


def _title_of(group: CellGroup) -> str:
    return find_dataset(group.cell.data).title


def _mean_text(values: Sequence[float]) -> str | None:
    return f"{statistics.fmean(values):.3f}" if values else None

"""The part of a study's page about long personal histories."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlx_personal.reporting import markdown_table
from mlx_personal.research.statistics import gain_interval
from mlx_personal.research.study.cell import BASE, HISTORY
from mlx_personal.research.study.history_run import OPTION_ACCURACY
from mlx_personal.research.study.profile_run import LONG_CONTEXT, MODES
from mlx_personal.research.study.study_folder import FinishedCell

_METRICS: Final[Mapping[str, str]] = {
    "log_likelihood": "log-likelihood",
    "reciprocal_rank": "MRR",
    "rouge1": "ROUGE-1",
    OPTION_ACCURACY: "accuracy",
}
_COMPARED: Final = (*MODES, LONG_CONTEXT)


def history_section(cells: Sequence[FinishedCell]) -> str:
    """Return the section as Markdown; empty without finished cells of histories.

    Args:
        cells: The finished cells of a study.
    """
    rows = list(_rows(cells))
    if not rows:
        return ""
    columns = ["data", "users", "metric", *_COMPARED, *(f"{mode} over {BASE}" for mode in _COMPARED if mode != BASE)]
    return (
        "## Long personal histories\n\n"
        "What a user said before is kept and trained on, and questions about it are asked. `accuracy` is the share of "
        "questions whose right option is the likeliest a token. Intervals are bootstrapped over users.\n\n"
        + markdown_table(columns, rows)
    )


def _rows(cells: Sequence[FinishedCell]) -> Iterator[list[object]]:
    """Yield a row for each data set, model, settings and metric."""
    groups: dict[tuple[str, ...], list[FinishedCell]] = {}
    for cell, result in cells:
        if cell.policy == HISTORY:
            settings = (cell.data, cell.source, cell.model, str(cell.examples), str(cell.training.to_json()))
            groups.setdefault(settings, []).append((cell, result))
    for members in groups.values():
        for metric, title in _METRICS.items():
            by_mode = {mode: _values(members, mode, metric) for mode in _COMPARED}
            if not by_mode[BASE]:
                continue
            units = [user for user, _ in by_mode[BASE]]
            values = {mode: [value for _, value in of_mode] for mode, of_mode in by_mode.items()}
            yield [
                members[0][0].data,
                len({cell.user for cell, _ in members}),
                title,
                *(f"{statistics.fmean(of_mode):.3f}" for of_mode in values.values()),
                *(
                    gain_interval(values[BASE], values[mode], units).text(signed=True)
                    for mode in _COMPARED
                    if mode != BASE
                ),
            ]


def _values(members: Sequence[tuple[Any, Mapping[str, Any]]], mode: str, metric: str) -> list[tuple[str, float]]:
    """Return the values of all users in a mode, each with its user."""
    return [(cell.user, value) for cell, result in members for value in result["modes"][mode].get(metric, ())]

"""Write a report: tables in Markdown, the same results as JSON, and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlx_personal.errors import Action, UserError, from_os_error
from mlx_personal.reporting import can_plot
from mlx_personal.research.study.report import analysis, figures, tables
from mlx_personal.research.study.report.base_models import base_model_scores, base_model_table, upper_reference
from mlx_personal.research.study.report.caveats import describe_certainty
from mlx_personal.research.study.report.findings import Comparison, Findings, count_verdicts
from mlx_personal.research.study.report.inventory import Inventory, inventory_text, take_inventory
from mlx_personal.research.study.report.json_format import to_json
from mlx_personal.research.study.report.labels import code
from mlx_personal.research.study.report.model_study import FinishedCell, split_by_model
from mlx_personal.research.study.report.published import CITATION, published_results
from mlx_personal.research.study.report.weighted_tables import other_metrics_tables, tuning_table, weighted_tables
from mlx_personal.storage.files import atomic_write, check_writable

_CURVES_NOTE: Final = (
    "Bands are 95 % intervals of each mean. Policies are compared on the same dialogues, so they may differ although "
    "their bands overlap; see the tables.\n"
)


def write_report(cells: Sequence[FinishedCell], folder: Path) -> list[Path]:
    """Write `report.md`, `report.json` and, if matplotlib is installed, the figures.

    Args:
        cells: Finished cells and their results; any part of a study.
        folder: Folder for the files; created if it is missing.

    Returns:
        The written files.

    Raises:
        UserError: If there is no cell, or the folder cannot be written to.
    """
    _check_cells(cells, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, folder) from error
    markdown_file, json_file = folder / "report.md", folder / "report.json"
    check_writable(markdown_file)
    studies = split_by_model(cells)
    models = [(analysis.analyze(study), take_inventory(study)) for study in studies]
    bases = base_model_scores(studies)
    figure_files: dict[Path, str] = {}
    text = f"# The selection study\n\n{tables.reading_note()}\n"
    if not can_plot():
        text += "\nNo figures: matplotlib is not installed (`pip install 'mlx-personal[plots]'`).\n"
    text += f"\n## What three seeds can show\n\n{describe_certainty([findings for findings, _ in models])}"
    if bases:
        text += f"\n## Base models\n\n{base_model_table(bases)}"
    for number, (findings, inventory) in enumerate(models, 1):
        # Figures of several models are numbered, because models may have the same name.
        name_part = re.sub("[^A-Za-z0-9]+", "-", findings.model).strip("-")
        suffix = "" if len(models) == 1 else f"-{number}-{name_part}"
        drawn = figures.draw_figures(findings) if can_plot() else {}
        figure_files |= {folder / f"{name}{suffix}.svg": svg for name, svg in drawn.items()}
        links = {name: f"\n![{figures.CAPTIONS[name]}]({name}{suffix}.svg)\n" for name in drawn}
        text += _model_text(findings, inventory, links, upper_reference(bases))
    document = {
        "models": [{"findings": to_json(findings), "inventory": to_json(inventory)} for findings, inventory in models],
        "bases": to_json(bases),
        "paper": published_results(),
    }
    atomic_write(json_file, json.dumps(document, indent=1) + "\n")
    for file, svg in figure_files.items():
        atomic_write(file, svg)
    atomic_write(markdown_file, text)
    return [markdown_file, json_file, *figure_files]


def summarize(cells: Sequence[FinishedCell]) -> dict[str, Any]:
    """Return a short summary as JSON: final scores, verdicts, and missing cells.

    Raises:
        UserError: If there is no cell.
    """
    _check_cells(cells, None)
    models = []
    for study in split_by_model(cells):
        inventory = take_inventory(study)
        models.append(
            {
                "model": inventory.model,
                "cells": inventory.num_cells,
                "base_cells": inventory.num_base_cells,
                "seeds": list(inventory.seed_range),
                "seconds": inventory.compute_s,
                "main": [_summarize_comparison(c) for c in analysis.main_comparisons(study)],
                "ablation": [_summarize_comparison(c) for c in analysis.ablation_comparisons(study)],
                "own": [_summarize_comparison(c) for c in analysis.weighted_comparisons(study)],
                "missing": list(inventory.missing),
            }
        )
    return {"cells": len(cells), "models": models}


def _check_cells(cells: Sequence[FinishedCell], folder: Path | None) -> None:
    if not cells:
        raise UserError("there is no finished cell to report on", folder, remedy=Action.RUN_STUDY)


def _summarize_comparison(comparison: Comparison) -> dict[str, Any]:
    """Return the means and verdicts of a comparison, without intervals."""
    return {
        "score": comparison.score,
        "synthetic": comparison.rows[0].synthetic,
        "means": {
            row.data: {policy: round(entry.score.value, 4) for policy, entry in row.entries.items()}
            for row in comparison.rows
        },
        f"against {comparison.reference}": {
            policy: count_verdicts(comparison, policy)
            for policy in comparison.columns
            if policy != comparison.reference
        },
    }


def _model_text(
    findings: Findings, inventory: Inventory, figure_links: Mapping[str, str], upper_reference_text: str
) -> str:
    """Return the sections of one model."""
    sections: list[tuple[str, str, str | None]] = [("Cells", inventory_text(inventory), None)]
    if inventory.deviations:
        lines = "".join(f"- {line}\n" for line in inventory.deviations)
        sections.append((f"Deviations from {CITATION}", lines, None))
    if findings.main or findings.failed_synthesis:
        main = "\n".join(filter(None, (upper_reference_text, tables.main_tables(findings))))
        sections.append(("Main table", main, "differences"))
    if "curves" in figure_links:
        sections.append(("Learning curves", _CURVES_NOTE, "curves"))
    if findings.ablation:
        sections.append(("Ablation (Table 4)", tables.ablation_tables(findings), None))
    sections += [
        (tables.sweep_title(name), tables.sweep_table(name, sweep), name) for name, sweep in findings.sweeps.items()
    ]
    if findings.other_metrics:
        sections.append(("Other metrics", other_metrics_tables(findings.other_metrics), None))
    if findings.tuning:
        sections.append(("Tuning of the policy weighted", tuning_table(findings.tuning), None))
    if findings.weighted or findings.weighted_failed_synthesis:
        sections.append(("The policy weighted on the second halves", weighted_tables(findings), "own"))
    text = f"\n# {code(findings.model)}\n"
    for title, body, figure in sections:
        link = figure_links.get(figure or "", "")
        text += f"\n## {title}\n{link}\n{body}"
    return text

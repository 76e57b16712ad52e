"""A study's report: tables in Markdown, the same numbers in JSON, and figures, from whatever cells are finished."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_personal.errors import UserError, from_os_error
from mlx_personal.reporting import can_draw
from mlx_personal.research.study.report import figures, measures, tables, weighted_tables
from mlx_personal.research.study.report.base_models import untrained, untrained_table, upper_reference
from mlx_personal.research.study.report.caveats import certainty
from mlx_personal.research.study.report.findings import Comparison, Findings, verdicts
from mlx_personal.research.study.report.grouped_cells import Finished, studies
from mlx_personal.research.study.report.inventory import Inventory, inventory, inventory_text
from mlx_personal.research.study.report.labels import code
from mlx_personal.research.study.report.published import published
from mlx_personal.research.study.report.statistics import Difference
from mlx_personal.storage.files import atomic_write, check_writable

_CURVES = (
    "Bands: 95 % intervals of each mean. Policies are compared on the same dialogues, so bands that overlap may well "
    "differ: the tables say which do.\n"
)


def write_report(cells: Sequence[Finished], folder: Path) -> list[Path]:
    """Writes report.md, report.json and, where matplotlib is installed, the figures into `folder`; the files written.

    UserError if there is no cell, or nothing can be written there.
    """
    _check(cells, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, folder) from error
    page, data = folder / "report.md", folder / "report.json"
    check_writable(page)
    ours = studies(cells)
    found, bases = [(measures.measure(study), inventory(study)) for study in ours], untrained(ours)
    drawn: dict[Path, str] = {}
    text = f"# The selection study\n\n{tables.note()}\n"
    if not can_draw():
        text += "\nNo figures: matplotlib is not installed (`pip install 'mlx-personal[plots]'`).\n"
    text += f"\n## What three seeds can tell\n\n{certainty([findings for findings, _ in found])}"
    if bases:
        text += f"\n## Models as they are\n\n{untrained_table(bases)}"
    for number, (findings, ran) in enumerate(found):
        # One model's figures need no name; those of more are told apart by number, for models may share a name.
        suffix = "" if len(found) == 1 else f"-{number + 1}-{re.sub('[^A-Za-z0-9]+', '-', findings.model).strip('-')}"
        pictures = figures.draw(findings) if can_draw() else {}
        drawn |= {folder / f"{name}{suffix}.svg": picture for name, picture in pictures.items()}
        links = {name: f"\n![{figures.TITLES[name]}]({name}{suffix}.svg)\n" for name in pictures}
        text += _model_text(findings, ran, links, upper_reference(bases))
    models = [{"findings": plain(findings), "inventory": plain(ran)} for findings, ran in found]
    atomic_write(data, json.dumps({"models": models, "bases": plain(bases), "paper": published()}, indent=1) + "\n")
    for file, picture in drawn.items():
        atomic_write(file, picture)
    atomic_write(page, text)
    return [page, data, *drawn]


def summary(cells: Sequence[Finished]) -> dict[str, Any]:
    """The few numbers of a report that fit on a screen, as JSON has them: final scores, verdicts, and what is missing.

    UserError if there is no cell.
    """
    _check(cells, None)
    models = []
    for study in studies(cells):
        ran = inventory(study)
        models.append(
            {
                "model": ran.model,
                "cells": ran.cells,
                "base_cells": ran.base_cells,
                "seeds": list(ran.seeds),
                "seconds": ran.seconds,
                "main": [_short(comparison) for comparison in measures.main(study)],
                "ablation": [_short(comparison) for comparison in measures.ablation(study)],
                "own": [_short(comparison) for comparison in measures.own(study)],
                "missing": list(ran.missing),
            }
        )
    return {"cells": len(cells), "models": models}


def plain(value: Any) -> Any:
    """Dataclasses and mappings as JSON has them: a key that is a setting's value becomes words, and None `none`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return found | {"verdict": value.verdict} if isinstance(value, Difference) else found
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def _key(key: Any) -> str:
    if isinstance(key, tuple):
        return " ".join(map(str, key))
    return "none" if key is None else str(key)


def _check(cells: Sequence[Finished], folder: Path | None) -> None:
    if not cells:
        raise UserError("there is no finished cell to report on", folder, "run the study first: mlx-personal study run")


def _short(comparison: Comparison) -> dict[str, Any]:
    """A comparison's means and verdicts, without intervals."""
    return {
        "score": comparison.score,
        "synthetic": comparison.rows[0].synthetic,
        "means": {
            row.data: {policy: round(entry.score.value, 4) for policy, entry in row.entries.items()}
            for row in comparison.rows
        },
        f"against {comparison.reference}": {
            policy: verdicts(comparison, policy) for policy in comparison.columns if policy != comparison.reference
        },
    }


def _model_text(found: Findings, ran: Inventory, pictures: Mapping[str, str], upper: str) -> str:
    """One model's part of the page; `pictures`: the line that shows each figure; `upper`: of models not trained."""
    sections: list[tuple[str, str, str | None]] = [("What ran", inventory_text(ran), None)]
    if ran.departures:
        lines = "".join(f"- {line}\n" for line in ran.departures)
        sections.append(("Where this differs from the paper", lines, None))
    if found.main or found.unwritten:
        sections.append(("Main table", "\n".join(filter(None, (upper, tables.main_tables(found)))), "differences"))
    if "curves" in pictures:
        sections.append(("Learning curves", _CURVES, "curves"))
    if found.ablation:
        sections.append(("Ablation (Table 4)", tables.ablation_tables(found), None))
    sections += [
        (tables.sweep_title(name), tables.sweep_table(name, swept), name) for name, swept in found.sweeps.items()
    ]
    if found.beyond:
        sections.append(("Beyond ROUGE", weighted_tables.beyond_tables(found.beyond), None))
    if found.tuning:
        sections.append(("Tuning of this project's policy", weighted_tables.tuning_table(found.tuning), None))
    if found.own or found.own_unwritten:
        sections.append(("This project's policy, second halves", weighted_tables.own_tables(found), "own"))
    text = f"\n# {code(found.model)}\n"
    for title, body, picture in sections:
        shown = pictures.get(picture or "", "")
        text += f"\n## {title}\n{shown}\n{body}"
    return text

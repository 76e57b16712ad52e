"""The cells that a report is based on: how many ran, on which machines and for how long, and which are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.reporting import markdown_table
from mlx_personal.research.study.cell import BASE, POLICIES, WEIGHTED, describe_synthetic
from mlx_personal.research.study.report.analysis import SWEEPS
from mlx_personal.research.study.report.caveats import describe_deviations
from mlx_personal.research.study.report.labels import code, data_label, policy_label
from mlx_personal.research.study.report.model_study import ModelStudy
from mlx_personal.research.study.report.published import CITATION, published_datasets
from mlx_personal.research.study.report.statistics import MIN_SEEDS
from mlx_personal.research.study.report.tables import SYNTHESIS_FAILED

# Incomplete groups that are listed individually.
_MAX_LISTED: Final = 20


@dataclass(frozen=True)
class Inventory:
    """The cells of one base model.

    Attributes:
        model: Name of the model.
        fingerprint: Fingerprint of the model.
        num_cells: Number of trained cells.
        num_base_cells: Number of cells of the base model.
        seed_range: Fewest and most seeds per setting.
        compute_s: Seconds of all cells together.
        machines: Machines with their numbers of cells.
        protocols: Main protocol of each data set.
        missing: What a complete study has in addition, in words.
        num_hidden: Number of trained cells that are in no table.
        deviations: Deviations from the paper's protocol, in words.
    """

    model: str
    fingerprint: str
    num_cells: int
    num_base_cells: int
    seed_range: tuple[int, int]
    compute_s: float
    machines: Sequence[str]
    protocols: Sequence[Mapping[str, Any]]
    missing: Sequence[str]
    num_hidden: int
    deviations: Sequence[str]


def take_inventory(study: ModelStudy) -> Inventory:
    """Return the inventory of a study."""
    trained = [cell for cell, _ in study.cells if cell.policy != BASE]
    seeds = [len(group.results) for group in study.groups.values() if group.cell.policy != BASE]
    return Inventory(
        model=study.model_name,
        fingerprint=study.cells[0][0].model,
        num_cells=len(trained),
        num_base_cells=len(study.cells) - len(trained),
        seed_range=(min(seeds, default=0), max(seeds, default=0)),
        compute_s=sum(float(result.get("seconds") or 0.0) for _, result in study.cells),
        machines=_machines(study),
        protocols=[protocol for data in study.datasets if (protocol := _protocol(study, data))],
        missing=_missing(study),
        num_hidden=len(trained) - _count_shown(study),
        deviations=describe_deviations(study),
    )


def inventory_text(inventory: Inventory) -> str:
    """Return an inventory as Markdown."""
    hours = inventory.compute_s / 3600
    time = f"{hours:.1f} hours" if hours >= 1 else f"{inventory.compute_s / 60:.1f} minutes"
    fewest, most = inventory.seed_range
    seeds = (
        f", {fewest} to {most} seeds per setting"
        if most > fewest
        else f", {most} seeds per setting"
        if most > 1
        else ""
    )
    text = (
        f"{inventory.num_cells:,} trained cells{seeds}, and {inventory.num_base_cells:,} of the base model; {time} of "
        f"computation in total. Model: {code(inventory.model)} ({code(inventory.fingerprint[:16])}). Machines: "
        f"{'; '.join(map(code, inventory.machines)) or 'not recorded'}.\n"
    )
    if inventory.protocols:
        head = list(inventory.protocols[0])
        text += f"\nThe main protocol:\n\n{markdown_table(head, (p.values() for p in inventory.protocols))}"
    if inventory.num_hidden:
        cells = f"{inventory.num_hidden:,} trained cell{'s' if inventory.num_hidden > 1 else ''}"
        text += f"\n{cells} of other protocols or sources, not shown.\n"
    if inventory.missing:
        text += "\nMissing or incomplete:\n\n" + "".join(f"- {line}\n" for line in inventory.missing)
    return text


def _machines(study: ModelStudy) -> list[str]:
    """Return a description of each machine with its number of cells, the most used one first."""
    counts: Counter[str] = Counter()
    for _, result in study.cells:
        machine = result.get("machine") or {}
        parts = (machine.get("chip"), machine.get("device"), machine.get("os"))
        if description := ", ".join(str(part) for part in parts if part):
            counts[description] += 1
    return [f"{description}: {count:,} cells" for description, count in counts.most_common()]


def _count_shown(study: ModelStudy) -> int:
    """Return the number of trained cells in any table."""
    groups = [
        group
        for part in (None, "second")
        for data in study.datasets
        for policy in POLICIES
        for synthetic in study.synthetic_settings(part)
        if (group := study.find_group(data, policy, synthetic, part))
    ]
    groups += study.failed_synthesis() + study.failed_synthesis("second")
    groups += [group for data in study.datasets for group in study.weight_groups(data).values()]
    for setting in SWEEPS.values():
        sweeps = study.sweeps(*setting.fields, min_values=setting.min_values)
        groups += [group for sweep in sweeps for group in sweep.groups.values()]
    return sum(len(group.results) for group in {id(group): group for group in groups}.values())


def _protocol(study: ModelStudy, data: str) -> dict[str, Any] | None:
    groups = study.protocol(data)
    if not groups:
        return None
    cell = groups[0].cell
    return {
        "data set": data_label(data),
        "source": cell.source[:12],
        "part": cell.part,
        "order": f"correlated, {cell.strength:g}" if cell.order == "correlated" else cell.order,
        "received": f"{cell.received:,}",
        "every": f"{cell.every:,}",
        "evaluated": f"{cell.evaluation:,}",
        "answer tokens": cell.answer_tokens,
        "bins": cell.bins,
        "epochs": cell.training.epochs,
        "learning rate": f"{cell.training.learning_rate:g}",
        "seeds": max(len(group.results) for group in groups),
    }


def _missing(study: ModelStudy) -> list[str]:
    """Describe what a complete study has in addition to these cells."""
    lines = []
    if absent := [data_label(name) for name in published_datasets() if name not in study.datasets]:
        lines.append(f"data sets of {CITATION} without a cell: {', '.join(absent)}")
    settings = study.synthetic_settings()
    if not settings:
        return [*lines, "every policy: only the base model was run"]
    if 0 not in settings:
        lines.append("every policy without synthetic dialogues")
    if not any(settings):
        requested = sorted({group.cell.synthetic for group in study.failed_synthesis()})
        failures = [f"{describe_synthetic(n)}: {SYNTHESIS_FAILED}" for n in requested]
        lines += failures or ["every policy with synthetic dialogues"]
    if without_base := [data_label(data) for data in study.datasets if not _has_base(study, data)]:
        lines.append(f"the base model on {', '.join(without_base)}: no win rates and no forgetting there")
    incomplete = _incomplete_groups(study, settings)
    lines += incomplete[:_MAX_LISTED]
    if len(incomplete) > _MAX_LISTED:
        lines.append(f"and {len(incomplete) - _MAX_LISTED} more of this kind")
    for name, setting in SWEEPS.items():
        if not study.sweeps(*setting.fields, min_values=setting.min_values):
            lines.append(f"the sweep of {name}")
    if not any(study.weight_groups(data) for data in study.datasets):
        lines.append(f"the tuning of {policy_label(WEIGHTED)} on the first halves")
    second_half_settings = study.synthetic_settings("second")
    if not any(study.find_group(data, WEIGHTED, n, "second") for data in study.datasets for n in second_half_settings):
        lines.append(f"{policy_label(WEIGHTED)} on the second halves")
    return lines


def _incomplete_groups(study: ModelStudy, settings: Sequence[int]) -> list[str]:
    """Describe the groups of the main tables with fewer than `MIN_SEEDS` seeds."""
    failed = {(g.cell.data, g.cell.policy, g.cell.synthetic) for g in study.failed_synthesis()}
    lines = []
    for data in study.datasets:
        for policy in (p for p in POLICIES if p != WEIGHTED):
            for synthetic in settings:
                group = study.find_group(data, policy, synthetic)
                seeds = len(group.results) if group else 0
                if seeds < MIN_SEEDS:
                    reason = SYNTHESIS_FAILED if (data, policy, synthetic) in failed else "not run"
                    count = f"{seeds} of {MIN_SEEDS} seeds" if seeds else reason
                    lines.append(
                        f"{data_label(data)}, {policy_label(policy)}, {describe_synthetic(synthetic)}: {count}"
                    )
    return lines


def _has_base(study: ModelStudy, data: str) -> bool:
    return any(study.base_of(group) for group in study.protocol(data))

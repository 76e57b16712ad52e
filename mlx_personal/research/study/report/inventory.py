"""What a report rests on: which cells ran, on what machines and how long, and which are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_personal.reporting import table
from mlx_personal.research.study.cell import BASE, OWN, POLICIES, synthetic_text
from mlx_personal.research.study.report import published
from mlx_personal.research.study.report.caveats import departures
from mlx_personal.research.study.report.grouped_cells import Study
from mlx_personal.research.study.report.labels import code, data_label, policy_label
from mlx_personal.research.study.report.measures import SWEEPS
from mlx_personal.research.study.report.statistics import LEAST_SEEDS
from mlx_personal.research.study.report.tables import NONE_PASSED

_LISTED = 20  # missing groups that are named one by one


@dataclass(frozen=True)
class Inventory:
    """Of one base model. `seeds`: the fewest and the most that a setting has; `seconds`: of all cells together, as if
    one after another; `protocols`: a data set each; `hidden`: trained cells that are in no table; `departures`: from
    the paper's protocol, in words."""

    model: str
    fingerprint: str
    cells: int
    base_cells: int
    seeds: tuple[int, int]
    seconds: float
    machines: Sequence[str]
    protocols: Sequence[Mapping[str, Any]]
    missing: Sequence[str]
    hidden: int
    departures: Sequence[str]


def inventory(study: Study) -> Inventory:
    """What ran of a study, and what a full one has beside it."""
    trained = [cell for cell, _ in study.cells if cell.policy != BASE]
    seeds = [len(group.results) for group in study.groups.values() if group.cell.policy != BASE]
    return Inventory(
        model=study.name,
        fingerprint=study.cells[0][0].model,
        cells=len(trained),
        base_cells=len(study.cells) - len(trained),
        seeds=(min(seeds, default=0), max(seeds, default=0)),
        seconds=sum(float(result.get("seconds") or 0.0) for _, result in study.cells),
        machines=_machines(study),
        protocols=[protocol for data in study.data if (protocol := _protocol(study, data))],
        missing=_missing(study),
        hidden=len(trained) - _shown(study),
        departures=departures(study),
    )


def inventory_text(found: Inventory) -> str:
    """The inventory as Markdown: sizes, protocols by data set, and what is missing."""
    hours = found.seconds / 3600
    time = f"{hours:.1f} hours" if hours >= 1 else f"{found.seconds / 60:.1f} minutes"
    least, most = found.seeds
    seeds = f", {least} to {most} seeds a setting" if most > least else f", {most} seeds a setting" if most > 1 else ""
    text = (
        f"{found.cells:,} trained cells{seeds}, and {found.base_cells:,} of the base model; {time} of "
        f"cells, added up. Model: {code(found.model)} ({code(found.fingerprint[:16])}). Machines: "
        f"{'; '.join(map(code, found.machines)) or 'not told'}.\n"
    )
    if found.protocols:
        head = list(found.protocols[0])
        text += f"\nThe main protocol:\n\n{table(head, (p.values() for p in found.protocols))}"
    if found.hidden:
        cells = f"{found.hidden:,} trained cell{'s' if found.hidden > 1 else ''}"
        text += f"\n{cells} of other protocols or sources, not shown.\n"
    if found.missing:
        text += "\nMissing or short:\n\n" + "".join(f"- {line}\n" for line in found.missing)
    return text


def _machines(study: Study) -> list[str]:
    """Each machine in a few words, with its cells; the busiest first."""
    counts: Counter[str] = Counter()
    for _, result in study.cells:
        machine = result.get("machine") or {}
        parts = (machine.get("chip"), machine.get("device"), machine.get("os"))
        if words := ", ".join(str(part) for part in parts if part):
            counts[words] += 1
    return [f"{words}: {count:,} cells" for words, count in counts.most_common()]


def _shown(study: Study) -> int:
    """How many trained cells any table rests on."""
    groups = [
        group
        for part in (None, "second")
        for data in study.data
        for policy in POLICIES
        for synthetic in study.settings(part)
        if (group := study.group(data, policy, synthetic, part))
    ]
    groups += study.unwritten() + study.unwritten("second")
    groups += [group for data in study.data for group in study.weights(data).values()]
    for setting in SWEEPS.values():
        groups += [g for s in study.sweeps(*setting.fields, least=setting.least) for g in s.points.values()]
    return sum(len(group.results) for group in {id(group): group for group in groups}.values())


def _protocol(study: Study, data: str) -> dict[str, Any] | None:
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


def _missing(study: Study) -> list[str]:
    """In words, what a full study has and these cells do not."""
    lines = []
    if absent := [data_label(name) for name in published.names() if name not in study.data]:
        lines.append(f"data sets of the paper without a cell: {', '.join(absent)}")
    settings = study.settings()
    if not settings:
        return [*lines, "every policy: only the base model was run"]
    if 0 not in settings:
        lines.append("every policy without synthetic sets")
    if not any(settings):
        asked = sorted({group.cell.synthetic for group in study.unwritten()})
        lines += [f"{synthetic_text(n)}: {NONE_PASSED}" for n in asked] or ["every policy with synthetic sets"]
    if without := [data_label(data) for data in study.data if not _has_base(study, data)]:
        lines.append(f"the base model on {', '.join(without)}: no win rates and no forgetting there")
    unwritten = {(g.cell.data, g.cell.policy, g.cell.synthetic) for g in study.unwritten()}
    short = []
    for data in study.data:
        for policy in (p for p in POLICIES if p != OWN):
            for synthetic in settings:
                group = study.group(data, policy, synthetic)
                seeds = len(group.results) if group else 0
                if seeds < LEAST_SEEDS:
                    none = NONE_PASSED if (data, policy, synthetic) in unwritten else "not run"
                    count = f"{seeds} of {LEAST_SEEDS} seeds" if seeds else none
                    short.append(f"{data_label(data)}, {policy_label(policy)}, {synthetic_text(synthetic)}: {count}")
    lines += short[:_LISTED]
    if len(short) > _LISTED:
        lines.append(f"and {len(short) - _LISTED} more like these")
    for name, setting in SWEEPS.items():
        if not study.sweeps(*setting.fields, least=setting.least):
            lines.append(f"the sweep of {name}")
    if not any(study.weights(data) for data in study.data):
        lines.append(f"the tuning of {policy_label(OWN)} on the first halves")
    if not any(study.group(data, OWN, n, "second") for data in study.data for n in study.settings("second")):
        lines.append(f"{policy_label(OWN)} on the second halves")
    return lines


def _has_base(study: Study, data: str) -> bool:
    return any(study.base(group) for group in study.protocol(data))

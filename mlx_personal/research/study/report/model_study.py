"""The finished cells of one base model, grouped by their settings.

Cells are grouped by settings alone, never by the name of an experiment:

- Cells that differ only in the seed are a group.
- Groups of one data set that differ only in the policy and its synthetic dialogues share a protocol. The main tables
  show the protocol with the most policies; among several of these, the one that finished last.
- A data set is shown from one source only, that of its main protocol. A changed file is another source, and cells of
  the older file are in no table.
- Groups that differ in one other setting are a sweep of it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.research.hashing import digest
from mlx_personal.research.study.cell import BASE, POLICIES, WEIGHTED, Cell
from mlx_personal.research.study.report.cell_group import CellGroup, CellResult, check_result
from mlx_personal.research.study.report.published import published_datasets
from mlx_personal.selection.weighted import DEFAULT_WEIGHT

FinishedCell = tuple[Cell, CellResult]

# The policy that the others are compared with: that of [Qin24].
REFERENCE: Final = "quality"
# Settings that may differ within a protocol. A group without synthetic dialogues has no writer and no synthesis.
_SYNTHETIC_SETTINGS: Final = ("synthetic", "writer", "synthesis")
_PROTOCOL_FREE_SETTINGS: Final = ("policy", "weight", *_SYNTHETIC_SETTINGS)
_SOURCE_SETTINGS: Final = ("source", "protocol")
_ORDER_RANKS: Final = {"in-order": 0, "shuffled": 1, "correlated": 2}


@dataclass(frozen=True, eq=False)
class SweepGroups:
    """Groups that differ in one setting only.

    Attributes:
        data: Name of the data set.
        policy: Policy.
        synthetic: Synthetic dialogues per selected one; None where that is the swept setting.
        groups: Groups by the value of the setting.
    """

    data: str
    policy: str
    synthetic: int | None
    groups: Mapping[Any, CellGroup]


class ModelStudy:
    """The finished cells of one base model.

    Args:
        cells: Cells and results in the order in which they finished.

    Attributes:
        cells: Cells and results.
        groups: Groups by the hash of their settings without the seed.
        model_name: Name of the base model.

    Raises:
        UserError: If a result was written by another version.
    """

    def __init__(self, cells: Sequence[FinishedCell]):
        by_key: dict[str, tuple[Cell, dict[str, Any], dict[int, CellResult]]] = {}
        latest: dict[str, int] = {}
        for position, (cell, result) in enumerate(cells):
            check_result(cell, result)
            settings = cell.to_json()
            seed = settings.pop("seed")
            key = digest(settings)
            by_key.setdefault(key, (cell, settings, {}))[2][seed] = result
            latest[key] = position
        self.cells = list(cells)
        self.groups = {
            key: CellGroup(cell, settings, dict(sorted(results.items())), latest[key])
            for key, (cell, settings, results) in sorted(by_key.items())
        }
        self.model_name = self.cells[0][0].model_name
        parts = {cell.part for cell, _ in cells}
        self._protocols: dict[tuple[str, str | None], list[CellGroup]] = {}
        # The main protocols come first: protocols of a part use the same source.
        self._protocols |= {(data, None): self._main_protocol(data, None) for data in self.datasets}
        self._protocols |= {(data, part): self._main_protocol(data, part) for data in self.datasets for part in parts}

    @property
    def datasets(self) -> list[str]:
        """Data sets in the order of [Qin24]."""
        known = published_datasets()
        names = {cell.data for cell, _ in self.cells}
        return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))

    @property
    def policies(self) -> list[str]:
        """Policies in the order of `cell.POLICIES`, without the base model."""
        return [policy for policy in POLICIES if any(cell.policy == policy for cell, _ in self.cells)]

    def protocol(self, data: str, part: str | None = None) -> list[CellGroup]:
        """Return the groups of a data set's main protocol.

        It is the one with the most policies and settings, then with the most cells, then the one that finished last.

        Args:
            data: Name of the data set.
            part: Part of the data, from the source of the main protocol; None for all of the data where any cell uses
                that.
        """
        return self._protocols.get((data, part), [])

    def synthetic_settings(self, part: str | None = None) -> list[int]:
        """Return the numbers of synthetic dialogues of the main tables.

        These are the number that most groups have and 0, as far as there are cells. Groups whose synthesis failed are
        ignored.
        """
        groups = [group for data in self.datasets for group in self.protocol(data, part) if not group.synthesis_failed]
        counts = Counter(n for _, _, n in {(g.cell.data, g.cell.policy, g.cell.synthetic) for g in groups})
        most_common = max((n for n in counts if n), key=lambda n: (counts[n], n), default=None)
        return [n for n in (most_common, 0) if n in counts and n is not None]

    def failed_synthesis(self, part: str | None = None) -> list[CellGroup]:
        """Return the groups of the main protocols whose synthesis failed."""
        return [group for data in self.datasets for group in self.protocol(data, part) if group.synthesis_failed]

    def find_group(self, data: str, policy: str, synthetic: int, part: str | None = None) -> CellGroup | None:
        """Return a policy's group in a data set's main protocol.

        Of several sources of synthetic dialogues the most common one is used. The policy `weighted` has its default
        weight.

        Returns:
            The group; None if there is none or its synthesis failed.
        """
        groups = [g for g in self.protocol(data, part) if g.cell.synthetic == synthetic and not g.synthesis_failed]
        sources = Counter(group.synthesis_source for group in groups)
        of_policy = [
            g for g in groups if g.cell.policy == policy and (policy != WEIGHTED or g.cell.weight == DEFAULT_WEIGHT)
        ]
        return max(of_policy, key=lambda g: sources[g.synthesis_source], default=None)

    def weight_groups(self, data: str) -> dict[Any, CellGroup]:
        """Return the groups of the weight tuning on a data set's first half.

        Returns:
            The reference policy by its name, then the policy `weighted` by its weight; empty without the latter.
        """
        groups = [g for g in self.protocol(data, "first") if not g.synthesis_failed]
        counts = Counter(g.cell.synthetic for g in groups if g.cell.policy == WEIGHTED)
        synthetic = max(counts, key=lambda n: (counts[n], -n), default=None)
        groups = [g for g in groups if g.cell.synthetic == synthetic]
        reference = {g.cell.policy: g for g in groups if g.cell.policy == REFERENCE}
        weighted = sorted((g for g in groups if g.cell.policy == WEIGHTED), key=lambda g: g.cell.weight)
        return {**reference, **{g.cell.weight: g for g in weighted}} if weighted else {}

    def base_of(self, group: CellGroup) -> CellGroup | None:
        """Return the base model's group on the same evaluation dialogues; None if it was not run."""
        settings = dataclasses.replace(group.cell, policy=BASE).to_json()
        del settings["seed"]
        return self.groups.get(digest(settings))

    def sweeps(self, *fields: str, min_values: int = 2) -> list[SweepGroups]:
        """Return the sweeps of a setting, from the source of the main protocol.

        There is at most one per data set, policy and number of synthetic dialogues: the one with the most values, then
        one that includes a group of the main protocol, then the one that finished last.

        Args:
            *fields: The setting, and settings that vary with it.
            min_values: Minimum number of values of a sweep.
        """
        ignored = _SYNTHETIC_SETTINGS if "synthetic" in fields else fields
        families: dict[str, list[CellGroup]] = defaultdict(list)
        for group in self.groups.values():
            is_usable = "synthetic" in fields or not group.synthesis_failed
            if group.cell.policy != BASE and is_usable and _source(group) == self._main_source(group.cell.data):
                families[group.hash_without(*ignored)].append(group)
        main = {id(group) for data in self.datasets for group in self.protocol(data)}
        best: dict[tuple[str, str, int | None], tuple[tuple[int, bool, int], SweepGroups]] = {}
        for groups in families.values():
            by_value = _by_value(groups, fields)
            if len(by_value) < min_values:
                continue
            cell = groups[0].cell
            key = (cell.data, cell.policy, None if "synthetic" in fields else cell.synthetic)
            latest = max(group.latest for group in by_value.values())
            rank = (len(by_value), any(id(group) in main for group in by_value.values()), latest)
            if key not in best or best[key][0] < rank:
                best[key] = (rank, SweepGroups(*key, by_value))
        keys = sorted(best, key=lambda k: (self.datasets.index(k[0]), self.policies.index(k[1]), -(k[2] or 0)))
        return [best[key][1] for key in keys]

    def _main_protocol(self, data: str, part: str | None) -> list[CellGroup]:
        groups = [g for g in self.groups.values() if g.cell.data == data and g.cell.policy != BASE]
        if part is not None:
            groups = [g for g in groups if _source(g) == self._main_source(data)]
        elif any(g.cell.part == "all" for g in groups):
            part = "all"
        protocols = defaultdict(list)
        for group in groups:
            if part in (None, group.cell.part):
                protocols[group.hash_without(*_PROTOCOL_FREE_SETTINGS)].append(group)

        def rank(groups: list[CellGroup]) -> tuple[int, int, int]:
            conditions = {(g.cell.policy, g.cell.synthetic > 0) for g in groups}
            return len(conditions), sum(len(g.results) for g in groups), max(g.latest for g in groups)

        return max(protocols.values(), key=rank, default=[])

    def _main_source(self, data: str) -> tuple[Any, ...]:
        main = self.protocol(data)
        return _source(main[0]) if main else ()


def split_by_model(cells: Sequence[FinishedCell]) -> list[ModelStudy]:
    """Return one study per base model; the one with the most cells first."""
    by_model = defaultdict(list)
    for cell, result in cells:
        by_model[cell.model_name, cell.model].append((cell, result))
    return [ModelStudy(by_model[model]) for model in sorted(by_model, key=lambda m: (-len(by_model[m]), m))]


def _source(group: CellGroup) -> tuple[Any, ...]:
    return tuple(group.settings.get(name) for name in _SOURCE_SETTINGS)


def _by_value(groups: Sequence[CellGroup], fields: Sequence[str]) -> dict[Any, CellGroup]:
    """Return groups by their value of the swept fields, in order; for equal values the most common synthesis source."""
    sources = Counter(group.synthesis_source for group in groups)
    values = defaultdict(list)
    for group in groups:
        values[tuple(group.settings[name] for name in fields)].append(group)
    return {
        value if len(value) > 1 else value[0]: max(
            values[value], key=lambda g: (sources[g.synthesis_source], len(g.results))
        )
        for value in sorted(values, key=_sort_key)
    }


def _sort_key(value: tuple[Any, ...]) -> list[tuple[bool, Any]]:
    """Sort by size with None last, and orders of the stream by their correlation."""
    return [(v is None, 0 if v is None else _ORDER_RANKS.get(v, v)) for v in value]

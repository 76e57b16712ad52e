"""Which finished cells belong together: decided by their settings alone, never by the name of an experiment.

Cells that differ in the seed only are a group. Groups of one data set that differ in nothing but the policy and its
synthetic sets share a protocol, and the protocol that most of them share is the one the main tables show; of several
with as many, the one that finished last. Of a data set one source is shown, that of its main protocol: a file that
changed is another source, and its older cells are no part of any table. Groups that differ in one other setting only
are a sweep of it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlx_personal.research.study.cell import BASE, OWN, POLICIES, Cell, digest
from mlx_personal.research.study.report import published
from mlx_personal.research.study.report.cell_group import Group, Result, check_result
from mlx_personal.selection.weighted import DEFAULT_WEIGHT

Finished = tuple[Cell, Result]

# The policy that others are compared with: the paper's.
REFERENCE: Final = "quality"
# What may differ between the groups of one protocol; a group without synthetic sets has no writer and no synthesis.
_SYNTHETIC = ("synthetic", "writer", "synthesis")
_FREE = ("policy", "weight", *_SYNTHETIC)
_SOURCE = ("source", "protocol")
_ORDERS = {"in-order": 0, "shuffled": 1, "correlated": 2}


@dataclass(frozen=True, eq=False)
class Sweep:
    """Groups that differ in one setting only, by its values. `synthetic`: None where that is the setting."""

    data: str
    policy: str
    synthetic: int | None
    points: Mapping[Any, Group]


class Study:
    """The finished cells of one base model."""

    def __init__(self, cells: Sequence[Finished]):
        by_key: dict[str, tuple[Cell, dict[str, Any], dict[int, Result]]] = {}
        latest: dict[str, int] = {}
        for place, (cell, result) in enumerate(cells):
            check_result(cell, result)
            settings = cell.to_json()
            seed = settings.pop("seed")
            key = digest(settings)
            by_key.setdefault(key, (cell, settings, {}))[2][seed] = result
            latest[key] = place
        self.cells = list(cells)
        self.groups = {
            key: Group(cell, settings, dict(sorted(results.items())), latest[key])
            for key, (cell, settings, results) in sorted(by_key.items())
        }
        self.name = self.cells[0][0].model_name
        parts = {cell.part for cell, _ in cells}
        self._protocols: dict[tuple[str, str | None], list[Group]] = {}
        # The main protocols first: those of a part are of the same source.
        self._protocols |= {(data, None): self._shared(data, None) for data in self.data}
        self._protocols |= {(data, part): self._shared(data, part) for data in self.data for part in parts}

    @property
    def data(self) -> list[str]:
        """The data sets, in the paper's order."""
        known = published.names()
        found = {cell.data for cell, _ in self.cells}
        return sorted(found, key=lambda name: (known.index(name) if name in known else len(known), name))

    @property
    def policies(self) -> list[str]:
        """The policies that chose something, in the order of `settings.POLICIES`."""
        return [policy for policy in POLICIES if any(cell.policy == policy for cell, _ in self.cells)]

    def protocol(self, data: str, part: str | None = None) -> list[Group]:
        """A data set's groups of the protocol with the most policies and settings, then with the most cells, then the
        one that finished last.

        `part`: of the data, of the main protocol's source; without one it is all of the data where any cell has that.
        """
        return self._protocols.get((data, part), [])

    def settings(self, part: str | None = None) -> list[int]:
        """How many synthetic sets the main tables are of: the number that most groups have, and none; what there is.

        A number of which not one set was written is none of them: see `unwritten`."""
        groups = [group for data in self.data for group in self.protocol(data, part) if not group.unwritten]
        policies = Counter(n for _, _, n in {(g.cell.data, g.cell.policy, g.cell.synthetic) for g in groups})
        most = max((n for n in policies if n), key=lambda n: (policies[n], n), default=None)
        return [n for n in (most, 0) if n in policies and n is not None]

    def unwritten(self, part: str | None = None) -> list[Group]:
        """The protocols' groups that asked for synthetic sets and got not one."""
        return [group for data in self.data for group in self.protocol(data, part) if group.unwritten]

    def group(self, data: str, policy: str, synthetic: int, part: str | None = None) -> Group | None:
        """A policy's group in a data set's protocol; of several writers, that of most groups. This project's own stands
        there with the weight it was given in the end. None too where synthetic sets were asked for and not one was
        written."""
        groups = [g for g in self.protocol(data, part) if g.cell.synthetic == synthetic and not g.unwritten]
        writers = Counter(group.writer for group in groups)
        own = [g for g in groups if g.cell.policy == policy and (policy != OWN or g.cell.weight == DEFAULT_WEIGHT)]
        return max(own, key=lambda g: writers[g.writer], default=None)

    def weights(self, data: str) -> dict[Any, Group]:
        """This project's policy by its weight on a data set's first half, the reference policy first, by its name.

        Empty without a weight.
        """
        groups = [g for g in self.protocol(data, "first") if not g.unwritten]
        numbers = Counter(g.cell.synthetic for g in groups if g.cell.policy == OWN)
        most = max(numbers, key=lambda n: (numbers[n], -n), default=None)
        beside = [g for g in groups if g.cell.synthetic == most]
        others = {g.cell.policy: g for g in beside if g.cell.policy == REFERENCE}
        own = sorted((g for g in beside if g.cell.policy == OWN), key=lambda g: g.cell.weight)
        return {**others, **{g.cell.weight: g for g in own}} if own else {}

    def base(self, group: Group) -> Group | None:
        """The untrained model on the dialogues that a group is evaluated on."""
        settings = dataclasses.replace(group.cell, policy=BASE).to_json()
        del settings["seed"]
        return self.groups.get(digest(settings))

    def sweeps(self, *fields: str, least: int = 2) -> list[Sweep]:
        """The sweeps of a setting, one for each data set, policy and number of synthetic sets that has one; of the main
        protocol's source.

        `fields`: the setting, and what only goes with it. `least`: values that make a sweep. Of several sweeps the one
        with the most values is taken, then the one that holds a group of the main protocol.
        """
        ignored = _SYNTHETIC if "synthetic" in fields else fields
        families: dict[str, list[Group]] = defaultdict(list)
        for group in self.groups.values():
            wanted = "synthetic" in fields or not group.unwritten
            if group.cell.policy != BASE and wanted and _source(group) == self._source(group.cell.data):
                families[group.without(*ignored)].append(group)
        main = {id(group) for data in self.data for group in self.protocol(data)}
        best: dict[tuple[str, str, int | None], tuple[tuple[int, bool, int], Sweep]] = {}
        for groups in families.values():
            family = _by_value(groups, fields)
            if len(family) < least:
                continue
            cell = groups[0].cell
            place = (cell.data, cell.policy, None if "synthetic" in fields else cell.synthetic)
            latest = max(group.latest for group in family.values())
            rank = (len(family), any(id(group) in main for group in family.values()), latest)
            if place not in best or best[place][0] < rank:
                best[place] = (rank, Sweep(*place, family))
        places = sorted(best, key=lambda p: (self.data.index(p[0]), self.policies.index(p[1]), -(p[2] or 0)))
        return [best[place][1] for place in places]

    def _shared(self, data: str, part: str | None) -> list[Group]:
        groups = [g for g in self.groups.values() if g.cell.data == data and g.cell.policy != BASE]
        if part is not None:
            groups = [g for g in groups if _source(g) == self._source(data)]
        elif any(g.cell.part == "all" for g in groups):
            part = "all"
        protocols = defaultdict(list)
        for group in groups:
            if part in (None, group.cell.part):
                protocols[group.without(*_FREE)].append(group)

        def size(groups: list[Group]) -> tuple[int, int, int]:
            conditions = {(g.cell.policy, g.cell.synthetic > 0) for g in groups}
            return len(conditions), sum(len(g.results) for g in groups), max(g.latest for g in groups)

        return max(protocols.values(), key=size, default=[])

    def _source(self, data: str) -> tuple[Any, ...]:
        main = self.protocol(data)
        return _source(main[0]) if main else ()


def studies(cells: Sequence[Finished]) -> list[Study]:
    """One study for each base model, that with the most cells first."""
    by_model = defaultdict(list)
    for cell, result in cells:
        by_model[cell.model_name, cell.model].append((cell, result))
    return [Study(by_model[model]) for model in sorted(by_model, key=lambda m: (-len(by_model[m]), m))]


def _source(group: Group) -> tuple[Any, ...]:
    return tuple(group.settings.get(name) for name in _SOURCE)


def _by_value(groups: Sequence[Group], fields: Sequence[str]) -> dict[Any, Group]:
    """Groups by their value of the swept fields, in order; of several with one value, that of the commonest writer."""
    writers = Counter(group.writer for group in groups)
    values = defaultdict(list)
    for group in groups:
        values[tuple(group.settings[name] for name in fields)].append(group)
    return {
        value if len(value) > 1 else value[0]: max(values[value], key=lambda g: (writers[g.writer], len(g.results)))
        for value in sorted(values, key=_order)
    }


def _order(value: tuple[Any, ...]) -> list[tuple[bool, Any]]:
    """By size, no limit last; streams in order, then shuffled, then correlated ever more."""
    return [(v is None, 0 if v is None else _ORDERS.get(v, v)) for v in value]

"""Which finished cells belong together: decided by their settings alone, never by the name of an experiment.

Cells that differ in the seed only are a group. Groups of one data set that differ in nothing but the policy and its
synthetic sets share a protocol, and the protocol that most of them share is the one the main tables show. Groups that
differ in one other setting only are a sweep of it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.selection.weighted import DEFAULT_WEIGHT
from mlx_personal.study import published
from mlx_personal.study.settings import BASE, OWN, POLICIES, Cell, digest

Result = Mapping[str, Any]
Finished = tuple[Cell, Result]

# What may differ between the groups of one protocol; a group without synthetic sets has no writer and no synthesis.
_SYNTHETIC = ("synthetic", "writer", "synthesis")
_FREE = ("policy", "weight", *_SYNTHETIC)
_ORDERS = {"in-order": 0, "shuffled": 1, "correlated": 2}


@dataclass(frozen=True, eq=False)
class Group:
    """Cells that differ in nothing but the seed. `cell`: one of them; `settings`: theirs, without the seed."""

    cell: Cell
    settings: Mapping[str, Any]
    results: Mapping[int, Result]

    def scores(self, name: str, seeds: Iterable[int] | None = None, checkpoint: int = -1) -> np.ndarray:
        """[seeds, dialogues]: `rouge1` or `rougeL` at a checkpoint; of all seeds, or of those named."""
        return self._matrix(seeds, lambda result: result["checkpoints"][checkpoint][name], name)

    def final(self, name: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """[seeds, dialogues] of the last adapter: `nats`, `tokens`, or the same of general dialogues.

        Empty where none were measured, or where a training has gone astray and its loss is no number.
        """
        values = self._matrix(seeds, lambda result: result["final"].get(name, ()), name)
        return values if np.isfinite(values).all() else values[:, :0]

    def last(self, name: str) -> float | None:
        """The mean over seeds of a number of the last checkpoint; None where one lacks it."""
        values = [result["checkpoints"][-1].get(name) for result in self.results.values()]
        return None if any(value is None for value in values) else float(np.mean(values))

    def without(self, *names: str) -> str:
        """A hash of the settings but those named: equal where nothing else differs."""
        return digest({name: value for name, value in self.settings.items() if name not in names})

    @property
    def writer(self) -> str:
        """A hash of what wrote the synthetic sets, and how."""
        return digest([self.settings["writer"], self.settings["synthesis"]])

    def _matrix(self, seeds: Iterable[int] | None, row: Callable[[Result], Sequence[float]], name: str) -> np.ndarray:
        rows = [row(self.results[seed]) for seed in (self.results if seeds is None else seeds)]
        if len({len(values) for values in rows}) > 1:
            lengths = ", ".join(str(len(values)) for values in rows)
            where = f"{self.cell.data}, {self.cell.policy}"
            raise UserError(f"its seeds have {lengths} values of {name}", where, "run these cells again")
        return np.array(rows, np.float64)


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
        for cell, result in cells:
            settings = cell.to_json()
            seed = settings.pop("seed")
            by_key.setdefault(digest(settings), (cell, settings, {}))[2][seed] = result
        self.cells = list(cells)
        self.groups = {
            key: Group(cell, settings, dict(sorted(results.items())))
            for key, (cell, settings, results) in sorted(by_key.items())
        }
        self.name = self.cells[0][0].model_name
        parts = {cell.part for cell, _ in cells}
        self._protocols = {(data, part): self._shared(data, part) for data in self.data for part in (None, *parts)}

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
        """A data set's groups of the protocol with the most policies and settings, then with the most cells.

        `part`: of the data; without one it is all of the data where any cell has that.
        """
        return self._protocols.get((data, part), [])

    def settings(self, part: str | None = None) -> list[int]:
        """How many synthetic sets the main tables are of: the number that most groups have, and none; what there is."""
        groups = [group for data in self.data for group in self.protocol(data, part)]
        policies = Counter(n for _, _, n in {(g.cell.data, g.cell.policy, g.cell.synthetic) for g in groups})
        most = max((n for n in policies if n), key=lambda n: (policies[n], n), default=None)
        return [n for n in (most, 0) if n in policies and n is not None]

    def group(self, data: str, policy: str, synthetic: int, part: str | None = None) -> Group | None:
        """A policy's group in a data set's protocol; of several writers, that of most groups. This project's own stands
        there with the weight it was given in the end."""
        groups = [g for g in self.protocol(data, part) if g.cell.synthetic == synthetic]
        writers = Counter(group.writer for group in groups)
        own = [g for g in groups if g.cell.policy == policy and (policy != OWN or g.cell.weight == DEFAULT_WEIGHT)]
        return max(own, key=lambda g: writers[g.writer], default=None)

    def base(self, group: Group) -> Group | None:
        """The untrained model on the dialogues that a group is evaluated on."""
        settings = dataclasses.replace(group.cell, policy=BASE).to_json()
        del settings["seed"]
        return self.groups.get(digest(settings))

    def sweeps(self, *fields: str, least: int = 2) -> list[Sweep]:
        """The sweeps of a setting, one for each data set, policy and number of synthetic sets that has one.

        `fields`: the setting, and what only goes with it. `least`: values that make a sweep. Of several sweeps the one
        with the most values is taken, then the one that holds a group of the main protocol.
        """
        ignored = _SYNTHETIC if "synthetic" in fields else fields
        families: dict[str, list[Group]] = defaultdict(list)
        for group in self.groups.values():
            if group.cell.policy != BASE:
                families[group.without(*ignored)].append(group)
        main = {id(group) for data in self.data for group in self.protocol(data)}
        best: dict[tuple[str, str, int | None], tuple[tuple[int, bool], Sweep]] = {}
        for groups in families.values():
            family = _by_value(groups, fields)
            if len(family) < least:
                continue
            cell = groups[0].cell
            place = (cell.data, cell.policy, None if "synthetic" in fields else cell.synthetic)
            rank = (len(family), any(id(group) in main for group in family.values()))
            if place not in best or best[place][0] < rank:
                best[place] = (rank, Sweep(*place, family))
        places = sorted(best, key=lambda p: (self.data.index(p[0]), self.policies.index(p[1]), -(p[2] or 0)))
        return [best[place][1] for place in places]

    def _shared(self, data: str, part: str | None) -> list[Group]:
        groups = [g for g in self.groups.values() if g.cell.data == data and g.cell.policy != BASE]
        if part is None and any(g.cell.part == "all" for g in groups):
            part = "all"
        protocols = defaultdict(list)
        for group in groups:
            if part in (None, group.cell.part):
                protocols[group.without(*_FREE)].append(group)

        def size(groups: list[Group]) -> tuple[int, int]:
            return len({(g.cell.policy, g.cell.synthetic > 0) for g in groups}), sum(len(g.results) for g in groups)

        return max(protocols.values(), key=size, default=[])


def studies(cells: Sequence[Finished]) -> list[Study]:
    """One study for each base model, that with the most cells first."""
    by_model = defaultdict(list)
    for cell, result in cells:
        by_model[cell.model_name, cell.model].append((cell, result))
    return [Study(by_model[model]) for model in sorted(by_model, key=lambda m: (-len(by_model[m]), m))]


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

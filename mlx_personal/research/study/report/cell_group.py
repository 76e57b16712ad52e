"""The cells that differ in nothing but the seed, and what their results hold as matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.research.study.cell import BASE, Cell, digest
from mlx_personal.research.study.report.findings import Sets

Result = Mapping[str, Any]

# The share of the synthetic sets asked for below which a cell is named as short of them.
ENOUGH: Final = 0.95


def check_result(cell: Cell, result: Result) -> None:
    """UserError, naming the cell, for a result that lacks what those of this version have."""
    counted = ("synthetic", "annotated") if cell.synthetic and cell.policy != BASE else ()
    checkpoints = result.get("checkpoints")
    lacking = [] if checkpoints else ["checkpoints"]
    lacking += [n for n in ("received", *counted) if any(c.get(n) is None for c in checkpoints or ())]
    lacking += [name for name in ("rouge1", "rougeL") if not all(c.get(name) for c in checkpoints or ())]
    lacking += [] if isinstance(result.get("final"), Mapping) else ["final"]
    if lacking:
        where = f"the cell {cell.key[:8]} ({cell.data}, {cell.policy}, seed {cell.seed})"
        what = f"its result has no {', no '.join(lacking)}: another version's"
        raise UserError(what, where, "run the study in a new folder")


@dataclass(frozen=True, eq=False)
class Group:
    """Cells that differ in nothing but the seed. `cell`: one of them; `settings`: theirs, without the seed; `latest`:
    the place of the last of them among all cells as they finished."""

    cell: Cell
    settings: Mapping[str, Any]
    results: Mapping[int, Result]
    latest: int = 0

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

    @property
    def one_answer(self) -> Mapping[str, Any] | None:
        """Of a base: `rouge1` and `rougeL` of one answer for all, [dialogues] each, and its `answer_words`."""
        found: Mapping[str, Any] | None = next(iter(self.results.values()))["checkpoints"][-1].get("one_answer")
        return found

    @property
    def received(self) -> list[int]:
        """Sets received at the checkpoints."""
        found = {tuple(c["received"] for c in result["checkpoints"]) for result in self.results.values()}
        if len(found) > 1:
            where = f"{self.cell.data}, {self.cell.policy}"
            raise UserError("its seeds have other checkpoints", where, "run these cells again")
        return list(found.pop())

    @functools.cached_property
    def sets(self) -> Sets | None:
        """The synthetic sets that were learnt beside those that were asked for; None where none were asked for."""
        if self.cell.policy == BASE or not self.cell.synthetic:
            return None
        counts = {
            seed: [(c["received"], c["synthetic"], self.cell.synthetic * c["annotated"]) for c in result["checkpoints"]]
            for seed, result in self.results.items()
        }
        last = np.array([found[-1][1:] for found in counts.values()], np.float64).mean(axis=0)
        worst = {
            seed: min(found, key=lambda count: count[1] / count[2] if count[2] else 1.0)
            for seed, found in counts.items()
        }
        short = {seed: count for seed, count in worst.items() if count[1] < ENOUGH * count[2]}
        none = not any(got for found in counts.values() for _, got, _ in found) and bool(short)
        return Sets(self.cell.synthetic, float(last[1]), float(last[0]), short, none)

    @property
    def unwritten(self) -> bool:
        """Whether synthetic sets were asked for and there was not one: it is no second condition then."""
        return self.sets is not None and self.sets.none

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

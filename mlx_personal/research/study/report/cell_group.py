"""A group of cells that differ only in the seed, with their results as matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mlx_personal.errors import UserError
from mlx_personal.research.hashing import digest
from mlx_personal.research.study.cell import BASE, Cell
from mlx_personal.research.study.report.findings import Shortfall, SyntheticCounts

CellResult = Mapping[str, Any]

# A cell with a smaller share of the requested synthetic dialogues is reported.
MIN_SYNTHETIC_SHARE: Final = 0.95


def check_result(cell: Cell, result: CellResult) -> None:
    """Check that a result has all entries that this version writes.

    Raises:
        UserError: If entries are missing; it names the cell.
    """
    counts = ("synthetic", "annotated") if cell.synthetic and cell.policy != BASE else ()
    checkpoints = result.get("checkpoints")
    missing = [] if checkpoints else ["checkpoints"]
    missing += [n for n in ("received", *counts) if any(c.get(n) is None for c in checkpoints or ())]
    missing += [name for name in ("rouge1", "rougeL") if not all(c.get(name) for c in checkpoints or ())]
    missing += [] if isinstance(result.get("final"), Mapping) else ["final"]
    if missing:
        where = f"the cell {cell.key[:8]} ({cell.data}, {cell.policy}, seed {cell.seed})"
        what = f"its result has no {', no '.join(missing)}, so another version wrote it"
        raise UserError(what, where, "run the study in a new folder")


@dataclass(frozen=True, eq=False)
class CellGroup:
    """Cells that differ only in the seed.

    Attributes:
        cell: One of the cells.
        settings: Their settings as stored, without the seed.
        results: Results by seed.
        latest: Position of the last of them among all cells in the order in which they finished.
    """

    cell: Cell
    settings: Mapping[str, Any]
    results: Mapping[int, CellResult]
    latest: int = 0

    def scores(self, name: str, seeds: Iterable[int] | None = None, checkpoint: int = -1) -> np.ndarray:
        """Return the scores of a checkpoint.

        Args:
            name: `rouge1` or `rougeL`.
            seeds: Seeds to include; None for all.
            checkpoint: Index of the checkpoint.

        Returns:
            Scores, float64 [seeds, dialogues].
        """
        return self._matrix(seeds, lambda result: result["checkpoints"][checkpoint][name], name)

    def final_losses(self, name: str, seeds: Iterable[int] | None = None) -> np.ndarray:
        """Return the losses or token counts of the last adapter.

        Args:
            name: `nats`, `tokens`, `general_nats` or `general_tokens`.
            seeds: Seeds to include; None for all.

        Returns:
            Values, float64 [seeds, dialogues]; [seeds, 0] if there are none, or if one is not finite because a training
            run diverged.
        """
        values = self._matrix(seeds, lambda result: result["final"].get(name, ()), name)
        return values if np.isfinite(values).all() else values[:, :0]

    def last_checkpoint_mean(self, name: str) -> float | None:
        """Return the mean over seeds of a number of the last checkpoint; None if a seed lacks it."""
        values = [result["checkpoints"][-1].get(name) for result in self.results.values()]
        return None if any(value is None for value in values) else float(np.mean(values))

    @property
    def constant_answer(self) -> Mapping[str, Any] | None:
        """Scores of the constant answer, only for a base model: `rouge1`, `rougeL` (lists) and `answer_words`."""
        first_result = next(iter(self.results.values()))
        scores: Mapping[str, Any] | None = first_result["checkpoints"][-1].get("one_answer")
        return scores

    @property
    def received(self) -> list[int]:
        """Dialogues received at each checkpoint."""
        checkpoints = {tuple(c["received"] for c in result["checkpoints"]) for result in self.results.values()}
        if len(checkpoints) > 1:
            where = f"{self.cell.data}, {self.cell.policy}"
            raise UserError("its seeds have different checkpoints", where, "run these cells again")
        return list(checkpoints.pop())

    @functools.cached_property
    def synthetic_counts(self) -> SyntheticCounts | None:
        """Numbers of synthetic dialogues; None where none were requested."""
        if self.cell.policy == BASE or not self.cell.synthetic:
            return None
        counts = {
            seed: [
                Shortfall(c["received"], c["synthetic"], self.cell.synthetic * c["annotated"])
                for c in result["checkpoints"]
            ]
            for seed, result in self.results.items()
        }
        available, requested = np.array([c[-1][1:] for c in counts.values()], np.float64).mean(axis=0)
        worst = {
            seed: min(checkpoints, key=lambda c: c.available / c.requested if c.requested else 1.0)
            for seed, checkpoints in counts.items()
        }
        shortfalls = {seed: c for seed, c in worst.items() if c.available < MIN_SYNTHETIC_SHARE * c.requested}
        any_available = any(c.available for checkpoints in counts.values() for c in checkpoints)
        return SyntheticCounts(
            per_selected=self.cell.synthetic,
            requested=float(requested),
            available=float(available),
            shortfalls=shortfalls,
            none_available=not any_available and bool(shortfalls),
        )

    @property
    def synthesis_failed(self) -> bool:
        """Whether synthetic dialogues were requested and none was available; the group is then left out of tables."""
        return self.synthetic_counts is not None and self.synthetic_counts.none_available

    def hash_without(self, *names: str) -> str:
        """Return a hash of the settings except some; groups with the same hash differ only in those."""
        return digest({name: value for name, value in self.settings.items() if name not in names})

    @property
    def synthesis_source(self) -> str:
        """Hash of the adapter and the settings that generated the synthetic dialogues."""
        return digest([self.settings["writer"], self.settings["synthesis"]])

    def _matrix(
        self, seeds: Iterable[int] | None, values_of: Callable[[CellResult], Sequence[float]], name: str
    ) -> np.ndarray:
        rows = [values_of(self.results[seed]) for seed in (self.results if seeds is None else seeds)]
        if len({len(values) for values in rows}) > 1:
            lengths = ", ".join(str(len(values)) for values in rows)
            where = f"{self.cell.data}, {self.cell.policy}"
            raise UserError(f"its seeds have {lengths} values of {name}", where, "run these cells again")
        return np.array(rows, np.float64)

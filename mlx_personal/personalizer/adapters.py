"""Which adapter answers: promotion, rollback, and the rule that an adapter goes with the base it was trained on."""

from __future__ import annotations

from mlx_personal.errors import UserError
from mlx_personal.profile import AdapterRow, Store


class Adapters:
    """One profile's trained adapters. None stands for the base model, wherever one of them may answer.

    Each base model has a history of its own: after a change of base, what answered last on the new one answers again.

    Args:
        store: the profile's store.
    """

    def __init__(self, store: Store):
        self._store = store

    def get(self, adapter_id: int) -> AdapterRow:
        """UserError if there is none of this number."""
        for row in self._store.adapters():
            if row.id == adapter_id:
                return row
        raise UserError(f"there is no adapter {adapter_id}", self._store.folder, "see `mlx-personal adapters list`")

    def promoted(self) -> AdapterRow | None:
        """The adapter that answers."""
        return next((row for row in self._store.adapters() if row.promoted), None)

    def promote(self, adapter_id: int) -> AdapterRow:
        """Lets this adapter answer; UserError if it was trained on another base model, or its files are gone."""
        adapter = self.get(adapter_id)
        self.check_base(adapter)
        folder = self._store.folder / adapter.folder
        if not (folder / "adapters.safetensors").exists():
            raise UserError(f"the files of adapter {adapter.id} are gone", folder, "train a new one")
        if not adapter.promoted:
            self._store.promote(adapter_id)
        return self.get(adapter_id)

    def rollback(self) -> AdapterRow | None:
        """Back to what answered before the present adapter; returns it."""
        history = self._store.promotions()
        if not history or history[-1] is None:
            raise UserError("the base model answers already; there is nothing to roll back", self._store.folder)
        self._store.undo_promotion()
        return self.promoted()

    def check_base(self, adapter: AdapterRow) -> None:
        """UserError if the adapter was trained on another base model than the profile's present one."""
        if adapter.model != self._store.fingerprint():
            raise UserError(
                f"adapter {adapter.id} was trained on another base model",
                self._store.folder / adapter.folder,
                "train a new one, or change back with `mlx-personal init --model`",
            )

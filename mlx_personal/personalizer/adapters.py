"""The adapters of a profile: promotion, rollback, and the check of their base model."""

from __future__ import annotations

from typing import Any

from mlx_personal.errors import Action, UserError
from mlx_personal.finetune.report import forgetting
from mlx_personal.personalizer.answering import adapter_decision, decision_in_use, promote, undo_promotion
from mlx_personal.profile import AdapterRow, Store, TrainingSource
from mlx_personal.profile.undo_import import TakenBackSamples, taken_back_samples


class Adapters:
    """The trained adapters of one profile. Where an adapter is in use, None means the base model.

    Each base model has its own history of promotions: after a change of the base model, the adapter that was last in
    use on the new one is in use again.

    Args:
        store: The profile's store.
    """

    def __init__(self, store: Store):
        self._store = store

    def all(self) -> list[AdapterRow]:
        """Return all adapters in order, including those of other base models."""
        return self._store.adapters()

    def get(self, adapter_id: int) -> AdapterRow:
        """Return an adapter.

        Args:
            adapter_id: Id of the adapter.

        Raises:
            UserError: If there is none with this id.
        """
        for adapter in self._store.adapters():
            if adapter.id == adapter_id:
                return adapter
        raise UserError(f"there is no adapter {adapter_id}", self._store.folder, remedy=Action.LIST_ADAPTERS)

    def promoted(self) -> AdapterRow | None:
        """Return the adapter in use; None for the base model."""
        return next((adapter for adapter in self._store.adapters() if adapter.promoted), None)

    def training_sources(self, adapter: AdapterRow) -> list[TrainingSource]:
        """Return the sources of the examples that an adapter was trained on."""
        return self._store.training_sources(adapter.run_id)

    def taken_back_samples(self, adapter: AdapterRow) -> TakenBackSamples:
        """Return how many examples that an adapter was trained on were taken back with their import."""
        return taken_back_samples(self._store, adapter.run_id)

    def promote(self, adapter_id: int) -> AdapterRow:
        """Put an adapter into use, with what was decided about the memory when it was evaluated.

        Args:
            adapter_id: Id of the adapter.

        Returns:
            The promoted adapter.

        Raises:
            UserError: If it was trained on another base model, changes nothing, or its files are missing.
        """
        adapter = self.get(adapter_id)
        self.check_base(adapter)
        folder = self._store.folder / adapter.folder
        if not self.has_effect(adapter):
            what = f"adapter {adapter.id} changes nothing: with it, the model answers as without it"
            raise UserError(what, folder, remedy=Action.TRAIN)
        if not (folder / "adapters.safetensors").exists():
            raise UserError(f"the files of adapter {adapter.id} are missing", folder, remedy=Action.TRAIN)
        if not adapter.promoted:
            promote(self._store, adapter_id, adapter_decision(self._store, adapter))
        return self.get(adapter_id)

    def has_effect(self, adapter: AdapterRow) -> bool:
        """Return whether an adapter changes what its base model computes, as its training run found.

        Args:
            adapter: The adapter.
        """
        return bool(self._training_result(adapter).get("has_effect", True))  # version 0.1 did not check it

    def forgetting(self, adapter: AdapterRow) -> float | None:
        """Return the relative increase of the loss on general dialogues by an adapter; None if it was not measured.

        Args:
            adapter: The adapter.
        """
        result = self._training_result(adapter)
        return forgetting(result.get("general_losses", ()), result.get("best_step", 0))

    def rollback(self) -> AdapterRow | None:
        """Undo the last promotion, and what was decided about the memory with it.

        Returns:
            The adapter that is in use now; None for the base model.

        Raises:
            UserError: If the base model is already in use, and nothing was decided about it.
        """
        history = self._store.promotions()
        if not history or (history[-1] is None and decision_in_use(self._store) is None):
            raise UserError("the base model is already in use; there is nothing to roll back", self._store.folder)
        undo_promotion(self._store)
        return self.promoted()

    def check_base(self, adapter: AdapterRow) -> None:
        """Check that an adapter was trained on the current base model.

        Args:
            adapter: The adapter.

        Raises:
            UserError: If it was trained on another one.
        """
        if adapter.model != self._store.fingerprint():
            raise UserError(
                f"adapter {adapter.id} was trained on another base model",
                self._store.folder / adapter.folder,
                "the base model can be changed back",
                remedy=Action.TRAIN,
            )

    def _training_result(self, adapter: AdapterRow) -> dict[str, Any]:
        run = self._store.run(adapter.run_id)
        return {} if run is None or run.result is None else run.result

"""Check that a trained adapter changes what a model computes: too low a learning rate leaves it as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mlx_personal.models.adapter_folder import adapter_changes_nothing
from mlx_personal.models.language_model import LanguageModel

# Tokens of a text that are compared; an adapter with an effect changes the first ones already.
_PROBE_TOKENS: Final = 64
# Largest difference, relative to the largest value, that rounding in float32 makes.
_ROUNDING: Final = 1e-6


class AdapterProbe:
    """Compares the model with its adapter, at construction, with the model without it.

    Args:
        lm: The model with the adapter.
        tokens: Token ids of a text.
    """

    def __init__(self, lm: LanguageModel, tokens: Sequence[int]):
        self._tokens = list(tokens[:_PROBE_TOKENS])
        self._weights_changed = not adapter_changes_nothing(lm.model)
        self._adapted = _hidden_states(lm, self._tokens)

    def has_effect(self, base: LanguageModel) -> bool:
        """Return whether the adapter has weights and outputs of its own.

        Args:
            base: The same model without the adapter.
        """
        states = _hidden_states(base, self._tokens)
        difference = np.abs(self._adapted - states).max(initial=0.0)  # NaN, if there is one
        return self._weights_changed and not difference <= _ROUNDING * np.abs(states).max(initial=0.0)


def _hidden_states(lm: LanguageModel, tokens: Sequence[int]) -> np.ndarray:
    [states] = lm.hidden_states([tokens])
    return states

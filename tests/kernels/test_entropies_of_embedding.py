"""Scoring a batch of dialogues with the kernels equals NumPy's float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlx_personal.kernels import build
from mlx_personal.scoring import ESTIMATORS, entropies_of_embedding, entropy_of_embedding

pytestmark = pytest.mark.metal


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("on_gpu", [True, False])
def test_each_estimator_equals_numpy_on_every_device(
    machine: None, monkeypatch: pytest.MonkeyPatch, on_gpu: bool, estimator: Any
) -> None:
    monkeypatch.setattr(build, "on_gpu", lambda: on_gpu)
    rng = np.random.default_rng(0)
    dialogues = [rng.standard_normal((tokens, 24)).astype(np.float32) for tokens in (0, 1, 5, 65)]
    expected = [entropy_of_embedding(states, estimator) for states in dialogues]
    assert entropies_of_embedding(dialogues, estimator) == pytest.approx(expected, rel=1e-5)


def test_no_dialogues_have_no_entropies() -> None:
    assert entropies_of_embedding([]) == []


@pytest.mark.parametrize("bad", [np.zeros(5), np.array([[1.0, np.nan]] * 3)])
def test_states_of_another_shape_or_not_finite_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="token states"):
        entropies_of_embedding([np.ones((3, 2)), bad])

"""Scoring a batch of dialogues by the kernels gives what NumPy gives in float64."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_personal.scoring import entropies_of_embedding, entropy, entropy_of_embedding

pytestmark = pytest.mark.metal


@pytest.mark.parametrize("estimator", list(entropy.ESTIMATORS))
def test_each_estimator_on_a_gpu(machine, monkeypatch, estimator):
    monkeypatch.setattr(entropy, "on_gpu", lambda: True)
    rng = np.random.default_rng(0)
    dialogues = [rng.standard_normal((tokens, 24)).astype(np.float32) for tokens in (0, 1, 5, 64, 90)]
    want = [entropy_of_embedding(states, estimator) for states in dialogues]
    assert entropies_of_embedding(dialogues, estimator) == pytest.approx(want, rel=1e-5)


def test_no_dialogues_have_no_entropies(monkeypatch):
    monkeypatch.setattr(entropy, "on_gpu", lambda: True)
    assert entropies_of_embedding([]) == []


@pytest.mark.parametrize("bad", [np.zeros(5), np.array([[1.0, np.nan]] * 3)])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_states_of_another_shape_or_not_finite_are_refused(monkeypatch, bad, on_gpu):
    monkeypatch.setattr(entropy, "on_gpu", lambda: on_gpu)
    with pytest.raises(ValueError, match="token states"):
        entropies_of_embedding([np.ones((3, 2)), bad])

"""The cross entropy of preferred answers, against float64 and against what a mean by hand gives."""

from __future__ import annotations

from typing import Any

import mlx_personal  # noqa: F401 - before mlx.core

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from mlx_personal import Dialogue
from mlx_personal.evaluation import answer_loss, answer_losses
from mlx_personal.models import load_language_model


@pytest.fixture(scope="module")
def lm() -> Any:
    return load_language_model("demo")


DIALOGUES = [
    Dialogue.of("What helps my spaniel?", "A long walk, and water."),
    Dialogue.from_messages(
        [
            {"role": "user", "content": "My tournament is near."},
            {"role": "assistant", "content": "Train on three days."},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "content": "Rest, and sleep well before it."},
        ]
    ),
    Dialogue.of("Hi", "Hello"),
]


def alone(lm: Any, dialogue: Any) -> Any:
    """Row by row, token by token, in float64."""
    nats, count = 0.0, 0
    for tokens, is_target in lm.training_tokens(dialogue):
        logits = np.array(lm.model(mx.array([tokens[:-1]])).astype(mx.float32))[0].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for place, (token, learnt) in enumerate(zip(tokens[1:], is_target[1:], strict=True)):
            if learnt:
                nats -= logs[place, token]
                count += 1
    return nats, count


def test_losses_are_those_of_each_row_alone(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two rows a batch, so that there is padding and more than one batch.
    monkeypatch.setattr(answer_loss, "_BATCH_TOKENS", 60)
    for found, dialogue in zip(answer_losses(lm, DIALOGUES), DIALOGUES, strict=True):
        nats, count = alone(lm, dialogue)
        assert found.tokens == count > 0
        assert found.nats == pytest.approx(nats, rel=1e-4)


def test_nothing_to_say_costs_nothing(lm: Any) -> None:
    thoughts = Dialogue.of("Hm?", "<think>nothing</think>")
    assert [(loss.nats, loss.tokens) for loss in answer_losses(lm, [thoughts])] == [(0.0, 0)]
    assert answer_losses(lm, []) == []

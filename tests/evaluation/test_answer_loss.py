"""The cross entropy of preferred answers, against a reference in float64, token by token."""

from __future__ import annotations

import mlx_personal  # noqa: F401 - before mlx.core

# isort: split
import mlx.core as mx
import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.evaluation import answer_loss, answer_losses
from mlx_personal.models import load_language_model


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
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


def reference_loss(lm: LanguageModel, dialogue: Dialogue) -> tuple[float, int]:
    """Return the loss of a dialogue, computed sample by sample and token by token in float64, and its targets."""
    nats, count = 0.0, 0
    for tokens, is_target in lm.tokenize_dialogue(dialogue):
        logits = np.array(lm.model(mx.array([tokens[:-1]])).astype(mx.float32))[0].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for position, (token, counts) in enumerate(zip(tokens[1:], is_target[1:], strict=True)):
            if counts:
                nats -= logs[position, token]
                count += 1
    return nats, count


def test_losses_are_those_of_each_sample_alone(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two samples per batch, so that there is padding and more than one batch.
    monkeypatch.setattr(answer_loss, "_BATCH_TOKENS", 60)
    for loss, dialogue in zip(answer_losses(lm, DIALOGUES), DIALOGUES, strict=True):
        nats, count = reference_loss(lm, dialogue)
        assert loss.tokens == count > 0
        assert loss.nats == pytest.approx(nats, rel=1e-4)


def test_a_dialogue_without_targets_has_no_loss(lm: LanguageModel) -> None:
    thoughts = Dialogue.of("Hm?", "<think>nothing</think>")
    assert [(loss.nats, loss.tokens) for loss in answer_losses(lm, [thoughts])] == [(0.0, 0)]
    assert answer_losses(lm, []) == []


def test_a_long_sample_is_computed_in_chunks(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answer_losses(lm, DIALOGUES[1:2])
    monkeypatch.setattr(answer_loss, "_BATCH_TOKENS", 7)
    (loss,) = answer_losses(lm, DIALOGUES[1:2])
    assert loss.tokens == expected[0].tokens
    assert loss.nats == pytest.approx(expected[0].nats, rel=1e-5)


def test_a_sample_is_truncated_to_the_context(tiny_model: LanguageModel) -> None:
    (loss,) = answer_losses(tiny_model, [Dialogue.of("soup " * 400, "Yes.")])
    answer = tiny_model.chat_template.tokenize_answer("Yes.")
    assert loss.tokens == len(answer)
    (short,) = answer_losses(tiny_model, [Dialogue.of("soup " * 400, "Yes.")], max_tokens=len(answer))
    assert short.tokens == len(answer) - 1, "its first token has nothing before it"

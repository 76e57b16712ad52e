"""Embeddings: the mean of the model's token states, of unit norm, independent of the batch."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from mlx_personal import LanguageModel
from mlx_personal import embedding as embedding_module
from mlx_personal.embedding import (
    EmbeddingConfig,
    HiddenStateEmbedder,
    SentenceTransformerEmbedder,
    make_embedder,
    unit_mean,
)
from mlx_personal.errors import UserError

TEXTS = ["How long do eggs boil?", "tea", "", "Seven minutes from the moment the water boils. " * 4]


def test_vectors_are_unit_means_of_the_token_states(tiny_model: LanguageModel) -> None:
    for text, embedding in zip(TEXTS, HiddenStateEmbedder(tiny_model).embed(TEXTS), strict=True):
        tokens = tiny_model.tokenize(text)
        assert embedding.states.shape[0] == len(tokens)
        if tokens:
            mean = embedding.states.astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(embedding.vector, mean / np.linalg.norm(mean), atol=1e-6)
            assert np.linalg.norm(embedding.vector) == pytest.approx(1, abs=1e-6)


def test_a_text_without_tokens_has_a_zero_vector_of_the_models_width(tiny_model: LanguageModel) -> None:
    empty, full = HiddenStateEmbedder(tiny_model).embed(["", "tea"])
    assert empty.vector.shape == full.vector.shape
    assert not empty.vector.any()


def test_other_texts_of_a_batch_change_nothing(tiny_model: LanguageModel) -> None:
    embedder = HiddenStateEmbedder(tiny_model)
    together = embedder.embed(TEXTS)
    for text, embedding in zip(TEXTS, together, strict=True):
        if text:
            np.testing.assert_allclose(embedder.embed([text])[0].vector, embedding.vector, atol=1e-5)


def test_many_long_texts_are_embedded_in_batches(tiny_model: LanguageModel) -> None:
    texts = [TEXTS[3] * 4] * 30
    embeddings = HiddenStateEmbedder(tiny_model).embed(texts)
    assert len(embeddings) == 30
    np.testing.assert_allclose(embeddings[0].vector, embeddings[29].vector, atol=1e-5)


def test_a_model_with_states_that_are_not_finite_is_named(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tiny_model.hidden_states
    monkeypatch.setattr(tiny_model, "hidden_states", lambda rows: [states * np.nan for states in real(rows)])
    with pytest.raises(UserError, match="not finite: its weights are damaged; download it again") as raised:
        HiddenStateEmbedder(tiny_model).embed(TEXTS)
    assert raised.value.where == tiny_model.name


def test_long_texts_are_truncated(tiny_model: LanguageModel) -> None:
    (embedding,) = HiddenStateEmbedder(tiny_model, max_tokens=5).embed([TEXTS[3]])
    assert embedding.states.shape[0] == 5


def test_a_zero_mean_gives_a_zero_vector() -> None:
    assert not unit_mean(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)).any()


def test_a_missing_extra_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match="pip install"):
        SentenceTransformerEmbedder("all-MiniLM-L6-v2")


def test_the_embedder_follows_the_settings(tiny_model: LanguageModel) -> None:
    assert isinstance(make_embedder(EmbeddingConfig(), tiny_model), HiddenStateEmbedder)
    with pytest.raises(ValueError, match="hidden-states"):
        EmbeddingConfig(embedder="word2vec")


def test_the_sentence_transformers_embedder_returns_token_states(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a stand-in of the package, as its real models need a download."""

    class Tensor:
        def __init__(self, values: list[list[float]]) -> None:
            self.values = np.array(values)

        def cpu(self) -> Tensor:
            return self

        def numpy(self) -> np.ndarray:
            return self.values

    class Model:
        def __init__(self, name: str, **_: object) -> None:
            assert name == "some-model"

        def encode(self, texts: list[str], output_value: str, convert_to_numpy: bool) -> list[Tensor]:
            assert output_value == "token_embeddings"
            return [Tensor([[3.0, 0.0], [0.0, 4.0]]) for _ in texts]

    stand_in = type("module", (), {"SentenceTransformer": Model})
    monkeypatch.setitem(sys.modules, "sentence_transformers", stand_in)
    config = EmbeddingConfig(embedder="sentence-transformers:some-model")
    (embedding,) = make_embedder(config, tiny_model).embed(["text"])
    np.testing.assert_allclose(embedding.vector, [0.6, 0.8])


@pytest.mark.parametrize("budget", [64, 512])
def test_a_batch_holds_texts_of_similar_length_within_its_limit(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(embedding_module, "_batch_tokens", lambda: budget)
    batches: list[list[int]] = []
    real = tiny_model.hidden_states

    def recorded(texts: Sequence[list[int]]) -> list[np.ndarray]:
        batches.append([len(tokens) for tokens in texts])
        return real(texts)

    monkeypatch.setattr(tiny_model, "hidden_states", recorded)
    texts = ["egg " * (1 + i * 7 % 40) for i in range(40)]
    together = HiddenStateEmbedder(tiny_model).embed(texts)
    assert all(max(batch) * len(batch) <= budget or len(batch) == 1 for batch in batches)
    assert [length for batch in batches for length in batch] == sorted(map(len, map(tiny_model.tokenize, texts)))[::-1]
    for text, embedding in zip(texts[:5], together, strict=False):
        assert embedding.states.shape[0] == len(tiny_model.tokenize(text))

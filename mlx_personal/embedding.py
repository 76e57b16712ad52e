"""Dialogues to vectors (paper 1, 3.1): the language model's own last hidden layer, so no second model is needed.

A dialogue's vector is the mean of its token states, scaled to unit norm; the token states themselves go to the entropy
score. The `sentence-transformers` extra gives another embedder of the same shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class Embedding:
    """`vector`: float32 [D] of unit norm (zeros for a text without tokens); `states`: float32 [T, D], one a token."""

    vector: np.ndarray
    states: np.ndarray

    @classmethod
    def of(cls, states: np.ndarray, model: object) -> Embedding:
        """Of these token states; UserError that names the model if they are not finite."""
        if not np.isfinite(states).all():
            raise UserError(
                "this model gives states that are no numbers: its weights are damaged",
                model,
                "fetch it again, or name another one",
            )
        return cls(unit_mean(states), states)


@dataclass(frozen=True)
class EmbeddingConfig:
    """`embedder`: `hidden-states`, or `sentence-transformers:MODEL`. `max_tokens`: where a longer dialogue is cut."""

    embedder: str = "hidden-states"
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        if self.embedder != "hidden-states" and not self.embedder.startswith("sentence-transformers:"):
            raise ValueError("embedder must be hidden-states or sentence-transformers:MODEL")
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")


class Embedder(Protocol):
    """What the loop needs of an embedder. `name` changes whenever its vectors would."""

    name: str

    def embed(self, texts: Sequence[str]) -> list[Embedding]: ...


class HiddenStateEmbedder:
    """Embeds with the last hidden layer of a language model.

    Args:
        lm: any loaded model, without an adapter: an adapter would change every vector.
        max_tokens: longer texts are cut here; also never more than the model's context.
    """

    def __init__(self, lm: LanguageModel, max_tokens: int = EmbeddingConfig.max_tokens):
        self._lm = lm
        self._max_tokens = min(max_tokens, lm.context_length - 1)
        self.name = f"hidden-states of at most {self._max_tokens} tokens"

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """An `Embedding` for each text, computed in batches of similar length; UserError for a damaged model."""
        rows = [self._lm.tokenize(text)[: self._max_tokens] for text in texts]
        model, found = self._lm.name or self._lm.path, dict[int, Embedding]()
        for batch in _similar_lengths([len(row) for row in rows]):
            states = self._lm.hidden_states([rows[i] for i in batch])
            found.update((i, Embedding.of(s, model)) for i, s in zip(batch, states, strict=True))
        return [found[i] for i in range(len(rows))]


class SentenceTransformerEmbedder:
    """Embeds with a sentence-transformers model; needs the extra of that name.

    Args:
        model: a name or folder that the `sentence-transformers` package can load.
    """

    def __init__(self, model: str):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UserError(
                "the package sentence-transformers is not installed",
                hint="pip install 'mlx-personal[sentence-transformers]', or set embedder = \"hidden-states\"",
            ) from error
        self.name = f"sentence-transformers:{model}"
        self._model = SentenceTransformer(model)

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """An `Embedding` for each text, from the model's token embeddings; UserError for a damaged model."""
        states = self._model.encode(list(texts), output_value="token_embeddings", convert_to_numpy=False)
        arrays = [np.asarray(s.cpu().numpy(), np.float32) for s in states]
        return [Embedding.of(array, self.name) for array in arrays]


def make_embedder(config: EmbeddingConfig, lm: LanguageModel) -> Embedder:
    """The embedder that a configuration names."""
    if config.embedder == "hidden-states":
        return HiddenStateEmbedder(lm, config.max_tokens)
    return SentenceTransformerEmbedder(config.embedder.partition(":")[2])


def unit_mean(states: np.ndarray) -> np.ndarray:
    """The mean [D] of token states [T, D], scaled to unit norm; zeros where there is no token or no direction."""
    if len(states) == 0:
        return np.zeros(states.shape[1], np.float32)
    mean = states.mean(axis=0, dtype=np.float64)
    norm = np.linalg.norm(mean)
    return np.asarray(mean / norm if norm > 0 else mean, np.float32)


def _batch_tokens() -> int:
    """Return the tokens of one padded batch."""
    from mlx_personal.runtime.device import device_name  # here, so that reading settings does not import MLX

    # On a GPU enough to keep it busy, little enough for any Mac's memory. On a CPU what its caches hold: batches of 8192
    # took 2.5 times as long, longer than texts one by one.
    return 512 if device_name() == "cpu" else 8192


def _similar_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of at most `_batch_tokens()` padded tokens (or one row), longest first."""
    budget = _batch_tokens()
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch

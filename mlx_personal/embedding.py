"""Embeddings of dialogues [Qin24 §3.1], by default from the last hidden layer of the language model.

A dialogue's vector is the mean of its token states, scaled to unit norm. The token states themselves are the input of
the entropy score (EOE). The `sentence-transformers` extra provides another embedder with the same interface.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mlx_personal.errors import UserError

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class Embedding:
    """The embedding of one text.

    Attributes:
        vector: float32 [D] of unit norm; zeros for a text without tokens.
        states: Token states, float32 [T, D].
    """

    vector: np.ndarray
    states: np.ndarray

    @classmethod
    def from_states(cls, states: np.ndarray, model: object) -> Embedding:
        """Return the embedding of a text from its token states.

        Args:
            states: Token states, float32 [T, D].
            model: Name or path of the model, for the error message.

        Raises:
            UserError: If the states are not finite.
        """
        if not np.isfinite(states).all():
            raise UserError(
                "this model computes states that are not finite: its weights are damaged",
                model,
                "download it again, or name another one",
            )
        return cls(unit_mean(states), states)


@dataclass(frozen=True)
class EmbeddingConfig:
    """Settings of the embedding.

    Attributes:
        embedder: `hidden-states`, or `sentence-transformers:MODEL`.
        max_tokens: Maximum number of tokens of a dialogue; a longer one is truncated.

    Raises:
        ValueError: If a setting is out of its range.
    """

    embedder: str = "hidden-states"
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        if self.embedder != "hidden-states" and not self.embedder.startswith("sentence-transformers:"):
            raise ValueError(f"embedder is {self.embedder!r}; it must be hidden-states or sentence-transformers:MODEL")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; it must be at least 1")


class Embedder(Protocol):
    """Computes embeddings of texts.

    Attributes:
        name: Identifies the embedder and its settings: different names mean different vectors.
    """

    name: str

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return the embedding of each text.

        Args:
            texts: The texts.

        Raises:
            UserError: If the model's weights are damaged.
        """
        ...


class HiddenStateEmbedder:
    """Computes embeddings from the last hidden layer of a language model.

    Args:
        lm: A model without an adapter, which would change every vector.
        max_tokens: Maximum number of tokens of a text; a longer one is truncated. The model's context length is also a
            limit.

    Attributes:
        name: Identifies the embedder and its settings.
    """

    def __init__(self, lm: LanguageModel, max_tokens: int = EmbeddingConfig.max_tokens):
        self._lm = lm
        self._max_tokens = min(max_tokens, lm.context_length - 1)
        self.name = f"hidden-states of at most {self._max_tokens} tokens"

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return the embedding of each text, computed in batches of similar length.

        Args:
            texts: The texts.

        Raises:
            UserError: If the model's weights are damaged.
        """
        tokens = [self._lm.tokenize(text)[: self._max_tokens] for text in texts]
        model = self._lm.name or self._lm.path
        embeddings: dict[int, Embedding] = {}
        for batch in _length_batches([len(t) for t in tokens]):
            states = self._lm.hidden_states([tokens[i] for i in batch])
            embeddings.update((i, Embedding.from_states(s, model)) for i, s in zip(batch, states, strict=True))
        return [embeddings[i] for i in range(len(tokens))]


class SentenceTransformerEmbedder:
    """Computes embeddings with a sentence-transformers model; requires the extra of that name.

    Args:
        model: Name or folder of a model that the `sentence-transformers` package can load.

    Attributes:
        name: Identifies the embedder and its settings.

    Raises:
        UserError: If the package is not installed, or the model needs Python code of its own.
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
        _check_no_code(Path(model).expanduser())
        # Other weight files than safetensors, and a model's own Python files, can run code.
        self._model = SentenceTransformer(model, trust_remote_code=False, model_kwargs={"use_safetensors": True})

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return the embedding of each text from the model's token embeddings.

        Args:
            texts: The texts.

        Raises:
            UserError: If the model's weights are damaged.
        """
        states = self._model.encode(list(texts), output_value="token_embeddings", convert_to_numpy=False)
        arrays = [np.asarray(s.cpu().numpy(), np.float32) for s in states]
        return [Embedding.from_states(array, self.name) for array in arrays]


def _check_no_code(folder: Path) -> None:
    """Raise UserError if a model folder of sentence-transformers names Python classes of another package."""
    file = folder / "modules.json"
    if not file.exists():
        return
    try:
        types = [str(module["type"]) for module in json.loads(file.read_bytes())]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError("its modules.json is damaged", folder, "name another embedder") from None
    if not all(name.startswith("sentence_transformers.") for name in types):
        raise UserError("needs Python code of its own, which is never run", folder, "name another embedder")


def make_embedder(config: EmbeddingConfig, lm: LanguageModel) -> Embedder:
    """Return the embedder of a configuration.

    Args:
        config: Settings of the embedding.
        lm: The base model, used by `hidden-states`.

    Raises:
        UserError: If the embedder's package is not installed.
    """
    if config.embedder == "hidden-states":
        return HiddenStateEmbedder(lm, config.max_tokens)
    return SentenceTransformerEmbedder(config.embedder.partition(":")[2])


def unit_mean(states: np.ndarray) -> np.ndarray:
    """Return the mean of token states, scaled to unit norm.

    Args:
        states: Token states, float32 [T, D].

    Returns:
        float32 [D]; zeros if there are no tokens or their mean is zero.
    """
    if len(states) == 0:
        return np.zeros(states.shape[1], np.float32)
    mean = states.mean(axis=0, dtype=np.float64)
    norm = np.linalg.norm(mean)
    return np.asarray(mean / norm if norm > 0 else mean, np.float32)


def _batch_tokens() -> int:
    """Return the maximum number of tokens of a padded batch."""
    # Imported here, so that reading settings does not import MLX.
    from mlx_personal.runtime.device import device_name

    # On a GPU, enough to keep it busy and few enough for any Mac's memory. On a CPU, as many as fit into its caches:
    # batches of 512 took 1.1 times as long, batches of 8192 2.5 times, longer than texts one by one.
    return 256 if device_name() == "cpu" else 8192


def _length_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices in batches of at most `_batch_tokens()` padded tokens, or of one text, the longest texts first."""
    limit = _batch_tokens()
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > limit:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch

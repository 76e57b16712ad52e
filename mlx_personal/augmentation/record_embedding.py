"""A record's vector: what picking and filtering mean by near and far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.augmentation.task import Record
from mlx_personal.embedding import Embedding, HiddenStateEmbedder
from mlx_personal.models import LanguageModel


def said(record: Record) -> str:
    """What is embedded and scored of a record: its text and its answer, a line each.

    Not the task's question around the text: what all records share would make them look alike.
    """
    return f"{record.text}\n{record.answer}"


def embed(lm: LanguageModel, records: Sequence[Record]) -> list[Embedding]:
    """Each record's embedding by the device model's own last hidden layer; `lm` is without an adapter."""
    return HiddenStateEmbedder(lm).embed([said(record) for record in records])


def vectors(lm: LanguageModel, records: Sequence[Record]) -> np.ndarray:
    """Each record's vector, float64 [N, D] of unit norm; N is at least 1."""
    return np.stack([embedding.vector for embedding in embed(lm, records)]).astype(np.float64)

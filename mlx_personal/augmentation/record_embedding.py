"""Embeddings of records, which define similarity for sampling and for the filters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.augmentation.task import Record
from mlx_personal.embedding import Embedding, HiddenStateEmbedder
from mlx_personal.models import LanguageModel


def record_text(record: Record) -> str:
    """Return the text that is embedded and scored: the record's text and its answer, one line each.

    The task's question is left out: it is the same for all records and would make them look alike.
    """
    return f"{record.text}\n{record.answer}"


def embed_records(lm: LanguageModel, records: Sequence[Record]) -> list[Embedding]:
    """Return each record's embedding from the last hidden layer of the device model.

    Args:
        lm: The device model without an adapter.
        records: The records to embed.
    """
    return HiddenStateEmbedder(lm).embed([record_text(record) for record in records])


def record_vectors(lm: LanguageModel, records: Sequence[Record]) -> np.ndarray:
    """Return each record's embedding vector.

    Args:
        lm: The device model without an adapter.
        records: N records, at least one.

    Returns:
        Vectors of unit norm, float64 [N, D].
    """
    return np.stack([embedding.vector for embedding in embed_records(lm, records)]).astype(np.float64)

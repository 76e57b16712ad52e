"""Embed, score and select the unscored dialogues of the stream: the first three steps of the learning loop.

Dialogues are embedded in chunks of similar length and selected in the order of the stream. Windows of them are
committed as a whole, so that an interruption at any point does not change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

import numpy as np

from mlx_personal.config import Config
from mlx_personal.embedding import Embedder, Embedding
from mlx_personal.personalizer.stored_buffer import stored_buffer, stored_lexicons
from mlx_personal.profile import DialogueRow, Store
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.scoring import Lexicons, entropies_of_embedding
from mlx_personal.selection import Decision, SampledDialogue, SelectionCandidate, Selector, make_policy
from mlx_personal.selection.config import SAMPLING_POLICY

# Number of dialogues that are committed together; an interruption loses at most the work on these.
_WINDOW: Final = 256
# Number of them, of similar length, that are embedded together: the states of all their tokens are in memory.
_CHUNK: Final = 64


class Observer:
    """Scores and selects the stream of one profile.

    Args:
        store: The profile's store.
        config: Its settings.
        measure: Returns a context manager that measures the duration of the named stage.
    """

    def __init__(self, store: Store, config: Config, measure: Callable[[str], AbstractContextManager[None]]):
        self._store = store
        self._config = config
        self._measure = measure
        self._selector: Selector | None = None
        self._lexicons: Lexicons | None = None

    def lexicons(self) -> Lexicons:
        """Return the lexicons in use: the built-in ones, replaced or extended by the profile's own files."""
        if self._lexicons is None:
            self._lexicons = stored_lexicons(self._store)
        return self._lexicons

    def selector(self) -> Selector:
        """Return the selector with the stored buffer, whose domains and DSS are computed with the lexicons in use.

        Raises:
            UserError: If the configured buffer is smaller than the stored one.
        """
        if self._selector is None:
            settings = self._config.selection
            buffer = stored_buffer(self._store, self._config, self.lexicons())
            policy = make_policy(
                settings.policy, settings.seed, self._store.entropies, self._stored_sample, self._store_sampled
            )
            self._selector = Selector(buffer, policy, settings.near_duplicate, settings.seed)
        return self._selector

    def forget_buffer(self) -> None:
        """Read the buffer from the store when it is used next, because the stored one was changed."""
        self._selector = None

    def score(self, embedder: Embedder, on_progress: Progress | None = None) -> dict[str, int]:
        """Score and select all unscored dialogues.

        Args:
            embedder: Computes the embeddings.
            on_progress: Receives an event of stage `scoring` after each chunk of embeddings.

        Returns:
            The number of dialogues for each action of the selection.
        """
        if self._store.embedding_signature() != self._signature(embedder):
            self.reembed(embedder)
        counts: dict[str, int] = {}
        total = self._store.unscored_count()
        while rows := self._store.unscored(_WINDOW):
            done = sum(counts.values())
            embedded = self._embed([row.dialogue.text for row in rows], embedder, done, total, on_progress)
            try:
                with self._store.transaction():
                    for row, (vector, eoe) in zip(rows, embedded, strict=True):
                        action = self._select(row, vector, eoe)
                        counts[action] = counts.get(action, 0) + 1
            except BaseException:
                self._selector = None  # the buffer in memory is ahead of the stored one
                raise
        return counts

    def _embed(
        self, texts: Sequence[str], embedder: Embedder, done: int, total: int, on_progress: Progress | None
    ) -> list[tuple[np.ndarray, float]]:
        """Return vector and entropy of each text, computed in chunks of similar length."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        embedded: dict[int, tuple[np.ndarray, float]] = {}
        for start in range(0, len(order), _CHUNK):
            chunk = order[start : start + _CHUNK]
            with self._measure("embedding"):
                embeddings = embedder.embed([texts[number] for number in chunk])
            with self._measure("scoring"):
                entropies = self._entropies(embeddings)
            # The states, of all tokens, are not kept: they are thousands of times as large as the vectors.
            vectors = (embedding.vector for embedding in embeddings)
            embedded.update(zip(chunk, zip(vectors, entropies, strict=True), strict=True))
            if on_progress is not None:
                on_progress(ProgressEvent("scoring", done + len(embedded), total))
        return [embedded[number] for number in range(len(texts))]

    def reembed(self, embedder: Embedder) -> int:
        """Recompute the vectors and entropies of all bins with another embedder.

        Those of the sample that the policy covers are recomputed too; with a policy that covers none, it is deleted.

        Args:
            embedder: Computes the embeddings.

        Returns:
            The number of bins.
        """
        bins = self._store.bins()
        sampled = self._store.sample.rows() if self._config.selection.policy == SAMPLING_POLICY else []
        texts = {b.dialogue_id: b.dialogue.text for b in bins} | {s.dialogue_id: s.dialogue.text for s in sampled}
        embedded = dict(zip(texts, self._embed(list(texts.values()), embedder, 0, 0, None), strict=True))
        with self._store.transaction():
            for bin_ in bins:
                vector, eoe = embedded[bin_.dialogue_id]
                self._store.put_bin(bin_.slot, bin_.dialogue_id, vector, eoe, bin_.idd)
            self._store.sample.keep([row.position for row in sampled])
            for row in sampled:
                self._store.sample.put(row.position, row.dialogue_id, *embedded[row.dialogue_id])
            self._store.set_embedding_signature(self._signature(embedder))
        self._selector = None
        return len(bins)

    def _signature(self, embedder: Embedder) -> str:
        """Return the embedder and the estimator, a change of which requires new vectors and entropies."""
        return f"{embedder.name}, {self._config.scoring.entropy_estimator}"

    def _entropies(self, embeddings: list[Embedding]) -> list[float]:
        return entropies_of_embedding(
            [embedding.states for embedding in embeddings], self._config.scoring.entropy_estimator
        )

    def _stored_sample(self) -> list[SampledDialogue]:
        rows = self._store.sample.rows()
        return [SampledDialogue(row.position, row.dialogue_id, row.vector, row.eoe) for row in rows]

    def _store_sampled(self, sampled: SampledDialogue) -> None:
        self._store.sample.put(sampled.position, sampled.dialogue_id, sampled.vector, sampled.eoe)

    def _select(self, row: DialogueRow, vector: np.ndarray, eoe: float) -> str:
        text = row.dialogue.text
        with self._measure("scoring"):
            score = self.lexicons().domain_specific_score(text)
        with self._measure("selection"):
            candidate = SelectionCandidate(
                dialogue_id=row.id,
                position=row.id,
                text=text,
                vector=vector,
                eoe=eoe,
                dss=score.dss,
                domain=score.domain,
            )
            decision = self.selector().offer(candidate)
            self._record(decision, vector)
        return decision.action

    def _record(self, decision: Decision, vector: np.ndarray) -> None:
        eoe, dss, idd = decision.scores.eoe, decision.scores.dss, decision.scores.idd
        self._store.add_decision(
            decision.dialogue_id,
            decision.action,
            decision.domain,
            (eoe, dss, idd),
            decision.slot,
            decision.replaced_id,
            decision.detail,
        )
        if decision.slot is not None:
            self._store.put_bin(decision.slot, decision.dialogue_id, vector, eoe, idd)

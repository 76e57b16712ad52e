"""The first half of the loop: what waits in the stream is embedded, scored and offered to the buffer, chunk by chunk.

A chunk is committed whole, so an interruption at any point leaves a buffer that goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from mlx_personal.config import Config
from mlx_personal.embedding import Embedder, Embedding
from mlx_personal.errors import UserError
from mlx_personal.profile import DialogueRow, Store
from mlx_personal.progress import Progress, ProgressEvent
from mlx_personal.scoring import Lexicons, entropies_of_embedding
from mlx_personal.selection import Bin, Buffer, SelectionCandidate, Decision, Selector, make_policy

# Dialogues embedded together and committed together: what an interruption costs at most.
_CHUNK = 64


class Observer:
    """Scores and selects one profile's stream.

    Args:
        store: the profile's store.
        config: its settings.
        timed: `timed(room)` measures the block that it opens.
    """

    def __init__(self, store: Store, config: Config, timed: Callable[[str], AbstractContextManager[None]]):
        self._store = store
        self._config = config
        self._timed = timed
        self._selector: Selector | None = None
        self._lexicons: Lexicons | None = None

    def lexicons(self) -> Lexicons:
        """The domains in force: the built-in ones, and the profile's own files over them."""
        if self._lexicons is None:
            self._lexicons = Lexicons.load(self._store.folder / "lexicons")
        return self._lexicons

    def selector(self) -> Selector:
        """The buffer with its policy, as stored; domains and DSS follow the lexicons in force."""
        if self._selector is None:
            settings = self._config.selection
            rows = self._store.bins()
            if rows and rows[-1].slot >= settings.bins:
                raise UserError(
                    f"selection.bins is {settings.bins}, but bin {rows[-1].slot} is in use",
                    self._store.folder / "config.toml",
                    "a buffer can grow, not shrink",
                )
            bins = []
            for row in rows:
                domain = self.lexicons().domain_specific_score(row.dialogue.text)
                bins.append(
                    Bin(
                        slot=row.slot,
                        dialogue_id=row.dialogue_id,
                        text=row.dialogue.text,
                        domain=domain.domain,
                        vector=row.vector,
                        eoe=row.eoe,
                        dss=domain.dss,
                        idd_on_arrival=row.idd,
                    )
                )
            buffer = Buffer(settings.bins, bins, idd=settings.idd)
            policy = make_policy(settings.policy, settings.seed, self._store.entropies)
            self._selector = Selector(buffer, policy, settings.near_duplicate, settings.seed)
        return self._selector

    def score(self, embedder: Embedder, on_progress: Progress | None = None) -> dict[str, int]:
        """Scores and selects all dialogues that wait for it; how many met each decision."""
        if self._store.meta("embedded_by") != self._signature(embedder):
            self.reembed(embedder)
        counts: dict[str, int] = {}
        total = self._store.unscored_count()
        while rows := self._store.unscored(_CHUNK):
            with self._timed("embedding"):
                embedded = embedder.embed([row.dialogue.text for row in rows])
            with self._timed("scoring"):
                entropies = self._entropies(embedded)
            try:
                with self._store.database.transaction():
                    for row, embedding, eoe in zip(rows, embedded, entropies, strict=True):
                        action = self._select(row, embedding, eoe)
                        counts[action] = counts.get(action, 0) + 1
            except BaseException:
                self._selector = None  # the buffer in memory is ahead of the one on disk
                raise
            if on_progress is not None:
                on_progress(ProgressEvent("scoring", sum(counts.values()), total))
        return counts

    def reembed(self, embedder: Embedder) -> int:
        """Embeds every bin with another embedder, whose entropies replace the old ones; returns how many bins."""
        bins = self._store.bins()
        embedded = embedder.embed([b.dialogue.text for b in bins])
        with self._store.database.transaction():
            for old, new, eoe in zip(bins, embedded, self._entropies(embedded), strict=True):
                self._store.put_bin(old.slot, old.dialogue_id, new.vector, eoe, old.idd)
            self._store.set_meta("embedded_by", self._signature(embedder))
        self._selector = None
        return len(bins)

    def _signature(self, embedder: Embedder) -> str:
        """What the bins' vectors and entropies were made with: after a change of settings they are made anew."""
        return f"{embedder.name}, {self._config.scoring.entropy_estimator}"

    def _entropies(self, embedded: list[Embedding]) -> list[float]:
        return entropies_of_embedding([embedding.states for embedding in embedded], self._config.scoring.entropy_estimator)

    def _select(self, row: DialogueRow, embedding: Embedding, eoe: float) -> str:
        text = row.dialogue.text
        with self._timed("scoring"):
            domain = self.lexicons().domain_specific_score(text)
        with self._timed("selection"):
            candidate = SelectionCandidate(
                dialogue_id=row.id,
                position=row.id,
                text=text,
                vector=embedding.vector,
                eoe=eoe,
                dss=domain.dss,
                domain=domain.domain,
            )
            decision = self.selector().offer(candidate)
            self._record(decision, embedding)
        return decision.action

    def _record(self, decision: Decision, embedding: Embedding) -> None:
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
            self._store.put_bin(decision.slot, decision.dialogue_id, embedding.vector, eoe, idd)

"""Dialogues are embedded by length and selected in the order of the stream, and an interruption changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import Embedding
from mlx_personal.personalizer import observer
from mlx_personal.personalizer.observer import Observer
from mlx_personal.profile import Store
from mlx_personal.progress import ProgressEvent

DIALOGUES = [Dialogue.of(f"Question {number}?", "word " * (number * 7 % 40 + 1)) for number in range(30)]


class CountingEmbedder:
    """Embeds a text as random states of its own, and records the lengths of the texts of each call."""

    name = "counting"

    def __init__(self, calls_until_interrupt: int = 1000) -> None:
        self.calls: list[list[int]] = []
        self._calls_left = calls_until_interrupt

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        if len(self.calls) == self._calls_left:
            raise KeyboardInterrupt
        self.calls.append([len(text) for text in texts])
        states = [np.random.default_rng(sum(text.encode())).normal(size=(8, 4)).astype(np.float32) for text in texts]
        return [Embedding.from_states(array, self.name) for array in states]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "_WINDOW", 12)
    monkeypatch.setattr(observer, "_CHUNK", 5)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[Store, Observer]]:
    store = Store(folder)
    try:
        yield store, Observer(store, Config(), lambda stage: contextlib.nullcontext())
    finally:
        store.close()


def decisions(store: Store) -> list[tuple[object, ...]]:
    columns = "dialogue_id, action, domain, eoe, dss, idd, slot, replaced_id, detail"
    return [tuple(row) for row in store.database.fetch_all(f"SELECT {columns} FROM decisions ORDER BY dialogue_id")]


def test_texts_are_embedded_by_length_and_selected_in_order(tmp_path: Path) -> None:
    embedder, events = CountingEmbedder(), list[ProgressEvent]()
    with opened(tmp_path) as (store, scorer):
        store.add_dialogues(DIALOGUES, "test")
        assert sum(scorer.score(embedder, events.append).values()) == 30
        assert [row[0] for row in decisions(store)] == list(range(1, 31))
    lengths = [len(dialogue.text) for dialogue in DIALOGUES]
    windows = [sorted(lengths[start : start + 12]) for start in (0, 12, 24)]
    assert embedder.calls[0] == [], "the bins of the empty buffer"
    assert embedder.calls[1:] == [window[i : i + 5] for window in windows for i in range(0, len(window), 5)]
    assert [event.done for event in events] == [5, 10, 12, 17, 22, 24, 29, 30]
    assert {event.total for event in events} == {30}


@pytest.mark.parametrize("calls", [0, 1, 4, 7])
def test_an_interrupted_scoring_goes_on_where_it_was(tmp_path: Path, calls: int) -> None:
    with opened(tmp_path / "whole") as (store, scorer):
        store.add_dialogues(DIALOGUES, "test")
        scorer.score(CountingEmbedder())
        expected = decisions(store)
    with opened(tmp_path / "interrupted") as (store, scorer):
        store.add_dialogues(DIALOGUES, "test")
        with pytest.raises(KeyboardInterrupt):
            scorer.score(CountingEmbedder(calls))
        assert len(decisions(store)) == max(calls - 1, 0) // 3 * 12, "windows are stored as a whole"
    with opened(tmp_path / "interrupted") as (store, scorer):
        scorer.score(CountingEmbedder())
        assert decisions(store) == expected

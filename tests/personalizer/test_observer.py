"""Dialogues are embedded by length and selected in the order of the stream, and an interruption changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from mlx_personal.config import Config
from mlx_personal.dialogue import Dialogue
from mlx_personal.embedding import Embedding
from mlx_personal.personalizer import observer
from mlx_personal.personalizer.observer import Observer
from mlx_personal.profile import Store
from mlx_personal.progress import ProgressEvent
from mlx_personal.selection import FacilityLocationPolicy, SelectionConfig

DIALOGUES = [Dialogue.of(f"Question {number}?", "word " * (number * 7 % 40 + 1)) for number in range(30)]
DISTINCT = [Dialogue.of(f"Question {n}?", " ".join(f"word{n * i}" for i in range(1, 9))) for n in range(1, 31)]

CONFIG = Config()
COVERING = Config(selection=SelectionConfig(bins=4, policy="facility-location"))


class CountingEmbedder:
    """Embeds a text as random states of its own, and records the lengths of the texts of each call."""

    def __init__(self, calls_until_interrupt: int = 1000, name: str = "counting", seed: int = 0) -> None:
        self.name = name
        self.calls: list[list[int]] = []
        self._seed = seed
        self._calls_left = calls_until_interrupt

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        if len(self.calls) == self._calls_left:
            raise KeyboardInterrupt
        self.calls.append([len(text) for text in texts])
        states = [
            np.random.default_rng(sum(text.encode()) + self._seed).normal(size=(8, 4)).astype(np.float32)
            for text in texts
        ]
        return [Embedding.from_states(array, self.name) for array in states]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "_WINDOW", 12)
    monkeypatch.setattr(observer, "_CHUNK", 5)


@contextlib.contextmanager
def opened(folder: Path, config: Config = CONFIG) -> Iterator[tuple[Store, Observer]]:
    store = Store(folder)
    try:
        yield store, Observer(store, config, lambda stage: contextlib.nullcontext())
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
    assert embedder.calls == [window[i : i + 5] for window in windows for i in range(0, len(window), 5)]
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
        assert len(decisions(store)) == calls // 3 * 12, "windows are stored as a whole"
    with opened(tmp_path / "interrupted") as (store, scorer):
        scorer.score(CountingEmbedder())
        assert decisions(store) == expected


# The sample of the policy facility-location


def sample(store: Store) -> dict[int, tuple[int, list[float], float]]:
    return {row.position: (row.dialogue_id, row.vector.tolist(), row.eoe) for row in store.sample.rows()}


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FacilityLocationPolicy.__init__, "__defaults__", (0.4, 10.0, 9, 0, (), None))


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("cuts", [(3,), (4, 5), (6, 17), (1, 4, 12, 13, 29)])
def test_a_profile_that_is_closed_and_opened_decides_the_same(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    with opened(tmp_path / "whole", COVERING) as (store, scorer):
        store.add_dialogues(DISTINCT, "test")
        scorer.score(CountingEmbedder())
        expected, expected_sample = decisions(store), sample(store)
    assert len(expected_sample) == 9 and "replaced" in {row[1] for row in expected}
    for start, end in itertools.pairwise((0, *cuts, 30)):
        with opened(tmp_path / "parts", COVERING) as (store, scorer):
            store.add_dialogues(DISTINCT[start:end], "test")
            scorer.score(CountingEmbedder())
    with opened(tmp_path / "parts", COVERING) as (store, _):
        assert (decisions(store), sample(store)) == (expected, expected_sample)


@pytest.mark.usefixtures("small_sample")
def test_an_interruption_leaves_the_stored_sample_as_it_was(tmp_path: Path) -> None:
    with opened(tmp_path / "whole", COVERING) as (store, scorer):
        store.add_dialogues(DISTINCT, "test")
        scorer.score(CountingEmbedder())
        expected = decisions(store), sample(store)
    with opened(tmp_path / "interrupted", COVERING) as (store, scorer):
        store.add_dialogues(DISTINCT, "test")
        put_bin = store.put_bin
        store.put_bin = MagicMock(side_effect=[*[None] * 5, KeyboardInterrupt])  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            scorer.score(CountingEmbedder())
        assert (decisions(store), sample(store)) == ([], {})
        store.put_bin = put_bin  # type: ignore[method-assign]
        scorer.score(CountingEmbedder())
        assert (decisions(store), sample(store)) == expected


def test_another_base_model_makes_new_vectors_of_the_sample(tmp_path: Path) -> None:
    with opened(tmp_path, COVERING) as (store, scorer):
        store.add_dialogues(DISTINCT, "test")
        scorer.score(CountingEmbedder())
        before = sample(store)
        assert len(before) == 30
        other = CountingEmbedder(name="other", seed=1)
        assert scorer.reembed(other) == 4
        assert sum(map(len, other.calls)) == 30, "each text is embedded once"
        after = sample(store)
        assert {p: row[0] for p, row in after.items()} == {p: row[0] for p, row in before.items()}
        assert all(after[p][1] != before[p][1] and after[p][2] != before[p][2] for p in before)
        vectors = {row.dialogue_id: row.vector.tolist() for row in store.bins()}
        assert {i: v for i, v, _ in after.values() if i in vectors} == vectors


def test_a_policy_without_a_sample_deletes_it_with_the_old_vectors(tmp_path: Path) -> None:
    with opened(tmp_path, COVERING) as (store, scorer):
        store.add_dialogues(DISTINCT[:10], "test")
        scorer.score(CountingEmbedder())
        assert sample(store)
    random = dataclasses.replace(COVERING, selection=SelectionConfig(bins=4, policy="random"))
    with opened(tmp_path, random) as (store, scorer):
        scorer.reembed(CountingEmbedder(name="other"))
        assert sample(store) == {}


def test_a_profile_that_changes_its_policy_begins_with_a_sample_of_its_buffer(tmp_path: Path) -> None:
    with opened(tmp_path, Config(selection=SelectionConfig(bins=4, policy="random"))) as (store, scorer):
        store.add_dialogues(DISTINCT[:20], "test")
        scorer.score(CountingEmbedder())
        kept = {row.dialogue_id for row in store.bins()}
        assert sample(store) == {}
    with opened(tmp_path, COVERING) as (store, scorer):
        store.add_dialogues(DISTINCT[20:23], "test")
        scorer.score(CountingEmbedder())
        assert {row[0] for row in sample(store).values()} == kept | {21, 22, 23}

"""The index of near-duplicates against the comparison of all pairs."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import Dialogue
from mlx_personal.dialogue import dialogue_similarity
from mlx_personal.dialogue.similarity import NEAR_DUPLICATE_THRESHOLD, NearDuplicateIndex

# Few words, so that many pairs are near the threshold; some turns have no words at all.
TURNS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "Ü", "?!"]), min_size=1, max_size=11).map(" ".join)
DIALOGUES = st.lists(TURNS, min_size=1, max_size=3)


def conversation(questions: list[str]) -> Dialogue:
    turns = [({"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}) for q in questions]
    return Dialogue.from_messages(itertools.chain.from_iterable(turns))


def compare_all(dialogue: Dialogue, others: list[Dialogue]) -> dict[int, float]:
    similarities = {number: dialogue_similarity(dialogue, other) for number, other in enumerate(others)}
    return {number: value for number, value in similarities.items() if value >= NEAR_DUPLICATE_THRESHOLD}


@settings(max_examples=60, deadline=None)
@given(st.lists(DIALOGUES, min_size=1, max_size=12), DIALOGUES)
def test_the_index_finds_the_near_duplicates_of_all_pairs_with_their_similarity(
    questions: list[list[str]], other: list[str]
) -> None:
    dialogues = [conversation(turns) for turns in questions]
    index = NearDuplicateIndex()
    for number, dialogue in enumerate(dialogues):
        assert index.find(dialogue) == compare_all(dialogue, dialogues[:number])
        index.add(dialogue)
    assert index.find(conversation(other)) == compare_all(conversation(other), dialogues)


def test_only_dialogues_with_rare_words_in_common_are_compared() -> None:
    index = NearDuplicateIndex(conversation([f"give visitor{i} at table{i} a cup{i} and fork{i}"]) for i in range(300))
    compared: list[int] = []

    class CountedBags(list[tuple[int, frozenset[tuple[str, int]]]]):
        def __getitem__(self, number: int) -> tuple[int, frozenset[tuple[str, int]]]:  # type: ignore[override]
            compared.append(number)
            return super().__getitem__(number)

    index._bags = (CountedBags(index._bags[0]), CountedBags(index._bags[1]))
    assert index.find(conversation(["give visitor7 at table7 a cup7 and fork7"])) != {}
    assert len(compared) < 10

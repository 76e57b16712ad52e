"""Inferring verdicts: ratings, regenerated answers, thanks and corrections, each with its evidence, and the pairs."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.importers.conversation import Alternative, Conversation, Turn
from mlx_personal.importers.normalize import NormalizedDialogue, normalize
from mlx_personal.importers.reading import ImportedDialogue
from mlx_personal.importers.verdicts import Inferences, InferredVerdict, PreferencePair, infer_verdicts


def user(text: str, **fields: Any) -> Turn:
    return Turn("user", text, **fields)


def answer(text: str, *others: str, reason: str = "regenerated", **fields: Any) -> Turn:
    return Turn("assistant", text, alternatives=tuple(Alternative(other, reason) for other in others), **fields)


def infer(*turns: Turn) -> Inferences:
    conversation = Conversation(turns, "chatgpt", "chats.json:1")
    normalized = normalize(conversation)
    assert isinstance(normalized, NormalizedDialogue)
    return infer_verdicts(ImportedDialogue(normalized, conversation))


def ratings(inferences: Inferences) -> list[tuple[int, str, str]]:
    return [(verdict.answer, verdict.rating, verdict.source) for verdict in inferences.verdicts]


def test_a_conversation_without_a_sign_has_no_verdict() -> None:
    assert infer(user("How long?"), answer("Half an hour."), user("And beans?"), answer("One hour.")) == Inferences()


def test_a_rating_in_the_app() -> None:
    inferences = infer(
        user("How long?"),
        answer("Half an hour.", rating="good", rating_source="thumbs"),
        user("And beans?"),
        answer("A day.", rating="bad"),
    )
    assert inferences.verdicts == (
        InferredVerdict(0, "good", "thumbs", "rated good in the app"),
        InferredVerdict(1, "bad", "rating", "rated bad in the app"),
    )
    assert inferences.pairs == ()


def test_a_label_of_a_training_set_is_no_rating_in_an_app() -> None:
    (verdict,) = infer(user("How long?"), answer("A day.", rating="bad", rating_source="label")).verdicts
    assert verdict == InferredVerdict(0, "bad", "label", "rated bad by the label of the training set")


def test_thanks_after_the_last_answer_are_no_part_of_the_dialogue() -> None:
    inferences = infer(user("How long?"), answer("Half an hour."), user("Thanks,  that\nworks!"))
    assert inferences.verdicts == (InferredVerdict(0, "good", "thanks", 'the next turn: "Thanks, that works!"'),)


def test_the_evidence_quotes_the_beginning_of_a_long_turn() -> None:
    (verdict,) = infer(user("q"), answer("a"), user("That is wrong. " + "Look it up. " * 12)).verdicts
    assert verdict.evidence.startswith('the next turn: "That is wrong. Look') and verdict.evidence.endswith('..."')
    assert len(verdict.evidence) < 150


def test_a_corrected_answer_is_preferred_to_the_first_one() -> None:
    inferences = infer(user("How long?"), answer("A long answer."), user("no, shorter"), answer("Half an hour."))
    assert ratings(inferences) == [(0, "bad", "correction")]
    assert inferences.pairs == (PreferencePair(0, "Half an hour.", "A long answer.", "correction"),)


def test_of_several_corrections_the_last_answer_is_preferred_to_all_others() -> None:
    inferences = infer(
        user("How long?"),
        answer("first"),
        user("no, shorter"),
        answer("second"),
        user("That is wrong."),
        answer("third"),
        user("Thanks!"),
    )
    assert ratings(inferences) == [(0, "bad", "correction"), (1, "bad", "correction"), (2, "good", "thanks")]
    assert inferences.pairs == (
        PreferencePair(0, "third", "first", "correction"),
        PreferencePair(0, "third", "second", "correction"),
    )


def test_a_correction_without_an_answer_makes_no_pair() -> None:
    inferences = infer(user("q"), answer("a"), user("no, shorter"))
    assert ratings(inferences) == [(0, "bad", "correction")]
    assert inferences.pairs == ()


def test_an_answer_that_did_not_get_into_the_dialogue_makes_no_pair() -> None:
    inferences = infer(user("q"), answer("a"), user("no, shorter"), answer("  "), user("next"), answer("b"))
    assert inferences.pairs == ()


def test_the_pairs_of_two_corrections_are_apart() -> None:
    inferences = infer(
        user("q"),
        answer("a1"),
        user("no, shorter"),
        answer("a2"),
        user("next"),
        answer("b1"),
        user("wrong"),
        answer("b2"),
    )
    assert inferences.pairs == (
        PreferencePair(0, "a2", "a1", "correction"),
        PreferencePair(2, "b2", "b1", "correction"),
    )


def test_a_rating_counts_more_than_the_next_turn() -> None:
    inferences = infer(user("q"), answer("a", rating="good", rating_source="thumbs"), user("no, shorter"), answer("b"))
    assert ratings(inferences) == [(0, "good", "thumbs")]
    assert inferences.pairs == ()


def test_a_corrected_answer_that_is_rated_bad_is_not_preferred() -> None:
    inferences = infer(user("q"), answer("a"), user("no, shorter"), answer("b", rating="bad"))
    assert ratings(inferences) == [(0, "bad", "correction"), (1, "bad", "rating")]
    assert inferences.pairs == ()


def test_the_regenerated_answer_that_the_owner_continued_with() -> None:
    inferences = infer(
        user("q"), answer("third", "first", "second", "first", "third", " "), user("and then?"), answer("b")
    )
    assert inferences.verdicts == (
        InferredVerdict(0, "good", "regenerated", "continued with it after 2 other answers"),
    )
    assert inferences.pairs == (
        PreferencePair(0, "third", "first", "regenerated"),
        PreferencePair(0, "third", "second", "regenerated"),
    )


def test_a_regenerated_answer_at_the_end_proves_nothing() -> None:
    assert infer(user("q"), answer("second", "first")) == Inferences()


def test_a_regenerated_answer_at_the_end_is_preferred_to_one_that_was_rated_as_bad() -> None:
    others = (Alternative("first", "regenerated", is_bad=True), Alternative("second", "regenerated"))
    inferences = infer(user("q"), Turn("assistant", "third", alternatives=others))
    assert inferences == Inferences((), (PreferencePair(0, "third", "first", "regenerated"),))
    assert infer(user("q"), Turn("assistant", "third", alternatives=others, rating="bad")).pairs == ()


def test_a_regenerated_answer_that_is_corrected_is_not_preferred() -> None:
    inferences = infer(user("q"), answer("second", "first"), user("still not working"), answer("third"))
    assert ratings(inferences) == [(0, "bad", "correction")]
    assert inferences.pairs == (PreferencePair(0, "third", "second", "correction"),)


def test_an_answer_that_the_owner_rejected_makes_a_pair_wherever_it_is() -> None:
    inferences = infer(user("q"), answer("chosen", "rejected", reason="comparison"))
    assert inferences == Inferences((), (PreferencePair(0, "chosen", "rejected", "comparison"),))


def test_the_alternatives_of_the_last_turn_are_to_the_whole_answer() -> None:
    inferences = infer(user("q"), answer("part one", "x"), answer("part two", "other"), user("next"), answer("b"))
    assert inferences.pairs == (PreferencePair(0, "part one\n\npart two", "other", "regenerated"),)


def test_an_edited_question_is_no_verdict_alone() -> None:
    assert infer(user("q", is_edit=True), answer("a"), user("next", is_edit=True), answer("b")) == Inferences()
    (verdict,) = infer(user("q", is_edit=True), answer("a"), user("Thanks!")).verdicts
    assert verdict.evidence == 'the next turn: "Thanks!" (to an edited question)'


def test_another_persons_thanks_are_not_the_owners() -> None:
    turns = (user("q", name="Ada"), answer("a"), user("Thanks!", name="Ben"), answer("b"))
    assert infer(*turns) == Inferences()


def test_the_time_rises_with_the_number_of_turns_after_an_answer() -> None:
    turns = [user("Soup?"), answer("Slowly."), user("Thanks, that works!"), *(user(str(n)) for n in range(40_000))]
    start = time.process_time()
    infer(*turns)
    assert time.process_time() - start < 5, "seconds; with the square of the number, it takes several times as long"


def test_thoughts_are_no_part_of_a_pair_and_ask_nothing() -> None:
    inferences = infer(
        user("q"),
        answer("Half an hour.\n<think>Or more?</think>"),
        user("no, shorter"),
        answer("<think>hm</think>30 min."),
    )
    assert inferences.pairs == (PreferencePair(0, "30 min.", "Half an hour.", "correction"),)


def test_answers_are_counted_among_those_of_weight_1() -> None:
    turns = (user("q"), answer("a", weight=0), user("no, shorter"), answer("b"), user("Thanks!"))
    assert ratings(infer(*turns)) == [(0, "good", "thanks")]


def test_a_turn_that_calls_a_tool_comes_before_the_answer_that_is_judged() -> None:
    call = Turn("assistant", "I look it up.", calls_tool=True)
    turns = (user("q"), call, Turn("tool", "42"), answer("It is 42."), user("That is wrong."), call, answer("It is 7."))
    inferences = infer(*turns)
    assert ratings(inferences) == [(0, "bad", "correction")]
    assert inferences.pairs == (PreferencePair(0, "It is 7.", "It is 42.", "correction"),)


@pytest.mark.parametrize("between", [Turn("system", "Be brief."), Turn("tool", "42")])
def test_turns_between_an_answer_and_the_next_question_do_not_matter(between: Turn) -> None:
    assert ratings(infer(user("q"), answer("a"), between, user("Thanks!"))) == [(0, "good", "thanks")]


TURNS = st.builds(
    Turn,
    st.sampled_from(["user", "assistant", "tool", "system"]),
    st.sampled_from(["", "a", "b", "thanks", "no, shorter", "That is wrong.", "<think>x</think>", "<think>x</think>y"]),
    name=st.sampled_from(["", "Ada"]),
    weight=st.sampled_from([0, 1]),
    calls_tool=st.booleans(),
    rating=st.sampled_from([None, "good", "bad"]),
    alternatives=st.lists(
        st.builds(Alternative, st.sampled_from(["", "a", "c"]), st.sampled_from(["regenerated", "comparison"])),
        max_size=2,
    ).map(tuple),
    is_edit=st.booleans(),
)


@given(st.lists(TURNS, max_size=8))
def test_any_conversation_has_at_most_one_verdict_for_each_answer_and_pairs_that_differ(turns: list[Turn]) -> None:
    conversation = Conversation(tuple(turns), "chatgpt", "chats.json:1")
    normalized = normalize(conversation)
    if not isinstance(normalized, NormalizedDialogue):
        return
    inferences = infer_verdicts(ImportedDialogue(normalized, conversation))
    count = len(normalized.dialogue.assistant_turns)
    answers = [verdict.answer for verdict in inferences.verdicts]
    assert answers == sorted(set(answers)) and set(answers) <= set(range(count))
    bad = {verdict.answer for verdict in inferences.verdicts if verdict.rating == "bad"}
    for pair in inferences.pairs:
        assert pair.answer < count and pair.chosen.strip() != pair.rejected.strip() and pair.rejected.strip()
        if pair.source == "correction":
            assert pair.answer in bad

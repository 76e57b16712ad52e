"""A later export of a conversation brings its new turns only."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.dialogue import Dialogue
from mlx_personal.personalizer.continuation import find_answer, new_part
from mlx_personal.profile.imports import StoredPart


def chat(*exchanges: str, context: int = 0, system: str = "") -> Dialogue:
    """Return a dialogue with a question and an answer for each word `question:answer`; the first ones are context."""
    messages: list[dict[str, object]] = [{"role": "system", "content": system}] if system else []
    for number, exchange in enumerate(exchanges):
        question, _, answer = exchange.partition(":")
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer or "yes", "weight": int(number >= context)})
    return Dialogue.from_messages(messages)


def scored(*dialogues: Dialogue) -> list[StoredPart]:
    return [StoredPart(number, dialogue, True) for number, dialogue in enumerate(dialogues, start=1)]


def unscored(dialogue: Dialogue) -> list[StoredPart]:
    return [StoredPart(1, dialogue, False)]


def test_the_first_export_is_new_as_a_whole() -> None:
    part = new_part(chat("a", "b"), [])
    assert part is not None
    assert (part.dialogue, part.position, part.continues) == (chat("a", "b"), 0, None)


def test_an_equal_or_shorter_export_brings_nothing() -> None:
    assert new_part(chat("a", "b"), scored(chat("a", "b"))) is None
    assert new_part(chat("a", "b"), unscored(chat("a", "b"))) is None
    assert new_part(chat("a"), scored(chat("a", "b"))) is None
    assert new_part(chat("a", "b"), scored(chat("a"), chat("a", "b", context=1))) is None


def test_a_longer_export_replaces_an_unscored_dialogue() -> None:
    part = new_part(chat("a", "b"), unscored(chat("a")))
    assert part is not None
    assert (part.dialogue, part.position, part.continues) == (chat("a", "b"), 2, 1)


def test_a_replaced_dialogue_keeps_its_context() -> None:
    part = new_part(chat("a", "b", "c"), [*scored(chat("a")), StoredPart(2, chat("a", "b", context=1), False)])
    assert part is not None
    assert (part.dialogue, part.position, part.continues) == (chat("a", "b", "c", context=1), 4, 2)


def test_a_replaced_dialogue_has_what_a_fork_has_as_context() -> None:
    fork = StoredPart(2, chat("a", "b", "c", context=1), False, is_same=False)
    part = new_part(chat("a", "b", "d"), [*unscored(chat("a")), fork])
    assert part is not None
    assert [message.weight for message in part.dialogue.messages] == [1, 1, 1, 0, 1, 1]
    assert (part.position, part.continues) == (2, 1)
    assert find_answer(chat("a", "b", "d"), 1, [StoredPart(1, part.dialogue, False), fork]) == (2, 0)


def test_new_turns_after_a_scored_dialogue_have_it_as_context() -> None:
    part = new_part(chat("a", "b", "c"), scored(chat("a")))
    assert part is not None
    assert (part.dialogue, part.position, part.continues) == (chat("a", "b", "c", context=1), 2, None)
    assert part.dialogue.user_turns == ("b", "c")


def test_another_answer_and_all_after_it_are_new() -> None:
    for parts in (scored(chat("a", "b", "c")), unscored(chat("a", "b", "c"))):
        part = new_part(chat("a", "b:no", "c"), parts)
        assert part is not None
        assert (part.dialogue, part.position, part.continues) == (chat("a", "b:no", "c", context=1), 2, None)


def test_an_edited_first_question_is_a_whole_dialogue() -> None:
    part = new_part(chat("A", "b"), scored(chat("a", "b")))
    assert part is not None
    assert (part.dialogue, part.position, part.continues) == (chat("A", "b"), 0, None)


def test_both_branches_are_known_once_they_were_imported() -> None:
    parts = scored(chat("a", "b"), chat("a", "b:no", context=1))
    assert new_part(chat("a", "b"), parts) is None
    assert new_part(chat("a", "b:no"), parts) is None


def test_system_turns_and_results_of_tools_are_not_compared() -> None:
    assert new_part(chat("a", system="Be brief."), scored(chat("a", system="Be kind."))) is None
    question, tool, answer = ({"role": role, "content": role} for role in ("user", "tool", "assistant"))
    with_tool, without = Dialogue.from_messages([question, tool, answer]), Dialogue.from_messages([question, answer])
    assert new_part(with_tool, scored(without)) is None
    part = new_part(Dialogue.from_messages([question, tool, answer, question, tool, answer]), unscored(without))
    assert part is not None
    assert (part.position, part.continues) == (3, 1)


def test_turns_that_were_taken_back_come_again_without_those_that_stayed() -> None:
    """The second dialogue of the conversation has the turns of the first, which is gone, as context only."""
    part = new_part(chat("a", "b"), scored(chat("a", "b", context=1)))
    assert part is not None
    assert (part.dialogue, part.position, part.continues) == (chat("a"), 0, None)


def test_answers_that_are_context_in_the_export_are_never_new() -> None:
    assert new_part(chat("a", "b", context=1), scored(chat("b"), chat("a", "b", context=1))) is None
    part = new_part(chat("a", "b", "c", context=1), scored(chat("a", "b", context=1)))
    assert part is not None
    assert part.dialogue == chat("a", "b", "c", context=2)


def test_an_answer_is_found_in_the_dialogue_that_has_it() -> None:
    parts = scored(chat("a", "b"), chat("a", "b", "c", context=2))
    whole = chat("a", "b", "c", "d")
    assert [find_answer(whole, answer, parts) for answer in range(4)] == [(1, 0), (1, 1), (2, 0), None]


@given(st.lists(st.lists(st.sampled_from(["a", "b:yes", "b:no"]), min_size=1, max_size=5), min_size=1, max_size=6))
def test_every_exchange_of_every_export_is_a_target_once(exports: list[list[str]]) -> None:
    """Whatever the order of the exports: each distinct beginning of a conversation ends with a target exactly once."""
    parts: list[StoredPart] = []
    for number, export in enumerate(exports):
        part = new_part(chat(*export), parts)
        if part is not None and part.continues is not None:
            parts = [p for p in parts if p.dialogue_id != part.continues]
        if part is not None:
            is_scored = number % 2 == 0
            parts.append(StoredPart(part.continues or number + 100, part.dialogue, is_scored))
        assert new_part(chat(*export), parts) is None
    targets = [
        tuple((m.role, m.content) for m in part.dialogue.messages[: assistant + 1])
        for part in parts
        for _, assistant in part.dialogue.turn_indices
    ]
    beginnings = {
        tuple((m.role, m.content) for m in chat(*export[: end + 1]).messages)
        for export in exports
        for end in range(len(export))
    }
    assert sorted(targets) == sorted(beginnings)

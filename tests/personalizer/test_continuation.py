"""A later export of a conversation brings its new turns only."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.dialogue import Dialogue
from mlx_personal.personalizer import continuation
from mlx_personal.personalizer.continuation import NewPart
from mlx_personal.profile.exchanges import StoredAnswer, exchanges_of

APP, CONVERSATION = "app", "c1"


@dataclass
class Stored:
    """Dialogues of conversations of the app, by their ids.

    Attributes:
        dialogues: The dialogues.
        scored: Ids of those that have been scored.
        others: Ids of those of another conversation.
    """

    dialogues: dict[int, Dialogue]
    scored: set[int] = field(default_factory=set)
    others: set[int] = field(default_factory=set)

    def find(self, prefix_hash: bytes) -> StoredAnswer | None:
        for dialogue_id in sorted(self.dialogues):
            hashes = self._hashes(dialogue_id)
            if prefix_hash in hashes:
                return StoredAnswer(dialogue_id, hashes.index(prefix_hash))
        return None

    def hashes_of(self, dialogue_id: int) -> set[bytes]:
        return set(self._hashes(dialogue_id))

    def is_scored(self, dialogue_id: int) -> bool:
        return dialogue_id in self.scored

    def has_conversation(self, app: str, conversation_id: str) -> bool:
        return any(self.is_of_conversation(number, app, conversation_id) for number in self.dialogues)

    def is_of_conversation(self, dialogue_id: int, app: str, conversation_id: str) -> bool:
        return (app, conversation_id) == (APP, CONVERSATION) and dialogue_id not in self.others

    def _hashes(self, dialogue_id: int) -> list[bytes]:
        exchanges = exchanges_of(self.dialogues[dialogue_id], CONVERSATION)
        return [exchange.prefix_hash for exchange in exchanges if exchange.weight]


def new_part(dialogue: Dialogue, stored: Stored) -> NewPart | None:
    return continuation.new_part(dialogue, exchanges_of(dialogue, CONVERSATION), APP, CONVERSATION, stored)


def chat(*exchanges: str, context: int = 0) -> Dialogue:
    """Return a dialogue with a question and an answer for each word `question:answer`; the first ones are context."""
    messages: list[dict[str, object]] = []
    for number, exchange in enumerate(exchanges):
        question, _, answer = exchange.partition(":")
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer or "yes", "weight": int(number >= context)})
    return Dialogue.from_messages(messages)


def scored(*dialogues: Dialogue) -> Stored:
    numbered = dict(enumerate(dialogues, start=1))
    return Stored(numbered, scored=set(numbered))


def unscored(dialogue: Dialogue) -> Stored:
    return Stored({1: dialogue})


def test_the_first_export_is_new_as_a_whole() -> None:
    part = new_part(chat("a", "b"), Stored({}))
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
    part = new_part(chat("a", "b", "c"), Stored({1: chat("a"), 2: chat("a", "b", context=1)}, scored={1}))
    assert part is not None
    assert (part.dialogue, part.position, part.continues) == (chat("a", "b", "c", context=1), 4, 2)


def test_a_replaced_dialogue_has_what_a_fork_has_as_context() -> None:
    stored = Stored({1: chat("a"), 2: chat("a", "b", "c", context=1)}, others={2})
    part = new_part(chat("a", "b", "d"), stored)
    assert part is not None
    assert [message.weight for message in part.dialogue.messages] == [1, 1, 1, 0, 1, 1]
    assert (part.position, part.continues) == (2, 1)


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


def test_an_unscored_dialogue_with_other_exchanges_is_not_replaced() -> None:
    part = new_part(chat("a", "c"), unscored(chat("a", "b")))
    assert part is not None
    assert (part.dialogue, part.continues, part.is_continuation) == (chat("a", "c", context=1), None, True)


def test_a_dialogue_of_another_conversation_is_not_replaced() -> None:
    part = new_part(chat("a", "b"), Stored({1: chat("a")}, others={1}))
    assert part is not None
    assert (part.dialogue, part.continues) == (chat("a", "b", context=1), None)
    assert not part.is_continuation, "the first turns of a new conversation were copied from the other one"


def test_results_of_tools_and_thoughts_are_not_compared() -> None:
    question, tool, answer = ({"role": role, "content": role} for role in ("user", "tool", "assistant"))
    with_tool, without = Dialogue.from_messages([question, tool, answer]), Dialogue.from_messages([question, answer])
    assert new_part(with_tool, scored(without)) is None
    assert new_part(chat("a:<think>Hm.</think>\n\nyes"), scored(chat("a"))) is None
    assert new_part(chat("a"), scored(chat("a:<think>Hm.</think>\n\nyes"))) is None
    part = new_part(Dialogue.from_messages([question, tool, answer, question, tool, answer]), unscored(without))
    assert part is not None
    assert (part.position, part.continues) == (3, 1)


def test_an_answer_that_became_context_stays_a_target_of_a_replaced_dialogue() -> None:
    part = new_part(chat("a", "b", context=1), unscored(chat("a")))
    assert part is not None
    assert (part.dialogue, part.continues) == (chat("a", "b"), 1)


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


@given(st.lists(st.lists(st.sampled_from(["a", "b:yes", "b:no"]), min_size=1, max_size=5), min_size=1, max_size=6))
def test_every_exchange_of_every_export_is_a_target_once(exports: list[list[str]]) -> None:
    """Whatever the order of the exports: each distinct beginning of a conversation ends with a target exactly once."""
    stored = Stored({})
    for number, export in enumerate(exports):
        part = new_part(chat(*export), stored)
        if part is not None:
            dialogue_id = part.continues or number + 100
            stored.dialogues[dialogue_id] = part.dialogue
            stored.scored |= {dialogue_id} if number % 2 == 0 else set()
        assert new_part(chat(*export), stored) is None
    targets = [
        tuple((m.role, m.content) for m in dialogue.messages[: assistant + 1])
        for dialogue in stored.dialogues.values()
        for _, assistant in dialogue.turn_indices
    ]
    beginnings = {
        tuple((m.role, m.content) for m in chat(*export[: end + 1]).messages)
        for export in exports
        for end in range(len(export))
    }
    assert sorted(targets) == sorted(beginnings)

"""An exchange is the same if it and all before it are equal, whatever is not compared."""

from __future__ import annotations

import hashlib

from mlx_personal.dialogue import Dialogue
from mlx_personal.profile.exchanges import exchanges_of


def dialogue(*turns: tuple[str, str]) -> Dialogue:
    return Dialogue.from_messages({"role": role, "content": content} for role, content in turns)


def hashes(*turns: tuple[str, str], conversation_id: str = "c1") -> list[bytes]:
    return [exchange.prefix_hash for exchange in exchanges_of(dialogue(*turns), conversation_id)]


SOUP = (("user", "And soup?"), ("assistant", "Slowly."))
TEA = (("user", "And tea?"), ("assistant", "With hot water."))


def test_the_hash_of_an_exchange_is_of_all_texts_up_to_it() -> None:
    before = hashlib.sha256(b"0:").digest()[:16]
    first = hashlib.sha256(before + b"9:And soup?7:Slowly.").digest()[:16]
    second = hashlib.sha256(first + b"8:And tea?15:With hot water.").digest()[:16]
    assert hashes(*SOUP, *TEA) == [first, second]
    assert hashes(*SOUP) == [first]
    assert hashes(*TEA, *SOUP)[1] != first


def test_texts_are_told_apart_where_one_ends_and_the_next_begins() -> None:
    one = hashes(("user", "ab"), ("assistant", "c"))
    assert one != hashes(("user", "a"), ("assistant", "bc"))
    assert one != hashes(("user", "a1:b"), ("assistant", "c"))


def test_thoughts_results_of_tools_and_space_around_a_text_are_not_hashed() -> None:
    question, answer = SOUP
    expected = hashes(*SOUP)
    assert hashes(question, ("assistant", "<think>Let me see.</think>\n\nSlowly.")) == expected
    assert hashes(question, ("tool", "100 degrees"), answer) == expected
    assert hashes(("user", "And soup?\n"), ("assistant", " Slowly.")) == expected
    assert hashes(("user", "<think></think>And soup?"), answer) != expected, "what a person wrote has no thoughts"


def test_a_system_turn_is_hashed_in_conversations_without_an_id() -> None:
    system = (("system", "You are a pirate."), *SOUP)
    assert hashes(*system) == hashes(*SOUP)
    assert hashes(*system, conversation_id="") != hashes(*SOUP, conversation_id="")
    assert hashes(*SOUP, conversation_id="") == hashes(*SOUP)


def test_another_answer_has_the_hash_of_the_exchange_with_it() -> None:
    exchange = exchanges_of(dialogue(*SOUP, *TEA), "c1")[1]
    assert exchange.hash_with("Cold.") == hashes(*SOUP, ("user", "And tea?"), ("assistant", "Cold."))[1]

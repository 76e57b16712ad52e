"""The branch that an app shows, and what the owner left behind: other answers, earlier versions of a question."""

from __future__ import annotations

import pytest

from mlx_personal.importers import Turn
from mlx_personal.importers.conversation import Alternative, Rating
from mlx_personal.importers.formats.branches import Branch, read_branch

# Ids are in the order of time; a role by the first letter of an id: user, assistant, hidden, tool call.
ROLES = {"u": "user", "a": "assistant", "g": "assistant", "b": "assistant", "c": "assistant"}


def read(key: str) -> list[Turn]:
    if key[0] == "h":
        return []
    ratings: dict[str, Rating] = {"g": "good", "b": "bad"}
    rating = ratings.get(key[0])
    return [Turn(ROLES[key[0]], f"text of {key}", calls_tool=key[0] == "c", rating=rating)]


def branch(edges: str, current: str | None, chosen: tuple[str, ...] = ()) -> tuple[Turn, ...]:
    """Return the turns that are shown of a tree."""
    return whole_branch(edges, current, chosen).turns


def whole_branch(edges: str, current: str | None, chosen: tuple[str, ...] = ()) -> Branch:
    """Return the branch that is shown of a tree that is written as `child<parent` for each message."""
    pairs = [edge.split("<") for edge in edges.split()]
    parents = {child: parent or None for child, parent in pairs}
    times = {child: 1e9 + number for number, (child, _) in enumerate(pairs)}
    return read_branch(parents, times, current, read, chosen)


def texts(turns: tuple[Turn, ...]) -> str:
    return " ".join(turn.text.removeprefix("text of ") for turn in turns)


@pytest.mark.parametrize(
    ("edges", "current", "expected"),
    [
        ("u1< a1<u1 u2<a1 a2<u2", "a2", "u1 a1 u2 a2"),
        ("u1< a1<u1 a2<u1", "a1", "u1 a1"),
        ("u1< a1<u1 a2<u1", None, "u1 a2"),
        ("u1< a1<u1 a2<u1", "unknown", "u1 a2"),
        ("h0< u1<h0 h1<u1 a1<h1", "a1", "u1 a1"),
        ("u1< a1<u1 u2< a2<u2", "a1", "u1 a1"),  # two roots
        ("u1< a1<u1 u2<lost a2<u2", "a2", "u2 a2"),
        ("u1<a1 a1<u1", "a1", "u1 a1"),  # a cycle
        ("u1<u1", "u1", "u1"),
        ("u1<a1 a1<u1", None, "u1 a1"),
    ],
)
def test_the_branch_leads_from_the_first_message_to_the_one_that_is_shown(
    edges: str, current: str | None, expected: str
) -> None:
    assert texts(branch(edges, current)) == expected


@pytest.mark.parametrize(
    ("edges", "count"),
    [
        ("u1< a1<u1 a2<u1", 0),  # another answer is an alternative
        ("u0< a0<u0 u1< a2<u1", 1),
        ("u1< a1<u1 u2<a1 a3<u2 u3<a3 a2<u1", 2),
        ("u1< h1<u1 a2<u1", 0),
    ],
)
def test_questions_on_other_branches_are_counted(edges: str, count: int) -> None:
    found = whole_branch(edges, "a2")
    assert (texts(found.turns), found.left_behind) == ("u1 a2", count)


def test_other_answers_to_a_question_are_alternatives() -> None:
    turns = branch("u1< a1<u1 a2<u1 h3<u1 a3<h3 u2<a3 a4<u2", "a4")
    assert texts(turns) == "u1 a3 u2 a4"
    expected = (Alternative("text of a1", "regenerated"), Alternative("text of a2", "regenerated"))
    assert [turn.alternatives for turn in turns] == [(), expected, (), ()]


def test_an_answer_of_several_messages_has_its_alternatives_at_the_last_one() -> None:
    turns = branch("u1< c1<u1 a1<c1 a2<a1 c5<u1 a5<c5 a6<a5 u9<a6", "a2")
    assert texts(turns) == "u1 c1 a1 a2"
    assert turns[3].alternatives == (Alternative("text of a5\n\ntext of a6", "regenerated"),)
    assert not turns[2].alternatives


def test_a_continuation_of_an_answer_is_no_other_answer() -> None:
    turns = branch("u1< a1<u1 a2<a1 a3<a1", "a2")
    assert texts(turns) == "u1 a1 a2"
    assert not any(turn.alternatives for turn in turns)


def test_a_greeting_beside_the_first_question_is_no_answer() -> None:
    turns = branch("a1< u1< a2<u1", "a2")
    assert texts(turns) == "u1 a2"
    assert not any(turn.alternatives for turn in turns)


def test_an_answer_that_was_rated_as_good_is_no_rejected_one() -> None:
    assert not branch("u1< g1<u1 a2<u1", "a2")[1].alternatives


def test_an_answer_that_was_rated_as_bad_is_marked() -> None:
    others = branch("u1< b1<u1 a2<b1 a3<u1 a4<u1", "a4")[1].alternatives
    assert others == (
        Alternative("text of b1\n\ntext of a2", "regenerated", is_bad=True),
        Alternative("text of a3", "regenerated"),
    )


def test_a_chosen_answer_was_compared() -> None:
    (other,) = branch("u1< a1<u1 a2<u1", "a2", ("a2",))[1].alternatives
    assert other == Alternative("text of a1", "compared")
    (other,) = branch("u1< a1<u1 a2<u1", "a2", ("a1",))[1].alternatives
    assert other.reason == "regenerated"


def test_the_later_version_of_a_question_is_an_edit() -> None:
    edges = "h0< u1<h0 a1<u1 u2<h0 a2<u2"
    assert [turn.is_edit for turn in branch(edges, "a2")] == [True, False]
    assert [turn.is_edit for turn in branch(edges, "a1")] == [False, False]
    assert not branch(edges, "a2")[1].alternatives


def test_a_long_conversation_takes_no_recursion() -> None:
    count = 2_000
    edges = " ".join(f"{'ua'[number % 2]}{number}<{'au'[number % 2]}{number - 1}" for number in range(1, count))
    turns = branch(f"u0< {edges}", None)
    assert len(turns) == count


def test_many_versions_take_linear_time() -> None:
    answers = " ".join(f"a{number}<u1" for number in range(10_000))
    turns = branch(f"u1< {answers}", "a9999")
    assert len(turns[1].alternatives) == 9_999

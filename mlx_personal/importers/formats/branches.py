"""The turns of the branch that an app shows, with the versions of answers and questions that the owner left behind.

Apps keep every version: an answer that is written again becomes a sibling of the earlier one, and so does a question
that is edited. An answer can consist of several messages, such as thoughts, a tool call, its result and the text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mlx_personal.importers.conversation import COMPARED, REGENERATED, Alternative, Turn
from mlx_personal.importers.formats.tree import MessageTree


@dataclass(frozen=True)
class Branch:
    """The branch of a conversation that an app shows.

    Attributes:
        turns: Its turns. An answer has the others to the same question as alternatives, and an edited question is
            marked.
        left_behind: Number of the questions on other branches, which are left out with what follows them.
    """

    turns: tuple[Turn, ...]
    left_behind: int


def read_branch(
    parents: Mapping[str, str | None],
    times: Mapping[str, float | None],
    current: object,
    read: Callable[[str], Sequence[Turn]],
    chosen: Collection[str] = (),
) -> Branch:
    """Return the branch from the first message to the one that the app shows last.

    Args:
        parents: The parent of each message by its id; None for the first message.
        times: When each message was written, in seconds since 1970, as far as it is known.
        current: Id of the message that the app shows last; if it is unknown, the latest one is taken.
        read: Returns the turns of a message; none for one that the app does not show.
        chosen: Ids of the answers that the owner chose when the app showed several.
    """
    order = sorted(parents, key=lambda key: times.get(key) or 0.0)
    position = {key: number for number, key in enumerate(order)}
    tree = MessageTree({key: parents[key] for key in order}, times)
    turns: list[Turn] = []
    is_asked = False
    answer: int | None = None  # index of the last turn that answers the present question
    others: list[tuple[str, bool]] = []  # other answers to it, and whether they were rated as bad
    reason = REGENERATED

    def close() -> None:
        if answer is not None and others:
            found = tuple(Alternative(text, reason, is_bad) for text, is_bad in others)
            turns[answer] = replace(turns[answer], alternatives=found)

    branch = tree.branch(current)
    for key in branch:
        siblings = tree.siblings(key)
        if is_asked and answer is None:
            others += [found for other in siblings if (found := _answer(tree, other, read))[0]]
        if key in chosen:
            reason = COMPARED
        for turn in read(key):
            if turn.role == "user":
                close()
                is_asked, answer, others, reason = True, None, [], REGENERATED
                before = (other for other in siblings if position[other] < position[key])
                if any(_is_question(read(other)) for other in before):
                    turn = replace(turn, is_edit=True)
            elif _is_answer(turn):
                answer = len(turns)
            turns.append(turn)
    close()
    left_behind = sum(_is_question(read(key)) for key in parents.keys() - set(branch))
    return Branch(tuple(turns), left_behind)


def _answer(tree: MessageTree, key: str, read: Callable[[str], Sequence[Turn]]) -> tuple[str, bool]:
    """Return the text of an answer that begins with a message, and whether the owner rated it as bad.

    The text is empty if the owner rated it as good.
    """
    texts, is_bad = [], False
    for message in tree.following(key):
        turns = read(message)
        if _is_question(turns):
            break
        if any(turn.rating == "good" for turn in turns):
            return "", False
        is_bad = is_bad or any(turn.rating == "bad" for turn in turns)
        texts += [turn.text for turn in turns if _is_answer(turn)]
    return "\n\n".join(texts), is_bad


def _is_answer(turn: Turn) -> bool:
    return turn.role == "assistant" and not turn.calls_tool and bool(turn.text.strip())


def _is_question(turns: Sequence[Turn]) -> bool:
    return any(turn.role == "user" for turn in turns)

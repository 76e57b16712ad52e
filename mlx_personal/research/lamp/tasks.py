"""LaMP's tasks: how each is asked, which fields a user's items have, and what an adapter learns of an item.

A profile is what LaMP calls a user's items, dicts with the task's fields; an item is never changed. LaMP-6 is left out:
its e-mails are under a licence of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

from mlx_personal.augmentation.task import Record, Task
from mlx_personal.errors import UserError

Item = Mapping[str, Any]

_TEXT: Final = "{text}"
_REFERENCES: Final = re.compile(r'\[1\]: "(.*)" \[2\]: "(.*)"', re.DOTALL)
# What an adapter learns of a paper: whom its author cites, where the data say so (OPPU's do), else its abstract.
_CITING: Final = f"paper title: {_TEXT} reference:"
_ABSTRACT: Final = f"Write an abstract for this title: {_TEXT}"
_TWEET: Final = f"Complete the following tweet: {_TEXT}"
# The share of a tweet's words that is given, the rest being learnt.
_GIVEN: Final = (0.10, 0.25)


@dataclass(frozen=True)
class LampTask:
    """One task of LaMP.

    Args:
        name: short; `files`: the names that LaMP's and OPPU's files give it, first the one that tells it apart.
        kind: which metrics judge it.
        question: the official input, whose places are `{text}` or, for LaMP-1, `{title}`, `{ref1}` and `{ref2}`.
        text, answer: the fields of an item that hold what stood there, and what the user made of it. LaMP-7's items
            have no answer; of LaMP-1's, `record` says what it is.
        corpus: the fields that retrieval compares with a query.
        labels: all answers there are, in the order of the official input; none where the answer is free text.
    """

    name: str
    files: tuple[str, ...]
    kind: Literal["classification", "rating", "generation"]
    question: str
    text: str
    answer: str | None
    corpus: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def query_text(self, asked: str) -> str:
        """What an official input asks about: what stands in place of `{text}`; of LaMP-1 both references.

        ValueError for an input of another task.
        """
        if self.name == "1":
            match = _REFERENCES.search(asked)
            if match is None:
                raise ValueError(f"an input without two references, which is none of LaMP-{self.name}")
            return f"{match[1]} {match[2]}"
        marker = self.question.removesuffix(_TEXT).split()[-1]
        _, found, text = asked.partition(marker)
        if not found:
            raise ValueError(f"an input without {marker!r}, which is none of LaMP-{self.name}")
        return text.strip()

    def corpus_text(self, item: Item) -> str:
        """What retrieval compares of an item."""
        return " ".join(field(item, name) for name in self.corpus)

    def valid_answer(self, value: object) -> str | None:
        """An answer as the task writes it; None where it is empty, or none of the labels."""
        text = _plain(value)
        if self.kind == "rating":
            try:
                text = f"{float(text):g}"
            except ValueError:
                return None
        if self.labels:
            text = text.strip()
            return text if text in self.labels else None
        return text if text.strip() else None

    def holds(self, item: object) -> bool:
        """Whether a profile's item has what the task needs: a text, and an answer that is one."""
        if not isinstance(item, Mapping) or not field(item, self.text).strip():
            return False
        if self.name == "1":
            return any(field(item, name).strip() for name in ("citation", "abstract"))
        return self.answer is None or self.valid_answer(item.get(self.answer)) is not None

    def collaboration_task(self, profile: Sequence[Item] = ()) -> Task:
        """How the device's model is asked while it learns this user's items; LaMP-1 depends on whether they cite."""
        if self.name == "1":
            return Task(_CITING if cites(profile) else _ABSTRACT)
        return Task(_TWEET) if self.name == "7" else Task(self.question, self.labels)

    def record(self, item: Item, seed: int = 0) -> Record | None:
        """What an adapter learns of an item; None where there is nothing to learn or no dialogue can hold it.

        LaMP-2 to LaMP-5: the task's own input and the item's answer. LaMP-1: of a title the paper it cites, where the
        item has `citation`, else its abstract. LaMP-7: the rest of a tweet after the first 10 to 25 % of its words, but
        at least one (the official script gives none of a short tweet); the share depends on the seed and the tweet.
        """
        if not self.holds(item):
            return None
        text = field(item, self.text)
        if self.name == "1":
            answer = field(item, "citation")
            answer = answer if answer.strip() else field(item, "abstract")
        elif self.answer is None:
            words = text.split()
            given = max(1, int(len(words) * Random(f"{seed} {text}").uniform(*_GIVEN)))
            text, answer = " ".join(words[:given]), " ".join(words[given:])
        else:
            answer = self.valid_answer(item[self.answer]) or ""
        try:
            record = Record(text, answer)
            self.collaboration_task([item]).dialogue(record)
        except ValueError:
            return None
        return record


def field(item: Item, name: str) -> str:
    """A field of an item as text; empty where the item has none."""
    return _plain(item.get(name))


def cites(profile: Sequence[Item]) -> bool:
    """Whether a LaMP-1 profile says which papers its author cites."""
    return any(field(item, "citation").strip() for item in profile)


def task_named(name: str) -> LampTask:
    """The task of a short name or a file's; UserError, which lists the names, for none."""
    short = re.sub(r"^lamp[_-]?", "", name.strip(), flags=re.IGNORECASE).upper()
    if short not in TASKS:
        known = f"take one of {', '.join(TASKS)}; 2N has news, 2M movies"
        raise UserError(f"there is no LaMP task {name!r}", hint=known)
    return TASKS[short]


def _plain(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


_CATEGORIES: Final = (
    "women",
    "religion",
    "politics",
    "style & beauty",
    "entertainment",
    "culture & arts",
    "sports",
    "science & technology",
    "travel",
    "business",
    "crime",
    "education",
    "healthy living",
    "parents",
    "food & drink",
)
_TAGS: Final = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)

TASKS: Final[Mapping[str, LampTask]] = {
    task.name: task
    for task in (
        LampTask(
            "1",
            ("LaMP_1",),
            "classification",
            'For an author who has written the paper with the title "{title}", which reference is related? Just answer '
            'with [1] or [2] without explanation. [1]: "{ref1}" [2]: "{ref2}"',
            text="title",
            answer=None,
            corpus=("title", "abstract"),
            labels=("[1]", "[2]"),
        ),
        LampTask(
            "2N",
            ("LaMP_2N", "LaMP_2"),
            "classification",
            "Which category does this article relate to among the following categories? Just answer with the category "
            f"name without further explanation. categories: [{', '.join(_CATEGORIES)}] article: {_TEXT}",
            text="text",
            answer="category",
            corpus=("title", "text"),
            labels=_CATEGORIES,
        ),
        LampTask(
            "2M",
            ("LaMP_2M", "LaMP_2"),
            "classification",
            "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
            f"further explanation. tags: [{', '.join(_TAGS)}] description: {_TEXT}",
            text="description",
            answer="tag",
            corpus=("description",),
            labels=_TAGS,
        ),
        LampTask(
            "3",
            ("LaMP_3",),
            "rating",
            "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
            f"further explanation. review: {_TEXT}",
            text="text",
            answer="score",
            corpus=("text",),
            labels=("1", "2", "3", "4", "5"),
        ),
        LampTask(
            "4",
            ("LaMP_4",),
            "generation",
            f"Generate a headline for the following article: {_TEXT}",
            text="text",
            answer="title",
            corpus=("title", "text"),
        ),
        LampTask(
            "5",
            ("LaMP_5",),
            "generation",
            f"Generate a title for the following abstract of a paper: {_TEXT}",
            text="abstract",
            answer="title",
            corpus=("title", "abstract"),
        ),
        LampTask(
            "7",
            ("LaMP_7",),
            "generation",
            f"Paraphrase the following tweet without any explanation before or after it: {_TEXT}",
            text="text",
            answer=None,
            corpus=("text",),
        ),
    )
}

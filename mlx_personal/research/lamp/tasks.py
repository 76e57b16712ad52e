"""The tasks of LaMP: input formats, profile fields, labels, and the training record of a profile item.

LaMP calls the past items of a user a profile. An item is a JSON object with the fields of its task, and is never
changed here. LaMP-6 is left out because its emails have a license of their own.
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
# The training inputs of LaMP-1: predict the cited paper where the data name it, as OPPU's files do, else the abstract.
_CITATION_INPUT: Final = f"paper title: {_TEXT} reference:"
_ABSTRACT_INPUT: Final = f"Write an abstract for this title: {_TEXT}"
_TWEET_INPUT: Final = f"Complete the following tweet: {_TEXT}"
# Range of the share of a tweet's words that is the input; the rest is the target.
_TWEET_INPUT_SHARE: Final = (0.10, 0.25)


@dataclass(frozen=True)
class LampTask:
    """One task of LaMP.

    Attributes:
        name: Short name, such as `2M`.
        file_names: Names of the task in the files of LaMP and OPPU; the first one is unique among the tasks.
        kind: Kind of answer, which decides the metrics.
        input_template: Official input, with the placeholder `{text}`; for LaMP-1 `{title}`, `{ref1}` and `{ref2}`.
        text_field: Field of an item that holds the text of its input.
        answer_field: Field of an item that holds the user's answer; None for LaMP-1 and LaMP-7, see `training_record`.
        retrieval_fields: Fields of an item that retrieval compares with a query.
        labels: All possible answers, in the order of the official input; empty for free text.
    """

    name: str
    file_names: tuple[str, ...]
    kind: Literal["classification", "rating", "generation"]
    input_template: str
    text_field: str
    answer_field: str | None
    retrieval_fields: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @property
    def has_labelled_items(self) -> bool:
        """Whether every usable item of a profile has one of the labels."""
        return bool(self.labels) and self.answer_field is not None

    def query_text(self, query_input: str) -> str:
        """Return the part of an official input that retrieval searches for.

        Args:
            query_input: Input of a query, as in LaMP's files.

        Returns:
            The text in place of `{text}`; for LaMP-1 both references.

        Raises:
            ValueError: If the input is not of this task.
        """
        if self.name == "1":
            match = _REFERENCES.search(query_input)
            if match is None:
                raise ValueError(f"an input without two references, so it is not an input of LaMP-{self.name}")
            return f"{match[1]} {match[2]}"
        marker = self.input_template.removesuffix(_TEXT).split()[-1]
        _, separator, text = query_input.partition(marker)
        if not separator:
            raise ValueError(f"an input without {marker!r}, so it is not an input of LaMP-{self.name}")
        return text.strip()

    def retrieval_text(self, item: Item) -> str:
        """Return the text of an item that retrieval compares with a query."""
        return " ".join(field_text(item, name) for name in self.retrieval_fields)

    def normalize_answer(self, value: object) -> str | None:
        """Return an answer as the task writes it, or None where it is empty or not one of the labels."""
        text = _as_text(value)
        if self.kind == "rating":
            try:
                text = f"{float(text):g}"
            except ValueError:
                return None
        if self.labels:
            text = text.strip()
            return text if text in self.labels else None
        return text if text.strip() else None

    def is_usable(self, item: object) -> bool:
        """Return whether a profile item has a text and a valid answer."""
        if not isinstance(item, Mapping) or not field_text(item, self.text_field).strip():
            return False
        if self.name == "1":
            return any(field_text(item, name).strip() for name in ("citation", "abstract"))
        return self.answer_field is None or self.normalize_answer(item.get(self.answer_field)) is not None

    def augmentation_task(self, profile: Sequence[Item] = ()) -> Task:
        """Return the input template and labels of the training records of a profile.

        Args:
            profile: Items of one user; the template of LaMP-1 depends on whether they name the papers they cite.
        """
        if self.name == "1":
            return Task(_CITATION_INPUT if has_citations(profile) else _ABSTRACT_INPUT)
        return Task(_TWEET_INPUT) if self.name == "7" else Task(self.input_template, self.labels)

    def training_record(self, item: Item, seed: int = 0) -> Record | None:
        """Return what an adapter is trained on for one item.

        For LaMP-2 to LaMP-5 this is the text and the answer of the item. For LaMP-1 it is the title and the cited
        paper, or the abstract where the item has no `citation`. For LaMP-7 the first 10 to 25 % of the words, but at
        least one, are the text and the rest is the answer; the official script gives no word of a short tweet.

        Args:
            item: Item of a profile.
            seed: Random seed; together with the tweet it decides the share of LaMP-7.

        Returns:
            The record; None where the item is not usable or a dialogue cannot hold it.
        """
        if not self.is_usable(item):
            return None
        text = field_text(item, self.text_field)
        if self.name == "1":
            answer = field_text(item, "citation")
            answer = answer if answer.strip() else field_text(item, "abstract")
        elif self.answer_field is None:
            words = text.split()
            split = max(1, int(len(words) * Random(f"{seed} {text}").uniform(*_TWEET_INPUT_SHARE)))
            text, answer = " ".join(words[:split]), " ".join(words[split:])
        else:
            answer = self.normalize_answer(item[self.answer_field]) or ""
        try:
            record = Record(text, answer)
            self.augmentation_task([item]).to_dialogue(record)
        except ValueError:
            return None
        return record


def field_text(item: Item, name: str) -> str:
    """Return a field of an item as text; empty where the item has none."""
    return _as_text(item.get(name))


def has_citations(profile: Sequence[Item]) -> bool:
    """Return whether any item of a LaMP-1 profile names the paper it cites."""
    return any(field_text(item, "citation").strip() for item in profile)


def get_task(name: str) -> LampTask:
    """Return the task with a name such as `2M` or `LaMP_2M`.

    Raises:
        UserError: If no task has this name; the message lists the names.
    """
    short = re.sub(r"^lamp[_-]?", "", name.strip(), flags=re.IGNORECASE).upper()
    if short not in TASKS:
        known = f"choose one of {', '.join(TASKS)}; 2N has news, 2M movies"
        raise UserError(f"there is no LaMP task {name!r}", hint=known)
    return TASKS[short]


def _as_text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


_CATEGORIES: Final = (
    "women, religion, politics, style & beauty, entertainment, culture & arts, sports, science & technology, "
    "travel, business, crime, education, healthy living, parents, food & drink"
)
_TAGS: Final = (
    "sci-fi, based on a book, comedy, action, twist ending, dystopia, dark comedy, classic, psychology, "
    "fantasy, romance, thought-provoking, social commentary, violence, true story"
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
            text_field="title",
            answer_field=None,
            retrieval_fields=("title", "abstract"),
            labels=("[1]", "[2]"),
        ),
        LampTask(
            "2N",
            ("LaMP_2N", "LaMP_2"),
            "classification",
            "Which category does this article relate to among the following categories? Just answer with the category "
            f"name without further explanation. categories: [{_CATEGORIES}] article: {_TEXT}",
            text_field="text",
            answer_field="category",
            retrieval_fields=("title", "text"),
            labels=tuple(_CATEGORIES.split(", ")),
        ),
        LampTask(
            "2M",
            ("LaMP_2M", "LaMP_2"),
            "classification",
            "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
            f"further explanation. tags: [{_TAGS}] description: {_TEXT}",
            text_field="description",
            answer_field="tag",
            retrieval_fields=("description",),
            labels=tuple(_TAGS.split(", ")),
        ),
        LampTask(
            "3",
            ("LaMP_3",),
            "rating",
            "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
            f"further explanation. review: {_TEXT}",
            text_field="text",
            answer_field="score",
            retrieval_fields=("text",),
            labels=("1", "2", "3", "4", "5"),
        ),
        LampTask(
            "4",
            ("LaMP_4",),
            "generation",
            f"Generate a headline for the following article: {_TEXT}",
            text_field="text",
            answer_field="title",
            retrieval_fields=("title", "text"),
        ),
        LampTask(
            "5",
            ("LaMP_5",),
            "generation",
            f"Generate a title for the following abstract of a paper: {_TEXT}",
            text_field="abstract",
            answer_field="title",
            retrieval_fields=("title", "abstract"),
        ),
        LampTask(
            "7",
            ("LaMP_7",),
            "generation",
            f"Paraphrase the following tweet without any explanation before or after it: {_TEXT}",
            text_field="text",
            answer_field=None,
            retrieval_fields=("text",),
        ),
    )
}

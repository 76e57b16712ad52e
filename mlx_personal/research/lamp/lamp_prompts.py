"""LaMP's retrieval-augmented input: a user's items, cut to a budget of tokens, around the task's own input.

The wording and the budget are the benchmark's. The input keeps at most 60 % of the budget; the rest is split evenly
among the items, and what one leaves over goes to those after it. Where an item would have less than no tokens, the
input's share falls by 10 %, down to none; then the input goes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mlx_personal.research.lamp.tasks import Item, LampTask, field

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[list[int]], str]

# What LaMP's scripts count for the ", and " between two items.
_JOINT: Final = 2
# And for the quotes around one of LaMP-1's titles.
_QUOTES: Final = 2
_FIRST_SHARE: Final = 6  # tenths of the budget


@dataclass(frozen=True)
class _Form:
    """How one task's items are written.

    Args:
        item: one item, with its fields in braces.
        fields: those in it; `cut`: the one that is shortened.
        counted: the item as its fixed tokens are counted, `cut` being one space, where that differs from `item`.
        ending: of all items and the input.
        reserved: words that are counted beside the items and the input.
    """

    item: str
    fields: tuple[str, ...]
    cut: str
    counted: str = ""
    ending: str = "{items}. {input}"
    reserved: str = ""

    def write(self, item: Item, text: str) -> str:
        return self._filled(self.item, item, text)

    def fixed(self, item: Item) -> str:
        return self._filled(self.counted or self.item, item, " ")

    def _filled(self, form: str, item: Item, text: str) -> str:
        return form.format(**{name: field(item, name) for name in self.fields} | {self.cut: text})


_FOLLOWING: Final = "Following the given patterns"
_FORMS: Final = {
    "1": _Form('"{title}"', (), "title"),
    "2N": _Form('the category for the article: "{text}" is "{category}" ', ("category",), "text"),
    "2M": _Form('the tag for the movie: "{description}" is "{tag}" ', ("tag",), "description"),
    "3": _Form('{score} is the score for "{text}" ', ("score",), "text"),
    "4": _Form('"{title}" is the title for "{text}" ', ("title",), "text"),
    "5": _Form(
        '"{title}" is a title for "{abstract}" ',
        ("title",),
        "abstract",
        counted='"{title}" is a title "{abstract}" ',
        ending="{items}. " + _FOLLOWING + " {input}",
        reserved=_FOLLOWING,
    ),
    "7": _Form(
        '"{text}" ',
        (),
        "text",
        counted='"" ',
        ending="{items} are written by a person. " + _FOLLOWING + " {input}",
        reserved=f"are written by user. {_FOLLOWING}",
    ),
}


@dataclass(frozen=True)
class Augmented:
    """An input with items around it: how many, and how many of them were shortened."""

    text: str
    items: int
    shortened: int


def augment(
    task: LampTask, asked: str, items: Sequence[Item], max_length: int, encode: Encode, decode: Decode
) -> Augmented:
    """The official input with a user's items; the input alone where there are none, or they do not fit.

    Args:
        asked: the official input, which is never shortened.
        max_length: the budget, in tokens.
        encode, decode: a text's tokens, without special ones, and back.
    """
    for tenths in range(_FIRST_SHARE, -1, -1) if items else ():
        budget = max_length - min(len(encode(asked)), tenths * max_length // 10)
        written = _written(task, items, budget, encode, decode)
        if written is not None:
            texts, shortened = written
            return Augmented(_joined(task, texts, asked), len(items), shortened)
    return Augmented(asked, 0, 0)


def _joined(task: LampTask, texts: list[str], asked: str) -> str:
    joined = ", and ".join(texts)
    if task.name != "1":
        return _FORMS[task.name].ending.format(items=joined, input=asked)
    # The titles join the author's own, right after the word.
    before, title, after = asked.partition("title")
    return f"{before}{title}, and {joined}{after}" if title else asked


def _written(
    task: LampTask, items: Sequence[Item], budget: int, encode: Encode, decode: Decode
) -> tuple[list[str], int] | None:
    """The items within a budget, and how many were cut; None where one has no room for its fixed words."""
    form = _FORMS[task.name]
    budget -= _JOINT * (len(items) - 1)
    if task.name == "1":
        fixed = [_QUOTES] * len(items)
    else:
        budget -= 1 + len(encode(form.reserved))
        fixed = [len(encode(form.fixed(item))) for item in items]
    cut = _cut([field(item, form.cut) for item in items], budget // len(items), fixed, encode, decode)
    if cut is None:
        return None
    texts, shortened = cut
    return [form.write(item, text) for item, text in zip(items, texts, strict=True)], shortened


def _cut(texts: list[str], each: int, fixed: list[int], encode: Encode, decode: Decode) -> tuple[list[str], int] | None:
    """The texts, each with `each` tokens less its fixed ones, and with what those before it left over."""
    kept: list[str] = []
    shortened = left_over = 0
    for text, needed in zip(texts, fixed, strict=True):
        room = each + left_over - needed
        if room < 0:
            return None
        tokens = list(encode(text))
        if len(tokens) > room:
            tokens = tokens[:room]
            text = decode(tokens)
            shortened += 1
        kept.append(text)
        left_over = room - len(tokens)
    return kept, shortened

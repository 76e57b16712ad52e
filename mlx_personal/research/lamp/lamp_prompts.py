"""Put items of a user before an official input, as LaMP's retrieval-augmented prompts do [Salemi24].

The wording and the token budget are the benchmark's. The input takes at most 60 % of the budget. The rest is split
evenly among the items, and what an item does not use is passed on to the next ones. Where an item would have a negative
budget, the share of the input falls by 10 % at a time, down to 0 %; if the items still do not fit, the input stands
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from mlx_personal.research.lamp.tasks import Item, LampTask, field_text

_Token = TypeVar("_Token")

# Tokens that LaMP's scripts count for the ", and " between two items, and for the quotes around a title of LaMP-1.
_SEPARATOR_TOKENS: Final = 2
_QUOTE_TOKENS: Final = 2
_MAX_INPUT_TENTHS: Final = 6


@dataclass(frozen=True)
class _PromptFormat:
    """How the items of one task are written.

    Attributes:
        item: Format of one item, with its fields in braces.
        fixed_fields: Fields that are written in full.
        cut_field: Field that is cut to the budget.
        counted_item: Format whose tokens count as fixed, with a space as the cut field; empty where it is `item`.
        prompt: Format of the prompt, from all items and the input.
        reserved: Words whose tokens are counted besides the items and the input.
    """

    item: str
    fixed_fields: tuple[str, ...]
    cut_field: str
    counted_item: str = ""
    prompt: str = "{items}. {input}"
    reserved: str = ""

    def format_item(self, item: Item, text: str) -> str:
        return self._fill(self.item, item, text)

    def fixed_text(self, item: Item) -> str:
        return self._fill(self.counted_item or self.item, item, " ")

    def _fill(self, template: str, item: Item, text: str) -> str:
        fields = {name: field_text(item, name) for name in self.fixed_fields}
        return template.format(**fields | {self.cut_field: text})


_FOLLOWING: Final = "Following the given patterns"
_FORMATS: Final = {
    "1": _PromptFormat('"{title}"', (), "title"),
    "2N": _PromptFormat('the category for the article: "{text}" is "{category}" ', ("category",), "text"),
    "2M": _PromptFormat('the tag for the movie: "{description}" is "{tag}" ', ("tag",), "description"),
    "3": _PromptFormat('{score} is the score for "{text}" ', ("score",), "text"),
    "4": _PromptFormat('"{title}" is the title for "{text}" ', ("title",), "text"),
    "5": _PromptFormat(
        '"{title}" is a title for "{abstract}" ',
        ("title",),
        "abstract",
        counted_item='"{title}" is a title "{abstract}" ',
        prompt="{items}. " + _FOLLOWING + " {input}",
        reserved=_FOLLOWING,
    ),
    "7": _PromptFormat(
        '"{text}" ',
        (),
        "text",
        counted_item='"" ',
        prompt="{items} are written by a person. " + _FOLLOWING + " {input}",
        reserved=f"are written by user. {_FOLLOWING}",
    ),
}


@dataclass(frozen=True)
class RetrievalPrompt:
    """An input with items before it.

    Attributes:
        text: The prompt.
        num_items: Number of items in it; 0 where they did not fit.
        num_shortened: Number of items that were cut.
    """

    text: str
    num_items: int
    num_shortened: int


def build_retrieval_prompt(
    task: LampTask,
    query_input: str,
    items: Sequence[Item],
    max_length: int,
    encode: Callable[[str], Sequence[_Token]],
    decode: Callable[[list[_Token]], str],
) -> RetrievalPrompt:
    """Return an official input with items of the user before it.

    Args:
        task: Task of the input.
        query_input: Official input, which is never shortened.
        items: Items of the user, the best first.
        max_length: Token budget.
        encode: Returns the tokens of a text, without special tokens.
        decode: Returns the text of tokens.

    Returns:
        The prompt; the input alone where there are no items or they do not fit.
    """
    for tenths in range(_MAX_INPUT_TENTHS, -1, -1) if items else ():
        budget = max_length - min(len(encode(query_input)), tenths * max_length // 10)
        formatted = _format_items(task, items, budget, encode, decode)
        if formatted is not None:
            texts, num_shortened = formatted
            return RetrievalPrompt(_join(task, texts, query_input), len(items), num_shortened)
    return RetrievalPrompt(query_input, 0, 0)


def _join(task: LampTask, texts: list[str], query_input: str) -> str:
    joined = ", and ".join(texts)
    if task.name != "1":
        return _FORMATS[task.name].prompt.format(items=joined, input=query_input)
    # The titles go before the author's own title, right after the word "title".
    before, title, after = query_input.partition("title")
    return f"{before}{title}, and {joined}{after}" if title else query_input


def _format_items(
    task: LampTask,
    items: Sequence[Item],
    budget: int,
    encode: Callable[[str], Sequence[_Token]],
    decode: Callable[[list[_Token]], str],
) -> tuple[list[str], int] | None:
    """Return the items within a budget and how many were cut; None where the fixed words of an item do not fit."""
    prompt_format = _FORMATS[task.name]
    budget -= _SEPARATOR_TOKENS * (len(items) - 1)
    if task.name == "1":
        fixed = [_QUOTE_TOKENS] * len(items)
    else:
        budget -= 1 + len(encode(prompt_format.reserved))
        fixed = [len(encode(prompt_format.fixed_text(item))) for item in items]
    texts = [field_text(item, prompt_format.cut_field) for item in items]
    cut = _cut_texts(texts, budget // len(items), fixed, encode, decode)
    if cut is None:
        return None
    texts, num_shortened = cut
    return [prompt_format.format_item(item, text) for item, text in zip(items, texts, strict=True)], num_shortened


def _cut_texts(
    texts: list[str],
    budget: int,
    fixed: list[int],
    encode: Callable[[str], Sequence[_Token]],
    decode: Callable[[list[_Token]], str],
) -> tuple[list[str], int] | None:
    """Cut each text to its budget without its fixed tokens, plus what the texts before it did not use."""
    cut: list[str] = []
    num_shortened = unused = 0
    for text, num_fixed in zip(texts, fixed, strict=True):
        available = budget + unused - num_fixed
        if available < 0:
            return None
        tokens = list(encode(text))
        if len(tokens) > available:
            tokens = tokens[:available]
            text = decode(tokens)
            num_shortened += 1
        cut.append(text)
        unused = available - len(tokens)
    return cut, num_shortened

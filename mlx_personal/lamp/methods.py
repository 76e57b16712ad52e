"""The methods of a LaMP run, by name: what stands in the prompt, which adapter answers, and whose model it is.

non-personalised    the device's model, with the task's input alone
random, recency, bm25
                    with 4 of the user's items before the input; `bm25:1` has one (LaMP's retrieval)
profile             with a sentence about the user, which the model wrote of the user's items (OPPU's PAG)
oppu                an adapter trained on the user's own items (OPPU); `oppu+bm25` learns and answers with items
                    before each input, and in training only with items that are older
cdcda               the same on real and synthetic items (paper 2); `cdcda-no-copy` without that filter
cloud               the server's model alone, with the user's items before the input; `cloud:0` without any
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from mlx_personal.collaboration.filtering import FILTERS
from mlx_personal.errors import UserError
from mlx_personal.lamp.retrieval import RETRIEVERS

# Items in a prompt where a method's name has no number.
ITEMS: Final = 4
_NAME: Final = re.compile(r"(?P<body>[a-z0-9+-]+)(:(?P<items>\d+))?")


@dataclass(frozen=True)
class Method:
    """One way to answer a user's queries.

    Args:
        name: as results are kept under it.
        retriever, items: which of the user's items stand before an input, and how many; none for 0.
        profile: whether a sentence about the user does.
        learns: what an adapter is trained on: `nothing`, the user's `real` items, or `augmented`, synthetic ones too.
        off: the filters that synthetic items do not pass.
        cloud: the server's model answers, not the device's.
    """

    name: str
    retriever: str = "bm25"
    items: int = 0
    profile: bool = False
    learns: Literal["nothing", "real", "augmented"] = "nothing"
    off: frozenset[str] = frozenset()
    cloud: bool = False


def method_named(name: str) -> Method:
    """The method of a name; UserError, which lists the names, for none."""
    match = _NAME.fullmatch(name)
    if match is not None:
        body, items = match["body"], None if match["items"] is None else int(match["items"])
        found = _method(name, body, ITEMS if items is None else items, items is not None)
        if found is not None:
            return found
    filters = ", ".join(FILTERS)
    raise UserError(
        f"there is no method {name!r}",
        hint=f"take some of non-personalised, {', '.join(RETRIEVERS)}, profile, oppu, oppu+bm25, cdcda, cdcda+bm25, "
        f"cdcda-no-FILTER ({filters}), cloud; a number of items may follow: bm25:1",
    )


def _method(name: str, body: str, items: int, numbered: bool) -> Method | None:
    if body in RETRIEVERS:
        return Method(name, body, items) if items else None
    if body == "cloud":
        return Method(name, items=items, cloud=True)
    adapter, plus, retriever = body.partition("+")
    if plus and (retriever not in RETRIEVERS or not items):
        return None
    retrieved = {"retriever": retriever, "items": items} if plus else {}
    if numbered and not plus:
        return None
    if adapter == "oppu":
        return Method(name, learns="real", **retrieved)  # type: ignore[arg-type]
    core, without, filtered = adapter.partition("-no-")
    if core == "cdcda" and (filtered in FILTERS if without else True):
        off = frozenset([filtered]) if without else frozenset()
        return Method(name, learns="augmented", off=off, **retrieved)  # type: ignore[arg-type]
    if body == "non-personalised":
        return Method(name)
    return Method(name, profile=True) if body == "profile" else None

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

import dataclasses
import re
from dataclasses import dataclass
from typing import Final, Literal

from mlx_personal.augmentation.filters import FILTERS
from mlx_personal.errors import UserError
from mlx_personal.research.lamp.retrieval import RETRIEVERS

# Items in a prompt where a method's name has no number.
ITEMS: Final = 4
_ITEMS_OF: Final = rf"(?P<retriever>{'|'.join(RETRIEVERS)})(:(?P<items>\d+))?"
# The three forms of a name that say more than themselves.
_PROMPTED: Final = re.compile(_ITEMS_OF)
_CLOUD: Final = re.compile(r"cloud(:(?P<items>\d+))?")
_ADAPTED: Final = re.compile(rf"(oppu|(?P<cdcda>cdcda)(-no-(?P<off>{'|'.join(FILTERS)}))?)(\+{_ITEMS_OF})?")


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
    found = _method(name)
    if found is None:
        filters = ", ".join(FILTERS)
        raise UserError(
            f"there is no method {name!r}",
            hint=f"take some of non-personalised, {', '.join(RETRIEVERS)}, profile, oppu, oppu+bm25, cdcda, "
            f"cdcda+bm25, cdcda-no-FILTER ({filters}), cloud; a number of items may follow: bm25:1",
        )
    return found


def _method(name: str) -> Method | None:
    if name in ("non-personalised", "profile"):
        return Method(name, profile=name == "profile")
    if match := _CLOUD.fullmatch(name):
        return Method(name, items=_items(match), cloud=True)
    match = _PROMPTED.fullmatch(name) or _ADAPTED.fullmatch(name)
    if match is None:
        return None
    parts = match.groupdict()
    # An adapter may go without items; who names a retriever wants some.
    items = 0 if parts["retriever"] is None else _items(match)
    if parts["retriever"] is not None and not items:
        return None
    method = Method(name, parts["retriever"] or Method.retriever, items)
    if "cdcda" not in parts:
        return method
    off = frozenset([parts["off"]] if parts["off"] else [])
    return dataclasses.replace(method, learns="augmented" if parts["cdcda"] else "real", off=off)


def _items(match: re.Match[str]) -> int:
    return ITEMS if match["items"] is None else int(match["items"])

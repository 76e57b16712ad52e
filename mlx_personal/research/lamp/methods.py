"""The methods of a LaMP run, by name.

non-personalized    the device's model with the official input alone
majority            the most frequent label of the user's items, without a model; not for tasks that ask for a text
random, recency, bm25
                    4 items of the user before the input; `bm25:1` adds one (LaMP's retrieval [Salemi24])
profile             a summary of the user before the input, which the model wrote from the user's items (OPPU's PAG)
oppu                an adapter trained on the user's own items [Tan24]; `oppu+bm25` trains and answers with items before
                    each input, in training only with older ones
cdcda               the same with real and synthetic items [Zhong25]; `cdcda-no-copy` turns off the filter `copy`
cloud               the server's model alone, with items of the user before the input; `cloud:0` without any
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Final, Literal

from mlx_personal.augmentation.filters import FILTERS
from mlx_personal.errors import UserError
from mlx_personal.research.lamp.retrieval import RETRIEVERS

NON_PERSONALIZED: Final = "non-personalized"
MAJORITY: Final = "majority"
# Number of items in a prompt where the name has no number.
DEFAULT_NUM_ITEMS: Final = 4
_RETRIEVAL: Final = rf"(?P<retriever>{'|'.join(RETRIEVERS)})(:(?P<num_items>\d+))?"
_RETRIEVAL_NAME: Final = re.compile(_RETRIEVAL)
_CLOUD_NAME: Final = re.compile(r"cloud(:(?P<num_items>\d+))?")
_ADAPTER_NAME: Final = re.compile(
    rf"(oppu|(?P<cdcda>cdcda)(-no-(?P<disabled_filter>{'|'.join(FILTERS)}))?)(\+{_RETRIEVAL})?"
)


@dataclass(frozen=True)
class Method:
    """One way to answer a user's queries.

    Attributes:
        name: Name of the method.
        retriever: One of `RETRIEVERS`; it selects the items before an input.
        num_items: Maximum number of items before an input.
        with_summary: Whether a summary of the user is put before an input.
        training_data: Data of the user's adapter: none, the user's `real` items, or `augmented` with synthetic ones.
        disabled_filters: Filters that are not applied to the synthetic items.
        on_server: Whether the server's model answers instead of the device's.
        is_majority: Whether the most frequent label of the user's items is the answer, without a model.
    """

    name: str
    retriever: str = "bm25"
    num_items: int = 0
    with_summary: bool = False
    training_data: Literal["none", "real", "augmented"] = "none"
    disabled_filters: frozenset[str] = frozenset()
    on_server: bool = False
    is_majority: bool = False

    @property
    def needs_server_responses(self) -> bool:
        """Whether this method uses a server, if one is given."""
        return self.on_server or self.training_data == "augmented"


def parse_method(name: str) -> Method:
    """Return the method with a name.

    Raises:
        UserError: If no method has this name; the message lists the names.
    """
    method = _parse(name)
    if method is None:
        filters = ", ".join(FILTERS)
        raise UserError(
            f"there is no method {name!r}",
            hint=f"choose from {NON_PERSONALIZED}, {MAJORITY}, {', '.join(RETRIEVERS)}, profile, oppu, oppu+bm25, "
            f"cdcda, cdcda+bm25, cdcda-no-FILTER ({filters}), cloud; a number of items may follow: bm25:1",
        )
    return method


def _parse(name: str) -> Method | None:
    if name in (NON_PERSONALIZED, MAJORITY, "profile"):
        return Method(name, with_summary=name == "profile", is_majority=name == MAJORITY)
    if match := _CLOUD_NAME.fullmatch(name):
        return Method(name, num_items=_num_items(match), on_server=True)
    match = _RETRIEVAL_NAME.fullmatch(name) or _ADAPTER_NAME.fullmatch(name)
    if match is None:
        return None
    groups = match.groupdict()
    # An adapter may work without items, but a named retriever must add some.
    num_items = 0 if groups["retriever"] is None else _num_items(match)
    if groups["retriever"] is not None and not num_items:
        return None
    method = Method(name, groups["retriever"] or Method.retriever, num_items)
    if "cdcda" not in groups:
        return method
    disabled = frozenset([groups["disabled_filter"]] if groups["disabled_filter"] else [])
    training_data: Literal["real", "augmented"] = "augmented" if groups["cdcda"] else "real"
    return dataclasses.replace(method, training_data=training_data, disabled_filters=disabled)


def _num_items(match: re.Match[str]) -> int:
    return DEFAULT_NUM_ITEMS if match["num_items"] is None else int(match["num_items"])

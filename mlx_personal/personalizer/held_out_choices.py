"""Count how often each held-out dialogue decided between models. Importable without MLX.

Each choice by the same dialogues is one more chance to win by luck, so the count is shown where the figures are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlx_personal.profile import Store

_KIND: Final = "held_out_choices"


def earlier_choices(store: Store, annotation_ids: Iterable[int]) -> tuple[int, int]:
    """Return the smallest and the largest number of choices that a held-out dialogue has decided.

    Args:
        store: The profile's store.
        annotation_ids: Ids of the annotations of the held-out dialogues.
    """
    counts = store.model_record(_KIND) or {}
    values = [counts.get(str(annotation_id), 0) for annotation_id in annotation_ids]
    return (min(values), max(values)) if values else (0, 0)


def count_choice(store: Store, annotation_ids: Iterable[int]) -> None:
    """Record that held-out dialogues decided between models.

    Args:
        store: The profile's store.
        annotation_ids: Ids of their annotations.
    """
    counts = store.model_record(_KIND) or {}
    store.set_model_record(_KIND, {**counts, **{key: counts.get(key, 0) + 1 for key in map(str, annotation_ids)}})


def times_text(choices: Sequence[int]) -> str:
    """Return how often held-out dialogues decided before, such as `2 to 3 times`; empty if they have not.

    Args:
        choices: The result of `earlier_choices`.
    """
    low, high = choices
    if not high:
        return ""
    return f"{low} to {high} times" if low != high else "once" if high == 1 else f"{high} times"


def choices_text(choices: Sequence[int]) -> str:
    """Return how often held-out dialogues decided before, as a sentence; empty if they have not.

    Args:
        choices: The result of `earlier_choices`.
    """
    times = times_text(choices)
    return f"these held-out dialogues decided {times} before; each time makes a gain by luck likelier" if times else ""

"""What `exactness` found of a base model, remembered while it is loaded: hundreds of adapters on one base ask it once.

That the fast way is exact follows from how a model is built, its kind of numbers, and how it is adapted: not from whose
rows are learnt, nor from an adapter, of which the comparison makes its own. So users of one base have it in common, and
an adapter has the same bits as if it were trained alone. Rows of another kind, and adapters of another layout, are
compared anew, for they are computed otherwise.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence

from mlx_personal.backend import LanguageModel
from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.exactness import Choice, choose_way, rows_to_compare
from mlx_personal.finetune.rows import Row

# A model that is loaded again is another one, and one that nobody holds any more takes its choices with it.
_FOUND: weakref.WeakKeyDictionary[LanguageModel, dict[Hashable, Choice]] = weakref.WeakKeyDictionary()


def choose_way_once(lm: LanguageModel, config: LoRAConfig, rows: Sequence[Row]) -> Choice:
    """What `choose_way` finds, or found before, of `lm` with an adapter as `config` has it and rows of this kind."""
    adapter = (config.num_layers, config.dora, *sorted(config.lora_parameters.items()))
    found = _FOUND.setdefault(lm, {})
    asked = (adapter, _kind_of(rows))
    if asked not in found:
        found[asked] = choose_way(lm, rows)
    return found[asked]


def _kind_of(rows: Sequence[Row]) -> Hashable:
    """How many rows the comparison takes, three where some begin alike; whether lengths differ, and whether weights."""
    lengths, weights = {len(row) for row in rows}, {row.weight for row in rows}
    return len(rows_to_compare(rows)), len(lengths) > 1, len(weights) > 1

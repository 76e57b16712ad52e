"""What `exactness` found of a base model, remembered while it is loaded: hundreds of adapters on one base ask it once.

That the fast way is exact follows from how a model is built, its kind of numbers, and how it is adapted: not from whose
rows are learnt, nor from an adapter, of which the comparison makes its own. So users of one base have it in common, and
an adapter has the same bits as if it were trained alone. Rows of another kind, and adapters of another layout, are
compared anew, for they are computed otherwise; so is everything on a model that barely agrees or does not.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Sequence

from mlx_personal.finetune.config import LoRAConfig
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward.equivalence import TOLERANCES, Comparison, ModeSelection, probe_samples, select_mode
from mlx_personal.models import LanguageModel

# How far a difference must be from its bound, on either side, that no other rows bring it over: in float32 those of
# a way that is exact are a hundredth of the bound. Those of 16-bit models are near theirs, and compared each time.
_FAR = 10.0

# A model that is loaded again is another one, and one that nobody holds any more takes its choices with it.
_FOUND: weakref.WeakKeyDictionary[LanguageModel, dict[Hashable, ModeSelection]] = weakref.WeakKeyDictionary()


def select_mode_once(lm: LanguageModel, config: LoRAConfig, rows: Sequence[Sample]) -> ModeSelection:
    """What `select_mode` finds, or found before, of `lm` with an adapter as `config` has it and rows of this kind."""
    adapter = (config.num_layers, config.use_dora, *sorted(config.lora_parameters.items()))
    found = _FOUND.setdefault(lm, {})
    asked = (adapter, _kind_of(rows))
    if asked in found:
        return found[asked]
    choice = select_mode(lm, rows)
    if all(map(_is_clear, choice.comparisons)):
        found[asked] = choice
    return choice


def _is_clear(found: Comparison) -> bool:
    """Whether other rows would come to the same: a model that a way cannot compute at all, it never can."""
    if found.kind is None:
        return True
    share = max(found.loss, found.gradient) / TOLERANCES[found.kind]
    return share <= 1 / _FAR or share >= _FAR


def _kind_of(rows: Sequence[Sample]) -> Hashable:
    """How many rows the comparison takes, three where some begin alike; whether lengths differ, and whether weights."""
    lengths, weights = {len(row) for row in rows}, {row.weight for row in rows}
    return len(probe_samples(rows)), len(lengths) > 1, len(weights) > 1

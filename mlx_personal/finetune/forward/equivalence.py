"""Before a training starts: does the fast way compute what mlx-lm's plain forward does, on this very model?

Two rows go both ways, with an adapter that already does something (a fresh one has no gradient for half of its
weights). The difference of the losses and that of all gradients, each in relation to the plain one's size, must stay
below a bound. The fastest way that agrees is taken: rows packed, else padded, else the plain forward itself.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import dequantize_model

from mlx_personal.errors import UserError
from mlx_personal.finetune.data.batching import Batch, collate
from mlx_personal.finetune.data.packing import pack
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward.losses import Weights, layout_of, reference_loss, split_loss
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.memory import usable_memory_bytes

ForwardMode = Literal["packed", "padded", "plain"]
FORWARD_MODES: Sequence[ForwardMode] = ("packed", "padded", "plain")  # the fastest first

# Largest difference between the two ways that is rounding, by the kind of number the model computes with; a 4-bit model
# computes with one of these. Over tiny random models of 16 families the largest gradients' differences were 1.0e-6,
# 3.1e-3 and 2.6e-2 (the last two of 4-bit models), and 0.6 where rows saw each other.
TOLERANCES = {mx.float32: 1e-4, mx.float16: 1e-2, mx.bfloat16: 6e-2}

# Size of the adapter's second matrix in the comparison; the first one's is about 1 / sqrt(D).
_DISTURBANCE = 0.02


@dataclass(frozen=True)
class Comparison:
    """How far the fast way is from the plain one, each norm-relative, in numbers of one kind.

    `failure` is why there is no figure.
    """

    way: ForwardMode
    kind: mx.Dtype | None = None
    loss: float = math.inf
    gradient: float = math.inf
    failure: str = ""

    @property
    def agrees(self) -> bool:
        return self.kind is not None and max(self.loss, self.gradient) <= TOLERANCES[self.kind]

    def __str__(self) -> str:
        if self.kind is None:
            return f"{self.way}: {self.failure}"
        kind = str(self.kind).split(".")[-1]
        bound = TOLERANCES[self.kind]
        return f"{self.way}: in {kind} loss off by {self.loss:.1e}, gradient by {self.gradient:.1e}, bound {bound:.0e}"


@dataclass(frozen=True)
class ModeSelection:
    """The way a training computes, and the comparisons that led to it."""

    way: ForwardMode
    comparisons: tuple[Comparison, ...]

    @property
    def reason(self) -> str:
        """Why not a faster way; empty for the fastest."""
        return "; ".join(str(c) for c in self.comparisons if not c.agrees)


def select_mode(lm: LanguageModel, rows: Sequence[Sample]) -> ModeSelection:
    """The fastest way that agrees with the plain forward of `lm`, which has an adapter, on two of these rows."""
    network = SplitModel(lm)
    probe = [rows[i] for i in probe_samples(rows)]
    comparisons: list[Comparison] = []
    lm.model.eval()  # dropout would draw other numbers in each way
    try:
        for way in ("packed", "padded"):
            found = compare_with_reference(network, probe, way)
            comparisons.append(found)
            if not found.agrees and found.kind is not None and found.kind != mx.float32 and _fits_in_float32(lm.model):
                with _in_float32(lm.model):
                    found = compare_with_reference(network, probe, way)
                comparisons.append(found)
            if found.agrees:
                return ModeSelection(way, tuple(comparisons))
        return ModeSelection("plain", tuple(comparisons))
    finally:
        lm.model.train()


def compare_with_reference(network: SplitModel, rows: Sequence[Sample], way: Literal["packed", "padded"]) -> Comparison:
    """Loss and gradient of these rows, both ways, dropout off.

    UserError if the plain way gives no numbers: then the model is broken, and no other way is better.
    """
    model, chosen = network.model, range(len(rows))
    own: Weights = model.trainable_parameters()
    weights = _disturbed(own)
    try:
        wanted = mx.value_and_grad(reference_loss(model))(weights, collate(rows, chosen, "padded"))
        mx.eval(wanted)
        if not math.isfinite(float(wanted[0])):
            raise UserError("the base model's loss is not a number: its weights are damaged", hint="download it again")
        with network.opened():
            batch, apart = (collate(rows, chosen, way, share) for share in (True, False))
            # Rows that share are computed otherwise than those that do not; a training does both.
            batches = [batch] if batch.segments == apart.segments else [batch, apart]
            found = [_computed(network, weights, batch) for batch in batches]
    except UserError:
        raise
    except Exception as error:  # a model that is built otherwise fails in whatever way it happens to
        return Comparison(way, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        model.update(own)
    kind, *_ = found[0]
    if kind not in TOLERANCES:
        return Comparison(way, failure=f"it computes with {kind}")
    loss = max(_difference(wanted[0], loss) for _, loss, _ in found)
    return Comparison(way, kind, loss, max(_difference(wanted[1], gradient) for *_, gradient in found))


def _computed(network: SplitModel, weights: Weights, batch: Batch) -> tuple[mx.Dtype, mx.array, Weights]:
    """The kind of number the frozen blocks give; and loss and gradient of a batch, the fast way."""
    states = network.frozen_activations(layout_of(batch))
    loss = split_loss(network, (lambda _: states) if network.first else None)
    with network.rows(layout_of(batch)):
        found = mx.value_and_grad(loss)(weights, batch)
    mx.eval(found)
    return states.dtype, *found


def probe_samples(rows: Sequence[Sample]) -> list[int]:
    """Two rows of different lengths that begin alike if any do, the shortest such, since each costs a plain forward.

    Positions are set only where rows share their beginning.
    """
    different = two_lengths([len(row) for row in rows])
    in_order = sorted(range(len(rows)), key=lambda i: rows[i].inputs[: rows[i].prompt_length].tolist())
    alike = [
        pair
        for pair in itertools.pairwise(in_order)
        if len(pack([rows[i].inputs for i in pair], [rows[i].prompt_length for i in pair])) > 2
    ]
    if not alike:
        return different
    return [*min(alike, key=lambda pair: sum(len(rows[i]) for i in pair)), different[0]]


def two_lengths(lengths: Sequence[int]) -> list[int]:
    """The shortest row and the shortest of those that are longer; where all are alike, any two."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    longer = [row for row in order if lengths[row] > lengths[order[0]]]
    return [order[0], *(longer or order[1:])[:1]]


def _disturbed(weights: Weights) -> Weights:
    """The weights with a second matrix that is not zero, the same at every call."""
    keys = iter(mx.random.split(mx.random.key(0), len(tree_flatten(weights))))

    def disturb(path: str, weight: mx.array) -> mx.array:
        key = next(keys)
        return weight + _DISTURBANCE * mx.random.normal(weight.shape, key=key) if path.endswith("lora_b") else weight

    disturbed: Weights = tree_map_with_path(disturb, weights)
    return disturbed


def _difference(wanted: Any, found: Any) -> float:
    """Norm of the difference over all arrays, in relation to that of what is wanted; inf where that is no number."""
    pairs = zip((a for _, a in tree_flatten(wanted)), (a for _, a in tree_flatten(found)), strict=True)
    off = size = 0.0
    for a, b in pairs:
        off += float(mx.square(a.astype(mx.float32) - b.astype(mx.float32)).sum())
        size += float(mx.square(a.astype(mx.float32)).sum())
    relative = math.sqrt(off / size) if size > 0 else math.inf
    return math.inf if math.isnan(relative) else relative


def _fits_in_float32(model: nn.Module) -> bool:
    """Whether there is room for all weights as float32, beside those that are there."""
    packed = {id(m.weight): 32 // m.bits for m in model.modules() if hasattr(m, "bits") and "weight" in m}
    numbers = sum(weight.size * packed.get(id(weight), 1) for _, weight in tree_flatten(model.parameters()))
    limit = usable_memory_bytes()
    return limit is None or mx.get_active_memory() + 4 * numbers <= limit


@contextlib.contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """The model in float32 and unquantized, for as long as the block lasts; rounding is out of the way then."""
    layers, weights = model.leaf_modules(), model.parameters()
    try:
        dequantize_model(model)
        # The layers that it made are trainable.
        for layer in tree_flatten(model.leaf_modules(), is_leaf=nn.Module.is_module):
            layer[1].freeze()
        model.set_dtype(mx.float32)
        yield
    finally:
        model.update_modules(layers)
        model.update(weights)

"""A model of mlx-lm taken apart where training needs it: frozen blocks, trained blocks, vocabulary projection.

Nothing here knows a model family. The model's own forward runs, with some of its modules called otherwise (`calls`):
blocks below the first adapted one are passed over, that one is fed the states which the frozen ones gave once, and the
last hands on the places whose next token is learnt, so that the final norm and the projection see nothing else. Rows
stand one behind the other without padding; attention alone, MLX's one function for it, is asked for each row, or for
rows of like length at once (`grouping`). What a family does between and after its blocks (scaled embeddings, sliding
windows, capped logits, tied embeddings) happens as it always does. Whether a family really is "blocks one after the
other, then a norm, then a projection" is not looked up but tried: `exactness`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from mlx_personal.finetune.data.packing import Segment, segment_path
from mlx_personal.finetune.forward.lora_forward import lora_patches
from mlx_personal.finetune.forward.packed_attention import PackedAttention
from mlx_personal.finetune.forward.patching import patched
from mlx_personal.finetune.forward.permutation import Permutation
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.cpu_ops import fast_ops


class UnsuitableError(Exception):
    """This model cannot be computed in parts; the message says why."""


@dataclass(frozen=True)
class BatchLayout:
    """Where the rows of a batch lie.

    Args:
        inputs: int32 [B, T].
        pieces: what stands one behind the other in the single sequence of a batch [1, T]. None: each of the B
            sequences is one row, padded on the right, and the model computes as it always does.
    """

    inputs: mx.array
    segments: Sequence[Segment] | None = None


class SplitModel:
    """The parts of a model that has an adapter; for use inside `opened`.

    `first` is the first block with something to train: what those below it give never changes.
    """

    def __init__(self, lm: LanguageModel):
        self.model, self._body = lm.model, lm.backbone
        self.blocks: list[nn.Module] = list(lm.model.layers)
        self.first = next(i for i, b in enumerate(self.blocks) if tree_flatten(b.trainable_parameters()))
        self._placed = _Placed()
        self._states: mx.array | None = None
        self._places: Permutation | None = None
        self._hidden: mx.array | None = None
        self._until_part: str | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The model's modules, and MLX's attention, are called as described above where `rows` and the rest ask so."""
        changes: list[tuple[nn.Module, Callable[..., Any]]]
        changes = [(block, self._block_call(i)) for i, block in enumerate(self.blocks)]
        rotary = {id(m): m for block in self.blocks for m in block.modules() if _is_rotary(m)}
        changes += [(module, self._rotary_call) for module in rotary.values()]
        changes.append((self._body, self._body_call))
        changes += lora_patches(self.blocks[self.first :])
        with patched(changes), fast_ops(self.model, self._attention_call):
            yield

    @contextlib.contextmanager
    def rows(self, layout: BatchLayout) -> Iterator[BatchLayout]:
        """Rows lie as `layout` says. Gradients are to be taken inside, since checkpointed blocks are computed again."""
        with self._set("_placed", _Placed() if layout.segments is None else _placed(layout.segments)):
            yield layout

    def frozen_activations(self, layout: BatchLayout) -> mx.array:
        """What the first trained block is given: [B, T, D]."""
        with self.rows(layout):
            return self._until("block", layout.inputs)

    def hidden_at_targets(self, inputs: mx.array, states: mx.array | None, places: np.ndarray) -> mx.array:
        """The last hidden layer after the final norm at `places` (int [N], in B * T): [1, N, D]. Inside `rows`.

        `states` are those of `frozen_activations`; None computes the frozen blocks too.
        """
        with self._set("_states", states), self._set("_places", Permutation(places, inputs.size)):
            return self._until("norm", inputs)

    def logits(self, hidden: mx.array) -> mx.array:
        """[1, N, D] to [1, N, V], by the model's own projection and whatever it does to its logits."""
        with self._set("_hidden", hidden):
            return self.model(mx.zeros(hidden.shape[:2], mx.int32))

    def _until(self, part: Literal["block", "norm"], inputs: mx.array) -> mx.array:
        """What the model has come to at the first trained block, or after the final norm."""
        try:
            with self._set("_until_part", part):
                self.model(inputs)
        except _ReachedError as reached:
            return reached.states
        raise UnsuitableError("its blocks are not called one after the other")

    @contextlib.contextmanager
    def _set(self, name: str, value: Any) -> Iterator[None]:
        before = getattr(self, name)
        setattr(self, name, value)
        try:
            yield
        finally:
            setattr(self, name, before)

    def _block_call(self, index: int) -> Callable[..., Any]:
        def call(block_call: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
            if self._until_part == "block" and index == self.first:
                raise _ReachedError(x)
            if self._states is not None:
                if index < self.first:
                    return x
                x = self._states if index == self.first else x
            x = block_call(x, *args, **kwargs)
            if self._places is not None and index == len(self.blocks) - 1:
                x = self._places(x.reshape(-1, x.shape[-1]))[None]
            return x

        return call

    def _attention_call(self, attention: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(q: mx.array, k: mx.array, v: mx.array, *, mask: Any = None, **kwargs: Any) -> mx.array:
            placed = self._placed
            if placed.trails is None:
                return attention(q, k, v, mask=mask, **kwargs)
            if placed.grouping is not None and isinstance(mask, str):
                return placed.grouping.attend(functools.partial(attention, mask=mask, **kwargs), q, k, v)
            parts: Any = [mx.split(x, placed.cuts, axis=2) for x in (q, k, v)]
            own, keys, values = parts
            attended = []
            for trail in placed.trails:
                queries, seen = own[trail[-1]], _joined(keys, trail)
                length = seen.shape[2]
                # The corner of the model's own mask is the mask of a row that stands alone. "causal" counts from the
                # end, so it serves a piece whose ancestors' keys stand in front of its own.
                corner = mask[..., length - queries.shape[2] : length, :length] if isinstance(mask, mx.array) else mask
                attended.append(attention(queries, seen, _joined(values, trail), mask=corner, **kwargs))
            return mx.concatenate(attended, axis=2)

        return call

    def _rotary_call(self, rotary_call: Callable[..., Any], x: mx.array, *args: Any, **kwargs: Any) -> Any:
        # Rotary embeddings know distances only: a row may begin anywhere in the sequence, unless it shares tokens.
        if self._placed.positions is None:
            return rotary_call(x, *args, **kwargs)
        lanes, heads, tokens, width = x.shape
        # A batch of single tokens, since a rotary embedding takes one offset for each member of a batch.
        each = x.transpose(0, 2, 1, 3).reshape(lanes * tokens, heads, 1, width)
        turned = rotary_call(each, offset=self._placed.positions)
        return turned.reshape(lanes, tokens, heads, width).transpose(0, 2, 1, 3)

    def _body_call(self, body_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._hidden is not None:
            return self._hidden
        hidden = body_call(*args, **kwargs)
        if self._until_part == "norm":
            raise _ReachedError(hidden)
        return hidden


class _ReachedError(Exception):
    """Ends a forward where nothing more of it is wanted."""

    def __init__(self, states: mx.array):
        self.states = states


@dataclass(frozen=True)
class _Placed:
    """How the pieces of a packed sequence lie, and see each other.

    Args:
        cuts: where one piece ends and the next begins.
        trails: of each piece its ancestors and itself; None: nothing is packed.
        grouping: of pieces that have no ancestors.
        positions: each token's place in its row, where some do.
    """

    cuts: Sequence[int] = ()
    trails: Sequence[Sequence[int]] | None = None
    grouping: PackedAttention | None = None
    positions: mx.array | None = None


def _placed(segments: Sequence[Segment]) -> _Placed:
    cuts = list(itertools.accumulate(map(len, segments)))[:-1]
    trails = [segment_path(segments, index) for index in range(len(segments))]
    if all(len(trail) == 1 for trail in trails):
        return _Placed(cuts, trails, grouping=PackedAttention([len(segment) for segment in segments]))
    return _Placed(cuts, trails, positions=mx.concatenate([mx.arange(p.start, p.stop) for p in segments]))


def _is_rotary(module: nn.Module) -> bool:
    return isinstance(module, nn.RoPE) or type(module).__name__.endswith("RoPE")


def _joined(parts: Sequence[mx.array], trail: Sequence[int]) -> mx.array:
    """The tokens of these pieces, one behind the other: [1, H, n, d]."""
    return parts[trail[0]] if len(trail) == 1 else mx.concatenate([parts[index] for index in trail], axis=2)

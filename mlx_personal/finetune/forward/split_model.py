"""Run a model of mlx-lm in parts: frozen layers, trained layers, and the output head at the target positions.

Nothing here depends on the model family. The model's own forward runs with some of its modules patched. The frozen
layers below the first adapted one are skipped, and the first adapted layer receives activations that were computed
once. The last layer returns only the target positions, so that the final norm and the output head compute nothing else.
The samples of a batch are packed into one sequence without padding, which only MLX's attention function has to respect:
it is called for each sample, or for several samples of similar length (`packed_attention`). What a family computes
between and after its layers (scaled embeddings, sliding windows, capped logits, tied embeddings) is not changed.
Whether a model consists of consecutive layers, a norm and an output head is tested (`equivalence`).
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
from mlx_personal.finetune.forward.patching import Patch, patched
from mlx_personal.finetune.forward.permutation import Permutation
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.cpu_ops import fast_ops


class UnsupportedModelError(Exception):
    """This model cannot be run in parts; the message gives the reason."""


@dataclass(frozen=True)
class BatchLayout:
    """The inputs of a batch and the layout of its samples.

    Attributes:
        inputs: int32 [B, T].
        segments: Segments of the packed sequence of a batch [1, T]; None if each of the B sequences is one sample,
            padded on the right.
    """

    inputs: mx.array
    segments: Sequence[Segment] | None = None


class SplitModel:
    """A model with an adapter that can be run in parts, inside the `with` block of `patched`.

    Args:
        lm: The model, with an adapter attached.

    Attributes:
        model: The model of mlx-lm.
        layers: Its transformer layers.
        first_trained: Index of the first layer with trainable parameters; the layers below it are frozen.
    """

    def __init__(self, lm: LanguageModel):
        self.model, self._body = lm.model, lm.backbone
        self.layers: list[nn.Module] = list(lm.model.layers)
        self.first_trained = next(
            i for i, layer in enumerate(self.layers) if tree_flatten(layer.trainable_parameters())
        )
        # State of the patches, set for the duration of a call.
        self._packing = _Packing()
        self._activations: mx.array | None = None
        self._target_permutation: Permutation | None = None
        self._head_input: mx.array | None = None
        self._stop_at: Literal["first trained layer", "final norm"] | None = None

    @contextlib.contextmanager
    def patched(self) -> Iterator[None]:
        """Patch the model's modules and MLX's attention inside the `with` block."""
        patches: list[tuple[nn.Module, Patch]]
        patches = [(layer, self._layer_patch(i)) for i, layer in enumerate(self.layers)]
        rotary = {id(m): m for layer in self.layers for m in layer.modules() if _is_rotary(m)}
        patches += [(module, self._rotary_patch) for module in rotary.values()]
        patches.append((self._body, self._body_patch))
        patches += lora_patches(self.layers[self.first_trained :])
        with patched(patches), fast_ops(self.model, self._wrap_attention):
            yield

    @contextlib.contextmanager
    def use_layout(self, layout: BatchLayout) -> Iterator[BatchLayout]:
        """Use the layout of a batch inside the `with` block.

        Compute gradients inside the block, because checkpointed layers are recomputed in the backward pass.

        Args:
            layout: The layout of the batch.

        Yields:
            The same layout.
        """
        packing = _Packing() if layout.segments is None else _Packing.from_segments(layout.segments)
        with self._set("_packing", packing):
            yield layout

    def frozen_activations(self, layout: BatchLayout) -> mx.array:
        """Compute the frozen layers.

        Args:
            layout: The inputs and their layout.

        Returns:
            The input of the first trained layer, [B, T, D].
        """
        with self.use_layout(layout):
            return self._run_until("first trained layer", layout.inputs)

    def hidden_at_targets(
        self, inputs: mx.array, activations: mx.array | None, target_positions: np.ndarray
    ) -> mx.array:
        """Compute the hidden states after the final norm at the target positions, inside `use_layout`.

        Args:
            inputs: int32 [B, T].
            activations: Result of `frozen_activations`; None computes the frozen layers too.
            target_positions: Indices of the flattened inputs, int [N].

        Returns:
            The hidden states, [1, N, D].
        """
        permutation = Permutation(target_positions, inputs.size)
        with self._set("_activations", activations), self._set("_target_permutation", permutation):
            return self._run_until("final norm", inputs)

    def logits(self, hidden: mx.array) -> mx.array:
        """Compute the model's output head.

        Args:
            hidden: Hidden states after the final norm, [1, N, D].

        Returns:
            The logits, [1, N, V].
        """
        with self._set("_head_input", hidden):
            return self.model(mx.zeros(hidden.shape[:2], mx.int32))

    def _run_until(self, stop_at: Literal["first trained layer", "final norm"], inputs: mx.array) -> mx.array:
        """Run the model up to a point, and return the hidden states at that point."""
        try:
            with self._set("_stop_at", stop_at):
                self.model(inputs)
        except _StopForwardError as stop:
            return stop.hidden
        raise UnsupportedModelError("its layers are not called one after the other")

    @contextlib.contextmanager
    def _set(self, name: str, value: Any) -> Iterator[None]:
        previous = getattr(self, name)
        setattr(self, name, value)
        try:
            yield
        finally:
            setattr(self, name, previous)

    def _layer_patch(self, index: int) -> Patch:
        def call(layer_call: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
            if self._stop_at == "first trained layer" and index == self.first_trained:
                raise _StopForwardError(x)
            if self._activations is not None:
                if index < self.first_trained:
                    return x
                x = self._activations if index == self.first_trained else x
            x = layer_call(x, *args, **kwargs)
            if self._target_permutation is not None and index == len(self.layers) - 1:
                x = self._target_permutation(x.reshape(-1, x.shape[-1]))[None]
            return x

        return call

    def _wrap_attention(self, attention: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(q: mx.array, k: mx.array, v: mx.array, *, mask: Any = None, **kwargs: Any) -> mx.array:
            packing = self._packing
            if packing.paths is None:
                return attention(q, k, v, mask=mask, **kwargs)
            if packing.attention is not None and isinstance(mask, str):
                return packing.attention.attend(functools.partial(attention, mask=mask, **kwargs), q, k, v)
            by_segment: Any = [mx.split(x, packing.ends, axis=2) for x in (q, k, v)]
            all_queries, all_keys, all_values = by_segment
            outputs = []
            for path in packing.paths:
                queries, keys = all_queries[path[-1]], _concatenate_path(all_keys, path)
                length = keys.shape[2]
                # The corner of the model's own mask is the mask of a single sample. "causal" is aligned to the end of
                # the keys, which is correct for a segment after the keys of its ancestors.
                corner = mask[..., length - queries.shape[2] : length, :length] if isinstance(mask, mx.array) else mask
                outputs.append(attention(queries, keys, _concatenate_path(all_values, path), mask=corner, **kwargs))
            return mx.concatenate(outputs, axis=2)

        return call

    def _rotary_patch(self, rotary_call: Callable[..., Any], x: mx.array, *args: Any, **kwargs: Any) -> Any:
        # Rotary embeddings encode distances only, so a sample may start anywhere in the sequence, unless it shares
        # tokens with others.
        if self._packing.positions is None:
            return rotary_call(x, *args, **kwargs)
        batch, heads, tokens, width = x.shape
        # As a batch of single tokens, because a rotary embedding has one offset per member of a batch.
        single_tokens = x.transpose(0, 2, 1, 3).reshape(batch * tokens, heads, 1, width)
        rotated = rotary_call(single_tokens, offset=self._packing.positions)
        return rotated.reshape(batch, tokens, heads, width).transpose(0, 2, 1, 3)

    def _body_patch(self, body_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._head_input is not None:
            return self._head_input
        hidden = body_call(*args, **kwargs)
        if self._stop_at == "final norm":
            raise _StopForwardError(hidden)
        return hidden


class _StopForwardError(Exception):
    """Stops a forward pass at a point, with the hidden states there."""

    def __init__(self, hidden: mx.array):
        self.hidden = hidden


@dataclass(frozen=True)
class _Packing:
    """The layout of a packed sequence.

    Attributes:
        ends: Position after each segment but the last.
        paths: The segments that each segment attends to: its ancestors and itself; None if nothing is packed.
        attention: Attention of segments without ancestors; None if some have ancestors.
        positions: Position of each token in its sample; None if no segment has ancestors.
    """

    ends: Sequence[int] = ()
    paths: Sequence[Sequence[int]] | None = None
    attention: PackedAttention | None = None
    positions: mx.array | None = None

    @classmethod
    def from_segments(cls, segments: Sequence[Segment]) -> _Packing:
        ends = list(itertools.accumulate(map(len, segments)))[:-1]
        paths = [segment_path(segments, index) for index in range(len(segments))]
        if all(len(path) == 1 for path in paths):
            return cls(ends, paths, attention=PackedAttention([len(segment) for segment in segments]))
        return cls(ends, paths, positions=mx.concatenate([mx.arange(s.start, s.stop) for s in segments]))


def _is_rotary(module: nn.Module) -> bool:
    return isinstance(module, nn.RoPE) or type(module).__name__.endswith("RoPE")


def _concatenate_path(by_segment: Sequence[mx.array], path: Sequence[int]) -> mx.array:
    """Concatenate the tokens of the segments of a path: [1, H, n, d]."""
    return by_segment[path[0]] if len(path) == 1 else mx.concatenate([by_segment[index] for index in path], axis=2)

"""Losses and gradients of any rows of a training set, in the way `exactness` chose and within a memory plan."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import mlx.core as mx
from mlx.utils import tree_map

from mlx_personal.finetune.data.batching import Batch, BatchShape, collate, micro_batches
from mlx_personal.finetune.data.packing import max_packed_length
from mlx_personal.finetune.data.samples import Sample, target_weight
from mlx_personal.finetune.forward.activation_cache import ActivationCache
from mlx_personal.finetune.forward.dropout import RandomKeys, keyed_dropout
from mlx_personal.finetune.forward.equivalence import ForwardMode
from mlx_personal.finetune.forward.gradient_checkpointing import gradient_checkpointing
from mlx_personal.finetune.forward.losses import Loss, Weights, layout_of, reference_loss, split_loss
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.finetune.planning.memory import MemoryPlan
from mlx_personal.models import LanguageModel
from mlx_personal.progress import Progress
from mlx_personal.runtime.memory import keep_freed_memory, release_freed_memory


class GradientComputer:
    """A model with an adapter, ready to be trained on `rows`; `kept_in` and `kept_bytes` are those of `ActivationCache`.

    `processed` counts the tokens that gradients were computed of, padding included.

    Args:
        share: rows pay for a common prompt once.
        keep: what the frozen blocks give may be kept.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Sample],
        way: ForwardMode,
        plan: MemoryPlan,
        share: bool,
        keep: bool = True,
    ):
        self._lm, self._rows, self._way, self._plan = lm, rows, way, plan
        self._shape: BatchShape = "packed" if way == "packed" else "padded"
        # Rows that share a prompt would share what dropout does to it, too.
        self._share, self._keep = share, keep
        self._longest = max_packed_length(getattr(lm.model, "args", None)) if way == "packed" else plan.batch_tokens
        self._lengths = [len(row) for row in rows]
        self._network = SplitModel(lm)
        self._keys = RandomKeys()
        self._loss: Loss = reference_loss(lm.model)
        self.kept_in, self.kept_bytes, self.processed = "nowhere", 0, 0

    @contextlib.contextmanager
    def opened(self, on_progress: Progress | None = None) -> Iterator[None]:
        """Computes the frozen blocks once, and lets their weights go until the block ends."""
        network = self._network
        trained = network.blocks[network.first :]
        with contextlib.ExitStack() as open_:
            open_.enter_context(keep_freed_memory())
            open_.enter_context(keyed_dropout(trained, self._keys))
            if self._plan.checkpoint:
                open_.enter_context(gradient_checkpointing(trained, self._keys))
            if self._way != "plain":
                open_.enter_context(network.opened())
                self._loss = split_loss(network, None)
                if network.first > 0:
                    tokens = self._longest if self._shape == "packed" else 1
                    states = ActivationCache(
                        network, self._rows, tokens, self._plan.cache_bytes, self._keep, on_progress
                    )
                    self.kept_in, self.kept_bytes = states.where, states.bytes
                    self._loss = split_loss(network, states.of)
                    if states.where != "nowhere":
                        self._lm.release_weights(trained)
                        release_freed_memory()
            yield
        self._lm.reload_weights()

    def gradient(self, weights: Weights, chosen: Sequence[int], seed: Sequence[int]) -> tuple[mx.array, Weights]:
        """The weighted sum of the cross entropies at these rows' targets, and its gradient by the adapter's weights.

        The same `seed`, the same dropout.
        """
        found: tuple[mx.array, Weights] | None = None
        for number, batch in enumerate(self._batches(chosen, self._share)):
            self._keys.seed(*seed, number)
            with self._network.rows(layout_of(batch)):
                of_part = mx.value_and_grad(self._loss)(weights, batch)
            found = of_part if found is None else tree_map(mx.add, found, of_part)
            mx.eval(found)
            self.processed += batch.inputs.size
        # A machine may have no row of a step.
        return found or (mx.array(0.0), tree_map(mx.zeros_like, weights))

    def loss(self, weights: Weights, chosen: Sequence[int]) -> float:
        """The weighted mean of the cross entropies at the targets of these rows, without dropout."""
        total = 0.0
        self._lm.model.eval()
        try:
            for batch in self._batches(chosen, share=True):
                with self._network.rows(layout_of(batch)):
                    total += float(self._loss(weights, batch))
        finally:
            self._lm.model.train()
        return total / target_weight(self._rows[row] for row in chosen)

    def _batches(self, chosen: Sequence[int], share: bool) -> Iterator[Batch]:
        for part in micro_batches(chosen, self._lengths, min(self._plan.batch_tokens, self._longest), self._shape):
            yield collate(self._rows, part, self._shape, share)

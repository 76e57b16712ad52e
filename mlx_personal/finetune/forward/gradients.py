"""Losses and gradients of any rows of a training set, in the way `exactness` chose and within a memory plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import mlx.core as mx
from mlx.utils import tree_map

from mlx_personal.finetune.data.batching import Batch, Shape, collate, parts
from mlx_personal.finetune.data.packing import longest_sequence
from mlx_personal.finetune.data.samples import Row, target_weight
from mlx_personal.finetune.forward.activation_cache import FrozenStates
from mlx_personal.finetune.forward.dropout import Keys, dropping
from mlx_personal.finetune.forward.equivalence import Way
from mlx_personal.finetune.forward.gradient_checkpointing import checkpointed
from mlx_personal.finetune.forward.losses import Loss, Weights, fast_loss, layout_of, plain_loss
from mlx_personal.finetune.forward.split_model import Network
from mlx_personal.finetune.planning.memory import Plan
from mlx_personal.models import LanguageModel
from mlx_personal.runtime.memory import freed_memory_kept, give_back


class Computing:
    """A model with an adapter, ready to be trained on `rows`; `kept_in` and `kept_bytes` are those of `FrozenStates`.

    `processed` counts the tokens that gradients were computed of, padding included.

    Args:
        share: rows pay for a common prompt once.
        keep: what the frozen blocks give may be kept.
    """

    def __init__(self, lm: LanguageModel, rows: Sequence[Row], way: Way, plan: Plan, share: bool, keep: bool = True):
        self._lm, self._rows, self._way, self._plan = lm, rows, way, plan
        self._shape: Shape = "packed" if way == "packed" else "padded"
        # Rows that share a prompt would share what dropout does to it, too.
        self._share, self._keep = share, keep
        self._longest = longest_sequence(getattr(lm.model, "args", None)) if way == "packed" else plan.batch_tokens
        self._lengths = [len(row) for row in rows]
        self._network = Network(lm)
        self._keys = Keys()
        self._loss: Loss = plain_loss(lm.model)
        self.kept_in, self.kept_bytes, self.processed = "nowhere", 0, 0

    @contextlib.contextmanager
    def opened(self, on_done: Callable[[int, int], None] | None = None) -> Iterator[None]:
        """Computes the frozen blocks once, and lets their weights go until the block ends."""
        network = self._network
        trained = network.blocks[network.first :]
        with contextlib.ExitStack() as open_:
            open_.enter_context(freed_memory_kept())
            open_.enter_context(dropping(trained, self._keys))
            if self._plan.checkpoint:
                open_.enter_context(checkpointed(trained, self._keys))
            if self._way != "plain":
                open_.enter_context(network.opened())
                self._loss = fast_loss(network, None)
                if network.first > 0:
                    tokens = self._longest if self._shape == "packed" else 1
                    states = FrozenStates(network, self._rows, tokens, self._plan.cache_bytes, self._keep, on_done)
                    self.kept_in, self.kept_bytes = states.where, states.bytes
                    self._loss = fast_loss(network, states.of)
                    if states.where != "nowhere":
                        self._lm.release(trained)
                        give_back()
            yield
        self._lm.read()

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
        for part in parts(chosen, self._lengths, min(self._plan.batch_tokens, self._longest), self._shape):
            yield collate(self._rows, part, self._shape, share)

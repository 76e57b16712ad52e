"""Compute losses and gradients of any samples of a training run, in a forward mode and within a memory plan."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from mlx_personal.finetune.data.batching import Batch, BatchFormat, collate, formatted_micro_batches
from mlx_personal.finetune.data.packing import max_packed_length
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward.activation_cache import ActivationCache, CacheLocation
from mlx_personal.finetune.forward.dropout import RandomKeys, keyed_dropout
from mlx_personal.finetune.forward.equivalence import ForwardMode
from mlx_personal.finetune.forward.gradient_checkpointing import gradient_checkpointing
from mlx_personal.finetune.forward.losses import (
    CrossEntropies,
    Weights,
    layout_of,
    reference_cross_entropies,
    split_cross_entropies,
)
from mlx_personal.finetune.forward.preferences import BatchObjective, sample_log_probabilities
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.finetune.planning.memory import MemoryPlan
from mlx_personal.models import LanguageModel
from mlx_personal.progress import Progress
from mlx_personal.runtime.memory import keep_freed_memory, release_freed_memory


class GradientComputer:
    """Computes losses and gradients of a model with an adapter, inside the `with` block of `prepared`.

    Args:
        lm: The model, with an adapter attached.
        samples: All samples of the training run.
        mode: The forward mode.
        plan: Size of the micro-batches, gradient checkpointing, and size of the activation cache.
        share_prefixes: Whether a common prefix of the prompts of a micro-batch is computed once. It must be False with
            dropout, because samples would share the dropout mask of the prefix.
        use_cache: Whether the outputs of the frozen layers may be cached.
        objective: The preference pairs among the samples, and their loss; by default there are none.

    Attributes:
        objective: The preference pairs among the samples, and their loss.
        cache_location: Where the outputs of the frozen layers are cached: `memory`, `file` or `nowhere`.
        cache_bytes: Size of these outputs.
        processed_tokens: Number of tokens for which gradients have been computed, including padding.
    """

    def __init__(
        self,
        lm: LanguageModel,
        samples: Sequence[Sample],
        mode: ForwardMode,
        plan: MemoryPlan,
        share_prefixes: bool,
        use_cache: bool = True,
        objective: BatchObjective | None = None,
    ):
        self.objective = objective or BatchObjective()
        self._lm, self._samples, self._mode, self._plan = lm, samples, mode, plan
        self._batch_format: BatchFormat = "packed" if mode == "packed" else "padded"
        self._share_prefixes, self._use_cache = share_prefixes, use_cache
        self._max_packed_tokens = max_packed_length(getattr(lm.model, "args", None))
        self._lengths = [len(sample) for sample in samples]
        self._network = SplitModel(lm)
        self._keys = RandomKeys()
        self._cross_entropies: CrossEntropies = reference_cross_entropies(lm.model)
        self.cache_location: CacheLocation = "nowhere"
        self.cache_bytes = self.processed_tokens = 0

    @contextlib.contextmanager
    def prepared(self, on_progress: Progress | None = None) -> Iterator[None]:
        """Patch the model inside the `with` block, after caching the outputs of the frozen layers.

        If these outputs are cached, the frozen layers' weights are released until the block ends.

        Args:
            on_progress: Receives events of stage `caching activations`.

        Raises:
            UserError: At the end of the block, if the released weights cannot be read again.
        """
        network = self._network
        trained_layers = network.layers[network.first_trained :]
        with contextlib.ExitStack() as stack:
            stack.enter_context(keep_freed_memory())
            stack.enter_context(keyed_dropout(trained_layers, self._keys))
            if self._plan.gradient_checkpointing:
                stack.enter_context(gradient_checkpointing(trained_layers, self._keys))
            if self._mode != "plain":
                stack.enter_context(network.patched())
                self._cross_entropies = split_cross_entropies(network, None)
                if network.first_trained > 0:
                    self._cache_activations(on_progress)
                    if self.cache_location != "nowhere":
                        self._lm.release_weights(trained_layers)
                        release_freed_memory()
            yield
        self._lm.reload_weights()

    def gradient(
        self, weights: Weights, indices: Sequence[int], seed: Sequence[int], cross_entropy_factor: float = 1.0
    ) -> tuple[mx.array, Weights]:
        """Compute the loss of some samples and its gradient, accumulated over micro-batches.

        Args:
            weights: The adapter's weights.
            indices: Indices of the samples; may be empty. The two samples of a pair are consecutive.
            seed: Seed of the dropout masks.
            cross_entropy_factor: Factor of the cross entropies in the loss; that of the losses of pairs is 1.

        Returns:
            The sums of `BatchObjective.sums`; and the gradient, with respect to the weights, of the first one times its
            factor plus the second one, if there is one.
        """

        def loss_and_sums(weights: Weights, batch: Batch) -> tuple[mx.array, mx.array]:
            sums = self.objective.sums(self._cross_entropies(weights, batch), batch)
            loss = sums[0] if len(sums) == 1 else cross_entropy_factor * sums[0] + sums[1]
            return loss, sums

        total: tuple[mx.array, Weights] | None = None
        for number, batch in enumerate(self._batches(indices, self._share_prefixes)):
            self._keys.reseed(*seed, number)
            with self._network.use_layout(layout_of(batch)):
                (_, sums), gradient = mx.value_and_grad(loss_and_sums)(weights, batch)
            sums_and_gradient = sums, gradient
            total = sums_and_gradient if total is None else tree_map(mx.add, total, sums_and_gradient)
            mx.eval(total)
            self.processed_tokens += batch.inputs.size
        # In distributed training a process may have no sample of a step.
        return total or (mx.zeros(self.objective.sum_count), tree_map(mx.zeros_like, weights))

    def sums(self, weights: Weights, indices: Sequence[int]) -> list[float]:
        """Compute the sums of `BatchObjective.sums` for some samples without dropout.

        Args:
            weights: The adapter's weights.
            indices: Indices of the samples; the two samples of a pair are consecutive.
        """
        total = [0.0] * self.objective.sum_count
        with self._without_dropout():
            for batch in self._batches(indices, share_prefixes=True):
                with self._network.use_layout(layout_of(batch)):
                    sums = self.objective.sums(self._cross_entropies(weights, batch), batch)
                total = [a + b for a, b in zip(total, np.array(sums, np.float64).tolist(), strict=True)]
        return total

    def reference_log_probabilities(self) -> dict[int, float]:
        """Compute the log-probabilities of the samples of all pairs under the base model, by their indices."""
        indices = [index for first in sorted(self.objective.chosen) for index in (first, first + 1)]
        log_probabilities: dict[int, float] = {}
        with self._without_dropout(), self._lm.disable_adapter():
            for batch in self._batches(indices, share_prefixes=True):
                with self._network.use_layout(layout_of(batch)):
                    of_batch = sample_log_probabilities(self._cross_entropies({}, batch), batch)
                log_probabilities.update(zip(batch.indices, np.array(of_batch).tolist(), strict=True))
        return log_probabilities

    @contextlib.contextmanager
    def _without_dropout(self) -> Iterator[None]:
        self._lm.model.eval()
        try:
            yield
        finally:
            self._lm.model.train()

    def _cache_activations(self, on_progress: Progress | None) -> None:
        max_tokens = self._max_packed_tokens if self._batch_format == "packed" else 1
        cache = ActivationCache(
            self._network, self._samples, max_tokens, self._plan.cache_bytes, self._use_cache, on_progress
        )
        self.cache_location, self.cache_bytes = cache.location, cache.bytes
        self._cross_entropies = split_cross_entropies(self._network, cache.get)

    def _batches(self, indices: Sequence[int], share_prefixes: bool) -> Iterator[Batch]:
        for micro_batch, batch_format in formatted_micro_batches(
            indices,
            self._lengths,
            self._plan.micro_batch_tokens,
            self._max_packed_tokens,
            self._batch_format,
            self.objective.chosen,
        ):
            yield collate(self._samples, micro_batch, batch_format, share_prefixes)

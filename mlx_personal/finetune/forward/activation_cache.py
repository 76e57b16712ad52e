"""A cache of the outputs of the frozen layers, which do not depend on the adapter, for all samples.

A personal training set is small and used for several epochs, so these activations are computed once and cached: in
memory up to a limit, else in an unnamed memory-mapped file, which the system removes when the process ends in any way,
else nowhere.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
import numpy as np

from mlx_personal.finetune.data.batching import Batch, micro_batches
from mlx_personal.finetune.data.packing import pack, segment_path
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward.split_model import BatchLayout, SplitModel
from mlx_personal.progress import Progress, ProgressEvent

logger = logging.getLogger(__name__)

# Where activations are cached. Reports and checkpoints store these strings.
CacheLocation = Literal["memory", "file", "nowhere"]

# Maximum number of tokens computed at once. It is constant, and so is the order of the samples, because a resumed
# training run needs exactly the same activations, and a matrix product of another height may round differently.
CACHE_BATCH_TOKENS = 1024


class ActivationCache:
    """The inputs of the first trained layer for all samples, [T, D] each, in the model's dtype.

    Args:
        network: The model, inside `network.patched()`.
        samples: All samples of the training run.
        max_tokens: Maximum number of tokens of several samples computed at once; 1 computes one sample at a time.
        memory_limit_bytes: Maximum size of activations that are cached in memory.
        enabled: Whether to cache at all.
        on_progress: Receives events of stage `caching activations` with the number of completed samples.

    Attributes:
        location: Where the activations are cached: `memory`, `file`, or `nowhere`, which recomputes them for each
            batch.
        bytes: Size of all activations.
    """

    def __init__(
        self,
        network: SplitModel,
        samples: Sequence[Sample],
        max_tokens: int,
        memory_limit_bytes: int,
        enabled: bool = True,
        on_progress: Progress | None = None,
    ):
        self._network, self._samples = network, samples
        self._memory: list[mx.array] = []
        self._file: np.memmap | None = None
        self._starts = np.cumsum([0, *map(len, samples)])
        probe = network.frozen_activations(BatchLayout(mx.zeros((1, 2), mx.int32)))
        self._dtype, width = probe.dtype, probe.shape[-1]
        self.bytes = int(self._starts[-1]) * width * self._dtype.size
        self.location: CacheLocation = "memory" if self.bytes <= memory_limit_bytes else "file"
        if self.location == "file" and enabled:
            self._file = _create_file((int(self._starts[-1]), width * self._dtype.size))
        if not enabled or (self.location == "file" and self._file is None):
            self.location = "nowhere"
        logger.debug("activations of %d bytes are cached: %s", self.bytes, self.location)
        if self.location == "nowhere":
            return
        lengths = [len(sample) for sample in samples]
        for group in micro_batches(range(len(samples)), lengths, min(max_tokens, CACHE_BATCH_TOKENS), "packed"):
            self._add(group)
            if on_progress is not None:
                on_progress(ProgressEvent("caching activations", group[-1] + 1, len(samples)))

    def get(self, batch: Batch) -> mx.array:
        """Return the activations of a batch.

        Args:
            batch: The batch.

        Returns:
            [B, T, D], in the layout of the batch's inputs.
        """
        if self.location == "nowhere":
            layout = BatchLayout(mx.array(batch.inputs), batch.segments)
            return mx.stop_gradient(self._network.frozen_activations(layout))
        if batch.segments is not None:
            by_segment = [
                self._get_sample(batch.indices[segment.sample])[segment.start : segment.stop]
                for segment in batch.segments
            ]
            return mx.concatenate(by_segment)[None]
        width = batch.inputs.shape[1]
        by_sample = [self._get_sample(index) for index in batch.indices]
        return mx.stack([mx.pad(x, [(0, width - x.shape[0]), (0, 0)]) for x in by_sample])

    def _add(self, group: Sequence[int]) -> None:
        """Compute and cache the activations of consecutive samples; those of a common prefix are computed once."""
        tokens = [self._samples[index].inputs for index in group]
        # Only prompts are shared, because the equivalence check tests only these.
        segments = pack(tokens, [self._samples[index].prompt_length for index in group])
        inputs = np.concatenate([tokens[s.sample][s.start : s.stop] for s in segments])
        activations = self._network.frozen_activations(BatchLayout(mx.array(inputs[None]), segments))[0]
        ends = np.cumsum([0, *map(len, segments)])
        leaves = set(range(len(segments))) - {segment.parent for segment in segments}
        for leaf in sorted(leaves, key=lambda i: segments[i].sample):
            path = segment_path(segments, leaf)
            of_sample = mx.concatenate([activations[int(ends[i]) : int(ends[i + 1])] for i in path])
            if self._file is None:
                self._memory.append(of_sample)
            else:
                at = self._starts[group[segments[leaf].sample]]
                self._file[at : at + len(of_sample)] = np.array(of_sample.view(mx.uint8))
        mx.eval(self._memory[-len(group) :])

    def _get_sample(self, index: int) -> mx.array:
        if self._file is None:
            return self._memory[index]
        return mx.array(self._file[self._starts[index] : self._starts[index + 1]]).view(self._dtype)


def _create_file(shape: tuple[int, int]) -> np.memmap | None:
    """Return a memory map of an unnamed file; None if the disk has less than twice its size or cannot write it."""
    size = shape[0] * shape[1]
    # Twice the size, so that the cache never fills a disk.
    if shutil.disk_usage(tempfile.gettempdir()).free < 2 * size:
        return None
    # The memory map keeps its own handle of the file.
    with tempfile.TemporaryFile() as file:
        try:
            # Reserve the space now, because writing to the memory map on a full disk would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for start in range(0, size, 2**20):
                    file.write(bytes(min(2**20, size - start)))
                file.flush()
        except OSError:
            return None
        return np.memmap(file, np.uint8, "r+", shape=shape)

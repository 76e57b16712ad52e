"""Outputs of the frozen layers, computed once for each sample: an adapter never changes the layers below it.

A personal training set is small and used for several epochs, so these activations are cached: in memory up to a limit,
else in a memory-mapped file without a name, which the system removes however the process ends, else nowhere.
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

# Tokens computed at once. This number and the order of the samples are fixed: a resumed training needs exactly the same
# numbers, and a matrix product of another height may round differently.
CACHE_BATCH_TOKENS = 1024


class ActivationCache:
    """The inputs of the first trained layer for all samples, [T, D] each, in the model's dtype.

    Args:
        network: The model, inside `network.patched()`.
        samples: Samples of the training.
        max_tokens: Tokens of several samples that are computed at once; 1 computes one sample at a time.
        memory_limit_bytes: Memory that the activations may take.
        enabled: False caches nothing.
        on_progress: Called with the number of samples that are done, in the stage `caching activations`.

    Attributes:
        location: `memory`, `file`, or `nowhere`: then they are computed again for each batch.
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
        """Return the activations [B, T, D] of a batch, arranged like its inputs."""
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
        """Compute and store the activations of consecutive samples; those of a common prefix are computed once."""
        tokens = [self._samples[index].inputs for index in group]
        # Only prompts are shared, since that is what the equivalence check has tested.
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
    """Return bytes in a file without a name, or None if the disk has less than twice their size or refuses."""
    size = shape[0] * shape[1]
    # Twice the size, so that a cache never fills a disk.
    if shutil.disk_usage(tempfile.gettempdir()).free < 2 * size:
        return None
    # The memory map keeps its own handle of the file.
    with tempfile.TemporaryFile() as file:
        try:
            # Reserve the space now: writing to a page of the map on a full disk would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for start in range(0, size, 2**20):
                    file.write(bytes(min(2**20, size - start)))
                file.flush()
        except OSError:
            return None
        return np.memmap(file, np.uint8, "r+", shape=shape)

"""What the frozen blocks give for each row, computed once: an adapter never changes what lies below it.

A personal training set is small and seen for several epochs, so its states are kept: in memory up to a budget, else in
a memory-mapped file without a name, which the system takes back however the process ends, else not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_personal.finetune.data.batching import Batch, micro_batches
from mlx_personal.finetune.data.packing import pack, segment_path
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward.split_model import BatchLayout, SplitModel
from mlx_personal.progress import Progress, ProgressEvent

# Tokens computed at once. Fixed, as is the order of the rows: a resumed training has to see the very same numbers, and
# a matrix product of another height may round otherwise.
CACHE_BATCH_TOKENS = 1024


class ActivationCache:
    """The states of all rows before the first trained block, float of the model's own kind, [T, D] each.

    Args:
        network: opened.
        rows: of the training set.
        tokens: of several rows that are computed at once; 1 computes one row after the other.
        budget: bytes of memory they may take.
        keep: False keeps them nowhere.
        on_done: called with (rows done, rows in all).

    `where` is `memory`, `file`, or `nowhere`, when they are computed anew for each batch.
    """

    def __init__(
        self,
        network: SplitModel,
        rows: Sequence[Sample],
        tokens: int,
        budget: int,
        keep: bool = True,
        on_progress: Progress | None = None,
    ):
        self._network, self._rows = network, rows
        self._memory: list[mx.array] = []
        self._file: np.memmap | None = None
        self._starts = np.cumsum([0, *map(len, rows)])
        probe = network.frozen_activations(BatchLayout(mx.zeros((1, 2), mx.int32)))
        self._dtype, width = probe.dtype, probe.shape[-1]
        self.bytes = int(self._starts[-1]) * width * self._dtype.size
        self.where = "memory" if self.bytes <= budget else "file"
        if self.where == "file" and keep:
            self._file = _file_of((int(self._starts[-1]), width * self._dtype.size))
        if not keep or (self.where == "file" and self._file is None):
            self.where = "nowhere"
            return
        lengths = [len(row) for row in rows]
        for group in micro_batches(range(len(rows)), lengths, min(tokens, CACHE_BATCH_TOKENS), "packed"):
            self._keep(group)
            if on_progress is not None:
                on_progress(ProgressEvent("caching activations", group[-1] + 1, len(rows)))

    def of(self, batch: Batch) -> mx.array:
        """The states [B, T, D] of a batch, as its inputs lie."""
        if self.where == "nowhere":
            layout = BatchLayout(mx.array(batch.inputs), batch.segments)
            return mx.stop_gradient(self._network.frozen_activations(layout))
        if batch.segments is not None:
            found = [self._of_row(batch.indices[segment.sample])[segment.start : segment.stop] for segment in batch.segments]
            return mx.concatenate(found)[None]
        width = batch.inputs.shape[1]
        rows = [self._of_row(row) for row in batch.indices]
        return mx.stack([mx.pad(row, [(0, width - row.shape[0]), (0, 0)]) for row in rows])

    def _keep(self, group: Sequence[int]) -> None:
        """Computes and keeps the states of consecutive rows, those of a common beginning once."""
        tokens = [self._rows[row].inputs for row in group]
        # No further than the exactness check has looked.
        segments = pack(tokens, [self._rows[row].prompt_length for row in group])
        inputs = np.concatenate([tokens[p.sample][p.start : p.stop] for p in segments])
        states = self._network.frozen_activations(BatchLayout(mx.array(inputs[None]), segments))[0]
        ends = np.cumsum([0, *map(len, segments)])
        leaves = set(range(len(segments))) - {segment.parent for segment in segments}
        for leaf in sorted(leaves, key=lambda i: segments[i].sample):
            trail = segment_path(segments, leaf)
            row = mx.concatenate([states[int(ends[i]) : int(ends[i + 1])] for i in trail])
            if self._file is None:
                self._memory.append(row)
            else:
                at = self._starts[group[segments[leaf].sample]]
                self._file[at : at + len(row)] = np.array(row.view(mx.uint8))
        mx.eval(self._memory[-len(group) :])

    def _of_row(self, row: int) -> mx.array:
        if self._file is None:
            return self._memory[row]
        return mx.array(self._file[self._starts[row] : self._starts[row + 1]]).view(self._dtype)


def _file_of(shape: tuple[int, int]) -> np.memmap | None:
    """Bytes in a file without a name; None where the disk has not twice as much room, or does not give it."""
    size = shape[0] * shape[1]
    # Twice, so that a disk is never filled to the brim by what is only a cache.
    if shutil.disk_usage(tempfile.gettempdir()).free < 2 * size:
        return None
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the map's
    try:
        # All of it now: a disk that is full when a page of the map is first written to ends the process.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, 2**20):
                file.write(bytes(min(2**20, size - start)))
            file.flush()
    except OSError:
        return None
    return np.memmap(file, np.uint8, "r+", shape=shape)

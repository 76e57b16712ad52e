"""One training over several machines: each takes a share of every step's rows, and their gradients are added up.

Under `mlx.launch -n N` (or with a host file) every process runs the same training; without it there is a group of one.
Gradients travel as one buffer: on Metal each transfer crosses from the GPU to the CPU and back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_personal.errors import UserError


class ProcessGroup:
    """The processes that train together. `rank` counts from 0; only rank 0 writes anything."""

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        # mlx.launch sets it. Asking MLX right away would load its MPI library in every single-machine training.
        if "MLX_RANK" in os.environ:
            try:
                self._group = mx.distributed.init(strict=True)
            except RuntimeError as error:
                what = "MLX_RANK is set, but there is no group of processes to train with"
                raise UserError(what, hint="start them with mlx.launch, or unset MLX_RANK") from error
            self.rank, self.size = self._group.rank(), self._group.size()

    def share(self, step: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """This process's rows of a step: every process gets about as many tokens, and the same for the same step."""
        loads = [0] * self.size
        mine = []
        for row in sorted(step, key=lambda row: -lengths[row]):
            lightest = loads.index(min(loads))
            loads[lightest] += lengths[row]
            if lightest == self.rank:
                mine.append(row)
        return sorted(mine, key=list(step).index)

    def sum(self, array: mx.array) -> mx.array:
        """The sum over all processes of a float32 array, the same in each process."""
        return array if self.size == 1 else self._all_sum(array)

    def gather(self, value: Any) -> list[Any]:
        """What JSON can hold, as each process gives it, in order of rank."""
        return [self._from(value, rank) for rank in range(self.size)]

    def from_first(self, value: Any) -> Any:
        """What JSON can hold, as rank 0 gives it; the other processes' own value does not matter."""
        return self._from(value, 0)

    def _from(self, value: Any, rank: int) -> Any:
        if self.size == 1:
            return value
        own = json.dumps(value).encode() if self.rank == rank else b""
        (length,) = np.array(self._all_sum(mx.array([len(own)], mx.int32))).tolist()
        sent = np.zeros(length, np.int32)
        sent[: len(own)] = np.frombuffer(own, np.uint8)
        received = np.array(self._all_sum(mx.array(sent)), copy=False).astype(np.uint8)
        return json.loads(received.tobytes())

    def arrays_from_first(self, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
        """Arrays of rank 0, bit for bit, in every process."""
        if self.size == 1:
            return arrays
        shapes = self.from_first({name: [list(a.shape), str(a.dtype).split(".")[-1]] for name, a in arrays.items()})
        received = {}
        for name, (shape, dtype) in shapes.items():
            kind = getattr(mx, dtype)
            own = arrays[name] if self.rank == 0 else mx.zeros(shape, kind)
            as_bytes = own.reshape(-1).view(mx.uint8).astype(mx.int32)
            received[name] = self._all_sum(as_bytes).astype(mx.uint8).view(kind).reshape(shape)
        return received

    def _all_sum(self, array: mx.array) -> mx.array:
        summed = mx.distributed.all_sum(array, group=self._group, stream=mx.cpu)
        try:
            mx.eval(summed)
        except RuntimeError as error:
            raise UserError(
                "another machine of this training left it", hint="its own message says why; then run the same again"
            ) from error
        return summed

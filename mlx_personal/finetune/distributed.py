"""Data-parallel training on several machines: each computes a shard of every step, and the gradients are summed.

Under `mlx.launch -n N` (or with a host file) every process runs the same training run; without it the group has one
process. Gradients are transferred as one array, because on Metal each transfer goes through the CPU.
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
    """The processes that train together.

    Attributes:
        rank: Rank of this process, from 0. Only rank 0 writes files.
        size: Number of processes.

    Raises:
        UserError: If `MLX_RANK` is set, as `mlx.launch` does, but there is no group.
    """

    def __init__(self) -> None:
        self.rank, self.size = 0, 1
        # Without this check MLX would load its MPI library even on a single machine.
        if "MLX_RANK" in os.environ:
            try:
                self._group = mx.distributed.init(strict=True)
            except RuntimeError as error:
                what = "MLX_RANK is set, but there is no group of processes to train with"
                raise UserError(what, hint="start them with mlx.launch, or unset MLX_RANK") from error
            self.rank, self.size = self._group.rank(), self._group.size()

    def shard(self, step: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return this process's samples of a step, such that all processes have about the same number of tokens.

        Args:
            step: Indices of the step's samples.
            lengths: Number of tokens of each sample of the data set.

        Returns:
            Indices of samples in the order of the step, as a function of the arguments and the rank.
        """
        loads = [0] * self.size
        shard = []
        for index in sorted(step, key=lambda index: -lengths[index]):
            lightest = loads.index(min(loads))
            loads[lightest] += lengths[index]
            if lightest == self.rank:
                shard.append(index)
        return sorted(shard, key=list(step).index)

    def all_sum(self, array: mx.array) -> mx.array:
        """Return the sum of a float32 array over all processes, the same in each.

        Args:
            array: This process's array.
        """
        return array if self.size == 1 else self._all_sum(array)

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order of rank.

        Args:
            value: This process's JSON value.
        """
        return [self._broadcast_from(value, rank) for rank in range(self.size)]

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0.

        Args:
            value: A JSON value; used on rank 0 only.
        """
        return self._broadcast_from(value, 0)

    def broadcast_arrays(self, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
        """Return the arrays of rank 0, bit for bit.

        Args:
            arrays: Arrays of any type and shape; used on rank 0 only.
        """
        if self.size == 1:
            return arrays
        layouts = self.broadcast({name: [list(a.shape), str(a.dtype).split(".")[-1]] for name, a in arrays.items()})
        received = {}
        for name, (shape, dtype_name) in layouts.items():
            dtype = getattr(mx, dtype_name)
            array = arrays[name] if self.rank == 0 else mx.zeros(shape, dtype)
            as_bytes = array.reshape(-1).view(mx.uint8).astype(mx.int32)
            received[name] = self._all_sum(as_bytes).astype(mx.uint8).view(dtype).reshape(shape)
        return received

    def _broadcast_from(self, value: Any, rank: int) -> Any:
        if self.size == 1:
            return value
        encoded = json.dumps(value).encode() if self.rank == rank else b""
        (length,) = np.array(self._all_sum(mx.array([len(encoded)], mx.int32))).tolist()
        sent = np.zeros(length, np.int32)
        sent[: len(encoded)] = np.frombuffer(encoded, np.uint8)
        received = np.array(self._all_sum(mx.array(sent)), copy=False).astype(np.uint8)
        return json.loads(received.tobytes())

    def _all_sum(self, array: mx.array) -> mx.array:
        summed = mx.distributed.all_sum(array, group=self._group, stream=mx.cpu)
        try:
            mx.eval(summed)
        except RuntimeError as error:
            what = "another machine has left this training run"
            raise UserError(what, hint="see its error message, then start the same training run again") from error
        return summed

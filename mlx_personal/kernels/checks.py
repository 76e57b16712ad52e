"""Check the shapes and dtypes of the kernels' arguments."""

from __future__ import annotations

from typing import Final

import mlx.core as mx

FLOATS: Final = (mx.float32, mx.float16, mx.bfloat16)


def check_states(states: mx.array, lengths: mx.array) -> None:
    """Check token states and the lengths of the dialogues.

    Args:
        states: Float array [B, T, D].
        lengths: int32 [B].

    Raises:
        ValueError: If a shape or dtype is wrong; names the argument.
    """
    _check_floats("states", states, "[dialogues, tokens, dimensions]")
    check_integers("lengths", lengths, len(states))


def check_queries(queries: mx.array, bank: mx.array) -> None:
    """Check queries and the bank that they are compared with.

    Args:
        queries: Float array [B, D].
        bank: Float array [R, D] of the same dtype.

    Raises:
        ValueError: If a shape or dtype is wrong; names the argument.
    """
    _check_floats("queries", queries, "[rows, dimensions]")
    _check_floats("bank", bank, "[rows, dimensions]")
    if bank.shape[1] != queries.shape[1]:
        raise ValueError(f"bank has {bank.shape[1]} dimensions, queries have {queries.shape[1]}")
    if bank.dtype != queries.dtype:
        raise ValueError(f"bank is {_dtype_name(bank)}, queries are {_dtype_name(queries)}")


def check_integers(name: str, array: mx.array, size: int) -> None:
    """Check an int32 array.

    Args:
        name: Name of the argument.
        array: Its value.
        size: The length it must have.

    Raises:
        ValueError: If the shape or dtype is wrong; names the argument.
    """
    if array.shape != (size,):
        raise ValueError(f"{name} must have the shape [{size}], not {list(array.shape)}")
    if array.dtype != mx.int32:
        raise ValueError(f"{name} must be int32, not {_dtype_name(array)}")


def _check_floats(name: str, array: mx.array, shape: str) -> None:
    """Check a float array whose dimensions are those of `shape`; all but the first must not be empty."""
    if array.ndim != shape.count(",") + 1 or 0 in array.shape[1:]:
        raise ValueError(f"{name} must have the shape {shape}, not {list(array.shape)}")
    if array.dtype not in FLOATS:
        raise ValueError(f"{name} must be float32, float16 or bfloat16, not {_dtype_name(array)}")


def _dtype_name(array: mx.array) -> str:
    """Return the name of an array's dtype without its module: `float32`."""
    return str(array.dtype).rpartition(".")[2]

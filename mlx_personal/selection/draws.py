"""Draws that are a hash of a seed and an id, so that no state of a generator has to be stored."""

from __future__ import annotations

import math

import numpy as np


def hashed_uniform(ids: np.ndarray, seed: int) -> np.ndarray:
    """Return a number in (0, 1) for each id, from a hash of the id and the seed (SplitMix64).

    Args:
        ids: The ids, int [N].
        seed: Random seed.

    Returns:
        float64 [N].
    """
    mixed = _mix(_mix(np.uint64(seed & (2**64 - 1)) + np.zeros(len(ids), np.uint64)) ^ ids.astype(np.uint64))
    uniform: np.ndarray = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return uniform


def sampling_priorities(ids: np.ndarray, half_life: float, seed: int) -> np.ndarray:
    """Return the priorities of dialogues in a reservoir, which contains those of the highest priority.

    They are draws from the Gumbel distribution, shifted by age. So a dialogue is sampled without replacement with a
    weight that halves with each half-life, and the order of the priorities never changes while the stream continues.

    Args:
        ids: Ids of the dialogues, which increase along the stream, int [N].
        half_life: Number of dialogues after which a dialogue is half as likely to be kept; infinite ignores age.
        seed: Random seed.

    Returns:
        float64 [N].

    References:
        [Efraimidis06]
    """
    age = 0.0 if math.isinf(half_life) else ids * (math.log(2) / half_life)
    priorities: np.ndarray = -np.log(-np.log(hashed_uniform(ids, seed))) + age
    return priorities


def _mix(numbers: np.ndarray) -> np.ndarray:
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))

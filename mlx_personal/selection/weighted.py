"""This project's own policy: a random sample of the stream in which rich dialogues are more likely to be."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from mlx_personal.selection.buffer import Buffer
from mlx_personal.selection.policies import Candidate, Choice

# Tuned on the first halves of four data sets: see benchmarks/results/selection_study.
DEFAULT_WEIGHT: Final = 16.0


class WeightedPolicy:
    """A quality-weighted reservoir: every dialogue received is in the buffer with a chance that rises with its EOE.

    Each dialogue has a priority, weight * log EOE + g, where g is a draw from the Gumbel distribution; the buffer holds
    those of highest priority. That is sampling without replacement in proportion to EOE ** weight (Gumbel top-k, the
    same as Efraimidis and Spirakis' reservoir), in one pass, with the memory of the bins. Why it should beat the
    paper's rule: that one keeps extremes, and what it keeps hangs on the order of arrival, for a bin that is high in
    one score is hard to replace for ever; a sample has the stream's own mixture of subjects, whatever the order, and
    its topics need not be alike in number to those that came last. The weight leaves out what says little.

    Draws are a hash of the dialogue's id, so a bin's priority is known without being stored.

    Args:
        weight: 0 is a plain random sample; the higher, the fewer of low EOE are kept.
        half_life: dialogues after which an older one is half as likely to be kept; infinite: age does not count.
    """

    def __init__(self, weight: float = DEFAULT_WEIGHT, half_life: float = math.inf):
        if weight < 0 or half_life <= 0:
            raise ValueError("weight must be at least 0, half_life above 0")
        self._weight, self._half_life = weight, half_life

    def choose(self, candidate: Candidate, buffer: Buffer, rng: np.random.Generator) -> Choice:
        bins = buffer.bins
        ids = np.array([*(b.dialogue_id for b in bins), candidate.dialogue_id])
        eoe = np.array([*(b.eoe for b in bins), candidate.eoe])
        priorities = self.priorities(ids, eoe)
        lowest = int(priorities.argmin())
        if lowest == len(bins):
            return Choice(None, "all bins have a higher priority, by EOE and by draw")
        slot = bins[lowest].slot
        beaten = tuple(b.slot for b, p in zip(bins, priorities[:-1], strict=True) if p < priorities[-1])
        return Choice(slot, f"bin {slot} has the lowest priority, by EOE and by draw", beaten)

    def priorities(self, ids: np.ndarray, eoe: np.ndarray) -> np.ndarray:
        """float64 [n]: of dialogues with these ids and entropies."""
        age = 0.0 if math.isinf(self._half_life) else ids * (math.log(2) / self._half_life)
        priority: np.ndarray = self._weight * np.log(np.maximum(eoe, 1e-9)) - np.log(-np.log(_uniform(ids))) + age
        return priority


def _uniform(ids: np.ndarray) -> np.ndarray:
    """A number in (0, 1) for each id, always the same one: SplitMix64 of it."""
    with np.errstate(over="ignore"):
        mixed = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    uniform: np.ndarray = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return uniform

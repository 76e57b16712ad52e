"""Why a mutant that the tests do not notice does no harm: by file and `Mutant.shown`, which outlast shifted lines."""

from __future__ import annotations

from .mutants import Mutant

PAST_THE_END = "A simdgroup whose next block begins just past its range reads it, and leaves all its results out."
SWEEPS = "All matrices converge in fewer sweeps."

REASONS: dict[str, dict[str, str]] = {
    "cosine.h": {
        "return squared_norm > 0.0f ? 1.0f / sqrt(squared_norm) : «0.0f → 1.0f»;": (
            "A zero vector's products are all zero, whatever finite number they are multiplied by."
        ),
    },
    "in_domain_distance.metal": {
        "for (uint row = begin + simdgroup_index * ROWS; row «< → <=» end; row += SIMDGROUPS * ROWS) {": PAST_THE_END,
    },
    "nearest.metal": {
        "for (uint row = begin + simdgroup_index * ROWS; row «< → <=» end; row += SIMDGROUPS * ROWS) {": PAST_THE_END,
        "for (uint s = «1 → 0»; s < SIMDGROUPS; s++) {": "The first simdgroup's result is compared with itself.",
        "const bool lower_row = cosine_of[s][q] == highest && index_of[s][q] «< → <=» index;": (
            "Of two results with the same cosine and the same row either may be taken."
        ),
    },
    "spectral_entropy.metal": {
        "static constant constexpr uint MOST_SWEEPS = «12 → 11»;": SWEEPS,
        "static constant constexpr uint MOST_SWEEPS = «12 → 13»;": SWEEPS,
        "threadgroup float tile[WINDOW][COLUMNS + «1 → 0»];": (
            "The column more only keeps neighboring rows out of the same memory bank, for speed."
        ),
        "for (uint first = 0; first «< → <=» dim; first += COLUMNS) {": (
            "Where 32 divides the dimension, one more tile is read as zeros and adds nothing."
        ),
        "for (uint a = team; a «< → <=» pairs; a += SIMDGROUPS) {": (
            "The pair past the last meets none: the condition inside wants a lane between it and the last."
        ),
        "cleared = «simd_sum → simd_max»(cleared);": (
            "What a sweep may leave is 32 times as much, still far below rounding: the next sweep would square it."
        ),
        "«break → continue»;": "All sweeps are made, the last ones with nothing left to clear.",
    },
}


def reason(mutant: Mutant) -> str:
    return REASONS.get(mutant.file, {}).get(mutant.shown, "not looked at yet")

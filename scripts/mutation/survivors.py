"""Why mutants that the tests do not detect are harmless, by file and `Mutant.marked_line`."""

from __future__ import annotations

from .mutants import Mutant

PAST_THE_END = "A simdgroup whose next block begins at the end of its range reads it, but discards all its results."
SWEEPS = "All matrices converge in fewer sweeps."

REASONS: dict[str, dict[str, str]] = {
    "cosine.h": {
        "return squared_norm > 0.0f ? 1.0f / sqrt(squared_norm) : «0.0f → 1.0f»;": (
            "All products of a zero vector are zero, whatever finite factor they have."
        ),
    },
    "in_domain_distance.metal": {
        "for (uint row = begin + simdgroup_index * ROWS; row «< → <=» end; row += SIMDGROUPS * ROWS) {": PAST_THE_END,
    },
    "nearest.metal": {
        "for (uint row = begin + simdgroup_index * ROWS; row «< → <=» end; row += SIMDGROUPS * ROWS) {": PAST_THE_END,
        "for (uint s = «1 → 0»; s < SIMDGROUPS; s++) {": "The first simdgroup's result is compared with itself.",
        "const bool lower_row = cosine_of[s][q] == highest && index_of[s][q] «< → <=» index;": (
            "If cosine and row are equal, either result may be taken."
        ),
    },
    "spectral_entropy.metal": {
        "static constant constexpr uint MOST_SWEEPS = «12 → 11»;": SWEEPS,
        "static constant constexpr uint MOST_SWEEPS = «12 → 13»;": SWEEPS,
        "threadgroup float tile[WINDOW][COLUMNS + «1 → 0»];": (
            "The extra column only puts neighboring rows into different memory banks, for speed."
        ),
        "for (uint first = 0; first «< → <=» dim; first += COLUMNS) {": (
            "If 32 divides the dimension, one more tile is read as zeros and adds nothing."
        ),
        "for (uint a = simdgroup_index; a «< → <=» pairs; a += SIMDGROUPS) {": (
            "A pair past the last one rotates nothing: the inner condition requires a lane between it and the last."
        ),
        "cleared = «simd_sum → simd_max»(cleared);": (
            "A sweep may leave 32 times as much, which is still far below rounding: the next sweep would square it."
        ),
        "«break → continue»;": "All sweeps are run, the last ones with nothing left to clear.",
    },
}


def reason(mutant: Mutant) -> str:
    """Return why a mutant is harmless, as far as known."""
    return REASONS.get(mutant.file, {}).get(mutant.marked_line, "not examined yet")

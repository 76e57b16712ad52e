// Pairwise cosine distance fused with its minimum: for each query the highest cosine with a bank row, and which row.
//
// Shapes: queries [B, D], bank [R, D] with R > 0 -> partial_cosine [G, B] float, partial_index [G, B] int, for G ranges
// of rows; an empty range gives -2, which is below every cosine, and row 0.
// Launch: G x ceil(B / QUERIES) threadgroups of 8 simdgroups; each simdgroup takes every 8th block of ROWS rows of its
// group's range.
// Memory: the bank is read once per tile of queries, the queries from the cache; 8 G B bytes are written, and nothing
// of size B x R.
// Order: of equal cosines the first row is taken, in a simdgroup, in a threadgroup, and (by the caller) over G.
#include "cosine.h"

// ---- body ----
constexpr uint SIMDGROUPS = 8;
threadgroup float cosine_of[SIMDGROUPS][QUERIES];
threadgroup uint index_of[SIMDGROUPS][QUERIES];

const uint lane = thread_index_in_simdgroup;
const uint simdgroup_index = simdgroup_index_in_threadgroup;
const uint query_count = queries_shape[0];
const uint dim = queries_shape[1];
const uint row_count = bank_shape[0];
const uint first_query = threadgroup_position_in_grid.y * QUERIES;
const uint span = (row_count + threadgroups_per_grid.x - 1) / threadgroups_per_grid.x;
const uint begin = threadgroup_position_in_grid.x * span;
const uint end = min(begin + span, row_count);

const Tile<QUERIES> tile = read_tile<QUERIES>(queries, first_query, query_count, dim, lane);
float best[QUERIES];
uint best_row[QUERIES];
for (int q = 0; q < QUERIES; q++) {
  best[q] = -2.0f;
  best_row[q] = 0;
}
for (uint row = begin + simdgroup_index * ROWS; row < end; row += SIMDGROUPS * ROWS) {
  const Cosines<QUERIES, ROWS> cosine = cosines<QUERIES, ROWS>(queries, tile, bank, row, row_count, dim, lane);
  for (int q = 0; q < QUERIES; q++) {
    for (int r = 0; r < ROWS; r++) {
      if (row + r < end && cosine.of[q][r] > best[q]) {
        best[q] = cosine.of[q][r];
        best_row[q] = row + r;
      }
    }
  }
}
if (lane == 0) {
  for (int q = 0; q < QUERIES; q++) {
    cosine_of[simdgroup_index][q] = best[q];
    index_of[simdgroup_index][q] = best_row[q];
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint q = thread_index_in_threadgroup;
if (q < QUERIES && first_query + q < query_count) {
  float highest = cosine_of[0][q];
  uint index = index_of[0][q];
  for (uint s = 1; s < SIMDGROUPS; s++) {
    const bool lower_row = cosine_of[s][q] == highest && index_of[s][q] < index;
    if (cosine_of[s][q] > highest || lower_row) {
      highest = cosine_of[s][q];
      index = index_of[s][q];
    }
  }
  const uint at = threadgroup_position_in_grid.x * query_count + first_query + q;
  partial_cosine[at] = highest;
  partial_index[at] = int(index);
}

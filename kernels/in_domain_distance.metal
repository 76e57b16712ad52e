// In-domain cosine distance: for each query the sum of 1 - cos to the bank's rows of its domain, and how many they are.
//
// Shapes: queries [B, D], query_domains [B], excluded_rows [B] (a bank row to leave out; -1 for none),
// bank [R, D], bank_domains [R] -> partial_distance [G, B] float, partial_count [G, B] int, for G ranges of rows.
// Launch: G x ceil(B / QUERIES) threadgroups of 8 simdgroups; each simdgroup takes every 8th block of ROWS rows of its
// group's range. Blocks without a row of these domains are not read.
// Memory: the bank is read once per tile of queries, the queries from the cache; 8 G B bytes are written, and nothing
// of size B x R.
// Order of summation: each simdgroup over its rows in increasing order; the 8 simdgroups in increasing order; then the
// caller over G.
#include "cosine.h"

// ---- body ----
constexpr uint SIMDGROUPS = 8;
threadgroup float distances[SIMDGROUPS][QUERIES];
threadgroup int counts[SIMDGROUPS][QUERIES];

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
float distance[QUERIES];
int counted[QUERIES];
for (int q = 0; q < QUERIES; q++) {
  distance[q] = 0.0f;
  counted[q] = 0;
}
for (uint row = begin + simdgroup_index * ROWS; row < end; row += SIMDGROUPS * ROWS) {
  bool included[QUERIES][ROWS];
  bool any_included = false;
  for (int q = 0; q < QUERIES; q++) {
    const uint query = min(first_query + q, query_count - 1);
    for (int r = 0; r < ROWS; r++) {
      included[q][r] = row + r < end && bank_domains[row + r] == query_domains[query] &&
          excluded_rows[query] != int(row + r);
      any_included = any_included || included[q][r];
    }
  }
  if (!any_included) {
    continue;
  }
  const Cosines<QUERIES, ROWS> cosine = cosines<QUERIES, ROWS>(queries, tile, bank, row, row_count, dim, lane);
  for (int q = 0; q < QUERIES; q++) {
    for (int r = 0; r < ROWS; r++) {
      if (included[q][r]) {
        distance[q] += 1.0f - cosine.of[q][r];
        counted[q] += 1;
      }
    }
  }
}
if (lane == 0) {
  for (int q = 0; q < QUERIES; q++) {
    distances[simdgroup_index][q] = distance[q];
    counts[simdgroup_index][q] = counted[q];
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
const uint q = thread_index_in_threadgroup;
if (q < QUERIES && first_query + q < query_count) {
  float sum = 0.0f;
  int count = 0;
  for (uint s = 0; s < SIMDGROUPS; s++) {
    sum += distances[s][q];
    count += counts[s][q];
  }
  const uint at = threadgroup_position_in_grid.x * query_count + first_query + q;
  partial_distance[at] = sum;
  partial_count[at] = count;
}

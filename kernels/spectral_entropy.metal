// Spectral entropy of embedding: the entropy of the eigenvalue shares of each 64-token window's centered Gram matrix.
//
// Shapes: states [B, T, D], lengths [B] -> entropies [B, W] in 0..1, for W = ceil(T / 64) windows; 0 for a window past
// a dialogue's last one, for fewer than two tokens, and for equal tokens.
// Launch: one threadgroup of 256 threads per window and dialogue.
// Memory: each state is read once (windows overlap a little, and states out of range are read again); 4 B W bytes are
// written. Threadgroup memory: the Gram matrix, 16 KiB, and a tile of 64 tokens x 32 dimensions, 8.25 KiB.
// Order of summation: a token's products tile by tile, in increasing d. Always in float32.
// Eigenvalues: cyclic Jacobi. In a round all tokens form pairs, and 32 simultaneous rotations clear 32 entries; only
// the upper triangle is stored. A sweep of 63 rounds covers all pairs, and about six sweeps are enough.
#include "safe_scale.h"

static constant constexpr uint WINDOW = 64;
static constant constexpr uint COLUMNS = 32;
static constant constexpr uint THREADS = 256;
static constant constexpr uint SIMDGROUPS = THREADS / 32;
static constant constexpr uint MOST_SWEEPS = 12;
// For a matrix of trace 1: sum of the squares of all entries that a sweep cleared, below which the diagonal holds the
// eigenvalues.
static constant constexpr float CLEARED = 1e-12f;
// Share of the states' energy below which a variance is rounding.
static constant constexpr float NO_VARIANCE = 1e-12f;

// Windows are spread evenly and overlap a little if 64 does not divide the length.
METAL_FUNC uint window_start(uint window, uint windows, uint length) {
  return windows < 2 ? 0 : uint(size_t(window) * (length - WINDOW) / (windows - 1));
}

// The two tokens of `pair` in `round`, for an even number `size` of tokens: one stays in place, the others rotate in a
// circle.
METAL_FUNC uint first_of_pair(uint round, uint pair, uint size) {
  const uint place = round + pair;
  return pair == 0 ? round : place < size - 1 ? place : place - (size - 1);
}

METAL_FUNC uint second_of_pair(uint round, uint pair, uint size) {
  return pair == 0 ? size - 1 : round >= pair ? round - pair : round + size - 1 - pair;
}

// Index of the entry of two tokens in the upper triangle.
METAL_FUNC uint entry(uint a, uint b) {
  return min(a, b) * WINDOW + max(a, b);
}

// ---- body ----
threadgroup float gram[WINDOW * WINDOW];
threadgroup float tile[WINDOW][COLUMNS + 1];
threadgroup float partial[SIMDGROUPS][COLUMNS];
threadgroup float cosines[WINDOW / 2];
threadgroup float sines[WINDOW / 2];
threadgroup float total[2];

const uint thread_index = thread_index_in_threadgroup;
const uint lane = thread_index_in_simdgroup;
const uint simdgroup_index = simdgroup_index_in_threadgroup;
const uint window = threadgroup_position_in_grid.y;
const uint dialogue = threadgroup_position_in_grid.z;
const uint tokens = states_shape[1];
const uint dim = states_shape[2];
const uint at = dialogue * threadgroups_per_grid.y + window;
const uint length = min(uint(max(lengths[dialogue], 0)), tokens);
const uint windows = (length + WINDOW - 1) / WINDOW;
const uint rows = min(length, WINDOW);
if (window >= windows || rows < 2) {
  if (thread_index == 0) {
    entropies[at] = 0.0f;
  }
  return;
}

// The centered Gram matrix: each thread computes a 4 x 4 block of it, every 16th row by every 16th column.
const size_t origin = (size_t(dialogue) * tokens + window_start(window, windows, length)) * dim;
const uint block_row = thread_index / 16;
const uint block_column = thread_index % 16;
float scale = 1.0f;
for (bool again = true; again;) {
  float block[4][4];
  for (uint i = 0; i < 4; i++) {
    for (uint j = 0; j < 4; j++) {
      block[i][j] = 0.0f;
    }
  }
  float energy = 0.0f;
  for (uint first = 0; first < dim; first += COLUMNS) {
    // Differences to the window's first token are exact for similar tokens, and lose no digits to a common offset.
    const bool inside = first + lane < dim;
    const float base = inside ? scale * float(states[origin + first + lane]) : 0.0f;
    float values[WINDOW / SIMDGROUPS];
    float sum = 0.0f;
    for (uint i = 0; i < WINDOW / SIMDGROUPS; i++) {
      const uint row = simdgroup_index + i * SIMDGROUPS;
      values[i] = 0.0f;
      if (inside && row < rows) {
        const float value = scale * float(states[origin + size_t(row) * dim + first + lane]);
        values[i] = value - base;
        sum += values[i];
        energy += value * value;
      }
    }
    partial[simdgroup_index][lane] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float mean = 0.0f;
    for (uint s = 0; s < SIMDGROUPS; s++) {
      mean += partial[s][lane];
    }
    mean /= float(rows);
    for (uint i = 0; i < WINDOW / SIMDGROUPS; i++) {
      const uint row = simdgroup_index + i * SIMDGROUPS;
      tile[row][lane] = row < rows ? values[i] - mean : 0.0f;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint d = 0; d < COLUMNS; d++) {
      float left[4];
      float right[4];
      for (uint i = 0; i < 4; i++) {
        left[i] = tile[block_row + 16 * i][d];
        right[i] = tile[block_column + 16 * i][d];
      }
      for (uint i = 0; i < 4; i++) {
        for (uint j = 0; j < 4; j++) {
          block[i][j] += left[i] * right[j];
        }
      }
    }
  }
  energy = simd_sum(energy);
  for (uint i = 0; i < 4; i++) {
    for (uint j = 0; j < 4; j++) {
      gram[(block_row + 16 * i) * WINDOW + block_column + 16 * j] = block[i][j];
    }
  }
  if (lane == 0) {
    partial[simdgroup_index][0] = energy;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup_index == 0) {
    const float trace = simd_sum(gram[entry(lane, lane)] + gram[entry(lane + 32, lane + 32)]);
    const float all_energy = simd_sum(lane < SIMDGROUPS ? partial[lane][0] : 0.0f);
    if (lane == 0) {
      total[0] = trace;
      total[1] = all_energy;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  again = scale == 1.0f && safe_scale(total[0]) != 1.0f;
  if (again) {
    scale = safe_scale(total[0]);
  }
}
const float trace = total[0];
if (!(trace > NO_VARIANCE * total[1])) {
  if (thread_index == 0) {
    entropies[at] = 0.0f;
  }
  return;
}
for (uint i = thread_index; i < WINDOW * WINDOW; i += THREADS) {
  gram[i] /= trace;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

const uint size = rows + rows % 2;
const uint pairs = size / 2;
for (uint sweep = 0; sweep < MOST_SWEEPS; sweep++) {
  float cleared = 0.0f;
  for (uint round = 0; round < size - 1; round++) {
    if (thread_index < pairs) {
      const uint p = first_of_pair(round, thread_index, size);
      const uint q = second_of_pair(round, thread_index, size);
      const float off = gram[entry(p, q)];
      float cosine = 1.0f;
      float sine = 0.0f;
      if (off != 0.0f) {
        const float slope = (gram[entry(q, q)] - gram[entry(p, p)]) / (2.0f * off);
        const float tangent = (slope < 0.0f ? -1.0f : 1.0f) / (fabs(slope) + sqrt(1.0f + slope * slope));
        cosine = 1.0f / sqrt(1.0f + tangent * tangent);
        sine = tangent * cosine;
        gram[entry(p, p)] -= tangent * off;
        gram[entry(q, q)] += tangent * off;
        gram[entry(p, q)] = 0.0f;
        cleared += off * off;
      }
      cosines[thread_index] = cosine;
      sines[thread_index] = sine;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // Two pairs have four entries in common, which no other two pairs use.
    for (uint a = simdgroup_index; a < pairs; a += SIMDGROUPS) {
      if (a < lane && lane < pairs) {
        const uint p = first_of_pair(round, a, size);
        const uint q = second_of_pair(round, a, size);
        const uint u = first_of_pair(round, lane, size);
        const uint v = second_of_pair(round, lane, size);
        const float pu = cosines[a] * gram[entry(p, u)] - sines[a] * gram[entry(q, u)];
        const float pv = cosines[a] * gram[entry(p, v)] - sines[a] * gram[entry(q, v)];
        const float qu = sines[a] * gram[entry(p, u)] + cosines[a] * gram[entry(q, u)];
        const float qv = sines[a] * gram[entry(p, v)] + cosines[a] * gram[entry(q, v)];
        gram[entry(p, u)] = cosines[lane] * pu - sines[lane] * pv;
        gram[entry(p, v)] = sines[lane] * pu + cosines[lane] * pv;
        gram[entry(q, u)] = cosines[lane] * qu - sines[lane] * qv;
        gram[entry(q, v)] = sines[lane] * qu + cosines[lane] * qv;
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  // Only lanes of the first simdgroup have cleared entries.
  if (simdgroup_index == 0) {
    cleared = simd_sum(cleared);
    if (lane == 0) {
      total[0] = cleared;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (total[0] < CLEARED) {
    break;
  }
}

if (simdgroup_index == 0) {
  const float low = lane < rows ? max(gram[entry(lane, lane)], 0.0f) : 0.0f;
  const float high = lane + 32 < rows ? max(gram[entry(lane + 32, lane + 32)], 0.0f) : 0.0f;
  const float sum = simd_sum(low + high);
  const float low_share = low / sum;
  const float high_share = high / sum;
  float entropy = low_share > 0.0f ? -low_share * log(low_share) : 0.0f;
  entropy -= high_share > 0.0f ? high_share * log(high_share) : 0.0f;
  entropy = simd_sum(entropy) / log(float(WINDOW));
  if (lane == 0) {
    entropies[at] = entropy;
  }
}

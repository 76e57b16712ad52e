// Histogram entropy of embedding: entropy in bits of a 100-bin histogram of the last token's values, divided by
// log2(length + 1).
//
// Shapes: states [B, T, D], lengths [B] -> entropies [B]; 0 for a dialogue without tokens or with equal values.
// Launch: one threadgroup of 256 threads per dialogue.
// Memory: D values are read three times, the last two times from the cache; 4 B bytes are written. 100 counters of
// threadgroup memory.
// Order of summation: counts are integers and have no order; then up to 4 bins per lane, in increasing order, and
// simd_sum.
// Bins: [low + i w, low + (i + 1) w), the last one closed. A value on an edge is in the upper bin, which is decided with
// twice the precision of float32; numpy.histogram rounds its edges and may put it into the lower bin.
#include "safe_scale.h"

static constant constexpr uint BINS = 100;
static constant constexpr uint THREADS = 256;
static constant constexpr uint SIMDGROUPS = THREADS / 32;

// A number as the sum of a float and its rounding error.
struct Precise {
  float value;
  float rest;
};

METAL_FUNC Precise difference(float a, float b) {
  Precise result;
  result.value = a - b;
  const float back = result.value - a;
  result.rest = (a - (result.value - back)) - (b + back);
  return result;
}

METAL_FUNC Precise times(Precise x, float factor) {
  Precise result;
  result.value = x.value * factor;
  result.rest = fma(x.rest, factor, fma(x.value, factor, -result.value));
  return result;
}

// Returns whether a value, given as its difference `above` the lowest value, reaches the lower edge of a bin.
METAL_FUNC bool reaches(Precise above, Precise range, uint bin) {
  const Precise place = times(above, float(BINS));
  const Precise edge = times(range, float(bin));
  return (place.value - edge.value) + (place.rest - edge.rest) >= 0.0f;
}

METAL_FUNC uint bin_of(float value, float low, Precise range) {
  const Precise above = difference(value, low);
  uint bin = min(uint(above.value / range.value * float(BINS)), BINS - 1);
  if (!reaches(above, range, bin)) {
    return bin - 1;
  }
  return bin + 1 < BINS && reaches(above, range, bin + 1) ? bin + 1 : bin;
}

// ---- body ----
threadgroup atomic_uint counts[BINS];
threadgroup float lowest[SIMDGROUPS];
threadgroup float highest[SIMDGROUPS];

const uint thread_index = thread_index_in_threadgroup;
const uint lane = thread_index_in_simdgroup;
const uint simdgroup_index = simdgroup_index_in_threadgroup;
const uint dialogue = threadgroup_position_in_grid.x;
const uint tokens = states_shape[1];
const uint dim = states_shape[2];
const uint length = min(uint(max(lengths[dialogue], 0)), tokens);
if (length == 0) {
  if (thread_index == 0) {
    entropies[dialogue] = 0.0f;
  }
  return;
}
const size_t origin = (size_t(dialogue) * tokens + length - 1) * dim;
float low = float(states[origin]);
float high = low;
for (uint d = thread_index; d < dim; d += THREADS) {
  low = min(low, float(states[origin + d]));
  high = max(high, float(states[origin + d]));
}
low = simd_min(low);
high = simd_max(high);
if (lane == 0) {
  lowest[simdgroup_index] = low;
  highest[simdgroup_index] = high;
}
for (uint bin = thread_index; bin < BINS; bin += THREADS) {
  atomic_store_explicit(&counts[bin], 0u, memory_order_relaxed);
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint s = 0; s < SIMDGROUPS; s++) {
  low = min(low, lowest[s]);
  high = max(high, highest[s]);
}
if (low == high) {
  if (thread_index == 0) {
    entropies[dialogue] = 0.0f;
  }
  return;
}
const float spread = 0.5f * high - 0.5f * low;
const float scale = safe_scale(spread);
const Precise range = difference(scale * high, scale * low);
for (uint d = thread_index; d < dim; d += THREADS) {
  const uint bin = bin_of(scale * float(states[origin + d]), scale * low, range);
  atomic_fetch_add_explicit(&counts[bin], 1u, memory_order_relaxed);
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (simdgroup_index == 0) {
  float bits = 0.0f;
  for (uint bin = lane; bin < BINS; bin += 32) {
    const uint count = atomic_load_explicit(&counts[bin], memory_order_relaxed);
    const float share = float(count) / float(dim);
    bits -= count > 0 ? share * log2(share) : 0.0f;
  }
  bits = simd_sum(bits);
  if (lane == 0) {
    entropies[dialogue] = bits / log2(float(length + 1));
  }
}

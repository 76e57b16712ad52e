// Cosines of a tile of QUERIES queries with a block of ROWS bank rows, by one simdgroup of 32 lanes.
//
// Memory: each lane takes every 32nd value, so that a simdgroup reads 32 adjacent values at once; a bank row is read
// once for all QUERIES queries, and the queries, which every block reads again, stay in the cache.
// Order of summation: a lane adds its products in increasing d, then simd_sum adds the lanes. Always in float32.

#include "safe_scale.h"

// 0 for a zero vector: its cosine with anything is 0.
METAL_FUNC float inverse_norm(float squared_norm) {
  return squared_norm > 0.0f ? 1.0f / sqrt(squared_norm) : 0.0f;
}

template <typename P>
METAL_FUNC float squared_norm(P values, size_t start, uint dim, float scale, uint lane) {
  float sum = 0.0f;
  for (uint d = lane; d < dim; d += 32) {
    const float value = scale * float(values[start + d]);
    sum += value * value;
  }
  return simd_sum(sum);
}

// Start of each query of a tile, and the factors that make it a unit vector: its scale, then its inverse norm.
template <int QUERIES>
struct Tile {
  size_t start[QUERIES];
  float scale[QUERIES];
  float inverse[QUERIES];
};

// A tile that extends past the last query repeats that query; the caller drops those results.
template <int QUERIES, typename P>
METAL_FUNC Tile<QUERIES> read_tile(P queries, uint first, uint count, uint dim, uint lane) {
  Tile<QUERIES> tile;
  for (int q = 0; q < QUERIES; q++) {
    tile.start[q] = size_t(min(first + q, count - 1)) * dim;
    float squared = squared_norm(queries, tile.start[q], dim, 1.0f, lane);
    tile.scale[q] = safe_scale(squared);
    if (tile.scale[q] != 1.0f) {
      squared = squared_norm(queries, tile.start[q], dim, tile.scale[q], lane);
    }
    tile.inverse[q] = inverse_norm(squared);
  }
  return tile;
}

template <int QUERIES, int ROWS>
struct Cosines {
  float of[QUERIES][ROWS];
};

// A block that extends past the last row repeats that row; the caller drops those results.
template <int QUERIES, int ROWS, typename Q, typename B>
METAL_FUNC Cosines<QUERIES, ROWS> cosines(
    Q queries, Tile<QUERIES> tile, B bank, uint first, uint count, uint dim, uint lane) {
  Cosines<QUERIES, ROWS> cosine;
  float scale[ROWS];
  float squared[ROWS];
  size_t start[ROWS];
  for (int r = 0; r < ROWS; r++) {
    start[r] = size_t(min(first + r, count - 1)) * dim;
    scale[r] = 1.0f;
  }
  for (bool again = true; again;) {
    again = false;
    for (int r = 0; r < ROWS; r++) {
      squared[r] = 0.0f;
      for (int q = 0; q < QUERIES; q++) {
        cosine.of[q][r] = 0.0f;
      }
    }
    for (uint d = lane; d < dim; d += 32) {
      float row[ROWS];
      for (int r = 0; r < ROWS; r++) {
        row[r] = scale[r] * float(bank[start[r] + d]);
        squared[r] += row[r] * row[r];
      }
      for (int q = 0; q < QUERIES; q++) {
        const float value = tile.scale[q] * float(queries[tile.start[q] + d]);
        for (int r = 0; r < ROWS; r++) {
          cosine.of[q][r] += value * row[r];
        }
      }
    }
    // All lanes have the same sums, so all lanes of a simdgroup repeat the loop together.
    for (int r = 0; r < ROWS; r++) {
      squared[r] = simd_sum(squared[r]);
      if (scale[r] == 1.0f && safe_scale(squared[r]) != 1.0f) {
        scale[r] = safe_scale(squared[r]);
        again = true;
      }
    }
  }
  for (int q = 0; q < QUERIES; q++) {
    for (int r = 0; r < ROWS; r++) {
      cosine.of[q][r] = simd_sum(cosine.of[q][r]) * tile.inverse[q] * inverse_norm(squared[r]);
    }
  }
  return cosine;
}

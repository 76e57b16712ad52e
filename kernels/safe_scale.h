// Returns the power of two by which to multiply values before they are squared again, given the sum of their squares.
// It is 1 for most sums, and otherwise keeps the squares from overflowing or vanishing in float32. NaN counts as too
// large.

static constant constexpr float LARGEST_SQUARES = 1e30f;
static constant constexpr float SMALLEST_SQUARES = 1e-24f;
static constant constexpr float SHRINK = 8.271806125530277e-25f;  // 2^-80
static constant constexpr float ENLARGE = 1208925819614629174706176.0f;  // 2^80

METAL_FUNC float safe_scale(float squares) {
  return squares < SMALLEST_SQUARES ? ENLARGE : squares <= LARGEST_SQUARES ? 1.0f : SHRINK;
}

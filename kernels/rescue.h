// The power of two by which values are multiplied whose squares have this sum: 1 for most; for the few others what keeps
// squares in float32 from overflowing, or so many of them from vanishing that the sum is wrong. NaN counts as too large.

static constant constexpr float LARGEST_SQUARES = 1e30f;
static constant constexpr float SMALLEST_SQUARES = 1e-24f;
static constant constexpr float SHRINK = 8.271806125530277e-25f;  // 2^-80
static constant constexpr float ENLARGE = 1208925819614629174706176.0f;  // 2^80

METAL_FUNC float rescue(float squares) {
  return squares < SMALLEST_SQUARES ? ENLARGE : squares <= LARGEST_SQUARES ? 1.0f : SHRINK;
}

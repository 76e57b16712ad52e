// Functions of integers, of comparisons and of vectors as a whole; part of metal_math.

#define HOST_INTEGER(T)                                                                                       \
  HOST_UNCHECKED inline T max(T x, T y) { return x < y ? y : x; }                                             \
  HOST_UNCHECKED inline T min(T x, T y) { return y < x ? y : x; }                                             \
  HOST_UNCHECKED inline T clamp(T x, T low, T high) { return min(max(x, low), high); }                        \
  HOST_UNCHECKED inline T max3(T x, T y, T z) { return max(max(x, y), z); }                                   \
  HOST_UNCHECKED inline T min3(T x, T y, T z) { return min(min(x, y), z); }                                   \
  inline T abs(T x) { return x < T(0) ? T(-x) : x; }                                                          \
  HOST_UNCHECKED inline T absdiff(T x, T y) { return x < y ? T(y - x) : T(x - y); }                           \
  HOST_UNCHECKED inline T popcount(T x) {                                                                     \
    return T(__builtin_popcountl(static_cast<std::make_unsigned_t<T>>(x)));                                   \
  }                                                                                                           \
  HOST_UNCHECKED inline T clz(T x) {                                                                          \
    return x == 0 ? T(8 * sizeof(T))                                                                          \
                  : T(__builtin_clzl(static_cast<std::make_unsigned_t<T>>(x)) - (64 - 8 * int(sizeof(T))));   \
  }                                                                                                           \
  HOST_UNCHECKED inline T ctz(T x) { return x == 0 ? T(8 * sizeof(T)) : T(__builtin_ctzl(ulong(x))); }        \
  HOST_UNCHECKED inline T rotate(T x, T by) {                                                                 \
    using U = std::make_unsigned_t<T>;                                                                        \
    const unsigned bits = 8 * sizeof(T), left = static_cast<U>(by) % bits;                                    \
    return left == 0 ? x : T(U(U(x) << left) | U(U(x) >> (bits - left)));                                     \
  }                                                                                                           \
  HOST_UNCHECKED inline T reverse_bits(T x) {                                                                 \
    ulong result = 0;                                                                                         \
    for (unsigned i = 0; i < 8 * sizeof(T); ++i) result |= (ulong(x) >> i & 1) << (8 * sizeof(T) - 1 - i);    \
    return T(result);                                                                                         \
  }                                                                                                           \
  HOST_UNCHECKED inline T extract_bits(T x, uint offset, uint bits) {                                         \
    const uint width = 8 * sizeof(T);                                                                         \
    return bits == 0 ? T(0) : T(T(x << (width - offset - bits)) >> (width - bits));                           \
  }                                                                                                           \
  HOST_UNCHECKED inline T mulhi(T x, T y) { return T(static_cast<__int128>(x) * y >> (8 * sizeof(T))); }
HOST_INTEGER(char)
HOST_INTEGER(int8_t)
HOST_INTEGER(uchar)
HOST_INTEGER(short)
HOST_INTEGER(ushort)
HOST_INTEGER(int)
HOST_INTEGER(uint)
HOST_INTEGER(long)
HOST_INTEGER(ulong)
#undef HOST_INTEGER

#define HOST_CLASSIFY(name, formula)                                        \
  HOST_UNCHECKED inline bool name(float x) { return formula; }              \
  HOST_UNCHECKED inline bool name(half v) { return name(float(v)); }        \
  HOST_ACCESS inline bool name(const host_bfloat& v) { return name(float(v)); } \
  template <class T, unsigned N>                                            \
  HOST_UNCHECKED inline vec<bool, N> name(vec<T, N> v) {                    \
    vec<bool, N> result;                                                    \
    for (unsigned i = 0; i < N; ++i) result.raw[i] = name(v.raw[i]);        \
    return result;                                                          \
  }
HOST_CLASSIFY(isnan, x != x)
HOST_CLASSIFY(isinf, __builtin_isinf(x) != 0)
HOST_CLASSIFY(isfinite, __builtin_isfinite(x) != 0)
HOST_CLASSIFY(isnormal, __builtin_isnormal(x) != 0)
HOST_CLASSIFY(signbit, __builtin_signbit(x) != 0)
#undef HOST_CLASSIFY

template <class T>
HOST_UNCHECKED inline T select(T otherwise, T then, bool condition) {
  return condition ? then : otherwise;
}
template <class T, unsigned N>
HOST_UNCHECKED inline vec<T, N> select(vec<T, N> otherwise, vec<T, N> then, vec<bool, N> condition) {
  for (unsigned i = 0; i < N; ++i)
    if (condition.raw[i]) otherwise.raw[i] = then.raw[i];
  return otherwise;
}
template <unsigned N>
HOST_UNCHECKED inline bool any(vec<bool, N> v) {
  for (unsigned i = 0; i < N; ++i)
    if (v.raw[i]) return true;
  return false;
}
template <unsigned N>
HOST_UNCHECKED inline bool all(vec<bool, N> v) {
  return !any(!v);
}

template <class T, unsigned N>
HOST_UNCHECKED inline T dot(vec<T, N> v, vec<T, N> w) {
  T sum = v.raw[0] * w.raw[0];
  for (unsigned i = 1; i < N; ++i) sum += v.raw[i] * w.raw[i];
  return sum;
}
template <class T, unsigned N>
inline T length_squared(vec<T, N> v) {
  return dot(v, v);
}
template <class T, unsigned N>
inline T length(vec<T, N> v) {
  return sqrt(dot(v, v));
}
template <class T, unsigned N>
inline T distance(vec<T, N> v, vec<T, N> w) {
  return length(v - w);
}
template <class T, unsigned N>
inline T distance_squared(vec<T, N> v, vec<T, N> w) {
  return dot(v - w, v - w);
}
template <class T, unsigned N>
inline vec<T, N> normalize(vec<T, N> v) {
  return v / vec<T, N>(length(v));
}
template <class T>
inline vec<T, 3> cross(vec<T, 3> v, vec<T, 3> w) {
  return {v.y * w.z - v.z * w.y, v.z * w.x - v.x * w.z, v.x * w.y - v.y * w.x};
}

#define HOST_OF_SWIZZLE(name)                                             \
  template <class A, class V = host_swizzled<A>>                          \
  HOST_ACCESS inline auto name(const A& v) { return name(V(v)); }
#define HOST_OF_SWIZZLES(name)                                            \
  template <class A, class B, class V = host_swizzled<A, B>>              \
  HOST_ACCESS inline auto name(const A& v, const B& w) { return name(V(v), V(w)); }
HOST_OF_SWIZZLE(length_squared) HOST_OF_SWIZZLE(length) HOST_OF_SWIZZLE(normalize)
HOST_OF_SWIZZLES(dot) HOST_OF_SWIZZLES(distance) HOST_OF_SWIZZLES(distance_squared) HOST_OF_SWIZZLES(cross)
#undef HOST_OF_SWIZZLE
#undef HOST_OF_SWIZZLES

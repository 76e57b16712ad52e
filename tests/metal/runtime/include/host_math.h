// Functions of floating-point numbers; included once for each of Metal's namespaces, hence no guard.
// Overloads, not templates, because Metal's are: what is ambiguous there must not compile here.

#define HOST_MATH_1(name, formula)                                                                             \
  HOST_UNCHECKED inline float name(float x) { return formula; }                                                \
  HOST_UNCHECKED inline half name(half value) { const float x = value; return static_cast<half>(formula); }    \
  HOST_ACCESS inline bfloat name(const host_bfloat& value) { const float x = value; return bfloat(formula); }  \
  template <class T, unsigned N>                                                                               \
  HOST_UNCHECKED inline vec<T, N> name(vec<T, N> v) {                                                          \
    for (unsigned i = 0; i < N; ++i) v.raw[i] = name(v.raw[i]);                                                \
    return v;                                                                                                  \
  }                                                                                                            \
  template <class A, class V = host_swizzled<A>>                                                               \
  HOST_ACCESS inline V name(const A& v) { return name(V(v)); }
#define HOST_MATH_2(name, formula)                                                                             \
  HOST_UNCHECKED inline float name(float x, float y) { return formula; }                                       \
  HOST_UNCHECKED inline half name(half a, half b) { const float x = a, y = b; return static_cast<half>(formula); } \
  HOST_ACCESS inline bfloat name(const host_bfloat& a, const host_bfloat& b) {                                 \
    const float x = a, y = b;                                                                                  \
    return bfloat(formula);                                                                                    \
  }                                                                                                            \
  template <class T, unsigned N>                                                                               \
  HOST_UNCHECKED inline vec<T, N> name(vec<T, N> v, vec<T, N> w) {                                             \
    for (unsigned i = 0; i < N; ++i) v.raw[i] = name(v.raw[i], w.raw[i]);                                      \
    return v;                                                                                                  \
  }                                                                                                            \
  template <class A, class B, class V = host_swizzled<A, B>>                                                   \
  HOST_ACCESS inline V name(const A& v, const B& w) { return name(V(v), V(w)); }
#define HOST_MATH_3(name, formula)                                                                             \
  HOST_UNCHECKED inline float name(float x, float y, float z) { return formula; }                              \
  HOST_UNCHECKED inline half name(half a, half b, half c) {                                                    \
    const float x = a, y = b, z = c;                                                                           \
    return static_cast<half>(formula);                                                                         \
  }                                                                                                            \
  HOST_ACCESS inline bfloat name(const host_bfloat& a, const host_bfloat& b, const host_bfloat& c) {           \
    const float x = a, y = b, z = c;                                                                           \
    return bfloat(formula);                                                                                    \
  }                                                                                                            \
  template <class T, unsigned N>                                                                               \
  HOST_UNCHECKED inline vec<T, N> name(vec<T, N> u, vec<T, N> v, vec<T, N> w) {                                \
    for (unsigned i = 0; i < N; ++i) u.raw[i] = name(u.raw[i], v.raw[i], w.raw[i]);                            \
    return u;                                                                                                  \
  }                                                                                                            \
  template <class A, class B, class C, class V = host_swizzled<A, B, C>>                                       \
  HOST_ACCESS inline V name(const A& u, const B& v, const C& w) { return name(V(u), V(v), V(w)); }

HOST_MATH_1(abs, __builtin_fabsf(x))
HOST_MATH_1(acos, __builtin_acosf(x))
HOST_MATH_1(acosh, __builtin_acoshf(x))
HOST_MATH_1(asin, __builtin_asinf(x))
HOST_MATH_1(asinh, __builtin_asinhf(x))
HOST_MATH_1(atan, __builtin_atanf(x))
HOST_MATH_1(atanh, __builtin_atanhf(x))
HOST_MATH_1(ceil, __builtin_ceilf(x))
HOST_MATH_1(cos, __builtin_cosf(x))
HOST_MATH_1(cosh, __builtin_coshf(x))
HOST_MATH_1(cospi, __builtin_cosf(x * 3.14159265358979323846f))
HOST_MATH_1(exp, __builtin_expf(x))
HOST_MATH_1(exp10, __builtin_exp10f(x))
HOST_MATH_1(exp2, __builtin_exp2f(x))
HOST_MATH_1(fabs, __builtin_fabsf(x))
HOST_MATH_1(floor, __builtin_floorf(x))
HOST_MATH_1(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f))
HOST_MATH_1(log, __builtin_logf(x))
HOST_MATH_1(log10, __builtin_log10f(x))
HOST_MATH_1(log2, __builtin_log2f(x))
HOST_MATH_1(rint, __builtin_rintf(x))
HOST_MATH_1(round, __builtin_roundf(x))
HOST_MATH_1(rsqrt, 1.0f / __builtin_sqrtf(x))
HOST_MATH_1(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.0f), 1.0f))
HOST_MATH_1(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? x : 0.0f)
HOST_MATH_1(sin, __builtin_sinf(x))
HOST_MATH_1(sinh, __builtin_sinhf(x))
HOST_MATH_1(sinpi, __builtin_sinf(x * 3.14159265358979323846f))
HOST_MATH_1(sqrt, __builtin_sqrtf(x))
HOST_MATH_1(tan, __builtin_tanf(x))
HOST_MATH_1(tanh, __builtin_tanhf(x))
HOST_MATH_1(tanpi, __builtin_tanf(x * 3.14159265358979323846f))
HOST_MATH_1(trunc, __builtin_truncf(x))

HOST_MATH_2(atan2, __builtin_atan2f(x, y))
HOST_MATH_2(copysign, __builtin_copysignf(x, y))
HOST_MATH_2(divide, x / y)
HOST_MATH_2(fdim, __builtin_fdimf(x, y))
HOST_MATH_2(fmax, __builtin_fmaxf(x, y))
HOST_MATH_2(fmin, __builtin_fminf(x, y))
HOST_MATH_2(fmod, __builtin_fmodf(x, y))
HOST_MATH_2(max, __builtin_fmaxf(x, y))
HOST_MATH_2(min, __builtin_fminf(x, y))
HOST_MATH_2(pow, __builtin_powf(x, y))
HOST_MATH_2(powr, x < 0.0f ? __builtin_nanf("") : __builtin_powf(x, y))
HOST_MATH_2(step, y < x ? 0.0f : 1.0f)

HOST_MATH_3(clamp, __builtin_fminf(__builtin_fmaxf(x, y), z))
HOST_MATH_3(fma, __builtin_fmaf(x, y, z))
HOST_MATH_3(fmax3, __builtin_fmaxf(__builtin_fmaxf(x, y), z))
HOST_MATH_3(fmin3, __builtin_fminf(__builtin_fminf(x, y), z))
HOST_MATH_3(fmedian3, __builtin_fmaxf(__builtin_fminf(x, y), __builtin_fminf(__builtin_fmaxf(x, y), z)))
HOST_MATH_3(max3, __builtin_fmaxf(__builtin_fmaxf(x, y), z))
HOST_MATH_3(min3, __builtin_fminf(__builtin_fminf(x, y), z))
HOST_MATH_3(median3, __builtin_fmaxf(__builtin_fminf(x, y), __builtin_fminf(__builtin_fmaxf(x, y), z)))
HOST_MATH_3(mix, x + (y - x) * z)

HOST_UNCHECKED inline float nextafter(float x, float y) { return __builtin_nextafterf(x, y); }
HOST_UNCHECKED inline float ldexp(float x, int k) { return __builtin_ldexpf(x, k); }
HOST_UNCHECKED inline half ldexp(half x, int k) { return static_cast<half>(__builtin_ldexpf(x, k)); }
HOST_UNCHECKED inline int ilogb(float x) { return __builtin_ilogbf(x); }
inline float frexp(float x, thread int& exponent) { return __builtin_frexpf(x, &exponent); }
inline float modf(float x, thread float& whole) { return __builtin_modff(x, &whole); }
inline float sincos(float x, thread float& cosine) {
  cosine = __builtin_cosf(x);
  return __builtin_sinf(x);
}

// In place of MLX's header, whose functions are overloaded by address space: the same type where all memory is one.
#pragma once

#include <metal_stdlib>

#include "mlx/backend/metal/kernels/bf16.h"

using namespace metal;

template <typename T>
struct complex_t {
  using value_type = T;
  T real, imag;

  constexpr complex_t() : real(0), imag(0) {}
  HOST_ACCESS constexpr complex_t(const complex_t& other) : real(other.real), imag(other.imag) {}
  HOST_ACCESS constexpr complex_t& operator=(const complex_t& other) {
    real = other.real;
    imag = other.imag;
    return *this;
  }
  constexpr complex_t(T real_part, T imaginary_part) : real(real_part), imag(imaginary_part) {}
  template <typename U, typename = enable_if_t<is_arithmetic_v<U>>>
  constexpr complex_t(U value) : real(static_cast<T>(value)), imag(0) {}
  template <typename U, typename = enable_if_t<!is_same_v<U, T>>>
  constexpr complex_t(complex_t<U> other) : real(static_cast<T>(other.real)), imag(static_cast<T>(other.imag)) {}
  constexpr complex_t(vec<T, 2> v) : real(v.x), imag(v.y) {}
  constexpr operator vec<T, 2>() const { return {real, imag}; }
  template <typename U, typename = enable_if_t<is_arithmetic_v<U>>>
  explicit constexpr operator U() const {
    return static_cast<U>(real);
  }

  friend constexpr complex_t operator-(complex_t a) { return {-a.real, -a.imag}; }
  friend constexpr complex_t operator+(complex_t a, complex_t b) { return {a.real + b.real, a.imag + b.imag}; }
  friend constexpr complex_t operator-(complex_t a, complex_t b) { return {a.real - b.real, a.imag - b.imag}; }
  friend constexpr complex_t operator*(complex_t a, complex_t b) {
    return {a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real};
  }
  friend constexpr complex_t operator/(complex_t a, complex_t b) {
    const T square = b.real * b.real + b.imag * b.imag;
    return {(a.real * b.real + a.imag * b.imag) / square, (a.imag * b.real - a.real * b.imag) / square};
  }
  HOST_ACCESS friend constexpr complex_t& operator+=(complex_t& a, const complex_t& b) { return a = a + b; }
  friend constexpr bool operator==(complex_t a, complex_t b) { return a.real == b.real && a.imag == b.imag; }
  // By the real part, then by the imaginary one, as MLX orders them.
  friend constexpr bool operator>(complex_t a, complex_t b) {
    return a.real > b.real || (a.real == b.real && a.imag > b.imag);
  }
  friend constexpr bool operator>=(complex_t a, complex_t b) { return a > b || a == b; }
  friend constexpr bool operator<(complex_t a, complex_t b) { return b > a; }
  friend constexpr bool operator<=(complex_t a, complex_t b) { return b >= a; }
};

using complex32_t = complex_t<half>;
using complex64_t = complex_t<float>;

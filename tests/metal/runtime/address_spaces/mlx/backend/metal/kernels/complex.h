// In place of MLX's header: clang cannot move classes between address spaces, and only needs the names.
#pragma once

template <typename T>
struct complex_t {
  T real, imag;
};
using complex64_t = complex_t<float>;

// Everything before a kernel's text; precompiled once.
#pragma once

#include <metal_stdlib>

#include "mlx/backend/metal/kernels/utils.h"

#include "machine.h"

namespace host {

// The size of the smallest part of T that a thread may write for itself. Of an unknown struct: a byte.
template <class T>
inline constexpr unsigned long scalar_size = std::is_class_v<T> ? 1 : sizeof(T);
template <class T, unsigned long N>
inline constexpr unsigned long scalar_size<T[N]> = scalar_size<T>;
template <class T, unsigned N>
inline constexpr unsigned long scalar_size<metal::vec<T, N>> = sizeof(T);
template <class T, unsigned long N>
inline constexpr unsigned long scalar_size<metal::array<T, N>> = scalar_size<T>;
template <class T>
inline constexpr unsigned long scalar_size<metal::atomic<T>> = sizeof(T);
template <>
inline constexpr unsigned long scalar_size<bfloat> = sizeof(bfloat);

// A kernel's parameter, which is a pointer to a buffer or a reference into it.
template <class T>
inline T argument(void* buffer) {
  if constexpr (std::is_reference_v<T>)
    return *static_cast<std::remove_reference_t<T>*>(buffer);
  else
    return static_cast<T>(buffer);
}

HOST_UNCHECKED inline uint3 argument(Triple t) { return {t.x, t.y, t.z}; }
inline uint argument(unsigned value) { return value; }

}  // namespace host

"""Correct kernels give NumPy's numbers on the host machine, for each part of Metal that it implements."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest

from tests.metal import why_not
from tests.metal.one_kernel import run
from tests.support.cases import quick_cases, slow_cases

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

INDEX = "uint i = thread_position_in_grid.x;\n"
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
VALUES = np.random.default_rng(0).integers(-9, 10, 64).astype(np.float32)
HALVES = VALUES.reshape(2, 32)  # one row per simdgroup
LANES = np.arange(32)


def in_float(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))


def for_all_lanes(row: npt.ArrayLike) -> np.ndarray:
    """Repeat one number per simdgroup for all its lanes."""
    return np.repeat(row, 32)


def up(values: np.ndarray, by: int, filling: np.ndarray) -> np.ndarray:
    return np.where(by <= LANES, values[:, LANES - by], filling).ravel()


def down(values: np.ndarray, by: int, filling: np.ndarray) -> np.ndarray:
    return np.where(LANES + by < 32, values[:, (LANES + by) % 32], filling).ravel()


INTS = HALVES.astype(np.int32)
SIMD = {
    "simd_sum(a[i])": for_all_lanes(HALVES.sum(1)),
    "simd_product(a[i] * 0.1f + 1.5f)": for_all_lanes((HALVES * np.float32(0.1) + np.float32(1.5)).prod(1)),
    "simd_max(a[i])": for_all_lanes(HALVES.max(1)),
    "simd_min(a[i])": for_all_lanes(HALVES.min(1)),
    "simd_sum(int(a[i]))": for_all_lanes(INTS.sum(1)),
    "simd_and(int(a[i]) | 5)": for_all_lanes(np.bitwise_and.reduce(INTS | 5, axis=1)),
    "simd_or(int(a[i]) & 6)": for_all_lanes(np.bitwise_or.reduce(INTS & 6, axis=1)),
    "simd_xor(int(a[i]))": for_all_lanes(np.bitwise_xor.reduce(INTS, axis=1)),
    "simd_prefix_inclusive_sum(a[i])": HALVES.cumsum(1).ravel(),
    "simd_prefix_exclusive_sum(a[i])": (HALVES.cumsum(1) - HALVES).ravel(),
    "simd_broadcast(a[i], 7)": for_all_lanes(HALVES[:, 7]),
    "simd_broadcast_first(a[i])": for_all_lanes(HALVES[:, 0]),
    "simd_shuffle(a[i], 31 - i % 32)": HALVES[:, ::-1].ravel(),
    "simd_shuffle_xor(a[i], 5)": HALVES[:, LANES ^ 5].ravel(),
    "simd_shuffle_up(a[i], 3)": up(HALVES, 3, HALVES),
    "simd_shuffle_down(a[i], 3)": down(HALVES, 3, HALVES),
    "simd_shuffle_and_fill_up(a[i], 0.5f, 3)": up(HALVES, 3, np.full(32, 0.5)),
    "simd_shuffle_and_fill_down(a[i], 0.5f, 3)": down(HALVES, 3, np.full(32, 0.5)),
    "simd_shuffle_rotate_up(a[i], 3)": np.roll(HALVES, 3, axis=1).ravel(),
    "simd_shuffle_rotate_down(a[i], 3)": np.roll(HALVES, -3, axis=1).ravel(),
    "simd_any(a[i] > 8)": for_all_lanes((HALVES > 8).any(1)),
    "simd_all(a[i] > -10)": for_all_lanes(np.ones(2)),
    "popcount(ulong(simd_ballot(a[i] > 0)))": for_all_lanes((HALVES > 0).sum(1)),
    "simd_is_first()": np.tile(LANES == 0, 2),
    "simd_sum(half(a[i]))": for_all_lanes(HALVES.sum(1)),
    "simd_sum(bfloat(a[i]))": for_all_lanes(HALVES.sum(1)),
    "simd_max(bfloat(a[i]))": for_all_lanes(HALVES.max(1)),
    "simd_sum(float2(a[i], 1)).y": np.full(64, 32),
    "simd_shuffle_down(ulong(a[i] + 9), ushort(1))": down(HALVES + 9, 1, HALVES + 9),
}


def values_of(expressions: Iterable[str], before: str, a: np.ndarray) -> np.ndarray:
    """Return the values of each expression in 64 threads, one row each; one kernel computes all."""
    rows = [f"y[{64 * row} + i] = {expression};\n" for row, expression in enumerate(expressions)]
    return np.array(run(INDEX + before + "".join(rows), mx.array(a), shape=(len(rows), 64)))


def test_simdgroup_functions() -> None:
    for (expression, expected), result in zip(SIMD.items(), values_of(SIMD, "", VALUES), strict=True):
        assert np.allclose(result, expected, rtol=1e-5), expression


def test_the_last_simdgroup_of_a_threadgroup_may_be_smaller() -> None:
    result = run(INDEX + "y[i] = simd_sum(1);", grid=(80, 1, 1), threadgroup=(40, 1, 1), shape=(80,))
    assert np.array_equal(result, np.tile(np.repeat([32, 8], [32, 8]), 2))


X = np.linspace(0.1, 0.9, 64).astype(np.float32)
MATH: dict[str, Callable[[np.ndarray], Any]] = {
    "exp(x)": np.exp,
    "metal::precise::log(x)": np.log,
    "metal::fast::sqrt(x)": np.sqrt,
    "rsqrt(x)": lambda x: 1 / np.sqrt(x),
    "tanh(x) + sin(x) * cos(x)": lambda x: np.tanh(x) + np.sin(x) * np.cos(x),
    "pow(x, 3)": lambda x: x**3,
    "fma(x, x, 1.0f)": lambda x: x * x + 1,
    "clamp(x, 0.3f, 0.6f)": lambda x: np.clip(x, 0.3, 0.6),
    "mix(1.0f, 3.0f, x)": lambda x: 1 + 2 * x,
    "max3(x, 0.4f, 0.5f) - min(x, 0.5f)": lambda x: np.maximum(x, 0.5) - np.minimum(x, 0.5),
    "atan2(x, 0.5f)": lambda x: np.arctan2(x, 0.5),
    "select(x, -x, x > 0.5f)": lambda x: np.where(x > 0.5, -x, x),
    "log1p(x)": np.log1p,
    "metal::isnan(x / 0.0f) ? 1 : metal::isinf(x / 0.0f) ? 2 : 3": lambda x: np.full(64, 2),
    "1e-3 * x": lambda x: 1e-3 * x,
    "fract(5.0f * x) + floor(5.0f * x)": lambda x: 5 * x,
    "as_type<float>(as_type<uint>(x) ^ 0x80000000u)": lambda x: -x,
    "Limits<float>::max > x ? float(half(x)) : 0.0f": lambda x: x.astype(np.float16),
    "dot(float4(x), float4(1, 2, 3, 4))": lambda x: 10 * x,
    "length(float3(x, x, 0)) * 1.0h": lambda x: np.sqrt(2) * x,
    "(float4(x, 1, 2, 3).zw + 1).y": lambda x: np.full(64, 4),
    "(2.0f * float2(x, 1) - float2(0.5f)).x": lambda x: 2 * x - 0.5,
    "float4(float4(x, 1, 2, 3).wzyx).w + float3(float3(x, 1, 2).bgr).z + float2(float2(1, x).yx).x": lambda x: 3 * x,
    "dot(float4(x, 1, 2, 3).zzyx, float4(1, 2, x, 3).xwyz)": lambda x: 10 + x * x,
    "cross(float3(x, 1, 2), float3(x, 1, 2).zxy).x": lambda x: 1 - 2 * x,
    "x * float(exp(bfloat4(bfloat(0)).wz).x + exp(bfloat2(bfloat(0)).y))": lambda x: 2 * x,
    "[=] { float4 v(x, 1, 2, 3); v.xw = v.wz; v.y += v.x; return v.y * v.w; }()": lambda x: np.full(64, 8),
    "float(int2(float2(9.9f * x, 1))[0])": lambda x: np.trunc(9.9 * x),
    "float(half4(half(x)).w)": lambda x: x.astype(np.float16),
    "complex64_t(x, 2).real * (complex64_t(0, 1) * complex64_t(0, 1)).real": lambda x: -x,
    "popcount(i) + clz(i | 1u) + ctz(i | 64u) + abs(int(i) - 5)": lambda _: [
        i.bit_count() + 32 - (i | 1).bit_length() + ((i | 64) & -(i | 64)).bit_length() - 1 + abs(i - 5)
        for i in range(64)
    ],
    "ceildiv(i, 3u) + mulhi(i << 16, 1u << 18)": lambda _: [(i + 2) // 3 + (i << 2) for i in range(64)],
}


def test_mathematics() -> None:
    for (expression, expected), result in zip(MATH.items(), values_of(MATH, "float x = a[i];\n", X), strict=True):
        assert np.allclose(result, expected(X), rtol=1e-5, atol=1e-6), expression


DTYPES = [mx.float32, mx.float16, mx.bfloat16, mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32]


@pytest.mark.parametrize("dtype", quick_cases([*DTYPES, mx.uint64, mx.bool_], mx.float16, mx.bool_), ids=str)
def test_dtypes_in_and_out(dtype: mx.Dtype) -> None:
    a = mx.arange(64).astype(dtype)
    result = run(INDEX + "y[i] = T(a[i] + a[1]) ;", a, dtype=dtype, template=[("T", dtype)])
    assert result.dtype == dtype
    assert mx.array_equal(result, (a + mx.array(1).astype(dtype)).astype(dtype))


def test_half_rounds_at_every_step_and_bfloat_to_nearest() -> None:
    a = mx.array(np.random.default_rng(1).normal(size=64)).astype(mx.float16)
    assert mx.array_equal(run(INDEX + "y[i] = a[i] * a[i] + a[0];", a, dtype=mx.float16), a * a + a[0])
    b = a.astype(mx.bfloat16)
    result = run(INDEX + "T x = a[i]; x += a[0]; x = x * x; y[i] = x;", b, dtype=b.dtype, template=[("T", b.dtype)])
    assert mx.array_equal(result, (b + b[0]) * (b + b[0]))


def test_denormals_are_flushed_to_zero_if_asked_for_but_those_of_half_are_not() -> None:
    flushed: dict[str, Any] = {"machine": {"flush_denormals": True}}
    tiny = np.float32(2) ** -np.arange(110, 174, dtype=np.float32)
    assert np.array_equal(
        run(INDEX + "y[i] = a[i] * 0.5f;", mx.array(tiny), **flushed), np.where(tiny > 2.0**-126, tiny / 2, 0)
    )
    assert np.array_equal(run(INDEX + "y[i] = a[i] == 0;", mx.array(tiny), **flushed), tiny < 2.0**-126)
    half = mx.array(np.arange(64) * 2.0**-24).astype(mx.float16)
    assert mx.array_equal(run(INDEX + "y[i] = a[i] + a[i];", half, dtype=mx.float16, **flushed), half + half)


def test_complex_numbers() -> None:
    a = mx.array(np.exp(1j * np.arange(64)).astype(np.complex64))
    result = run(INDEX + "y[i] = a[i] * a[i];", a, dtype=mx.complex64)
    assert np.allclose(result, np.array(a) ** 2, atol=1e-6)


def test_grids_in_three_dimensions_with_smaller_groups_at_the_edges() -> None:
    source = """uint3 p = thread_position_in_grid, n = threads_per_grid;
uint3 g = threadgroup_position_in_grid, t = thread_position_in_threadgroup, s = threads_per_threadgroup;
uint at = p.x + n.x * (p.y + n.y * p.z);
y[at] = p.x + 100 * p.y + 10000 * p.z;
z[at] = g.x + 10 * g.y + 100 * g.z + 1000 * threadgroups_per_grid.x;
w[at] = s.x * s.y * s.z == threads_per_simdgroup || t.x + s.x * (t.y + s.y * t.z) == thread_index_in_threadgroup;"""
    grid = (7, 5, 3)
    result = run(source, shapes=[(3, 5, 7)] * 3, dtypes=[mx.int32] * 3, grid=grid, threadgroup=(4, 2, 2))
    z, y, x = np.indices((3, 5, 7))
    assert np.array_equal(result[0], x + 100 * y + 10000 * z)
    assert np.array_equal(result[1], x // 4 + 10 * (y // 2) + 100 * (z // 2) + 2000)
    assert np.all(np.array(result[2]) == 1)


def test_the_threadgroup_is_clipped_to_the_grid() -> None:
    result = run(INDEX + "y[i] = threads_per_threadgroup.x;", grid=(5, 1, 1), threadgroup=(256, 1, 1), shape=(5,))
    assert np.array_equal(result, np.full(5, 5))


SQUARE = mx.arange(48).reshape(6, 8).astype(mx.float32)
STRIDED = {
    "transposed": SQUARE.T,
    "every other": SQUARE[:, ::2],
    "backwards": SQUARE[::-1],
    "broadcast": mx.broadcast_to(SQUARE[:, :1], (6, 8)),
    "part": SQUARE[1:4, 2:5],
    "bfloat16": SQUARE.astype(mx.bfloat16).T,
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("row_contiguous", [True, False])
def test_strided_inputs(name: str, row_contiguous: bool) -> None:
    a = STRIDED[name]
    where = "i" if row_contiguous else "elem_to_loc(int(i), a_shape, a_strides, a_ndim)"
    options = {"ensure_row_contiguous": row_contiguous}
    result = run(INDEX + f"y[i] = a[{where}];", a, shape=a.shape, grid=(a.size, 1, 1), options=options)
    assert np.array_equal(result, in_float(a))


def test_shapes_of_small_and_scalar_inputs() -> None:
    result = run(
        "y[0] = a_shape[0] * 100 + a_shape[1] * 10 + a_ndim; y[1] = b + c[1]; y[2] = a_strides[0];",
        *(mx.zeros((3, 2)), 7, mx.array([1.5, 2.5])),
        shape=(3,),
        grid=(1, 1, 1),
    )
    assert result.tolist() == [322, 9.5, 2]


def test_empty_inputs_and_outputs() -> None:
    result = run(INDEX + "y[i] = a_shape[0];", mx.zeros((0, 4)), shapes=[(1,), (0, 3)], grid=(1, 1, 1))
    assert result[0].tolist() == [0]
    assert result[1].shape == (0, 3)


def test_template_arguments() -> None:
    template = [("T", mx.bfloat16), ("N", 3), ("FLAG", True)]
    result = run(INDEX + "T x[N]; x[N - 1] = T(257.0f); y[i] = FLAG ? float(x[2]) : 0.0f;", template=template)
    assert np.all(np.array(result) == 256)


def test_init_value_reaches_what_no_thread_writes() -> None:
    for dtype in (mx.float32, mx.bfloat16, mx.int32, mx.bool_):
        result = run(INDEX + "if (i == 3) y[i] = T(2);", dtype=dtype, init_value=1, template=[("T", dtype)])
        assert mx.array_equal(result, mx.array([1, 1, 1, 2] + [1] * 60).astype(dtype))


TREE = """template <typename T>
T group_sum(T value, threadgroup T* slots, uint i, uint n) {
  slots[i] = value;
  for (uint half_way = n / 2; half_way > 0; half_way /= 2) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (i < half_way) slots[i] += slots[i + half_way];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  return slots[0];
}
"""


@pytest.mark.parametrize("dtype", [mx.float16, *slow_cases(mx.float32, mx.int32)], ids=str)
def test_functions_of_the_header_with_threadgroup_pointers(dtype: mx.Dtype) -> None:
    result = run(
        INDEX + "threadgroup T slots[N];\ny[i] = group_sum<T>(a[i], slots, thread_index_in_threadgroup, N);",
        mx.array(VALUES).astype(dtype),
        header=TREE,
        template=[("T", dtype), ("N", 32)],
        threadgroup=(32, 1, 1),
        dtype=dtype,
    )
    assert np.array_equal(result, for_all_lanes(HALVES.sum(1)))


DECLARATIONS: dict[str, tuple[str, str, Callable[[np.ndarray], Any] | None]] = {
    "scalar": ("threadgroup float s;\nif (t == 0) s = a[i];\n", "s", lambda v: for_all_lanes(v[:, 0])),
    "two in one": ("threadgroup float s[32], r[N];\ns[t] = a[i]; r[t] = 1;\n", "s[31 - t] + r[0]", None),
    "matrix": ("threadgroup float s[4][N / 4];\ns[t / 8][t % 8] = a[i];\n", "s[3 - t / 8][7 - t % 8] + 1", None),
    "over two lines": ("#define M N\nthreadgroup\n  float s[\n  M];  // threadgroup float no[3];\ns[t] = a[i];\n",
                       "s[31 - t] + 1", None),
    "aligned": ("alignas(16) threadgroup float s[N];\ns[t] = a[i];\n",
                "((threadgroup float4*)s)[7 - t / 4][3 - t % 4] + 1", None),
    "vectors": ("threadgroup metal::vec<float, 4> s[N];\ns[t] = a[i];\n", "s[31 - t].z + 1", None),
    "half vectors": ("threadgroup half4 s[N / 4];\ns[t / 4][t % 4] = half(a[i]);\n", "s[7 - t / 4][3 - t % 4] + 1.0h",
                     None),
    "struct": ("threadgroup Pair s[N];\ns[t].value = a[i]; s[t].index = t;\n", "s[31 - t].value + 1", None),
    "reference": ("threadgroup float s[N];\nthreadgroup float (&r)[N] = s;\nr[t] = a[i];\n", "r[31 - t] + 1", None),
    "macro of a pointer": ("threadgroup float s[N];\nSHARED p = s; p[t] = a[i];\n", "s[31 - t] + 1", None),
    "atomic": ("threadgroup atomic_int s;\nif (t == 0) atomic_store_explicit(&s, 0, memory_order_relaxed);\n" + BARRIER
               + "atomic_fetch_add_explicit(&s, int(a[i]), memory_order_relaxed);\n",
               "atomic_load_explicit(&s, memory_order_relaxed)", lambda v: for_all_lanes(v.sum(1))),
}  # fmt: skip


@pytest.mark.parametrize("name", quick_cases(DECLARATIONS, "matrix", "struct", "macro of a pointer"))
def test_declarations_of_threadgroup_memory(name: str) -> None:
    before, after, expected = DECLARATIONS[name]
    source = INDEX + "uint t = thread_index_in_threadgroup;\n" + before + BARRIER + f"y[i] = {after};"
    result = run(
        source,
        mx.array(VALUES),
        template=[("N", 32)],
        header="""struct Pair {
  float value;
  int index;
  float next() const threadgroup;
};
#define SHARED \\
  threadgroup float*
""",
        threadgroup=(32, 1, 1),
    )
    expected = expected or (lambda v: v[:, ::-1].ravel() + 1)
    assert np.array_equal(result, expected(HALVES))


ATOMICS: dict[str, tuple[Callable[[np.ndarray], Any], int]] = {
    "fetch_add": (np.add.reduce, 0),
    "fetch_sub": (lambda v: -v.sum(), 0),
    "fetch_min": (np.min, 99),
    "fetch_max": (np.max, -99),
    "fetch_or": (np.bitwise_or.reduce, 0),
    "fetch_and": (np.bitwise_and.reduce, -1),
    "fetch_xor": (np.bitwise_xor.reduce, 0),
}


@pytest.mark.parametrize("name", quick_cases(ATOMICS, "fetch_min"))
def test_atomics(name: str) -> None:
    expected, start = ATOMICS[name]
    a = VALUES.astype(np.int32)
    result = run(
        INDEX + f"atomic_{name}_explicit(&y[0], a[i], memory_order_relaxed);",
        mx.array(a),
        shape=(1,),
        dtype=mx.int32,
        init_value=start,
        options={"atomic_outputs": True},
        threadgroup=(8, 1, 1),
    )
    assert result.item() == expected(a)


def test_compare_and_exchange() -> None:
    source = (
        INDEX
        + """int seen = atomic_load_explicit(&y[0], memory_order_relaxed);
while (!atomic_compare_exchange_weak_explicit(&y[0], &seen, seen + a[i], memory_order_relaxed, memory_order_relaxed)) {}
atomic_store_explicit(&z[i], 1, memory_order_relaxed);"""
    )
    a = mx.arange(64)
    options = {"atomic_outputs": True}
    result = run(source, a, shapes=[(1,), (64,)], dtypes=[mx.int32] * 2, init_value=0, options=options)
    assert result[0].item() == 2016


ORDERED = {
    "device memory behind its barrier": "y[i] = a[i];\nthreadgroup_barrier(mem_flags::mem_device);\nz[i] = y[63 - i];",
    "simdgroup barrier, own simdgroup": """threadgroup float s[64];
s[i] = a[i];
simdgroup_barrier(mem_flags::mem_threadgroup);
y[i] = 0; z[i] = s[i ^ 1];""",
    "simdgroup barriers around its atomics": """threadgroup atomic_int counts[2];
threadgroup atomic_int& count = counts[i / 32];
if (i % 32 == 0) *(threadgroup int*)&count = 0;
simdgroup_barrier(mem_flags::mem_threadgroup);
atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
simdgroup_barrier(mem_flags::mem_threadgroup);
y[i] = *(threadgroup int*)&count;
threadgroup_barrier(mem_flags::mem_threadgroup);
z[i] = atomic_fetch_add_explicit(&counts[0], 0, memory_order_relaxed);""",
    "both memories": """threadgroup float s[64];
s[i] = a[i]; y[i] = a[i];
threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup);
z[i] = s[63 - i] + y[63 - i];""",
    "neighboring bytes": "threadgroup uchar s[64];\ns[i] = i;\n" + BARRIER + "y[i] = 0; z[i] = s[63 - i];",
    "parts of one word": """threadgroup uint s[16];
((threadgroup uchar*)s)[i] = i;
threadgroup_barrier(mem_flags::mem_threadgroup);
y[i] = 0; z[i] = s[i / 4];""",
}


@pytest.mark.parametrize("name", quick_cases(ORDERED, "both memories", "simdgroup barriers around its atomics"))
def test_accesses_ordered_by_a_barrier_are_no_race(name: str) -> None:
    run(INDEX + ORDERED[name], mx.array(VALUES), shapes=[(64,)] * 2)


def test_under_custom_function_and_grad() -> None:
    @mx.custom_function
    def square(x: mx.array) -> mx.array:
        return run(INDEX + "y[i] = a[i] * a[i];", x)

    @square.vjp
    def square_vjp(primals: Any, cotangent: mx.array, _: mx.array) -> mx.array:
        return 2 * primals * cotangent

    def squares(x: mx.array) -> mx.array:
        output: Any = square(x)
        return output.sum()

    x = mx.array(VALUES)
    assert mx.array_equal(mx.grad(squares)(x), 2 * x)

"""`nearest.metal`, its plain operations and its CPU form against a loop in NumPy's float64."""

from __future__ import annotations

import tracemalloc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal.kernels import build, cosine, nearest
from mlx_personal.kernels.nearest import nearest_cpu, nearest_kernel, nearest_ops
from mlx_personal.runtime.device import device_name
from tests.support import cosine_cases as cases
from tests.support.cases import quick_cases, slow_cases

pytestmark = pytest.mark.metal


def check(queries: np.ndarray, bank: np.ndarray, dtype: mx.Dtype = mx.float32) -> None:
    """Check that all implementations give the smallest distance, and a row that has it up to rounding."""
    a, b = cases.rounded(queries, dtype), cases.rounded(bank, dtype)
    expected = cases.cosine_distances(cases.exact(a), cases.exact(b))
    for implementation in (nearest_kernel, nearest_ops, nearest_cpu):
        distance, index = implementation(a, b)
        assert distance.dtype == mx.float32 and index.dtype == mx.int32
        np.testing.assert_allclose(
            np.array(distance), expected.min(axis=1), rtol=1e-5, atol=1e-6, err_msg=implementation.__name__
        )
        result = np.take_along_axis(expected, np.array(index)[:, None], axis=1)[:, 0]
        np.testing.assert_allclose(result, expected.min(axis=1), atol=1e-6, err_msg=implementation.__name__)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize(("queries", "rows"), quick_cases([(1, 1), (1, 9), (2, 8), (8, 65), (9, 130)], (9, 130)))
def test_any_number_of_queries_and_rows(machine: None, queries: int, rows: int, dtype: mx.Dtype) -> None:
    check(cases.random(queries, 45), cases.random(rows, 45, seed=1), dtype)


@pytest.mark.parametrize("dimensions", [1, 2, 31, 32, 33, 384])
def test_dimensions_that_are_not_a_multiple_of_a_simdgroup(machine: None, dimensions: int) -> None:
    check(cases.random(3, dimensions), cases.random(40, dimensions, seed=1))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("name", cases.adversarial(mx.float32))
def test_adversarial_vectors(machine: None, name: str, dtype: mx.Dtype) -> None:
    check(*cases.adversarial(dtype)[name], dtype)


@pytest.mark.parametrize("rows", [512, *slow_cases(4_100, 65_536)])
def test_large_banks(machine: None, rows: int) -> None:
    bank = cases.random(rows, 6)
    best = [0, rows // 2 + 1, rows - 1]
    for implementation in (nearest_kernel, nearest_ops, nearest_cpu):
        distance, index = implementation(cases.rounded(3 * bank[best]), cases.rounded(bank))
        assert index.tolist() == best
        np.testing.assert_allclose(np.array(distance), 0, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 100, *slow_cases(5000)])
def test_of_equal_rows_the_first_is_returned(machine: None, rows: int) -> None:
    query = cases.rounded(cases.random(1, 20))
    bank = mx.repeat(query, rows, axis=0)
    bank[0] = -bank[0]
    assert nearest_kernel(mx.repeat(query, 2, axis=0), bank)[1].tolist() == [1, 1]


@pytest.mark.skipif(device_name() == "cuda", reason="this test has a kernel in Metal only")
def test_only_vectors_whose_squares_overflow_or_vanish_are_rescaled(machine: None) -> None:
    make_kernel: Any = mx.fast.metal_kernel
    kernel = make_kernel(
        name="scales",
        input_names=["squares"],
        output_names=["scales"],
        header=build.read_source("nearest")[0],
        source="uint i = thread_position_in_grid.x; scales[i] = safe_scale(squares[i]);",
    )
    squares = mx.array([0.0, 1e-30, 1e-20, 1.0, 1e20, 1e35, np.inf])
    (scales,) = kernel(
        inputs=[squares], grid=(7, 1, 1), threadgroup=(7, 1, 1), output_shapes=[(7,)], output_dtypes=[mx.float32]
    )
    assert scales.tolist() == [2.0**80, 2.0**80, 1, 1, 1, 2.0**-80, 2.0**-80]


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("groups", "rows_per_group"), [(6, 2), (8, 2), (3, 4)])
def test_rows_are_divided_evenly_among_groups_and_empty_groups_have_no_result(
    machine: None, groups: int, rows_per_group: int, block: int
) -> None:
    queries, bank = cases.rounded(cases.random(3, 20)), cases.rounded(cases.random(12, 20, seed=1))
    kernel = build.build_kernel("nearest", ("queries", "bank"), ("partial_cosine", "partial_index"))
    result, index = kernel(inputs=[queries, bank], **cases.in_groups(queries, bank, groups, block))
    cosines = 1 - cases.cosine_distances(cases.exact(queries), cases.exact(bank))
    for group in range(groups):
        rows = range(group * rows_per_group, min(group * rows_per_group + rows_per_group, 12))
        best = cosines[:, rows].argmax(axis=1) + rows[0] if rows else np.zeros(3, int)
        assert index[group].tolist() == best.tolist()
        expected = cosines[np.arange(3), best] if rows else -2.0
        np.testing.assert_allclose(np.array(result[group]), expected, rtol=1e-5, atol=1e-6)


def test_distances_are_not_negative(machine: None) -> None:
    bank = cases.rounded(cases.random(30, 17))
    for implementation in (nearest_kernel, nearest_ops, nearest_cpu):
        assert bool((implementation(bank, bank)[0] >= 0).all())


def test_a_cpu_never_holds_all_distances() -> None:
    queries, bank = cases.rounded(cases.random(4096, 4)), cases.rounded(cases.random(16_384, 4))
    tracemalloc.start()
    nearest_cpu(queries, bank)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20 < 4 * 4096 * 16_384


def test_non_contiguous_inputs(machine: None) -> None:
    queries, bank = cases.rounded(cases.random(20, 5)).T[::2], cases.rounded(cases.random(40, 60))[:, 1::3][::-2]
    expected = cases.cosine_distances(cases.exact(queries), cases.exact(bank))
    distance, index = nearest_kernel(queries, bank)
    np.testing.assert_allclose(np.array(distance), expected.min(axis=1), rtol=1e-5)
    assert index.tolist() == expected.argmin(axis=1).tolist()


def test_an_empty_bank_has_an_infinite_distance() -> None:
    distance, index = nearest(mx.ones((2, 3)), mx.zeros((0, 3)))
    assert distance.tolist() == [float("inf")] * 2 and index.tolist() == [-1, -1]


def test_no_queries_give_no_results() -> None:
    distance, index = nearest(mx.zeros((0, 3)), mx.ones((2, 3)))
    assert distance.shape == index.shape == (0,)


@pytest.mark.parametrize(
    ("queries", "bank", "message"),
    [
        (mx.zeros(3), mx.zeros((2, 3)), r"queries must have the shape \[rows, dimensions\], not \[3\]"),
        (mx.zeros((2, 0)), mx.zeros((2, 0)), r"queries must have the shape .*not \[2, 0\]"),
        (mx.zeros((2, 3)), mx.zeros((2, 3, 1)), r"bank must have the shape .*not \[2, 3, 1\]"),
        (mx.zeros((2, 3)), mx.zeros((2, 4)), "bank has 4 dimensions, queries have 3"),
        (mx.zeros((2, 3)), mx.zeros((2, 3), mx.float16), "bank is float16, queries are float32"),
        (mx.zeros((2, 3), mx.int32), mx.zeros((2, 3)), "queries must be float32, float16 or bfloat16, not int32"),
    ],
)
def test_errors_name_the_wrong_argument(queries: mx.array, bank: mx.array, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(queries, bank)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_kernel_is_used_if_there_is_a_gpu(machine: None, monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    monkeypatch.setattr(build, "on_gpu", lambda: on_gpu)
    bank = cases.random(20, 8)
    assert nearest(cases.rounded(bank[4:5]), cases.rounded(bank))[1].item() == 4
    assert build.build_kernel.cache_info().currsize == int(on_gpu)


@pytest.mark.parametrize(("queries", "rows"), [(1, 65_536), (512, 65_536), (65_536, 512), (3, 1)])
def test_partial_results_take_at_most_a_megabyte_more_than_the_results(queries: int, rows: int) -> None:
    shapes = cosine.launch_geometry(mx.zeros((queries, 1)), mx.zeros((rows, 1)))["output_shapes"]
    assert sum(4 * groups * count for groups, count in shapes) <= 8 * queries + (1 << 20)

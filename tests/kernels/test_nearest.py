"""`nearest.metal`, its plain-ops form and its CPU form against a loop in NumPy's float64."""

from __future__ import annotations

import tracemalloc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal.kernels import cosine, launch, nearest
from mlx_personal.kernels.nearest import nearest_cpu, nearest_kernel, nearest_ops
from tests.support import cosine_cases as cases

pytestmark = pytest.mark.metal


def check(queries: np.ndarray, bank: np.ndarray, dtype: mx.Dtype = mx.float32) -> None:
    """Every form gives the least distance, and a row that has it but for rounding."""
    a, b = cases.rounded(queries, dtype), cases.rounded(bank, dtype)
    want = cases.cosine_distances(cases.exact(a), cases.exact(b))
    for form in (nearest_kernel, nearest_ops, nearest_cpu):
        distance, index = form(a, b)
        assert distance.dtype == mx.float32 and index.dtype == mx.int32
        np.testing.assert_allclose(np.array(distance), want.min(axis=1), rtol=1e-5, atol=1e-6, err_msg=form.__name__)
        found = np.take_along_axis(want, np.array(index)[:, None], axis=1)[:, 0]
        np.testing.assert_allclose(found, want.min(axis=1), atol=1e-6, err_msg=form.__name__)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize(("queries", "rows"), [(1, 1), (1, 9), (2, 8), (8, 65), (9, 130)])
def test_any_number_of_queries_and_rows(machine: None, queries: int, rows: int, dtype: Any) -> None:
    check(cases.random(queries, 45), cases.random(rows, 45, seed=1), dtype)


@pytest.mark.parametrize("dimensions", [1, 2, 31, 32, 33, 384])
def test_dimensions_that_are_no_multiple_of_a_simdgroup(machine: None, dimensions: int) -> None:
    check(cases.random(3, dimensions), cases.random(40, dimensions, seed=1))


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("name", cases.adversarial(mx.float32))
def test_adversarial_vectors(machine: None, name: Any, dtype: Any) -> None:
    check(*cases.adversarial(dtype)[name], dtype)


@pytest.mark.parametrize("rows", [512, 65_536])
def test_large_banks(machine: None, rows: int) -> None:
    bank = cases.random(rows, 6)
    best = [0, rows // 2 + 1, rows - 1]
    for form in (nearest_kernel, nearest_ops, nearest_cpu):
        distance, index = form(cases.rounded(3 * bank[best]), cases.rounded(bank))
        assert index.tolist() == best
        np.testing.assert_allclose(np.array(distance), 0, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 100, 5000])
def test_of_equal_rows_the_lowest_is_named(machine: None, rows: int) -> None:
    query = cases.rounded(cases.random(1, 20))
    bank = mx.repeat(query, rows, axis=0)
    bank[0] = -bank[0]
    assert nearest_kernel(mx.repeat(query, 2, axis=0), bank)[1].tolist() == [1, 1]


@pytest.mark.skipif(launch.device_name() == "cuda", reason="a kernel of its own, in Metal only")
def test_only_squares_that_overflow_or_vanish_make_a_vector_be_read_twice(machine: None) -> None:
    kernel = mx.fast.metal_kernel(
        name="scales",
        input_names=["squares"],
        output_names=["scales"],
        header=launch.read_source("nearest")[0],
        source="uint i = thread_position_in_grid.x; scales[i] = rescue(squares[i]);",
    )
    squares = mx.array([0.0, 1e-30, 1e-20, 1.0, 1e20, 1e35, np.inf])
    (scales,) = kernel(
        inputs=[squares], grid=(7, 1, 1), threadgroup=(7, 1, 1), output_shapes=[(7,)], output_dtypes=[mx.float32]
    )
    assert scales.tolist() == [2.0**80, 2.0**80, 1, 1, 1, 2.0**-80, 2.0**-80]


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("groups", "each"), [(6, 2), (8, 2), (3, 4)])
def test_groups_share_the_rows_evenly_and_one_without_a_row_finds_nothing(
    machine: None, groups: int, each: int, block: int
) -> None:
    queries, bank = cases.rounded(cases.random(3, 20)), cases.rounded(cases.random(12, 20, seed=1))
    kernel = launch.build("nearest", ("queries", "bank"), ("partial_cosine", "partial_index"))
    found, index = kernel(inputs=[queries, bank], **cases.in_groups(queries, bank, groups, block))
    cosines = 1 - cases.cosine_distances(cases.exact(queries), cases.exact(bank))
    for group in range(groups):
        rows = range(group * each, min(group * each + each, 12))
        best = cosines[:, rows].argmax(axis=1) + rows[0] if rows else np.zeros(3, int)
        assert index[group].tolist() == best.tolist()
        want = cosines[np.arange(3), best] if rows else -2.0
        np.testing.assert_allclose(np.array(found[group]), want, rtol=1e-5, atol=1e-6)


def test_no_distance_is_below_zero(machine: None) -> None:
    bank = cases.rounded(cases.random(30, 17))
    for form in (nearest_kernel, nearest_ops, nearest_cpu):
        assert form(bank, bank)[0].min().item() >= 0


def test_a_cpu_does_not_hold_all_distances_either() -> None:
    queries, bank = cases.rounded(cases.random(4096, 4)), cases.rounded(cases.random(16_384, 4))
    tracemalloc.start()
    nearest_cpu(queries, bank)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20 < 4 * 4096 * 16_384


def test_inputs_that_are_not_contiguous(machine: None) -> None:
    queries, bank = cases.rounded(cases.random(20, 5)).T[::2], cases.rounded(cases.random(40, 60))[:, 1::3][::-2]
    want = cases.cosine_distances(cases.exact(queries), cases.exact(bank))
    distance, index = nearest_kernel(queries, bank)
    np.testing.assert_allclose(np.array(distance), want.min(axis=1), rtol=1e-5)
    assert index.tolist() == want.argmin(axis=1).tolist()


def test_an_empty_bank_is_infinitely_far() -> None:
    distance, index = nearest(mx.ones((2, 3)), mx.zeros((0, 3)))
    assert distance.tolist() == [float("inf")] * 2 and index.tolist() == [-1, -1]


def test_no_queries_find_nothing() -> None:
    distance, index = nearest(mx.zeros((0, 3)), mx.ones((2, 3)))
    assert distance.shape == index.shape == (0,)


@pytest.mark.parametrize(
    ("queries", "bank", "words"),
    [
        (mx.zeros(3), mx.zeros((2, 3)), r"queries has the shape \[rows, dimensions\], not \[3\]"),
        (mx.zeros((2, 0)), mx.zeros((2, 0)), r"queries has the shape .*not \[2, 0\]"),
        (mx.zeros((2, 3)), mx.zeros((2, 3, 1)), r"bank has the shape .*not \[2, 3, 1\]"),
        (mx.zeros((2, 3)), mx.zeros((2, 4)), "bank has 4 dimensions, queries have 3"),
        (mx.zeros((2, 3)), mx.zeros((2, 3), mx.float16), "bank is float16, queries are float32"),
        (mx.zeros((2, 3), mx.int32), mx.zeros((2, 3)), "queries is float32, float16 or bfloat16, not int32"),
    ],
)
def test_wrong_arguments_are_named(queries: Any, bank: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nearest(queries, bank)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_dispatcher_takes_the_kernel_where_there_is_a_gpu(
    machine: None, monkeypatch: pytest.MonkeyPatch, on_gpu: bool
) -> None:
    monkeypatch.setattr(launch, "on_gpu", lambda: on_gpu)
    bank = cases.random(20, 8)
    assert nearest(cases.rounded(bank[4:5]), cases.rounded(bank))[1].item() == 4
    assert launch.build.cache_info().currsize == int(on_gpu)


@pytest.mark.parametrize(("queries", "rows"), [(1, 65_536), (512, 65_536), (65_536, 512), (3, 1)])
def test_partial_results_take_at_most_a_megabyte_more_than_the_results(queries: int, rows: int) -> None:
    shapes = cosine.geometry(mx.zeros((queries, 1)), mx.zeros((rows, 1)))["output_shapes"]
    assert sum(4 * groups * count for groups, count in shapes) <= 8 * queries + (1 << 20)

"""`in_domain_distance.metal`, its plain operations and its CPU form against a loop in NumPy's float64."""

from __future__ import annotations

import tracemalloc

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal.kernels import build, in_domain_distance
from mlx_personal.kernels.in_domain_distance import (
    in_domain_distance_cpu,
    in_domain_distance_kernel,
    in_domain_distance_ops,
)
from mlx_personal.scoring.dissimilarity import in_domain_dissimilarity_reference
from tests.support import cosine_cases as cases
from tests.support.cases import quick_cases

pytestmark = pytest.mark.metal

IMPLEMENTATIONS = (in_domain_distance_kernel, in_domain_distance_ops, in_domain_distance_cpu)


def check(
    queries: np.ndarray,
    bank: np.ndarray,
    dtype: mx.Dtype = mx.float32,
    query_domains: np.ndarray | None = None,
    bank_domains: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
) -> None:
    """Check that all implementations give the mean over the same domain without the excluded row, and the count."""
    a, b = cases.rounded(queries, dtype), cases.rounded(bank, dtype)
    qd = np.arange(len(queries)) % 3 if query_domains is None else query_domains
    bd = np.arange(len(bank)) // 2 % 3 if bank_domains is None else bank_domains
    excluded_rows = np.full(len(queries), -1) if excluded is None else excluded
    counted = (qd[:, None] == bd) & (excluded_rows[:, None] != np.arange(len(bank)))
    total = np.where(counted, cases.cosine_distances(cases.exact(a), cases.exact(b)), 0).sum(axis=1)
    count = counted.sum(axis=1)
    expected = np.where(count > 0, total / np.maximum(count, 1), 1)
    as_int = [mx.array(x, mx.int32) for x in (qd, bd, excluded_rows)]
    for implementation in IMPLEMENTATIONS:
        mean, rows = implementation(a, as_int[0], b, as_int[1], as_int[2])
        assert mean.dtype == mx.float32 and rows.dtype == mx.int32
        assert rows.tolist() == count.tolist()
        np.testing.assert_allclose(np.array(mean), expected, rtol=1e-5, atol=1e-6, err_msg=implementation.__name__)


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


@pytest.mark.parametrize("rows", quick_cases([512, 4100], 512))
def test_leave_one_out(machine: None, rows: int) -> None:
    bank = cases.random(rows, 8)
    excluded = np.array([0, 1, 7, rows - 1, 33, -1, 2, 3, rows + 5])
    domains = np.arange(rows) % 5
    check(bank[excluded % rows], bank, excluded=excluded, query_domains=domains[excluded % rows], bank_domains=domains)


def test_an_excluded_row_of_another_domain_changes_nothing(machine: None) -> None:
    bank = cases.random(6, 8)
    check(bank[:2], bank, excluded=np.array([0, 1]), query_domains=np.array([1, 1]), bank_domains=np.array([0, 1] * 3))


@pytest.mark.slow
def test_65536_rows(machine: None) -> None:
    bank = cases.random(65_536, 6)
    domains = np.arange(65_536) % 40
    normalized = bank.astype(np.float32).astype(np.float64)
    normalized /= np.linalg.norm(normalized, axis=1, keepdims=True)
    expected = [
        1 - (normalized[0] @ normalized[domains == 7].mean(axis=0)),
        1 - (normalized[1] @ normalized[domains == 39].mean(axis=0)),
    ]
    query_domains, bank_domains = mx.array([7, 39], mx.int32), mx.array(domains, mx.int32)
    for implementation in IMPLEMENTATIONS:
        queries, excluded = cases.rounded(bank[:2]), mx.array([-1, -1], mx.int32)
        mean, count = implementation(queries, query_domains, cases.rounded(bank), bank_domains, excluded)
        assert count.tolist() == [(domains == 7).sum(), (domains == 39).sum()]
        np.testing.assert_allclose(np.array(mean), expected, rtol=1e-5)


def test_a_domain_without_rows_has_the_distance_one(machine: None) -> None:
    check(cases.random(2, 8), cases.random(9, 8), query_domains=np.array([5, -5]), bank_domains=np.arange(9) % 3)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(("groups", "rows_per_group"), [(6, 2), (8, 2), (3, 4)])
def test_rows_are_divided_evenly_among_groups(machine: None, groups: int, rows_per_group: int, block: int) -> None:
    queries, bank = cases.rounded(cases.random(3, 20)), cases.rounded(cases.random(12, 20, seed=1))
    domains, excluded = np.arange(12) % 2, np.array([0, -1, 11])
    kernel = build.build_kernel(
        "in_domain_distance",
        ("queries", "query_domains", "excluded_rows", "bank", "bank_domains"),
        ("partial_distance", "partial_count"),
    )
    as_int = [mx.array(values, mx.int32) for values in (domains[:3], excluded, domains)]
    distance, count = kernel(
        inputs=[queries, *as_int[:2], bank, as_int[2]], **cases.in_groups(queries, bank, groups, block)
    )
    counted = (domains[:3, None] == domains) & (excluded[:, None] != np.arange(12))
    distances = np.where(counted, cases.cosine_distances(cases.exact(queries), cases.exact(bank)), 0)
    for group in range(groups):
        rows = slice(group * rows_per_group, group * rows_per_group + rows_per_group)
        assert count[group].tolist() == counted[:, rows].sum(axis=1).tolist()
        np.testing.assert_allclose(np.array(distance[group]), distances[:, rows].sum(axis=1), rtol=1e-5, atol=1e-6)


def test_means_are_not_negative(machine: None) -> None:
    bank = cases.rounded(np.repeat(cases.random(1, 17), 9, axis=0))
    domains, excluded = mx.zeros(9, mx.int32), mx.full(9, -1, mx.int32)
    for implementation in IMPLEMENTATIONS:
        assert bool((implementation(bank, domains, bank, domains, excluded)[0] >= 0).all())


def test_a_cpu_never_holds_a_weight_for_every_domain_and_row() -> None:
    queries, bank = cases.rounded(cases.random(2000, 4)), cases.rounded(cases.random(16_384, 4))
    domains = mx.arange(2000, dtype=mx.int32)
    tracemalloc.start()
    in_domain_distance_cpu(queries, domains, bank, mx.arange(16_384, dtype=mx.int32) % 2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20 < 4 * 2000 * 16_384


def test_non_contiguous_inputs(machine: None) -> None:
    queries, bank = cases.rounded(cases.random(20, 6)).T[::2], cases.rounded(cases.random(40, 60))[:, 1::3][::-2]
    domains = mx.array(np.arange(60) % 4, mx.int32)
    expected = cases.cosine_distances(cases.exact(queries), cases.exact(bank))
    same = np.array(domains[:6:2])[:, None] == np.array(domains[10:50:2])
    mean, count = in_domain_distance_kernel(
        queries, domains[:6:2], bank, domains[10:50:2], mx.array([-1, 9, -1, 9, -1], mx.int32)[::2]
    )
    assert count.tolist() == same.sum(axis=1).tolist()
    np.testing.assert_allclose(np.array(mean), (expected * same).sum(axis=1) / same.sum(axis=1), rtol=1e-5)


def test_the_clipped_mean_is_the_in_domain_dissimilarity() -> None:
    bank, query = cases.random(9, 8), cases.random(1, 8, seed=1)
    domain = mx.zeros(9, mx.int32)
    mean, _ = in_domain_distance(cases.rounded(query), domain[:1], cases.rounded(bank), domain)
    assert np.clip(mean.item(), 0, 1) == pytest.approx(
        in_domain_dissimilarity_reference(query[0], list(bank)), rel=1e-5
    )


def test_an_empty_bank_gives_the_distance_one() -> None:
    mean, count = in_domain_distance(mx.ones((2, 3)), mx.zeros(2, mx.int32), mx.zeros((0, 3)), mx.zeros(0, mx.int32))
    assert mean.tolist() == [1, 1] and count.tolist() == [0, 0]


def test_no_queries_give_no_distances() -> None:
    mean, count = in_domain_distance(mx.zeros((0, 3)), mx.zeros(0, mx.int32), mx.ones((2, 3)), mx.zeros(2, mx.int32))
    assert mean.shape == count.shape == (0,)


ZEROS = mx.zeros(2, mx.int32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (mx.zeros(3), ZEROS, mx.zeros((2, 3)), ZEROS),
            r"queries must have the shape \[rows, dimensions\], not \[3\]",
        ),
        ((mx.zeros((2, 3)), ZEROS, mx.zeros((2, 4)), ZEROS), "bank has 4 dimensions, queries have 3"),
        (
            (mx.zeros((2, 3)), ZEROS, mx.zeros((2, 3), mx.bfloat16), ZEROS),
            "bank is bfloat16, queries are float32",
        ),
        (
            (mx.zeros((2, 3)), ZEROS[:1], mx.zeros((2, 3)), ZEROS),
            r"query_domains must have the shape \[2\], not \[1\]",
        ),
        ((mx.zeros((2, 3)), ZEROS, mx.zeros((2, 3)), mx.zeros(2)), "bank_domains must be int32, not float32"),
        (
            (mx.zeros((2, 3)), ZEROS, mx.zeros((2, 3)), ZEROS, ZEROS[None]),
            r"excluded_rows must have the shape \[2\], not \[1, 2\]",
        ),
    ],
)
def test_errors_name_the_wrong_argument(arguments: tuple[mx.array, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        in_domain_distance(*arguments)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_kernel_is_used_if_there_is_a_gpu(machine: None, monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    monkeypatch.setattr(build, "on_gpu", lambda: on_gpu)
    bank = mx.eye(4)
    mean, count = in_domain_distance(bank[:1], mx.zeros(1, mx.int32), bank, mx.zeros(4, mx.int32))
    assert (mean.item(), count.item()) == (0.75, 4)
    assert build.build_kernel.cache_info().currsize == int(on_gpu)

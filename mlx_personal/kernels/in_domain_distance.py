"""In-domain cosine distance: the mean of 1 - cos from each query to the rows of the bank that have its domain.

This is IDD before clipping, for a bank of vectors of any norm. It is for whole batches, such as an import, a change of
the embedder, or leave-one-out scores; a stream of dialogues uses a running sum per domain instead
(`mlx_personal.scoring.dissimilarity`).

References:
    [Qin24 §3.2]
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from . import build, cosine
from .checks import check_integers, check_queries


def in_domain_distance(
    queries: mx.array,
    query_domains: mx.array,
    bank: mx.array,
    bank_domains: mx.array,
    excluded_rows: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Compute the mean cosine distance of each query to the rows of its domain.

    A zero vector has the distance 1 to everything; values below 1.2e-38 may count as 0.

    Args:
        queries: [B, D], float32, float16 or bfloat16, finite, with any norm.
        query_domains: int32 [B].
        bank: [R, D], of the queries' dtype; R may be 0.
        bank_domains: int32 [R].
        excluded_rows: int32 [B], a row of the bank to leave out for each query, such as the query itself; -1 for none.
            None excludes no rows.

    Returns:
        The means, float32 [B] in 0..2, with 1 for a domain without rows; and the numbers of rows, int32 [B].

    Raises:
        ValueError: If a shape or dtype is wrong; names the argument.
    """
    check_queries(queries, bank)
    check_integers("query_domains", query_domains, len(queries))
    check_integers("bank_domains", bank_domains, len(bank))
    if excluded_rows is not None:
        check_integers("excluded_rows", excluded_rows, len(queries))
    if len(queries) == 0 or len(bank) == 0:
        return mx.ones(len(queries)), mx.zeros(len(queries), mx.int32)
    implementation = in_domain_distance_kernel if build.on_gpu() else in_domain_distance_cpu
    return implementation(queries, query_domains, bank, bank_domains, excluded_rows)


def in_domain_distance_kernel(
    queries: mx.array,
    query_domains: mx.array,
    bank: mx.array,
    bank_domains: mx.array,
    excluded_rows: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Compute `in_domain_distance` with its kernel; the arguments are already checked, and B and R are above 0."""
    excluded_rows = _exclude_nothing(queries) if excluded_rows is None else excluded_rows
    kernel = build.build_kernel(
        "in_domain_distance",
        ("queries", "query_domains", "excluded_rows", "bank", "bank_domains"),
        ("partial_distance", "partial_count"),
    )
    distance, count = kernel(
        inputs=[queries, query_domains, excluded_rows, bank, bank_domains], **cosine.launch_geometry(queries, bank)
    )
    distance, count = distance.sum(axis=0), count.sum(axis=0)
    return mx.where(count > 0, mx.maximum(distance / mx.maximum(count, 1), 0), 1), count


def in_domain_distance_ops(
    queries: mx.array,
    query_domains: mx.array,
    bank: mx.array,
    bank_domains: mx.array,
    excluded_rows: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Compute `in_domain_distance` from the whole matrix of distances: the reference."""
    excluded_rows = _exclude_nothing(queries) if excluded_rows is None else excluded_rows
    distances = 1 - cosine.normalize(queries) @ cosine.normalize(bank).T
    same_domain = query_domains[:, None] == bank_domains[None]
    counted = same_domain & (excluded_rows[:, None] != mx.arange(len(bank))[None])
    count = counted.sum(axis=1).astype(mx.int32)
    mean = mx.where(counted, distances, 0).sum(axis=1) / mx.maximum(count, 1)
    return mx.where(count > 0, mx.maximum(mean, 0), 1), count


def in_domain_distance_cpu(
    queries: mx.array,
    query_domains: mx.array,
    bank: mx.array,
    bank_domains: mx.array,
    excluded_rows: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Compute `in_domain_distance` in NumPy, whose norms are several times faster on a CPU than MLX's.

    A mean of cosines is one product with the sum of the domain's unit vectors, so a bank costs one product per domain
    instead of one per query. The excluded rows are subtracted again.
    """
    labels = np.array(query_domains).tolist()
    domain_index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    domains = np.array(list(domain_index), np.int32)
    domain_of_query = np.array([domain_index[label] for label in labels])
    row_domains = np.array(bank_domains)
    sums = np.zeros((cosine.padded_row_count(len(domains)), bank.shape[1]))
    counts = np.zeros(len(domains), int)
    for start, rows, inverse_norms in cosine.bank_chunks(bank, len(domains)):
        is_member = row_domains[start : start + len(rows)] == domains[:, None]
        weights = np.zeros((len(sums), len(rows)), np.float32)
        weights[: len(domains)] = is_member * inverse_norms
        sums += weights @ rows
        counts += np.count_nonzero(is_member, axis=1)
    normalized = cosine.normalize_on_cpu(queries).astype(np.float64)
    cosines, counts = (normalized * sums[domain_of_query]).sum(axis=1), counts[domain_of_query]
    if excluded_rows is not None:
        excluded = np.array(excluded_rows)
        in_bank = np.flatnonzero((excluded >= 0) & (excluded < len(bank)))
        # Queries whose excluded row has their own domain, so that the sums contain it.
        affected = in_bank[row_domains[excluded[in_bank]] == domains[domain_of_query[in_bank]]]
        excluded_vectors = cosine.normalize_on_cpu(bank[mx.array(excluded[affected])]).astype(np.float64)
        cosines[affected] -= (normalized[affected] * excluded_vectors).sum(axis=1)
        counts[affected] -= 1
    mean = np.where(counts > 0, (1 - cosines / np.maximum(counts, 1)).clip(min=0), 1)
    return mx.array(mean.astype(np.float32)), mx.array(counts.astype(np.int32))


def _exclude_nothing(queries: mx.array) -> mx.array:
    return mx.full(len(queries), -1, mx.int32)

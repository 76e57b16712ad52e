"""In-domain cosine distance: the mean of 1 - cos from each query to the bank's rows of its own domain.

This is IDD (paper 1, 3.2) before it is clipped, over a bank whose vectors need no unit norm. A stream of dialogues is
served by a running sum a domain instead (`mlx_personal.scoring.dissimilarity`); this is for whole batches: an import,
rescoring after a change of embedder, leave-one-out.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from . import cosine, launch


def in_domain_distance(
    queries: mx.array,
    query_domains: mx.array,
    bank: mx.array,
    bank_domains: mx.array,
    own: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """Mean cosine distance to the rows of the same domain, float32 [B], 0..2, and how many they are, int32 [B].

    The mean is 1 where there are none. A zero vector has the distance 1 to everything; values below 1.2e-38 may count
    as 0.

    Args:
        queries: [B, D], float32, float16 or bfloat16, finite; any norm.
        query_domains: int32 [B].
        bank: [R, D] of the queries' dtype; R may be 0.
        bank_domains: int32 [R].
        own: int32 [B], the row of the bank that a query is, which is left out; -1 for none. None: none is in the bank.

    ValueError naming the argument whose shape or dtype is another.
    """
    cosine.check(queries, bank)
    launch.check_integers("query_domains", query_domains, len(queries))
    launch.check_integers("bank_domains", bank_domains, len(bank))
    if own is not None:
        launch.check_integers("own", own, len(queries))
    if len(queries) == 0 or len(bank) == 0:
        return mx.ones(len(queries)), mx.zeros(len(queries), mx.int32)
    form = in_domain_distance_kernel if launch.on_gpu() else in_domain_distance_cpu
    return form(queries, query_domains, bank, bank_domains, own)


def in_domain_distance_kernel(
    queries: mx.array,
    query_domains: mx.array,
    bank: mx.array,
    bank_domains: mx.array,
    own: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """The same by `in_domain_distance.metal`; arguments as above, checked, B and R above 0."""
    own = _nothing_left_out(queries) if own is None else own
    kernel = launch.build(
        "in_domain_distance",
        ("queries", "query_domains", "own", "bank", "bank_domains"),
        ("partial_distance", "partial_count"),
    )
    distance, count = kernel(inputs=[queries, query_domains, own, bank, bank_domains], **cosine.geometry(queries, bank))
    distance, count = distance.sum(axis=0), count.sum(axis=0)
    return mx.where(count > 0, mx.maximum(distance / mx.maximum(count, 1), 0), 1), count


def in_domain_distance_ops(
    queries: mx.array,
    query_domains: mx.array,
    bank: mx.array,
    bank_domains: mx.array,
    own: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """The definition in plain ops, with the whole matrix of distances: what the other forms must equal."""
    own = _nothing_left_out(queries) if own is None else own
    distances = 1 - cosine.unit(queries) @ cosine.unit(bank).T
    same = query_domains[:, None] == bank_domains[None]
    counted = same & (own[:, None] != mx.arange(len(bank))[None])
    count = counted.sum(axis=1).astype(mx.int32)
    mean = mx.where(counted, distances, 0).sum(axis=1) / mx.maximum(count, 1)
    return mx.where(count > 0, mx.maximum(mean, 0), 1), count


def in_domain_distance_cpu(
    queries: mx.array,
    query_domains: mx.array,
    bank: mx.array,
    bank_domains: mx.array,
    own: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """The same in NumPy, whose norms are several times faster on a CPU than MLX's.

    A mean of cosines is one product with the sum of the domain's unit vectors, so a bank costs a product a domain and
    not one a query. The row that a query is itself is taken out again.
    """
    labels = np.array(query_domains).tolist()
    place = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    domains, which = np.array(list(place), np.int32), np.array([place[label] for label in labels])
    row_domains = np.array(bank_domains)
    sums = np.zeros((cosine.product_rows(len(domains)), bank.shape[1]))
    counts = np.zeros(len(domains), int)
    for start, rows, inverse in cosine.chunks(bank, len(domains)):
        mine = row_domains[start : start + len(rows)] == domains[:, None]
        weights = np.zeros((len(sums), len(rows)), np.float32)
        weights[: len(domains)] = mine * inverse
        sums += weights @ rows
        counts += np.count_nonzero(mine, axis=1)
    unit = cosine.unit_rows(queries).astype(np.float64)
    cosines, counts = (unit * sums[which]).sum(axis=1), counts[which]
    if own is not None:
        rows_own = np.array(own)
        inside = np.flatnonzero((rows_own >= 0) & (rows_own < len(bank)))
        mine = inside[row_domains[rows_own[inside]] == domains[which[inside]]]
        itself = cosine.unit_rows(bank[mx.array(rows_own[mine])]).astype(np.float64)
        cosines[mine] -= (unit[mine] * itself).sum(axis=1)
        counts[mine] -= 1
    mean = np.where(counts > 0, (1 - cosines / np.maximum(counts, 1)).clip(min=0), 1)
    return mx.array(mean.astype(np.float32)), mx.array(counts.astype(np.int32))


def _nothing_left_out(queries: mx.array) -> mx.array:
    return mx.full(len(queries), -1, mx.int32)

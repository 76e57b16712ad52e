"""Use the scoring kernels alone, on arrays of any MLX project: entropies, nearest neighbors, in-domain distances.

    python examples/scoring_kernels.py

On a GPU these are custom Metal (or CUDA) kernels, on a CPU equivalent MLX and NumPy operations.
"""

from __future__ import annotations

# Before mlx.core: on Linux, importing mlx_personal loads a tuned BLAS.
# isort: off
from mlx_personal.kernels import in_domain_distance, nearest, spectral_entropy
import mlx.core as mx
# isort: on


def main() -> None:
    """Score random token states and embeddings, and print the results."""
    mx.random.seed(0)

    # Hidden states of 4 texts of up to 100 tokens: varied, then one token repeated.
    states = mx.random.normal((4, 100, 64))
    states[3] = mx.broadcast_to(states[3, :1], (100, 64))
    lengths = mx.array([100, 50, 20, 100], mx.int32)
    print("entropy of embedding:", [round(value, 3) for value in spectral_entropy(states, lengths).tolist()])

    # A bank of 1,000 unit vectors, and 3 queries of which the first is in it.
    bank = mx.random.normal((1000, 64))
    queries = mx.concatenate([bank[:1], mx.random.normal((2, 64))])
    distances, rows = nearest(queries, bank)
    print("nearest neighbors:", rows.tolist(), "at cosine distance", [round(value, 3) for value in distances.tolist()])

    # Mean distance to the bank's vectors of the query's own domain.
    domains = mx.array([index % 5 for index in range(1000)], mx.int32)
    means, counts = in_domain_distance(queries, mx.array([0, 1, 2], mx.int32), bank, domains)
    print("in-domain dissimilarity:", [round(value, 3) for value in means.tolist()], "over", counts.tolist(), "vectors")


if __name__ == "__main__":
    main()

"""Measurements that anyone can repeat: `python -m benchmarks.NAME` in the root of a clone; README.md lists them."""

import os

CHOSEN_THREADS = os.environ.get("OPENBLAS_NUM_THREADS")

# NumPy, MLX and torch each bring threads of their own, which go on waiting for work for a while and so take the cores
# from whichever library is measured next: products took 100 times as long on two threads each as on one (2 cores).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mlx_personal  # noqa: E402, F401 - before mlx.core, so that its BLAS comes first

"""Measurements that anyone can repeat: run `python -m benchmarks.NAME` in the root of a clone."""

import os

CHOSEN_THREADS = os.environ.get("OPENBLAS_NUM_THREADS")

# NumPy, MLX and torch each start threads of their own, which wait actively for a while and so take the cores from the
# library that is measured next: matrix products took 100 times as long on two threads each as on one (2 cores).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mlx_personal  # noqa: E402, F401 - before mlx.core, so that its BLAS is loaded first

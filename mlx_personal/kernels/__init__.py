"""Scoring kernels: launchers of the Metal sources, which also run as CUDA, and references in plain MLX operations.

Each kernel is a `.metal` file and a module of the same name. `nearest`, for example, has these functions: `nearest`
checks its arguments and chooses an implementation; `nearest_kernel` launches the kernel; `nearest_ops` is the
reference; `nearest_cpu` is a NumPy implementation, for kernels where that is faster on a CPU.

Modules:
    spectral_entropy: Spectral entropy of embedding, the default EOE.
    histogram_entropy: Histogram entropy of embedding, the EOE of the authors' script.
    in_domain_distance: Mean cosine distance to the rows of the same domain, which is IDD before clipping.
    nearest: Smallest cosine distance, and the row that has it.
    cosine: Launch geometry and normalization for the two kernels of cosine distances.
    build: Build kernels from their sources.
    checks: Check the shapes and dtypes of arguments.
    safe_scale: Scale vectors whose squares would overflow or vanish in float32.
"""

from __future__ import annotations

from .histogram_entropy import histogram_entropy
from .in_domain_distance import in_domain_distance
from .nearest import nearest
from .spectral_entropy import spectral_entropy

__all__ = ["histogram_entropy", "in_domain_distance", "nearest", "spectral_entropy"]

"""The scoring kernels: Metal sources (also run as CUDA), their launchers, and the same in plain ops.

Each kernel is a `.metal` file and a module of its name, whose functions are, for `nearest`: `nearest`, which chooses;
`nearest_kernel`, which launches; `nearest_ops`, the reference. Installed as `mlx_personal.kernels`.
"""

from __future__ import annotations

from .histogram_entropy import histogram_entropy
from .in_domain_distance import in_domain_distance
from .nearest import nearest
from .spectral_entropy import spectral_entropy

__all__ = ["histogram_entropy", "in_domain_distance", "nearest", "spectral_entropy"]

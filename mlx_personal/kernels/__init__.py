"""The scoring kernels: launchers of the Metal sources, which also run as CUDA, and the same in plain operations.

Each kernel is a `.metal` file and a module of the same name. Its functions are, for example: `nearest`, which checks
its arguments and chooses an implementation; `nearest_kernel`, which launches the kernel; `nearest_ops`, the reference;
and where it is faster on a CPU `nearest_cpu`, in NumPy.

Modules:
    spectral_entropy: Spectral entropy of embedding, the default EOE.
    histogram_entropy: Histogram entropy of embedding, the EOE of the authors' script.
    in_domain_distance: Mean cosine distance to the rows of the same domain, which is IDD before clipping.
    nearest: Smallest cosine distance, and the row that has it.
    cosine: What the two kernels of cosine distances have in common.
    launch: Build kernels from their sources, and check arguments.
    rescue: Rescale vectors whose squares would overflow or vanish, for NumPy.
"""

from __future__ import annotations

from .histogram_entropy import histogram_entropy
from .in_domain_distance import in_domain_distance
from .nearest import nearest
from .spectral_entropy import spectral_entropy

__all__ = ["histogram_entropy", "in_domain_distance", "nearest", "spectral_entropy"]

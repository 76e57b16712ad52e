"""Whether the kernels pass their tests on this machine's GPU: the Metal text on Apple's, the CUDA form on NVIDIA's.

    python -m benchmarks.check_kernels

The same tests as on the strict machine, against NumPy in float64. Needs the extra `test` and MLX's build for the GPU
(for NVIDIA `pip install 'mlx[cuda13]'`); any argument goes to pytest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlx_personal.runtime.device import chip_name, device_name

TESTS = Path(__file__).parent.parent / "tests" / "kernels"


def main() -> int:
    """pytest's exit status; 2 where there is no GPU."""
    if device_name() == "cpu":
        print("MLX computes on the CPU here; the strict machine runs the tests: pytest tests/kernels", file=sys.stderr)
        return 2
    print(f"{device_name()} on {chip_name()}")
    return int(pytest.main([str(TESTS), "-q", *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())

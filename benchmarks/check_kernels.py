"""Run the tests of the kernels on this machine's GPU: the Metal source on Apple's, the CUDA source on NVIDIA's.

    python -m benchmarks.check_kernels

They are the same tests as in continuous integration, against NumPy in float64. They need the extra `test` and MLX's
build for the GPU (for NVIDIA `pip install 'mlx[cuda13]'`). All arguments are passed to pytest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlx_personal.runtime.device import chip_name, device_name

TESTS = Path(__file__).parent.parent / "tests" / "kernels"


def main() -> int:
    """Return pytest's exit code; 2 if there is no GPU."""
    if device_name() == "cpu":
        print("MLX computes on the CPU here; run `pytest tests/kernels` instead", file=sys.stderr)
        return 2
    print(f"{device_name()} on {chip_name()}")
    return int(pytest.main([str(TESTS), "-q", *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())

"""Where the kernels run in these tests: on the GPU of a Mac or of NVIDIA's, else on the strict machine of `metal`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mlx_personal.kernels import launch
from tests import metal

# Before MLX multiplies anything: with TF32 the plain ops would have three digits on some GPUs.
os.environ.setdefault("MLX_ENABLE_TF32", "0")


@pytest.fixture
def machine() -> Iterator[None]:
    """Runs what the launchers launch; kernels made here are not kept."""
    launch.build.cache_clear()
    if launch.on_gpu():
        yield
    elif metal.why_not():
        pytest.skip(metal.why_not())
    else:
        with metal.on_host():
            yield
    launch.build.cache_clear()

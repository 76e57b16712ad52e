"""The kernels run on a GPU in these tests, if there is one, else on the host machine of `tests/metal`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from mlx_personal.kernels import build
from tests import metal

# Set before MLX multiplies anything: with TF32 the plain operations have three digits on some GPUs.
os.environ.setdefault("MLX_ENABLE_TF32", "0")


@pytest.fixture
def machine() -> Iterator[None]:
    """Run launched kernels; kernels that are built here are not cached."""
    build.build_kernel.cache_clear()
    reason = metal.why_not()
    if build.on_gpu():
        yield
    elif reason is not None:
        pytest.skip(reason)
    else:
        with metal.on_host():
            yield
    build.build_kernel.cache_clear()

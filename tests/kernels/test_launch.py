"""From a `.metal` file to a kernel."""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx
import pytest

from mlx_personal.kernels import launch
from tests.support.paths import KERNEL_SOURCES

KERNELS = sorted(path.stem for path in KERNEL_SOURCES.glob("*.metal"))


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_says_its_shapes_memory_and_order(name: Any) -> None:
    text = (KERNEL_SOURCES / f"{name}.metal").read_text()
    opening = re.match(r"(//.*\n)+", text)[0]
    for heading in ("Shapes:", "Launch:", "Memory:", "Order"):
        assert heading in opening


@pytest.mark.parametrize("name", KERNELS)
def test_a_source_has_no_comments_left_and_its_includes_filled_in(name: Any) -> None:
    header, body = launch.read_source(name)
    assert "//" not in header + body and "#include" not in header and body.count("{") == body.count("}") > 0


def test_a_kernel_is_built_once() -> None:
    launch.build.cache_clear()
    names = (("queries", "bank"), ("partial_cosine", "partial_index"))
    assert launch.build("nearest", *names) is launch.build("nearest", *names)
    launch.build.cache_clear()


@pytest.mark.parametrize("device", ["metal", "cuda", "cpu"])
def test_the_device_decides_which_kernel_is_made(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    made = {}
    monkeypatch.setattr(launch, "device_name", lambda: device)
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda **keywords: made.update(kind="metal", **keywords))
    monkeypatch.setattr(mx.fast, "cuda_kernel", lambda **keywords: made.update(kind="cuda", **keywords))
    launch.build.cache_clear()
    launch.build("nearest", ("queries", "bank"), ("partial_cosine", "partial_index"))
    launch.build.cache_clear()
    assert made["kind"] == ("cuda" if device == "cuda" else "metal")
    assert ("__syncthreads" in made["header"]) == ("__shared__" in made["source"]) == (device == "cuda")
    assert launch.on_gpu() == (device != "cpu")

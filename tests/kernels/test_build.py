"""Building kernels from `.metal` files, which are found in a source tree and in an installation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_personal.kernels import build
from tests.support.paths import KERNEL_SOURCES, ROOT

KERNELS = sorted(path.stem for path in KERNEL_SOURCES.glob("*.metal"))


@pytest.mark.parametrize("name", KERNELS)
def test_every_source_states_its_shapes_launch_memory_and_order(name: str) -> None:
    text = (KERNEL_SOURCES / f"{name}.metal").read_text()
    opening = re.match(r"(//.*\n)+", text)
    assert opening is not None
    for heading in ("Shapes:", "Launch:", "Memory:", "Order"):
        assert heading in opening[0]


@pytest.mark.parametrize("name", KERNELS)
def test_comments_are_removed_and_includes_replaced(name: str) -> None:
    header, body = build.read_source(name)
    assert "//" not in header + body and "#include" not in header and body.count("{") == body.count("}") > 0


def test_a_kernel_is_built_once() -> None:
    build.build_kernel.cache_clear()
    names = (("queries", "bank"), ("partial_cosine", "partial_index"))
    assert build.build_kernel("nearest", *names) is build.build_kernel("nearest", *names)
    build.build_kernel.cache_clear()


@pytest.mark.parametrize("device", ["metal", "cuda", "cpu"])
def test_the_device_determines_the_kind_of_kernel(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr(build, "device_name", lambda: device)
    monkeypatch.setattr(mx.fast, "metal_kernel", lambda **kwargs: made.update(kind="metal", **kwargs))
    monkeypatch.setattr(mx.fast, "cuda_kernel", lambda **kwargs: made.update(kind="cuda", **kwargs))
    build.build_kernel.cache_clear()
    build.build_kernel("nearest", ("queries", "bank"), ("partial_cosine", "partial_index"))
    build.build_kernel.cache_clear()
    assert made["kind"] == ("cuda" if device == "cuda" else "metal")
    assert ("__syncthreads" in made["header"]) == ("__shared__" in made["source"]) == (device == "cuda")
    assert build.on_gpu() == (device != "cpu")


@pytest.mark.parametrize("inside_root", [True, False])
def test_sources_are_found_from_inside_and_outside_the_source_tree(inside_root: bool, tmp_path: Path) -> None:
    program = (
        "from mlx_personal.kernels import build; print(build._FOLDER); print(len(build.read_source('nearest')[1]) > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT if inside_root else tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(KERNEL_SOURCES), "True"]


def test_package_data_of_an_installation_is_preferred(tmp_path: Path) -> None:
    package = tmp_path / "mlx_personal" / "kernels"
    package.mkdir(parents=True)
    assert build.find_sources(package) == tmp_path / "kernels"
    (package / "metal").mkdir()
    assert build.find_sources(package) == package / "metal"

"""The CUDA form of every kernel: the translation of the Metal text, and that NVIDIA's compiler accepts it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mlx_personal.kernels import build
from tests.support.cases import quick_cases
from tests.support.paths import KERNEL_SOURCES

# The signature that MLX writes around a body for CUDA: inputs, the shapes that the body uses, outputs.
SHAPED = "const T* {0}, const __grid_constant__ Shape {0}_shape"
ENTROPY = f"{SHAPED.format('states')}, const int32_t* lengths, float* entropies"
QUERIES, BANK = SHAPED.format("queries"), SHAPED.format("bank")
SIGNATURES = {
    "spectral_entropy": ENTROPY,
    "histogram_entropy": ENTROPY,
    "nearest": f"{QUERIES}, {BANK}, float* partial_cosine, int32_t* partial_index",
    "in_domain_distance": (
        f"{QUERIES}, const int32_t* query_domains, const int32_t* excluded_rows, {BANK}, const int32_t* bank_domains, "
        "float* partial_distance, int32_t* partial_count"
    ),
}
PRELUDE = """
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
struct Shape {
  int32_t sizes[8];
  __device__ int32_t operator[](int i) const { return sizes[i]; }
};
"""


def test_every_kernel_has_a_signature() -> None:
    assert set(SIGNATURES) == {path.stem for path in KERNEL_SOURCES.glob("*.metal")}


@pytest.mark.parametrize("name", SIGNATURES)
def test_no_metal_keyword_is_left(name: str) -> None:
    header, body = (build.to_cuda(part) for part in build.read_source(name))
    for word in ("device ", "constant ", "threadgroup ", "thread "):
        assert word not in header + body
    assert "__shared__" in body and "#include" not in header


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("name", quick_cases(SIGNATURES, "histogram_entropy"))
def test_nvidias_compiler_accepts_it(name: str, tmp_path: Path) -> None:
    header, body = (build.to_cuda(part) for part in build.read_source(name))
    tiles = "constexpr int QUERIES = 8, ROWS = 4;" if "QUERIES" in body else ""
    kernels = ""
    for number, dtype in enumerate(["float", "__half", "__nv_bfloat16"]):
        parameters = SIGNATURES[name].replace("const T*", f"const {dtype}*")
        kernels += f'extern "C" __global__ void kernel_{number}({parameters}) {{\n{tiles}\n{body}\n}}\n'
    shim = (KERNEL_SOURCES / "cuda.h").read_text()
    (tmp_path / "kernel.cu").write_text(f"{PRELUDE}{shim}{header}{kernels}")
    command = ["nvcc", "-arch=sm_90", "-std=c++17", "-Werror=all-warnings", "-ptx", "-o", "kernel.ptx", "kernel.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

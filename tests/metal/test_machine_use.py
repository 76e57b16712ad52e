"""How tests use the host machine: what `on_host` replaces, what it accepts, what a report contains."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.metal import Fault, compiler, on_host, why_not
from tests.metal.one_kernel import run

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

COPY = "uint i = thread_position_in_grid.x;\ny[i] = a[i];"


def test_metal_kernel_is_restored_afterwards() -> None:
    make = mx.fast.metal_kernel
    with on_host():
        assert mx.fast.metal_kernel is not make
    assert mx.fast.metal_kernel is make


def test_a_report_is_complete_and_short() -> None:
    with pytest.raises(Fault) as raised:
        run("uint i = thread_position_in_grid.x;\ny[i] = a[i + 1];", mx.zeros(64), threadgroup=(32, 1, 1))
    assert str(raised.value) == (
        "out of bounds in kernel custom_kernel_small_float_float: a[64]: read outside its 64 elements\n"
        "  line 6: y[i] = a[i + 1];\n"
        "  thread (31, 0, 0) of threadgroup (1, 0, 0)"
    )
    assert (raised.value.line, raised.value.thread, raised.value.group) == (6, (31, 0, 0), (1, 0, 0))


def test_an_unknown_name_may_exist_in_metal() -> None:
    with pytest.raises(Fault, match="may lack a name that Metal has"):
        run("simdgroup_float8x8 m;\ny[0] = 0;")


def test_verbose_prints_the_generated_text(capsys: pytest.CaptureFixture[str]) -> None:
    run(COPY, mx.zeros(64), verbose=True)
    printed = capsys.readouterr().out
    assert "[[kernel]] void custom_kernel_small" in printed
    assert COPY in printed


def test_a_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []
    run_compiler = compiler.run_compiler

    def count(arguments: list[str | Path]) -> subprocess.CompletedProcess[str]:
        commands.append(str(arguments[0]))
        return run_compiler(arguments)

    monkeypatch.setattr(compiler, "run_compiler", count)
    source = COPY + f"  // {tmp_path}"  # a text that is in no cache
    run(source, mx.zeros(64))
    assert "g++" in commands
    commands.clear()
    run(source, mx.ones(64))
    assert commands == []


@pytest.mark.slow
def test_the_cache_may_be_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "with spaces" / Path(*["long" * 50] * 8)
    monkeypatch.setattr(compiler, "cache_folder", lambda: folder)
    folder.mkdir(parents=True)
    assert mx.array_equal(run(COPY, mx.ones(64)), mx.ones(64))


def test_other_dtypes_build_another_kernel() -> None:
    for dtype in (mx.float32, mx.int32, mx.bfloat16):
        assert mx.array_equal(run(COPY, mx.ones(64, dtype), dtype=dtype), mx.ones(64, dtype))


FIRST_COME = """uint i = thread_position_in_grid.x;
y[i] = atomic_fetch_add_explicit((device atomic_uint*)&z[0], 1u, memory_order_relaxed);"""


def test_the_first_order_is_the_natural_one() -> None:
    call: dict[str, Any] = {"shapes": [(64,), (1,)], "dtypes": [mx.int32, mx.uint32], "init_value": 0}
    positions, _ = run(FIRST_COME, machine={"orders": 1}, **call)
    assert np.array_equal(positions, np.arange(64))
    with pytest.raises(Fault, match="depends on the order"):
        run(FIRST_COME, machine={"orders": 2}, **call)


def test_wrong_calls_raise_mlxs_own_errors() -> None:
    with pytest.raises(ValueError, match="output"):
        run(COPY, mx.zeros(64), shapes=[(64,)], dtypes=[mx.float32] * 2)

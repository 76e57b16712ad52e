"""The host machine detects each injected fault and reports where it is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import pytest

from tests.metal import Fault, why_not
from tests.metal.one_kernel import run

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HERE = "  // here"
INDEX = "uint i = thread_position_in_grid.x;\n"


@dataclass
class Mistake:
    """A kernel for 64 threads with one mistake, on the line that ends with HERE."""

    name: str
    kind: str
    source: str
    buffer: str = ""
    index: int | None = None
    inputs: list[Any] = field(default_factory=lambda: [mx.arange(64).astype(mx.float32)])
    call: dict[str, Any] = field(default_factory=dict)


def exchange(between: str) -> str:
    """Return a kernel in which each thread writes one slot and reads another."""
    return (
        INDEX
        + f"""threadgroup float slots[64];
slots[i] = a[i];
{between}
y[i] = slots[threads_per_grid.x - 1 - i];{HERE}"""
    )


MEMORY = [
    Mistake("read one beyond", "out of bounds", INDEX + f"y[i] = a[i + 1];{HERE}", "a", 64),
    Mistake("write one beyond", "out of bounds", INDEX + f"y[i + 1] = a[i];{HERE}", "y", 64),
    Mistake("negative index", "out of bounds", INDEX + f"y[i] = a[int(i) - 1];{HERE}", "a", -1),
    Mistake("unsigned underflow", "out of bounds", INDEX + f"y[i] = a[i - 1];{HERE}", "a", 2**32 - 1),
    Mistake("far outside", "out of bounds", INDEX + f"y[i] = a[i + 1000000000];{HERE}", "a", 10**9),
    Mistake("vector partly outside", "out of bounds", f"y[0] = ((device packed_float4*)(a + 61))[0][3];{HERE}", "a", 64,
            call={"grid": (1, 1, 1), "shape": (1,)}),
    Mistake("unwritten tail", "unwritten output", INDEX + "if (i < 60) y[i] = a[i];", "y", 60),
    Mistake("unwritten integer", "unwritten output", INDEX + "if (i != 7) y[i] = i;", "y", 7, [],
            {"dtype": mx.int32}),
    Mistake("missing init_value", "uninitialized read",
            INDEX + f"atomic_fetch_add_explicit(&y[0], a[i], memory_order_relaxed);{HERE}", "y", 0,
            call={"shape": (1,), "options": {"atomic_outputs": True}}),
    Mistake("write to an input", "write to input", INDEX + f"((device float*)a)[i] = 0; y[i] = 0;{HERE}", "a", 0),
    Mistake("unwritten slot", "uninitialized read",
            INDEX + "threadgroup float slots[65];\nslots[i] = a[i];\n"
            "threadgroup_barrier(mem_flags::mem_threadgroup);\n" + f"y[i] = slots[i + 1];{HERE}", "slots", 64),
    Mistake("shared array overrun by a pointer", "out of bounds",
            INDEX + "threadgroup float slots[64];\nthreadgroup float* slot = slots + i;\n" + f"slot[1] = a[i];{HERE}\n"
            "y[i] = a[i];", "slots", 64),
    Mistake("unwritten slot, then an index from it", "uninitialized read",
            INDEX + "threadgroup uint slots[64];\n" + f"uint k = slots[i];{HERE}\ny[i] = a[k + 999];", "slots", 0),
    Mistake("null", "wild access", INDEX + f"device const float* p = nullptr; y[i] = *p;{HERE}"),
    Mistake("another thread's own memory", "wild access",
            INDEX + "float own = i; threadgroup ulong there;\nif (i == 0) there = ulong(&own);\n"
            "threadgroup_barrier(mem_flags::mem_threadgroup);\n" + f"y[i] = *(thread float*)there;{HERE}"),
    Mistake("unlimited private memory", "private memory", "y[0] = deep(1);",
            call={"header": f"int deep(int n) {{ int own[9999]; own[n] = n; return own[n] + deep(n + 1); }}{HERE}\n"}),
]  # fmt: skip

RACES = [
    Mistake("no barrier", "race", exchange(""), "slots"),
    Mistake("no barrier, second iteration", "race",
            INDEX + "threadgroup float slots[64];\nfor (int k = 0; k < 2; ++k) {\n" + f"slots[i] = a[i] + k;{HERE}\n"
            "threadgroup_barrier(mem_flags::mem_threadgroup);\ny[i] = slots[63 - i];\n}", "slots"),
    Mistake("barrier for other memory", "race", exchange("threadgroup_barrier(mem_flags::mem_device);"), "slots", 63),
    Mistake("barrier for no memory", "race", exchange("threadgroup_barrier(mem_flags::mem_none);"), "slots"),
    Mistake("barrier for a simdgroup only", "race",
            exchange("simdgroup_barrier(mem_flags::mem_threadgroup);"), "slots"),
    Mistake("simdgroup operation as a barrier", "race", exchange("simd_sum(a[i]);"), "slots", 31,
            call={"grid": (32, 1, 1), "threadgroup": (32, 1, 1), "shape": (32,)}),
    Mistake("device memory, barrier for other memory", "race",
            INDEX + "y[i] = a[i];\nthreadgroup_barrier(mem_flags::mem_threadgroup);\n"
            + f"if (i > 0) y[i] += y[i - 1];{HERE}", "y"),
    Mistake("two threadgroups", "race", INDEX + f"y[i / 2] = a[i];{HERE}", "y", 0,
            call={"threadgroup": (1, 1, 1), "shape": (32,)}),
    Mistake("other threadgroup's result", "race", INDEX + "y[i] = a[i];\n" + f"if (i >= 32) y[i] += y[i - 32];{HERE}",
            "y", 0, call={"threadgroup": (32, 1, 1)}),
    Mistake("accumulation without atomics", "race", INDEX + f"y[0] += a[i];{HERE}", "y", 0,
            call={"shape": (1,), "init_value": 0}),
    Mistake("atomics and plain reads", "race",
            INDEX + "threadgroup atomic_int sum;\nif (i == 0) atomic_store_explicit(&sum, 0, memory_order_relaxed);\n"
            "threadgroup_barrier(mem_flags::mem_threadgroup);\n"
            "atomic_fetch_add_explicit(&sum, 1, memory_order_relaxed);\n"
            + f"y[i] = *(threadgroup int*)&sum;{HERE}", "sum", 0),
    Mistake("plain, ordered for a simdgroup, and atomics of another", "race",
            INDEX + "threadgroup atomic_int sum;\n" + f"if (i == 0) *(threadgroup int*)&sum = 0;{HERE}\n"
            "simdgroup_barrier(mem_flags::mem_threadgroup);\n"
            "atomic_fetch_add_explicit(&sum, 1, memory_order_relaxed);\ny[i] = 0;", "sum", 0),
    Mistake("plain, ordered for a threadgroup, and atomics of another", "race",
            INDEX + f"if (i == 0) y[0] = 0;{HERE}\nthreadgroup_barrier(mem_flags::mem_device);\n"
            "atomic_fetch_add_explicit((device atomic_uint*)y, 1u, memory_order_relaxed);", "y", 0,
            call={"threadgroup": (32, 1, 1), "shape": (1,), "init_value": 0, "machine": {"orders": 1}}),
    Mistake("fence as a barrier", "race",
            exchange("atomic_thread_fence(mem_flags::mem_threadgroup, memory_order_seq_cst);"), "slots"),
    Mistake("order of float additions", "order",
            INDEX + "atomic_fetch_add_explicit(&y[0], a[i] * 1.1f, memory_order_relaxed);", "y", 0,
            call={"shape": (1,), "options": {"atomic_outputs": True}, "init_value": 0}),
]  # fmt: skip

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
BF16 = [mx.arange(64).astype(mx.bfloat16)]
COMPLEX = [mx.arange(64).astype(mx.complex64)]
FIRST = "template <class T> float first(T) { return 1; }\n"
# Types that a compiler copies as a whole, in every kind of expression. `f` is the address of a vector.
WHOLE_READS = [
    (BF16, [
        "float(a[i + 1])", "2.0f * a[i + 1]", "a[i] * a[i + 1]", "a[i + 1] > a[i]", "-a[i + 1]", "max(a[i], a[i + 1])",
        "exp(a[i + 1])", "isnan(a[i + 1])", "select(a[i], a[i + 1], true)", "first(a[i + 1])",
        "float2(a[i + 1], 0).x", "simd_sum(a[i + 1])", "simd_max(a[i + 1])", "simd_shuffle_down(a[i + 1], 1)",
        "as_type<ushort>(a[i + 1])", "float(((const device bfloat4*)(a + 60))[i / 63].x)",
    ]),
    (None, [
        "f[1].x", "(f[1] * 2.0f).x", "(-f[1]).x", "any(f[1] > 1)", "length(f[1])", "max(f[1], f[0]).x",
        "first(f[1])", "float2(f[1].xy).x", "length(f[1].xz)", "int4(f[1]).x",
        "simd_max(f[1]).x", "as_type<uint4>(f[1]).x",
    ]),
    (COMPLEX, ["(a[i] * a[i + 1]).real", "float(a[i + 1])", "first(a[i + 1])", "a[i + 1] > a[i]"]),
]  # fmt: skip
WHOLE = [
    Mistake(expression, "out of bounds",
            INDEX + f"auto f = (const device float4*)(a + 60);\ny[i] = {expression};{HERE}", "a", 64,
            inputs or [mx.arange(64).astype(mx.float32)], {"header": FIRST})
    for inputs, expressions in WHOLE_READS for expression in expressions
] + [
    Mistake("negative index, bfloat", "out of bounds", INDEX + f"y[i] = a[int(i) - 1];{HERE}", "a", -1, BF16),
    Mistake("copied, bfloat", "out of bounds", INDEX + f"y[i] = a[i + 1];{HERE}", "a", 64, BF16,
            {"dtype": mx.bfloat16}),
    Mistake("copied, complex", "out of bounds", INDEX + f"y[i] = a[i + 1];{HERE}", "a", 64, COMPLEX,
            {"dtype": mx.complex64}),
    Mistake("packed vector", "out of bounds",
            INDEX + f"float3 v = ((device packed_float3*)(a + 1))[i / 3];{HERE}\ny[i] = v.x;", "a", 64),
    Mistake("struct with a bfloat", "out of bounds", INDEX + "y[i] = first(((const device Pair*)a)[i / 2 + 1]);", "a",
            64, BF16, {"header": FIRST + f"struct Pair {{ bfloat a, b; }};{HERE}\n"}),
    Mistake("write of a bfloat", "out of bounds", INDEX + f"y[i + 1] = bfloat(a[i]);{HERE}", "y", 64,
            call={"dtype": mx.bfloat16}),
    Mistake("write of a vector", "out of bounds", INDEX + f"if (i < 16) ((device float4*)y)[i + 1] = f(i);{HERE}", "y",
            64, call={"header": "float4 f(float x) { return x; }\n"}),
    Mistake("unwritten bfloat", "uninitialized read", INDEX + f"y[i] += 1.0f;{HERE}", "y", 0,
            call={"dtype": mx.bfloat16}),
    Mistake("unwritten slot, bfloat", "uninitialized read",
            INDEX + f"threadgroup bfloat s[65];\ns[i] = a[i];\n{BARRIER}\ny[i] = s[i + 1];{HERE}", "s", 64, BF16),
    Mistake("unwritten slot, vector", "uninitialized read",
            INDEX + f"threadgroup float4 s[64];\nif (i < 63) s[i] = a[i];\n{BARRIER}\ny[i] = dot(s[i], s[i]);{HERE}",
            "s", 252),
    Mistake("no barrier, bfloat", "race",
            INDEX + f"threadgroup bfloat s[64];\ns[i] = a[i];{HERE}\ny[i] = s[63 - i];", "s", inputs=BF16),
    Mistake("no barrier after reading, bfloat", "race",
            INDEX + f"threadgroup bfloat s[64];\ns[i] = a[i];\n{BARRIER}\nfloat v = s[63 - i];{HERE}\n"
            "s[i] = bfloat(v);\ny[i] = v;", "s", inputs=BF16),
    Mistake("no barrier, vector", "race",
            INDEX + f"threadgroup float4 s[64];\ns[i] = a[i];{HERE}\ny[i] = length(s[63 - i]);", "s"),
    Mistake("accumulation without atomics, bfloat", "race", INDEX + f"y[0] += 1.0f;{HERE}", "y", 0,
            call={"dtype": mx.bfloat16, "shape": (1,), "init_value": 0}),
]  # fmt: skip
TOGETHER = [
    Mistake("barrier after an early return", "divergent barrier",
            INDEX + f"y[i] = 0;\nif (i < 32) return;\n{BARRIER}{HERE}"),
    Mistake("barrier in a branch", "divergent barrier", INDEX + f"y[i] = 0;\nif (i < 32) {BARRIER}{HERE}"),
    Mistake("two barriers for one", "divergent barrier",
            INDEX + f"y[i] = 0;\nif (i < 32) {{\n{BARRIER}{HERE}\n}} else {{\n{BARRIER}\n}}"),
    Mistake("barrier in a loop of different length", "divergent barrier",
            INDEX + f"y[i] = 0;\nfor (uint k = 0; k < 1 + i / 32; ++k) {BARRIER}{HERE}"),
    Mistake("one barrier in a function, two calls", "divergent barrier",
            INDEX + f"y[i] = 0;\nif (i < 32)\nmeet();{HERE}\nelse\nmeet();",
            call={"header": f"void meet() {{\n{BARRIER}{HERE}\n}}\n"}),
    Mistake("reduction by some lanes", "divergent simdgroup operation",
            INDEX + f"y[i] = 0;\nif (i < 20) y[i] = simd_sum(a[i]);{HERE}"),
    Mistake("strided loop around a reduction", "divergent simdgroup operation",
            INDEX + f"y[i] = 0;\nfor (uint k = i; k < 70; k += 64) y[i] += simd_sum(a[k % 64]);{HERE}"),
    Mistake("lanes at different operations", "divergent simdgroup operation",
            INDEX + f"if (i % 2 == 0)\ny[i] = simd_max(a[i]);{HERE}\nelse\ny[i] = simd_min(a[i]);"),
    Mistake("simdgroup barrier in a branch", "divergent simdgroup operation",
            INDEX + f"y[i] = 0;\nif (i < 3) simdgroup_barrier(mem_flags::mem_none);{HERE}"),
    Mistake("wrong lane", "no such lane", INDEX + f"y[i] = simd_shuffle(a[i], i % 32 + 1);{HERE}"),
    Mistake("lane of a full simdgroup in a small one", "no such lane",
            INDEX + f"y[i] = simd_shuffle_xor(a[i], 16);{HERE}",
            call={"grid": (20, 1, 1), "shape": (20,)}),
]  # fmt: skip

UNDEFINED = [
    Mistake("addition", "undefined behavior", INDEX + f"y[i] = int(i) + 2147483600;{HERE}"),
    Mistake("subtraction", "undefined behavior", INDEX + f"y[i] = -2147483600 - int(i);{HERE}"),
    Mistake("multiplication", "undefined behavior", INDEX + f"y[i] = int(i) * 100000000;{HERE}"),
    Mistake("negation", "undefined behavior", INDEX + f"int k = -2147483647 - 1;\ny[i] = -k;{HERE}"),
    Mistake("shift by too much", "undefined behavior", INDEX + f"y[i] = 1u << i;{HERE}"),
    Mistake("negative shift", "undefined behavior", INDEX + f"y[i] = 1u >> (int(i) - 1);{HERE}"),
    Mistake("division by zero", "undefined behavior", INDEX + f"y[i] = 7 / int(i);{HERE}"),
    Mistake("remainder by zero", "undefined behavior", INDEX + f"y[i] = 7u % i;{HERE}"),
    Mistake("metal::array", "undefined behavior",
            INDEX + "array<float, 4> own = {1, 2, 3, 4};\ny[i] = f(own, i);",
            call={"header": f"float f(array<float, 4> v, int k) {{ return v[k]; }}{HERE}\n"}),
    Mistake("variable set by some threads", "unset variable",
            INDEX + f"float v;\nif (i < 63) v = a[i];\ny[i] = v;{HERE}"),
    Mistake("variable never set", "unset variable", INDEX + f"int k;\ny[i] = a[k];{HERE}"),
    Mistake("private array never set", "unset variable", INDEX + f"float own[4];\ny[i] = own[i % 4];{HERE}"),
    Mistake("private array", "undefined behavior", INDEX + f"float own[4] = {{}};\ny[i] = own[i];{HERE}"),
    Mistake("shared array", "undefined behavior",
            INDEX + "threadgroup float slots[63];\n" + f"slots[i] = a[i];{HERE}\ny[i] = a[i];"),
    Mistake("float too large for an int", "undefined behavior", INDEX + f"y[i] = int(a[i] * 1e9f);{HERE}"),
    Mistake("NaN as an int", "undefined behavior", INDEX + f"y[i] = int(NAN);{HERE}"),
    Mistake("misaligned vector", "undefined behavior", f"y[0] = ((device float4*)(a + 1))[0].x;{HERE}"),
    Mistake("vector member", "undefined behavior", INDEX + f"float4 v = a[i];\ny[i] = v[i];{HERE}"),
    Mistake("no value returned", "undefined behavior", INDEX + f"y[i] = f(i);{HERE}",
            call={"header": f"int f(uint i) {{{HERE}\n if (i < 9) return 1; }}\n"}),
]  # fmt: skip

LIMITS = [
    Mistake("double", "double", INDEX + f"y[i] = double(a[i]);{HERE}"),
    Mistake("too much threadgroup memory", "threadgroup memory",
            INDEX + "threadgroup float one[4096]; threadgroup half two[8192];\n" + f"threadgroup char three[1];{HERE}\n"
            "y[i] = 0; one[i] = 0; two[i] = 0; three[0] = 0;", "three"),
    Mistake("too many threads", "launch", INDEX + "y[i] = 0;", call={"threadgroup": (33, 32, 1)}),
    Mistake("empty grid", "launch", INDEX + "y[i] = 0;", call={"grid": (64, 0, 1)}),
    Mistake("endless loop", "time limit", INDEX + f"for (float k = 0; k < 1e9f; k += 0.5f) y[i] = k;{HERE}",
            # Long enough for a busy machine to reach the loop.
            call={"machine": {"time_limit": 1.0}}),
    Mistake("trap", "crash", INDEX + f"y[i] = a[i];\nif (i == 9) __builtin_trap();{HERE}"),
    Mistake("no such name", "compile", INDEX + f"y[i] = x[i];{HERE}"),
    Mistake("atomic that is not relaxed", "compile",
            INDEX + f"y[i] = atomic_load_explicit((device atomic_float*)y, memory_order_seq_cst);{HERE}"),
    Mistake("ambiguous in Metal", "compile", INDEX + f"y[i] = max(a[i], 0);{HERE}"),
    Mistake("bfloat from a float by itself", "compile", INDEX + f"bfloat v = a[i]; y[i] = v;{HERE}"),
    Mistake("threadgroup memory of a function", "compile", "y[0] = f();",
            call={"header": f"int f() {{\nthreadgroup int s[2];{HERE}\nreturn 1; }}\n"}),
    Mistake("threadgroup memory behind a macro", "compile", "SHARED s[2];\ny[0] = 0;",
            call={"header": f"#define SHARED threadgroup float{HERE}\n"}),
    Mistake("initialized threadgroup memory", "compile",
            INDEX + f"threadgroup float sum = 0;{HERE}\nsum += 1; y[i] = sum;"),
]  # fmt: skip

SMALL = [mx.arange(7).astype(mx.float32)]
CROSSINGS = [
    Mistake("small input is constant", "address space", INDEX + f"const device float* p = a;{HERE}\ny[i] = p[0];",
            inputs=SMALL),
    Mistake("small input handed to a function", "address space", INDEX + f"y[i] = first(a);{HERE}", inputs=SMALL,
            call={"header": "float first(const device float* p) { return p[0]; }\n"}),
    Mistake("shared memory as the thread's own", "address space",
            INDEX + "threadgroup float s[64];\ns[i] = 0;\n" + f"thread float& x = s[i];{HERE}\ny[i] = x;"),
    Mistake("pointer without a space", "address space",
            INDEX + "threadgroup float s[64];\ns[i] = 0;\n" + f"y[i] = first(s + i);{HERE}",
            call={"header": "float first(float* p) { return p[0]; }\n"}),
]  # fmt: skip


@pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang++")
@pytest.mark.parametrize("fault", CROSSINGS, ids=lambda fault: fault.name)
def test_pointers_across_address_spaces(fault: Mistake) -> None:
    test_fault_is_detected(fault)


def test_the_same_pointer_is_valid_for_a_larger_input() -> None:
    source = CROSSINGS[0].source
    assert run(source, mx.arange(8).astype(mx.float32)).tolist() == [0] * 64


def first_of_each_kind_quick(faults: list[Mistake]) -> list[Any]:
    """Return the faults, of which all but the first of each kind are slow tests: each compiles a kernel twice."""
    seen: set[str] = {"time limit"}
    cases = []
    for fault in faults:
        cases.append(pytest.param(fault, id=fault.name, marks=pytest.mark.slow if fault.kind in seen else ()))
        seen.add(fault.kind)
    return cases


@pytest.mark.parametrize("fault", first_of_each_kind_quick(MEMORY + RACES + WHOLE + TOGETHER + UNDEFINED + LIMITS))
def test_fault_is_detected(fault: Mistake) -> None:
    with pytest.raises(Fault) as raised:
        run(fault.source, *fault.inputs, **fault.call)
    actual = raised.value
    assert actual.kind == fault.kind, str(actual)
    assert actual.buffer == fault.buffer, str(actual)
    if fault.index is not None:
        assert actual.index == fault.index, str(actual)
    if HERE in fault.source + fault.call.get("header", ""):
        assert HERE in actual.text + actual.other_text, str(actual)
    assert "custom_kernel_small" in str(actual)

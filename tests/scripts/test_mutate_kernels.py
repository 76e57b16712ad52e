"""Mutants of the kernels, and whether the kernels' tests detect harmful ones and pass harmless ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests import metal
from tests.support.scripts import import_script

requires_host_machine = pytest.mark.skipif(metal.why_not() is not None, reason=str(metal.why_not()))


mutants = import_script("mutation.mutants")
survivors = import_script("mutation.survivors")
trial = import_script("mutation.trial")


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    sources: dict[str, str] = trial.read_sources()
    return sources


@pytest.fixture(scope="module")
def candidates(texts: dict[str, str]) -> list[Any]:
    return [mutant for file, text in texts.items() for mutant in mutants.generate_mutants(file, text)]


@pytest.mark.slow
def test_a_mutant_differs_in_one_token(texts: dict[str, str], candidates: list[Any]) -> None:
    for mutant in candidates:
        before = [token for token, _, _ in mutants.tokenize(texts[mutant.file])]
        after = [token for token, _, _ in mutants.tokenize(mutant.apply(texts[mutant.file]))]
        index = next(i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1])
        replacement = [token for token, _, _ in mutants.tokenize(mutant.after)]
        assert before[index] == mutant.before and before[:index] == after[:index]
        assert after[index:] == replacement + before[index + 1 :]


def test_comments_and_includes_are_not_changed_and_arrays_not_enlarged() -> None:
    text = '// a < b + 1\n#include "c1.h"\nfloat sums[2 / 1];  // of 3\nx = a < b;\n'
    assert [mutant.marked_line for mutant in mutants.generate_mutants("a.metal", text)] == [
        "float sums[«2 → 1» / 1];  // of 3",
        "float sums[2 / «1 → 2»];  // of 3",
        "x = a «< → <=» b;",
    ]


def test_every_kernel_and_include_has_mutants_and_tests(texts: dict[str, str], candidates: list[Any]) -> None:
    assert {"cosine.h", "nearest.metal", "spectral_entropy.metal"} <= set(texts)
    assert "cuda.h" not in texts and {mutant.file for mutant in candidates} == set(texts)
    assert trial.tests_of("cosine.h") == [
        "tests/kernels/test_in_domain_distance.py",
        "tests/kernels/test_nearest.py",
    ]
    assert len(trial.tests_of("safe_scale.h")) == 4


def test_a_sample_is_balanced_and_reproducible(texts: dict[str, str], candidates: list[Any]) -> None:
    sample = mutants.sample(candidates, 80, seed=1)
    assert sample == mutants.sample(candidates, 80, seed=1) != mutants.sample(candidates, 80, seed=2)
    assert len(set(sample)) == 80 and sample[:30] == mutants.sample(candidates, 30, seed=1)
    sample_counts, all_counts = (Counter(mutant.file for mutant in group) for group in (sample, candidates))
    counts = {sample_counts[file] for file in texts if sample_counts[file] < all_counts[file]}
    assert max(counts) - min(counts) <= 1
    assert {mutant.kind for mutant in sample} == {mutant.kind for mutant in candidates}


def test_every_reason_is_that_of_an_existing_mutant(candidates: list[Any]) -> None:
    existing = {(mutant.file, mutant.marked_line) for mutant in candidates}
    assert {(file, line) for file, reasons in survivors.REASONS.items() for line in reasons} <= existing


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return trial.ProjectCopy(tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("compiled"))


DETECTED = [
    ("spectral_entropy.metal", "«threadgroup_barrier → »(mem_flags::mem_threadgroup);", {"race", "uninitialized read"}),
    ("cosine.h", "for (uint d = lane; d «< → <=» dim; d += 32) {", {"out of bounds"}),
    ("histogram_entropy.metal", "bits = «simd_sum → simd_max»(bits);", {"wrong result"}),
    ("in_domain_distance.metal", "distances[simdgroup_index][q] = distance[«q → (q + 1)»];", {"undefined behavior"}),
    ("nearest.metal", "for (uint s = «1 → 2»; s < SIMDGROUPS; s++) {", {"wrong result"}),
]


@pytest.mark.slow
@requires_host_machine
@pytest.mark.parametrize(("file", "marked_line", "causes"), DETECTED, ids=[file for file, _, _ in DETECTED])
def test_the_tests_detect_a_harmful_mutant(
    copy: Any, candidates: list[Any], file: str, marked_line: str, causes: set[str]
) -> None:
    mutant = next(mutant for mutant in candidates if (mutant.file, mutant.marked_line) == (file, marked_line))
    verdict = copy.try_mutant(mutant)
    assert verdict.killed and verdict.cause in causes


@pytest.mark.slow
@requires_host_machine
def test_an_equivalent_mutant_survives_and_one_that_does_not_end_is_killed(copy: Any, candidates: list[Any]) -> None:
    mutant = next(mutant for mutant in candidates if mutant.file == "histogram_entropy.metal")
    equivalent = replace(mutant, after=mutant.before + " ")
    assert not copy.try_mutant(equivalent).killed
    assert copy.try_mutant(equivalent, timeout_s=0.5).cause == "time limit"
    broken = copy.try_mutant(replace(mutant, after=")"))
    assert broken.killed and broken.cause == "compile"

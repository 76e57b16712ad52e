"""The mutants of the kernels, and that their trial tells a harmful one from a harmless one."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests import metal
from tests.support.paths import SCRIPTS

on_the_strict_machine = pytest.mark.skipif(metal.why_not() is not None, reason=str(metal.why_not()))


@pytest.fixture(scope="module")
def mutation() -> Iterator[Any]:
    """The modules of the script, which import one another as its own folder lets them."""
    sys.path.insert(0, str(SCRIPTS))
    import mutation.mutants
    import mutation.survivors
    import mutation.trial

    yield mutation
    sys.path.pop(0)


@pytest.fixture(scope="module")
def texts(mutation: Any) -> dict[str, str]:
    return mutation.trial.sources()


@pytest.fixture(scope="module")
def candidates(mutation: Any, texts: dict[str, str]) -> list[Any]:
    return [mutant for file, text in texts.items() for mutant in mutation.mutants.mutants(file, text)]


def test_a_mutant_differs_in_one_token_of_the_code(mutation: Any, texts: dict[str, str], candidates: list[Any]) -> None:
    for mutant in candidates:
        before = [token for token, _, _ in mutation.mutants.tokens(texts[mutant.file])]
        after = [token for token, _, _ in mutation.mutants.tokens(mutant.applied(texts[mutant.file]))]
        place = next(i for i, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1])
        put_in = [token for token, _, _ in mutation.mutants.tokens(mutant.after)]
        assert before[place] == mutant.before and before[:place] == after[:place]
        assert after[place:] == put_in + before[place + 1 :]


def test_comments_includes_and_the_size_of_larger_arrays_are_left_alone(mutation: Any) -> None:
    text = '// a < b + 1\n#include "c1.h"\nfloat sums[2 / 1];  // of 3\nx = a < b;\n'
    assert [mutant.shown for mutant in mutation.mutants.mutants("a.metal", text)] == [
        "float sums[«2 → 1» / 1];  // of 3",
        "float sums[2 / «1 → 2»];  // of 3",
        "x = a «< → <=» b;",
    ]


def test_every_kernel_and_what_it_includes_is_changed_and_has_tests(
    mutation: Any, texts: dict[str, str], candidates: list[Any]
) -> None:
    assert {"cosine.h", "nearest.metal", "spectral_entropy.metal"} <= set(texts)
    assert "cuda.h" not in texts and {mutant.file for mutant in candidates} == set(texts)
    assert mutation.trial.tests_of("cosine.h") == [
        "tests/kernels/test_in_domain_distance.py",
        "tests/kernels/test_nearest.py",
    ]
    assert len(mutation.trial.tests_of("rescue.h")) == 4


def test_a_sample_is_even_and_repeatable(mutation: Any, texts: dict[str, str], candidates: list[Any]) -> None:
    drawn = mutation.mutants.sample(candidates, 80, seed=1)
    assert drawn == mutation.mutants.sample(candidates, 80, seed=1) != mutation.mutants.sample(candidates, 80, seed=2)
    assert len(set(drawn)) == 80 and drawn[:30] == mutation.mutants.sample(candidates, 30, seed=1)
    of_file, all_of_file = (Counter(mutant.file for mutant in mutants) for mutants in (drawn, candidates))
    shares = {of_file[file] for file in texts if of_file[file] < all_of_file[file]}
    assert max(shares) - min(shares) <= 1
    assert {mutant.kind for mutant in drawn} == {mutant.kind for mutant in candidates}


def test_every_reason_is_of_a_mutant_that_there_is(mutation: Any, candidates: list[Any]) -> None:
    there = {(mutant.file, mutant.shown) for mutant in candidates}
    assert {(file, shown) for file, reasons in mutation.survivors.REASONS.items() for shown in reasons} <= there


@pytest.fixture(scope="module")
def copy(mutation: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return mutation.trial.Copy(tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("compiled"))


FIXED = [
    ("spectral_entropy.metal", "«threadgroup_barrier → »(mem_flags::mem_threadgroup);", {"race", "uninitialized read"}),
    ("cosine.h", "for (uint d = lane; d «< → <=» dim; d += 32) {", {"out of bounds"}),
    ("histogram_entropy.metal", "bits = «simd_sum → simd_max»(bits);", {"wrong result"}),
    ("in_domain_distance.metal", "distances[simdgroup_index][q] = distance[«q → (q + 1)»];", {"undefined behavior"}),
    ("nearest.metal", "for (uint s = «1 → 2»; s < SIMDGROUPS; s++) {", {"wrong result"}),
]


@pytest.mark.slow
@on_the_strict_machine
@pytest.mark.parametrize(("file", "shown", "causes"), FIXED, ids=[file for file, _, _ in FIXED])
def test_the_tests_notice_a_telling_mutant(
    copy: Any, candidates: list[Any], file: Any, shown: Any, causes: Any
) -> None:
    mutant = next(mutant for mutant in candidates if (mutant.file, mutant.shown) == (file, shown))
    verdict = copy.try_mutant(mutant)
    assert verdict.killed and verdict.cause in causes


@pytest.mark.slow
@on_the_strict_machine
def test_a_mutant_that_changes_nothing_survives_and_one_that_does_not_end_is_killed(
    copy: Any, candidates: list[Any]
) -> None:
    mutant = next(mutant for mutant in candidates if mutant.file == "histogram_entropy.metal")
    blank = replace(mutant, after=mutant.before + " ")
    assert not copy.try_mutant(blank).killed
    assert copy.try_mutant(blank, limit=0.5).cause == "time limit"
    broken = copy.try_mutant(replace(mutant, after=")"))
    assert broken.killed and broken.cause == "compile"

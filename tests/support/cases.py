"""Parameters of tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_cases(*cases: Any) -> list[Any]:
    """Return cases of `pytest.mark.parametrize` that run with the slow tests.

    Args:
        cases: The values of one parameter, or a tuple of values of several.
    """
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]


def quick_cases(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Return cases of `pytest.mark.parametrize`, of which only some run with the quick tests.

    Args:
        cases: The values of one parameter, or tuples of values of several.
        quick: Those of them that are quick.
    """
    return [case if case in quick else slow_cases(case)[0] for case in cases]

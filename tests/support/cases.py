"""Parameters of tests."""

from __future__ import annotations

from typing import Any

import pytest


def slow_cases(*cases: Any) -> list[Any]:
    """Return cases of `pytest.mark.parametrize` that run with the slow tests.

    Args:
        cases: The values of one parameter, or a tuple of values of several.
    """
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]

"""The facade of the loop is whole: no caller reaches through a `Personalizer` to its database or its helpers."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

_REACH_THROUGH = re.compile(r"\b(personalizer|me)\.(store|_observer|_promoter)\b")


@pytest.mark.parametrize(
    "folder",
    [
        "mlx_personal/cli",
        "mlx_personal/demo",
        "mlx_personal/augmentation",
        "mlx_personal/research",
        "benchmarks",
        "scripts",
    ],
)
def test_callers_use_the_methods_of_the_personalizer(folder: str) -> None:
    files = [file for file in (ROOT / folder).rglob("*.py") if _REACH_THROUGH.search(file.read_text("utf-8"))]
    assert files == []

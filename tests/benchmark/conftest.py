"""A result with all values, and trainings in the process of the tests."""

from __future__ import annotations

import pytest

from mlx_personal.benchmark import harness
from mlx_personal.benchmark.training_run import train_once
from tests.benchmark.example_runs import Result, example_result


@pytest.fixture(scope="session")
def result() -> Result:
    """A valid result, which tests copy before they change it."""
    return example_result()


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process, since a child process would import MLX again."""
    monkeypatch.setattr(harness, "train_in_child_process", train_once)

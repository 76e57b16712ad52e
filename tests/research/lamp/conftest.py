"""Users of the LaMP world, a server for them, and jobs that run in the process of the tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import LanguageModel
from mlx_personal.finetune import Example, LoRAConfig, TrainingReport, finetune
from mlx_personal.research.lamp import lamp_jobs
from tests.support.augmentation import grant_consent, make_server
from tests.support.fake_server import FakeServer
from tests.support.lamp_users import cloud_response, write_lamp_files

# The weights of an adapter, and the messages of the dialogues it was trained on.
TrainedAdapter = tuple[bytes, list[list[dict[str, str]]]]


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A server that writes records and answers queries."""
    with FakeServer(cloud_response) as server:
        yield server


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with the files of three users of LaMP-3."""
    return write_lamp_files(tmp_path / "world")


@pytest.fixture
def folder(tmp_path: Path, fake_server: FakeServer) -> Path:
    """A run's folder with consent for the fake server."""
    return grant_consent(tmp_path / "run", make_server(fake_server.url))


@pytest.fixture
def trained_adapters(monkeypatch: pytest.MonkeyPatch) -> list[TrainedAdapter]:
    """Every adapter that the run trains, in the order of training."""
    adapters: list[TrainedAdapter] = []

    def record(
        lm: LanguageModel, examples: Sequence[Example], config: LoRAConfig, path: Path, **settings: Any
    ) -> TrainingReport:
        report = finetune(lm, examples, config, path, **settings)
        messages = [example.dialogue.to_messages() for example in examples]
        adapters.append(((path / "adapters.safetensors").read_bytes(), messages))
        return report

    monkeypatch.setattr(lamp_jobs, "finetune", record)
    return adapters

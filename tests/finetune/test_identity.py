"""The identity of a training run: it holds the date that a chat template writes, and no other."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mlx_personal import Dialogue, LanguageModel, UserError
from mlx_personal.finetune import LoRAConfig
from mlx_personal.finetune.data.dataset import prepare_data
from mlx_personal.finetune.data.examples import Example
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.identity import TrainingIdentity, check_identity, training_identity
from tests.conftest import TEMPLATE

WithTemplate = Callable[[str | None], LanguageModel]
DATED = "{{ strftime_now('%d %b %Y') }}" + TEMPLATE


def identity(lm: LanguageModel) -> TrainingIdentity:
    config = LoRAConfig(epochs=1)
    examples = [Example(Dialogue.of(f"Tomatoes {number}?", "In May.")) for number in range(3)]
    return training_identity(lm, prepare_data(lm, examples, config).data, config, ProcessGroup())


def test_a_training_with_a_dated_template_resumes_in_any_time_zone(
    with_template: WithTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, found = with_template(DATED), []
    for zone in ("Etc/GMT+12", "Etc/GMT-14"):  # always on different days
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        found.append(identity(lm))
    monkeypatch.delenv("TZ")
    time.tzset()
    assert found[0].samples == found[1].samples
    assert check_identity(found[0].to_json(), found[1]) is None
    assert found[0].settings["template_date"] == "2026-01-01"


def test_another_date_is_named(with_template: WithTemplate) -> None:
    present = identity(with_template(DATED))
    saved = present.to_json()
    saved["settings"] = {**saved["settings"], "template_date": "2025-06-30"}
    with pytest.raises(UserError, match="template_date was 2025-06-30, is 2026-01-01"):
        check_identity(saved, present)


def test_a_template_without_a_date_adds_nothing(tiny_model: LanguageModel) -> None:
    assert "template_date" not in identity(tiny_model).settings

"""Calibration: which style is chosen for a model, and what is stored of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.config import Config
from mlx_personal.personalizer import Personalizer
from mlx_personal.synthesis import Calibration, RewriteCandidate, StyleRate, SynthesisConfig, calibrate
from mlx_personal.synthesis.config import STYLE_NAMES

DIALOGUES = [Dialogue.of(f"What is glass number {n} made of?", "Sand.") for n in range(20)]


class TemplateModel:
    """Stands in for a language model, of which calibration only asks for the chat template."""

    def __init__(self, has_chat_template: bool = True) -> None:
        self.tokenizer = type("Tokenizer", (), {"has_chat_template": has_chat_template})()


class Tried(dict[str, float]):
    """The kept rate of each style by name, and the names of those that calibration tried."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Tried:
    """Kept rates to set; styles that calibration tries have them."""
    rates = Tried()

    def rewrite(lm: Any, dialogues: list[Dialogue], style: Any, config: SynthesisConfig, _: Any) -> Any:
        rates.names.append(style.name)
        assert (config.k * len(dialogues), config.max_attempts) == (12, 1)
        kept = round(rates.get(style.name, 0.0) * 12)
        rewrite = Dialogue.of("Do you know what glass is?", "Sand.")
        reasons = ["kept"] * kept + ["form"] * (12 - kept)
        return [RewriteCandidate(n % len(dialogues), rewrite, "", 0.5, reason) for n, reason in enumerate(reasons)]

    monkeypatch.setattr("mlx_personal.synthesis.calibration.rewrite", rewrite)
    return rates


def run(has_template: bool = True, count: int = 20) -> Calibration:
    return calibrate(cast(LanguageModel, TemplateModel(has_template)), DIALOGUES[:count], SynthesisConfig(k=6))


def test_the_first_style_that_keeps_enough_is_taken(tried: Tried) -> None:
    # With three attempts each, a kept rate of 5/12 gets 0.80 of the wanted rewrites, and 0.25 gets 0.58.
    tried.update({"zero-shot": 0.25, "few-shot-plain": 0.75, "few-shot-guided": 1.0})
    found = run()
    assert found.style == "few-shot-plain"
    assert tried.names == ["zero-shot", "zero-shot-prefilled", "few-shot-plain"]
    # Of glass, number, the number itself and made, the rewrite keeps the first.
    assert found.rates["few-shot-plain"] == StyleRate(0.75, 0.25)
    assert found.rates["zero-shot-prefilled"] == StyleRate(0.0, 0.0)


def test_otherwise_the_style_that_keeps_most(tried: Tried) -> None:
    tried.update({"zero-shot-prefilled": 0.25, "few-shot": 1 / 3})
    assert run().style == "few-shot"
    assert tried.names == list(STYLE_NAMES)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_fewer_dialogues_are_rewritten_more_often(tried: Tried, count: int) -> None:
    tried.update({"few-shot": 0.25})
    assert run(count=count).style == "few-shot"


def test_of_equal_styles_a_guided_one_is_taken(tried: Tried) -> None:
    tried.update(dict.fromkeys(STYLE_NAMES, 1 / 6))
    assert run().style == "few-shot-guided"


def test_without_a_chat_template_examples_are_plain_text(tried: Tried) -> None:
    tried.update({"completion": 0.25})
    assert run(has_template=False).style == "completion"
    assert tried.names == ["zero-shot", "completion"]


def test_a_calibration_is_read_as_it_was_stored() -> None:
    stored = Calibration("few-shot", "question", {"few-shot": StyleRate(0.5, 0.8)})
    assert Calibration.from_json(json.loads(json.dumps(stored.to_json()))) == stored


@pytest.mark.parametrize(
    "stored", [None, 3, {}, {"style": "gone", "mode": "question", "rates": {}}, {"style": "few-shot", "mode": "both"}]
)
def test_what_is_no_calibration_is_none(stored: object) -> None:
    assert Calibration.from_json(stored) is None


def test_a_profile_calibrates_once_for_a_model_and_again_when_asked(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def fake(lm: LanguageModel, dialogues: list[Dialogue], config: SynthesisConfig, on_progress: Any) -> Calibration:
        found.append(len(dialogues))
        return Calibration("zero-shot", config.mode, {})

    monkeypatch.setattr("mlx_personal.personalizer.personalizer.calibrate", fake)
    config = Config(synthesis=SynthesisConfig(k=2, max_attempts=1, max_tokens=16))
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, config, tiny_model) as personalizer:
        personalizer.observe(Dialogue.of(f"What is thing {n} of {n * n} made of?", "Sand.") for n in range(3))
        for question in personalizer.annotations.questions():
            personalizer.annotations.record(question.dialogue_id, "accept")
        assert personalizer.status().prompt_style is None
        result = personalizer.synthesize()
        assert (result.style, result.wanted) == ("zero-shot", 2 * result.dialogues)
        assert personalizer.status().prompt_style == "zero-shot"
        personalizer.synthesize(regenerate=True)
        assert len(found) == 1
        personalizer.synthesize(regenerate=True, recalibrate=True)
        assert len(found) == 2

"""Training on Metal: bfloat16 and 4-bit models in their own kind of numbers, exact, resumable, and loaded again.

These run on a Mac alone; elsewhere the same loop is tested on the CPU by the other files.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import llama
from mlx_lm.utils import quantize_model

from mlx_personal import Dialogue, LanguageModel, load_language_model
from mlx_personal.finetune import LoRAConfig, TrainingData, TrainingStep, finetune, train
from mlx_personal.finetune.data.samples import make_samples, target_tokens
from mlx_personal.finetune.forward.equivalence import TOLERANCES, select_mode
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support import random_models

pytestmark = [pytest.mark.metal, pytest.mark.skipif(not mx.metal.is_available(), reason="needs Metal")]

QUESTIONS = ["What shall I cook?", "My cat does not eat.", "How deep?", "How do I plant tomatoes in May?"]
DIALOGUES = [Dialogue.of(question, f"Try a soup, number {i}.") for i, question in enumerate(QUESTIONS)]
CONFIG = LoRAConfig(epochs=8, batch_size=4, learning_rate=1e-2)


def ask(model: LanguageModel) -> list[str]:
    prompts = [model.tokenize_prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    return model.generate(prompts, max_tokens=12)


def build(tiny_model_folder: Path, kind: str) -> LanguageModel:
    """The tiny model in bfloat16, or quantized to 4 bits: what people download."""
    small = load_language_model(tiny_model_folder)
    config = json.loads((tiny_model_folder / "config.json").read_text())
    # Wider than the tiny model: a quantization group is 64 weights of one row.
    config |= {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256}
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if kind == "4-bit":
        model, _ = quantize_model(model, config, group_size=64, bits=4)
    mx.eval(model.parameters())
    return LanguageModel(model, small.tokenizer)


@pytest.mark.parametrize("kind", ["bfloat16", "4-bit"])
def test_a_trained_adapter_answers_and_is_the_same_when_loaded_again(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    model = build(tiny_model_folder, kind)
    before = random_models.bits(model.model.parameters())
    base = ask(model)
    report = finetune(model, DIALOGUES, CONFIG, tmp_path / "a")
    assert report.epoch_losses[-1] < 0.8 * report.epoch_losses[0]
    assert random_models.bits(model.model.parameters()) == before
    assert ask(model) == base
    model.attach_adapter(tmp_path / "a")
    adapted = ask(model)
    assert adapted != base
    again = build(tiny_model_folder, kind)
    again.attach_adapter(tmp_path / "a")
    assert ask(again) == adapted


@pytest.mark.parametrize("kind", ["bfloat16", "4-bit"])
def test_the_first_loss_is_that_of_rows_alone(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    model = build(tiny_model_folder, kind)
    rows = make_samples(model, DIALOGUES, 1024).samples
    alone = random_models.reference_loss(model, rows) / target_tokens(rows)
    report = finetune(model, DIALOGUES, LoRAConfig(epochs=1), tmp_path / "a")
    assert report.way == "packed"
    assert report.losses[0] == pytest.approx(alone, rel=2e-2)  # bfloat16 has 8 bits


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "4-bit"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi", "phi3", "mixtral", "ministral3"])
def test_the_fast_way_is_taken_and_within_its_bound(family: str, kind: str) -> None:
    lm = random_models.random_model(family, kind)
    random_models.with_adapter(lm)
    choice = select_mode(lm, random_models.a_family_of_rows())
    assert choice.way == "packed", choice.reason
    (found,) = choice.comparisons
    assert found.kind is not None
    assert max(found.loss, found.gradient) <= TOLERANCES[found.kind]


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_checkpointing_changes_no_loss(kind: str) -> None:
    lm, losses = random_models.random_model("llama", kind), []
    for checkpoint in (False, True):
        config = dataclasses.replace(CONFIG, dropout=0.0, epochs=3)
        report = train(
            lm, TrainingData(random_models.a_family_of_rows()), config, plan=MemoryPlan(checkpoint=checkpoint)
        )
        lm.detach_adapter()
        losses.append(report.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if kind == "float32" else 3e-2)


def test_training_twice_gives_the_same_adapter(tiny_model: LanguageModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        finetune(tiny_model, DIALOGUES, LoRAConfig(epochs=2), tmp_path / name)
    a, b = (mx.load(str(tmp_path / name / "adapters.safetensors")) for name in ("a", "b"))
    assert a.keys() == b.keys()
    assert all(np.allclose(np.array(a[name]), np.array(b[name]), rtol=1e-3, atol=1e-5) for name in a)


@pytest.mark.parametrize("kind", ["bfloat16", "4-bit"])
def test_a_killed_training_goes_on_as_if_nothing_had_been(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    model, config = build(tiny_model_folder, kind), dataclasses.replace(CONFIG, save_every=2, dropout=0.1)
    whole = finetune(model, DIALOGUES, config, tmp_path / "whole")

    def die(step: TrainingStep) -> None:
        if step.number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(model, DIALOGUES, config, tmp_path / "resumed", die, states=tmp_path / "states")
    report = finetune(model, DIALOGUES, config, tmp_path / "resumed", states=tmp_path / "states")
    assert report.resumed_from == 4
    assert report.losses == pytest.approx(whole.losses, rel=1e-3)

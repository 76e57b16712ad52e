"""Training on Metal: bfloat16 and 4-bit models in their own data types, within tolerance, and resumable.

These tests run on a Mac only; the other files test the same loop on the CPU.
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
from mlx_personal.finetune import Example, LoRAConfig, TrainingData, TrainingStep, finetune, plan_training, train
from mlx_personal.finetune.data.samples import count_target_tokens, make_samples
from mlx_personal.finetune.forward.equivalence import TOLERANCES, select_mode
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support import random_models
from tests.support.training_steps import for_each_step

pytestmark = [pytest.mark.metal, pytest.mark.skipif(not mx.metal.is_available(), reason="needs Metal")]

QUESTIONS = ["What shall I cook?", "My cat does not eat.", "How deep?", "How do I plant tomatoes in May?"]
DIALOGUES = [Dialogue.of(question, f"Try a soup, number {i}.") for i, question in enumerate(QUESTIONS)]
EXAMPLES = list(map(Example, DIALOGUES))
CONFIG = LoRAConfig(epochs=8, batch_size=4, learning_rate=1e-2)


def generate_answers(model: LanguageModel) -> list[str]:
    prompts = [model.tokenize_prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    return model.generate(prompts, max_tokens=12)


def build(tiny_model_folder: Path, kind: str) -> LanguageModel:
    """Return a small model in bfloat16 or quantized to 4 bits."""
    small = load_language_model(tiny_model_folder)
    config = json.loads((tiny_model_folder / "config.json").read_text())
    # Wider than the tiny model, since a quantization group has 64 weights.
    config |= {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256}
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if kind == "4-bit":
        model, _ = quantize_model(model, config, group_size=64, bits=4)
    mx.eval(model.parameters())
    return LanguageModel(model, small.tokenizer)


@pytest.mark.parametrize("kind", ["bfloat16", "4-bit"])
def test_a_trained_adapter_answers_the_same_when_loaded_again(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    model = build(tiny_model_folder, kind)
    before = random_models.bits(model.model.parameters())
    base = generate_answers(model)
    report = finetune(model, EXAMPLES, CONFIG, tmp_path / "a")
    assert report.epoch_losses[-1] < 0.8 * report.epoch_losses[0]
    assert random_models.bits(model.model.parameters()) == before
    assert generate_answers(model) == base
    model.attach_adapter(tmp_path / "a")
    adapted = generate_answers(model)
    assert adapted != base
    reloaded = build(tiny_model_folder, kind)
    reloaded.attach_adapter(tmp_path / "a")
    assert generate_answers(reloaded) == adapted


@pytest.mark.parametrize("kind", ["bfloat16", "4-bit"])
def test_the_first_loss_matches_single_samples(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    model = build(tiny_model_folder, kind)
    samples = make_samples(model, DIALOGUES, 1024).samples
    reference = random_models.reference_loss(model, samples) / count_target_tokens(samples)
    report = finetune(model, EXAMPLES, LoRAConfig(epochs=1), tmp_path / "a")
    assert report.forward_mode == "packed"
    assert report.losses[0] == pytest.approx(reference, rel=2e-2)  # bfloat16 has 8 significant bits


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16", "4-bit"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi", "phi3", "mixtral", "ministral3"])
def test_the_packed_mode_is_within_tolerance(family: str, kind: str) -> None:
    lm = random_models.random_model(family, kind)
    random_models.with_adapter(lm)
    selection = select_mode(lm, random_models.prefix_sharing_samples())
    assert selection.mode == "packed", selection.fallback_reason
    (check,) = selection.checks
    assert check.dtype is not None
    assert max(check.loss_error, check.gradient_error) <= TOLERANCES[check.dtype]


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_gradient_checkpointing_changes_no_loss(kind: str) -> None:
    lm, losses = random_models.random_model("llama", kind), []
    for checkpoint in (False, True):
        config = dataclasses.replace(CONFIG, dropout=0.0, epochs=3)
        report = train(
            lm,
            plan_training(
                TrainingData(random_models.prefix_sharing_samples()),
                config,
                memory=MemoryPlan(gradient_checkpointing=checkpoint),
            ),
        )
        lm.detach_adapter()
        losses.append(report.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if kind == "float32" else 3e-2)


def test_training_twice_gives_the_same_adapter(tiny_model: LanguageModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        finetune(tiny_model, EXAMPLES, LoRAConfig(epochs=2), tmp_path / name)
    a, b = (random_models.load_weights(tmp_path / name / "adapters.safetensors") for name in ("a", "b"))
    assert a.keys() == b.keys()
    assert all(np.allclose(np.array(a[name]), np.array(b[name]), rtol=1e-3, atol=1e-5) for name in a)


@pytest.mark.parametrize("kind", ["bfloat16", "4-bit"])
def test_a_killed_training_resumes_bit_identically(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    model, config = build(tiny_model_folder, kind), dataclasses.replace(CONFIG, save_every=2, dropout=0.1)
    whole = finetune(model, EXAMPLES, config, tmp_path / "whole")

    def interrupt(step: TrainingStep) -> None:
        if step.number == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(
            model,
            EXAMPLES,
            config,
            tmp_path / "resumed",
            checkpoint_folder=tmp_path / "states",
            on_progress=for_each_step(interrupt),
        )
    report = finetune(model, EXAMPLES, config, tmp_path / "resumed", checkpoint_folder=tmp_path / "states")
    assert report.resumed_from == 4
    assert report.losses == pytest.approx(whole.losses, rel=1e-3)

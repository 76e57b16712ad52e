"""What only Metal computes: the compiled and checkpointed step, bfloat16 and 4-bit models, their adapters.

These run on a Mac alone. On Linux `test_finetune` runs the same step, compiled and checkpointed, in float32.
"""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.utils import quantize_model

from mlx_personal import Dialogue, LanguageModel, load_language_model
from mlx_personal.finetune import LoRAConfig, finetune, trainer
from mlx_personal.finetune.batches import collate, make_rows
from mlx_personal.finetune.trainer import arrays_of, loss_of, target_logits

pytestmark = [pytest.mark.metal, pytest.mark.skipif(not mx.metal.is_available(), reason="needs Metal")]

QUESTIONS = ["What shall I cook?", "My cat does not eat.", "How deep?", "How do I plant tomatoes in May?"]
DIALOGUES = [Dialogue.of(question, f"Try a soup, number {i}.") for i, question in enumerate(QUESTIONS)]
CONFIG = LoRAConfig(epochs=8, batch_size=4, learning_rate=1e-2)


def ask(model: LanguageModel) -> list[str]:
    prompts = [model.prompt_tokens([{"role": "user", "content": question}]) for question in QUESTIONS]
    return model.generate(prompts, max_tokens=12)


def build(tiny_model_folder: Path, kind: str) -> LanguageModel:
    """The tiny model in bfloat16, or quantized to 4 bits: what people download."""
    tiny = load_language_model(tiny_model_folder)
    config = json.loads((tiny_model_folder / "config.json").read_text())
    # Wider than the tiny model: a quantization group is 64 weights of one row.
    config |= {"hidden_size": 128, "head_dim": 32, "intermediate_size": 256}
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if kind == "4-bit":
        model, _ = quantize_model(model, config, group_size=64, bits=4)
    mx.eval(model.parameters())
    return LanguageModel(model, tiny.tokenizer)


@pytest.mark.parametrize("kind", ["bfloat16", "4-bit"])
def test_a_trained_adapter_answers_and_is_the_same_when_loaded_again(
    tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    model = build(tiny_model_folder, kind)
    before = {name: np.array(value.view(mx.uint8)) for name, value in tree_flatten(model.model.parameters())}
    base = ask(model)
    report = finetune(model, DIALOGUES, CONFIG, tmp_path / "a")
    assert report.epoch_losses[-1] < 0.8 * report.epoch_losses[0]
    after = dict(tree_flatten(model.model.parameters()))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], np.array(after[name].view(mx.uint8))) for name in before)
    assert ask(model) == base
    model.attach_adapter(tmp_path / "a")
    adapted = ask(model)
    assert adapted != base
    again = build(tiny_model_folder, kind)
    again.attach_adapter(tmp_path / "a")
    assert ask(again) == adapted


@pytest.mark.parametrize("kind", ["bfloat16", "4-bit"])
def test_the_first_compiled_loss_is_the_eager_one(tiny_model_folder: Path, tmp_path: Path, kind: str) -> None:
    model = build(tiny_model_folder, kind)
    batch = collate(make_rows(model, DIALOGUES, 1024).rows, 32)
    eager = loss_of(target_logits(model, batch.inputs[0].tolist()), *arrays_of(batch)).item()
    report = finetune(model, DIALOGUES, LoRAConfig(epochs=1), tmp_path / "a")
    assert report.first_loss == pytest.approx(eager, rel=2e-2)  # bfloat16 has 8 bits


def test_compiled_training_is_eager_training(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LoRAConfig(epochs=4, batch_size=4, learning_rate=1e-2, dropout=0.0)
    compiled = finetune(tiny_model, DIALOGUES, config, tmp_path / "compiled")
    monkeypatch.setattr(trainer, "device_name", lambda: "cpu")  # the eager step, still computed on Metal
    eager = finetune(tiny_model, DIALOGUES, config, tmp_path / "eager")
    assert compiled.epoch_losses == pytest.approx(eager.epoch_losses, rel=3e-2)


def test_training_twice_gives_the_same_adapter(tiny_model: LanguageModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        finetune(tiny_model, DIALOGUES, LoRAConfig(epochs=2), tmp_path / name)
    a, b = (mx.load(str(tmp_path / name / "adapters.safetensors")) for name in ("a", "b"))
    assert a.keys() == b.keys()
    assert all(np.allclose(np.array(a[name]), np.array(b[name]), rtol=1e-3, atol=1e-5) for name in a)

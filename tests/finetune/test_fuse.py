"""Fusing an adapter into its base: the same logits, a complete model folder, and an unchanged base."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import quantize_model, save_config, save_model

from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.finetune import Example, LoRAConfig, finetune
from mlx_personal.finetune.fuse import fuse
from tests.support import random_models
from tests.support.cases import quick_cases

DIALOGUES = [Dialogue.of(f"How do I plant {i} tomatoes?", f"In May, {i} of them.") for i in range(5)]
MESSAGES = [{"role": "user", "content": "How do I plant tomatoes?"}]
TOKENS = mx.array([list(range(1, 60))])


def logits(model: Any) -> np.ndarray:
    return np.array(model(TOKENS).astype(mx.float32), np.float64)


def with_adapter(lm: LanguageModel, folder: Path, **changes: Any) -> np.ndarray:
    """Write an adapter with a large effect and return the logits of the base with it."""
    config = LoRAConfig(**{"epochs": 8, "learning_rate": 3e-2, "batch_size": 4} | changes)
    finetune(lm, list(map(Example, DIALOGUES)), config, folder)
    lm.attach_adapter(folder)
    actual = logits(lm.model)
    lm.detach_adapter()
    return actual


@pytest.mark.parametrize(("dora", "layers"), quick_cases([(False, -1), (False, 1), (True, -1), (True, 1)], (True, 1)))
def test_the_fused_model_computes_like_base_and_adapter(
    dora: bool, layers: int, tiny_model: LanguageModel, tmp_path: Path
) -> None:
    before = logits(tiny_model.model)
    expected = with_adapter(tiny_model, tmp_path / "adapter", use_dora=dora, num_layers=layers)
    folder = fuse(tiny_model, tmp_path / "adapter", tmp_path / "fused")
    assert folder == tmp_path / "fused"
    for model in (load_language_model(folder).model, mlx_lm.load(str(folder))[0]):
        actual = logits(model)
        assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()
        assert np.abs(actual - before).max() > 100 * np.abs(actual - expected).max()
    assert not [name for name, _ in tree_flatten(model.parameters()) if "lora" in name]


def test_fused_weights_match_mlx_lm(tiny_model: LanguageModel, tmp_path: Path) -> None:
    with_adapter(tiny_model, tmp_path / "adapter")
    fuse(tiny_model, tmp_path / "adapter", tmp_path / "fused")
    model = mlx_lm.load(str(tiny_model.path), adapter_path=str(tmp_path / "adapter"))[0]
    for name, module in model.named_modules():
        if hasattr(module, "fuse"):
            stored: Any = mx.load(str(tmp_path / "fused" / "model.safetensors"))
            assert np.array_equal(np.array(stored[f"{name}.weight"]), np.array(module.fuse().weight)), name


def test_tokenizer_and_chat_template_are_copied(tiny_model: LanguageModel, tmp_path: Path) -> None:
    with_adapter(tiny_model, tmp_path / "adapter")
    (tmp_path / "base").mkdir()
    assert tiny_model.path is not None
    shutil.copytree(tiny_model.path, tmp_path / "base", dirs_exist_ok=True)
    template = "Say: {{ messages | map(attribute='content') | join('<|end|>') }}<|end|>"
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    (tmp_path / "base" / "additional_chat_templates").mkdir()
    (tmp_path / "base" / "additional_chat_templates" / "rag.jinja").write_text("Read: ")
    base = load_language_model(tmp_path / "base")
    fused = load_language_model(fuse(base, tmp_path / "adapter", tmp_path / "fused"))
    assert fused.tokenizer.chat_template == base.tokenizer.chat_template == {"default": template, "rag": "Read: "}
    assert fused.tokenize_prompt(MESSAGES) == base.tokenize_prompt(MESSAGES)
    text = "Привет, 今日は. <|end|> 12"
    assert fused.tokenize(text) == base.tokenize(text)
    assert fused.tokenizer.eos_token_ids == base.tokenizer.eos_token_ids


def test_a_fused_model_can_be_the_base_of_adapters(tiny_model: LanguageModel, tmp_path: Path) -> None:
    with_adapter(tiny_model, tmp_path / "task")
    base = load_language_model(fuse(tiny_model, tmp_path / "task", tmp_path / "base"))
    expected = with_adapter(base, tmp_path / "user", seed=1)
    fuse(base, tmp_path / "user", tmp_path / "both")
    actual = logits(load_language_model(tmp_path / "both").model)
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_base_model_and_its_folder_are_unchanged(tiny_model: LanguageModel, tmp_path: Path) -> None:
    with_adapter(tiny_model, tmp_path / "adapter")
    assert tiny_model.path is not None
    files = {path.name: path.read_bytes() for path in tiny_model.path.iterdir()}
    before = logits(tiny_model.model)
    fuse(tiny_model, tmp_path / "adapter", tmp_path / "fused")
    assert np.array_equal(logits(tiny_model.model), before)
    assert {path.name: path.read_bytes() for path in tiny_model.path.iterdir()} == files


# Quantized bases


def quantized_folder(base: LanguageModel, folder: Path) -> Path:
    """Write the tiny model in 4 bits."""
    assert base.path is not None
    shutil.copytree(base.path, folder)
    model, _ = mlx_lm.load(str(base.path))[:2]
    quantized, config = quantize_model(model, json.loads((folder / "config.json").read_text()), 32, 4)
    for layer in (0, 1):  # as in mixed quantizations
        config["quantization"][f"model.layers.{layer}.mlp.up_proj"] = {"group_size": 32, "bits": 4}
    save_model(folder, quantized)
    save_config(config, folder / "config.json")
    return folder


@pytest.mark.parametrize("dora", quick_cases([False, True], False))
def test_layers_without_an_adapter_stay_quantized(dora: bool, tiny_model: LanguageModel, tmp_path: Path) -> None:
    """As on a GPU, where a model computes in its own data type."""
    with_adapter(tiny_model, tmp_path / "adapter", num_layers=1, use_dora=dora)
    path = quantized_folder(tiny_model, tmp_path / "4-bit")
    model, tokenizer = mlx_lm.load(str(path))[:2]
    lm = LanguageModel(model, tokenizer, path)
    lm.attach_adapter(tmp_path / "adapter")
    expected = logits(lm.model)
    fuse(lm, tmp_path / "adapter", tmp_path / "fused")
    model = mlx_lm.load(str(tmp_path / "fused"))[0]
    actual = logits(model)
    assert np.abs(actual - expected).max() < 1e-4 * np.abs(expected).max()
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert kinds["model.layers.0.mlp.up_proj"] is nn.QuantizedLinear
    assert kinds["model.layers.1.mlp.up_proj"] is nn.Linear
    assert "quantization" in json.loads((tmp_path / "fused" / "config.json").read_text())


def test_a_quantized_base_on_a_cpu_is_written_in_float32(tiny_model: LanguageModel, tmp_path: Path) -> None:
    lm = load_language_model(quantized_folder(tiny_model, tmp_path / "4-bit"))
    expected = with_adapter(lm, tmp_path / "adapter")
    fuse(lm, tmp_path / "adapter", tmp_path / "fused")
    model = mlx_lm.load(str(tmp_path / "fused"))[0]
    assert {weight.dtype for _, weight in tree_flatten(model.parameters())} == {mx.float32}
    assert np.abs(logits(model) - expected).max() < 1e-4 * np.abs(expected).max()
    assert "quantization" not in json.loads((tmp_path / "fused" / "config.json").read_text())


# Failures


def test_an_existing_folder_is_not_overwritten(tiny_model: LanguageModel, tmp_path: Path) -> None:
    with_adapter(tiny_model, tmp_path / "adapter")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    before = logits(tiny_model.model)
    with pytest.raises(UserError, match="already exists"):
        fuse(tiny_model, tmp_path / "adapter", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert np.array_equal(logits(tiny_model.model), before)


def test_a_failing_disk_leaves_nothing(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_adapter(tiny_model, tmp_path / "adapter")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(importlib.import_module("mlx_personal.finetune.fuse"), "save_config", full)
    with pytest.raises(UserError):
        fuse(tiny_model, tmp_path / "adapter", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_that_does_not_fit_is_rejected(tiny_model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        fuse(tiny_model, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="created in memory"):
        fuse(random_models.random_model("llama"), tmp_path / "adapter", tmp_path / "out")

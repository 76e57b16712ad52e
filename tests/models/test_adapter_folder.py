"""Adapters of other programs: what can be attached, what is refused and why, and what changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model

from mlx_personal import LanguageModel, UserError
from mlx_personal.models.adapter_folder import adapter_changes_nothing, read_adapter_config

CASES: dict[str, dict[str, Any]] = {
    "lora": {"num_layers": -1},
    "dora": {"num_layers": -1, "fine_tune_type": "dora"},
    "last layer": {"num_layers": 1},
    "keys": {"num_layers": 2, "keys": ["self_attn.q_proj", "mlp.down_proj"]},
    "embedding": {"num_layers": 1, "keys": ["self_attn.v_proj", "model.embed_tokens"]},
}


def write_adapter(
    model_folder: Path,
    folder: Path,
    num_layers: int = -1,
    fine_tune_type: str = "lora",
    keys: Any = None,
    std: float = 1,
) -> Path:
    """Write an adapter as `mlx_lm.lora` does, with mlx-lm's default scale of 20 and random weights."""
    model, _ = load_model(model_folder)
    parameters = {"rank": 4, "scale": 20.0, "dropout": 0.0, **({} if keys is None else {"keys": keys})}
    model.freeze()
    mx.random.seed(0)
    linear_to_lora_layers(model, num_layers, parameters, use_dora=fine_tune_type == "dora")
    weights = dict(tree_flatten(model.trainable_parameters()))
    for name, weight in weights.items():
        if name.endswith("lora_b"):
            weights[name] = std * mx.random.normal(weight.shape)
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    config = {"fine_tune_type": fine_tune_type, "num_layers": num_layers, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_of_mlx_lm_computes_the_same_here(
    case: str, tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", **CASES[case])
    tokens = mx.array([tiny_model.tokenize("What shall I cook tonight?")])
    base = np.array(tiny_model.model(tokens))
    reference, _ = load_model(tiny_model_folder)
    expected = np.array(load_adapters(reference, str(folder)).eval()(tokens))
    tiny_model.attach_adapter(folder)
    try:
        np.testing.assert_allclose(np.array(tiny_model.model(tokens)), expected, atol=1e-4)
        assert not adapter_changes_nothing(tiny_model.model)
    finally:
        tiny_model.detach_adapter()
    assert np.abs(expected - base).max() > 0.1


@pytest.mark.parametrize("case", CASES)
def test_an_untrained_adapter_changes_nothing(
    case: str, tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    assert not adapter_changes_nothing(tiny_model.model)  # there is none
    tiny_model.attach_adapter(write_adapter(tiny_model_folder, tmp_path / "adapter", **CASES[case], std=0))
    try:
        assert adapter_changes_nothing(tiny_model.model)
    finally:
        tiny_model.detach_adapter()


def test_dora_with_changed_magnitudes_only_changes_something(
    tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", fine_tune_type="dora", std=0)
    weights: Any = mx.load(str(folder / "adapters.safetensors"))
    changed = {name: 1.1 * w if name.endswith(".m") else w for name, w in weights.items()}
    mx.eval(changed)
    mx.save_safetensors(str(folder / "adapters.safetensors"), changed)
    tiny_model.attach_adapter(folder)
    try:
        assert not adapter_changes_nothing(tiny_model.model)
    finally:
        tiny_model.detach_adapter()


def rewrite(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text())
        parameters = {**config["lora_parameters"], **changes.pop("lora_parameters", {})}
        file.write_text(json.dumps({**config, "lora_parameters": parameters, **changes}))

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def make_peft(folder: Path) -> None:
    (folder / "adapters.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16}))


def make_model(folder: Path) -> None:
    (folder / "adapter_config.json").rename(folder / "config.json")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "there is no such folder; name the folder of an mlx-lm adapter"),
        (remove("adapter_config.json"), "is not an adapter: it has no adapter_config.json"),
        (remove("adapters.safetensors"), "is not an adapter: it has no adapters.safetensors"),
        (make_peft, "is a PEFT adapter ('LORA'), not one of mlx-lm; convert it"),
        (make_model, "is a model, not an adapter; choose it as the base model"),
        (lambda folder: (folder / "adapter_config.json").write_text("["), "is not a JSON object"),
        (rewrite(fine_tune_type="full"), "holds the weights of full fine-tuning, not a LoRA or DoRA adapter"),
        (rewrite(fine_tune_type="ia3"), "has the unknown fine_tune_type 'ia3'"),
        (rewrite(num_layers=None), "has no num_layers or lora_parameters"),
        (rewrite(lora_parameters={"rank": 0}), "rank in its lora_parameters is '0'"),
        (rewrite(lora_parameters={"scale": "x"}), "scale in its lora_parameters is 'x'"),
        (rewrite(lora_parameters={"scale": float("nan")}), "scale in its lora_parameters is 'nan'"),
        (rewrite(lora_parameters={"scale": 1 << 31}), "scale in its lora_parameters is '2147483648'"),
        (rewrite(lora_parameters={"dropout": 1}), "dropout in its lora_parameters is '1'"),
        (rewrite(lora_parameters={"keys": "all"}), "keys in its lora_parameters is 'all'"),
        (rewrite(lora_parameters={"rank": 5}), "damaged or made for another model"),
        (rewrite(num_layers=1), "damaged or made for another model"),
    ],
)
def test_a_folder_that_cannot_be_attached_is_one_line(
    damage: Callable[[Path], None], reason: str, tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", num_layers=2)
    damage(folder)
    with pytest.raises(UserError) as raised:
        tiny_model.attach_adapter(folder)
    assert reason in raised.value.line()
    assert str(folder) in raised.value.line()
    assert not adapter_changes_nothing(tiny_model.model)  # nothing stays attached


def test_a_file_is_not_an_adapter_folder(tmp_path: Path) -> None:
    (tmp_path / "adapters.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="there is no such folder"):
        read_adapter_config(tmp_path / "adapters.safetensors")

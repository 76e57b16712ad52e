"""The private and patched names of mlx-lm, MLX and the Hugging Face libraries that this package uses.

A failure here means that an upstream release changed one of them. Each test says what to adapt.
"""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm.utils
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.tuner import trainer
from mlx_lm.tuner.utils import linear_to_lora_layers
from transformers import dynamic_module_utils

from mlx_personal import LanguageModel
from mlx_personal.models import mlx_lm_compat

COMPAT = "mlx_personal/models/mlx_lm_compat.py"


def assert_upstream(condition: bool, change: str, remedy: str) -> None:
    """Fail with what changed upstream and what to do about it."""
    assert condition, f"{change}; {remedy} in {COMPAT}"


def test_mlx_lm_downloads_a_model_from_one_name() -> None:
    download = getattr(mlx_lm.utils, "_download", None)
    assert_upstream(
        callable(download) and next(iter(inspect.signature(download).parameters), None) == "path_or_hf_repo",
        "mlx_lm.utils._download(path_or_hf_repo) is gone or has other parameters",
        "let download_model call what mlx_lm.load now downloads with",
    )


def test_mlx_lm_finds_a_cached_model_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert_upstream(
        callable(getattr(mlx_lm.utils, "hf_repo_to_path", None)),
        "mlx_lm.utils.hf_repo_to_path is gone",
        "let cached_model_folder call huggingface_hub.snapshot_download(repo, local_files_only=True)",
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert mlx_lm_compat.cached_model_folder("nobody/has-this-model") is None, (
        f"a repository that is not cached raises another error; catch it in cached_model_folder in {COMPAT}"
    )
    monkeypatch.setattr(mlx_lm.utils, "hf_repo_to_path", lambda repo: tmp_path)
    assert mlx_lm_compat.cached_model_folder("a/b") is None, "a download without weights is not a model"
    (tmp_path / "model.safetensors").touch()
    assert mlx_lm_compat.cached_model_folder("a/b") == tmp_path


def test_mlx_lm_keeps_its_models_in_one_package() -> None:
    known = mlx_lm_compat.known_model_types()
    assert_upstream(
        {"llama", "mistral", "qwen3", "gemma3_text"} <= known and "bert" not in known,
        "mlx-lm finds the class of a model type elsewhere than in mlx_lm.models and MODEL_REMAPPING",
        "collect the types in known_model_types from there",
    )


def test_transformers_finds_tokenizers_by_class_and_by_model_type() -> None:
    found = [
        mlx_lm_compat.is_known_tokenizer(tokenizer_class, model_type)
        for tokenizer_class, model_type in (("GPT2Tokenizer", None), (None, "qwen2"), ("OwnTokenizer", "own"))
    ]
    assert_upstream(
        found == [True, True, False],
        "transformers chooses a tokenizer's class by other names",
        "let is_known_tokenizer follow AutoTokenizer.from_pretrained",
    )


def test_transformers_runs_a_models_code_in_one_place() -> None:
    source = inspect.getsource(dynamic_module_utils)
    assert_upstream(
        source.count("exec_module(") == 1
        and "exec_module(" in inspect.getsource(dynamic_module_utils.get_class_in_module),
        "transformers runs the Python files of a model elsewhere too",
        "refuse that in code_of_models_refused",
    )
    assert_upstream(
        "TIME_OUT_REMOTE_CODE > 0" in inspect.getsource(dynamic_module_utils.resolve_trust_remote_code),
        "transformers no longer skips its question whether to run code if TIME_OUT_REMOTE_CODE is 0",
        "prevent that question in code_of_models_refused",
    )
    before = dynamic_module_utils.get_class_in_module
    with mlx_lm_compat.code_of_models_refused(), pytest.raises(ValueError, match="never run"):
        dynamic_module_utils.get_class_in_module("Model", "model.py")
    assert dynamic_module_utils.get_class_in_module is before and dynamic_module_utils.TIME_OUT_REMOTE_CODE > 0


def test_the_tokenizer_does_not_warn_of_long_texts(tiny_model: LanguageModel, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("transformers.tokenization_utils_base")
    mlx_lm_compat.silence_length_warnings()
    assert logger.level == logging.ERROR
    tiny_model.tokenize("How do I plant tomatoes? " * 200)
    assert_upstream(
        not [record for record in caplog.records if "length" in record.getMessage()],
        "transformers warns of texts beyond the context under another logger",
        "silence that logger in silence_length_warnings",
    )


def test_the_random_generator_is_seeded_and_restored() -> None:
    mx.random.seed(5)
    expected_next = mx.random.uniform(shape=(4,)).tolist()
    mx.random.seed(5)
    with mlx_lm_compat.seeded(0):
        inside = mx.random.uniform(shape=(4,)).tolist()
    assert_upstream(
        mx.random.uniform(shape=(4,)).tolist() == expected_next,
        "mx.random.state has another layout than one key of two 32-bit words",
        "adapt how seeded saves and restores it",
    )
    mx.random.seed(0)
    assert inside == mx.random.uniform(shape=(4,)).tolist()


def test_lora_layers_are_initialized_from_the_global_generator(tiny_model: LanguageModel) -> None:
    def lora_weights(seed: int) -> dict[str, list[float]]:
        tiny_model.attach_new_adapter(-1, {"rank": 2, "scale": 1.0, "dropout": 0.0}, seed)
        weights = {name: w.tolist() for name, w in tree_flatten(tiny_model.model.trainable_parameters())}
        tiny_model.detach_adapter()
        return weights

    assert_upstream(
        lora_weights(0) == lora_weights(0) != lora_weights(1),
        "mlx-lm draws the initial LoRA weights from somewhere else than mx.random's global state",
        "seed that generator in seeded",
    )
    parameters = list(inspect.signature(linear_to_lora_layers).parameters)
    assert_upstream(
        parameters[:4] == ["model", "num_layers", "config", "use_dora"],
        "mlx_lm.tuner.utils.linear_to_lora_layers has other parameters",
        "adapt LanguageModel.attach_new_adapter, or wrap the function",
    )


def test_a_dropout_layer_tells_its_probability() -> None:
    assert_upstream(
        hasattr(nn.Dropout(0.25), "_p_1"),
        "nn.Dropout stores its probability under another name than _p_1",
        "read the new one in dropout_keep_probability",
    )
    assert mlx_lm_compat.dropout_keep_probability(nn.Dropout(0.25)) == 0.75


def test_prompt_caches_can_be_repeated_filtered_and_extended(tiny_model: LanguageModel) -> None:
    caches = make_prompt_cache(tiny_model.model)
    remedy = "adapt repeat_cache and cache_bytes, and generation.py,"
    assert_upstream(
        all(type(cache) is KVCache and mlx_lm_compat.supports_padding(cache) for cache in caches),
        "make_prompt_cache returns another kind of cache for a plain Llama",
        "list it in supports_padding",
    )
    assert mlx_lm_compat.supports_padding(RotatingKVCache(max_size=8))
    assert not mlx_lm_compat.supports_padding(object())
    tiny_model.model(mx.array([[1, 2, 3]]), cache=caches)
    for cache in caches:
        repeated = mlx_lm_compat.repeat_cache(cache, 3, 16)
        methods = ("prepare", "finalize", "filter", "extend")
        missing = [name for name in methods if not callable(getattr(repeated, name, None))]
        assert_upstream(not missing, f"mlx-lm's batch caches have no {', '.join(missing)} any more", remedy)
        assert_upstream(repeated.step == 16, "mlx-lm's batch caches grow by something else than `step`", remedy)
        assert_upstream(repeated.keys.shape[0] == 3, "a batch cache has another layout than [batch, ...]", remedy)
        # Keys and values of 2 heads of 8 float32 or bfloat16 numbers for each token.
        itemsize = cache.keys.dtype.size
        assert mlx_lm_compat.cache_bytes(cache, 100) == 2 * 2 * 8 * itemsize * 100


def test_the_trainer_runs_without_its_display_and_memory_limit() -> None:
    names = ("TrainUI", "maybe_set_recommended_wired_limit")
    originals = {name: getattr(trainer, name, None) for name in names}
    missing = [name for name, original in originals.items() if original is None]
    assert_upstream(
        not missing,
        f"mlx_lm.tuner.trainer has no {', '.join(missing)} any more",
        "replace what the trainer now uses in plain_trainer; it must never set a wired memory limit",
    )
    source = inspect.getsource(trainer.train)
    assert_upstream(
        all(f"{name}(" in source for name in names) and "set_wired_limit" not in source,
        "mlx_lm.tuner.trainer.train shows its progress or sets its memory limit in another way",
        "replace what it now uses in plain_trainer; it must never set a wired memory limit",
    )
    with mlx_lm_compat.plain_trainer():
        assert all(getattr(trainer, name) is not original for name, original in originals.items())
        with trainer.TrainUI(1, 2, name="anything") as display:
            display.whatever_method(1)
        trainer.maybe_set_recommended_wired_limit()
    assert {name: getattr(trainer, name) for name in names} == originals


def test_mlx_lm_keeps_its_python_templates_in_the_tokenizer(tiny_model: LanguageModel) -> None:
    assert not mlx_lm_compat.has_python_template(tiny_model.tokenizer)
    wrapper = type(tiny_model.tokenizer)(tiny_model.tokenizer._tokenizer, chat_template=lambda *_, **__: "text")
    assert_upstream(
        mlx_lm_compat.has_python_template(wrapper),
        "a TokenizerWrapper keeps a Python chat template elsewhere than in _chat_template",
        "let has_python_template look there",
    )
    rendered = wrapper.apply_chat_template([], tokenize=False, add_generation_prompt=True, enable_thinking=False)
    assert rendered == "text", "a TokenizerWrapper renders otherwise; adapt ChatRenderer.render in chat_renderer.py"

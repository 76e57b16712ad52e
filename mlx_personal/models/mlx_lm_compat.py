"""All uses of private, patched or undocumented names of mlx-lm, MLX, transformers and huggingface_hub.

Other modules call the functions here. tests/models/test_mlx_lm_compat.py checks each of them, so that an upstream
change fails there, with a message that says what to do.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import pkgutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from huggingface_hub import errors as hub_errors
from mlx_lm import utils as mlx_lm_utils


def download_model(repo: str) -> Path:
    """Download a repository of the Hugging Face hub and return its folder.

    Args:
        repo: Name of the repository, `owner/name`.

    Raises:
        Exception: As the hub's client and its HTTP library raise it.
    """
    return Path(mlx_lm_utils._download(repo))


def cached_model_folder(repo: str) -> Path | None:
    """Return the folder of a repository that is in the hub's cache with its weights, or None.

    Args:
        repo: Name of the repository, `owner/name`.
    """
    try:
        folder = Path(mlx_lm_utils.hf_repo_to_path(repo))
        # An interrupted download may have left only the small files.
        return folder if any(folder.glob("*.safetensors")) else None
    except (OSError, hub_errors.HfHubHTTPError, ValueError):
        return None


@functools.cache
def known_model_types() -> frozenset[str]:
    """Return the values of `model_type` in a config.json that mlx-lm has a model for."""
    import mlx_lm.models

    modules = {module.name for module in pkgutil.iter_modules(mlx_lm.models.__path__)}
    return frozenset(modules | set(mlx_lm_utils.MODEL_REMAPPING))


def is_known_tokenizer(tokenizer_class: object, model_type: object) -> bool:
    """Return whether transformers has a tokenizer of its own for a model folder, so that the folder's code is not used.

    Args:
        tokenizer_class: `tokenizer_class` of the folder's tokenizer_config.json.
        model_type: `model_type` of its config.json.
    """
    from transformers.models.auto import tokenization_auto

    if isinstance(tokenizer_class, str) and tokenization_auto.tokenizer_class_from_name(tokenizer_class) is not None:
        return True
    return isinstance(model_type, str) and model_type in tokenization_auto.TOKENIZER_MAPPING_NAMES


_refusing_code = threading.RLock()


@contextlib.contextmanager
def code_of_models_refused() -> Iterator[None]:
    """Make transformers refuse, inside the `with` block, to run a model's Python files, and to ask whether it may.

    Its option `trust_remote_code` is not passed on to every loader that a model's files can name.
    """
    from transformers import dynamic_module_utils as modules

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("it needs Python code of its own, which is never run")

    names = ("get_class_in_module", "TIME_OUT_REMOTE_CODE")
    with _refusing_code:
        originals = {name: getattr(modules, name) for name in names}
        try:
            modules.get_class_in_module = refuse  # the only place that runs a file
            modules.TIME_OUT_REMOTE_CODE = 0  # seconds to wait for an answer; with 0 it raises an error at once
            yield
        finally:
            for name, original in originals.items():
                setattr(modules, name, original)


def has_python_template(tokenizer: Any) -> bool:
    """Return whether mlx-lm renders chats by a Python function of its own instead of the tokenizer's template.

    Args:
        tokenizer: A tokenizer, as `mlx_lm.load` returns it.
    """
    return getattr(tokenizer, "_chat_template", None) is not None


def silence_length_warnings() -> None:
    """Silence transformers' warning about texts beyond the context length, which this package truncates itself."""
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed MLX's global random generator inside the `with` block and restore its state afterwards.

    mlx-lm initializes LoRA layers with the global generator and has no parameter for a key.

    Args:
        seed: The random seed.
    """
    state: Any = mx.random.state
    high, low = state[0].tolist()
    mx.random.seed(seed)
    try:
        yield
    finally:
        mx.random.seed(high << 32 | low)


def dropout_keep_probability(dropout: nn.Dropout) -> float:
    """Return the probability with which a dropout layer keeps a value.

    Args:
        dropout: The layer.
    """
    return float(dropout._p_1)


def supports_padding(cache: Any) -> bool:
    """Return whether a prompt cache supports right-padded prompts; not all of mlx-lm's recurrent layers do.

    Args:
        cache: A cache of one prompt, from `make_prompt_cache`.
    """
    from mlx_lm.models.cache import KVCache, RotatingKVCache

    return type(cache) in (KVCache, RotatingKVCache)


def repeat_cache(cache: Any, batch_size: int, growth_tokens: int) -> Any:
    """Return a batch cache with copies of a single prompt's cache.

    Args:
        cache: A cache of one prompt.
        batch_size: Number of copies.
        growth_tokens: Number of tokens by which the cache grows when it is full.

    Returns:
        A cache with `prepare`, `finalize`, `filter`, `extend` and `state`.
    """
    repeated = cache.merge([cache])
    repeated.filter([0] * batch_size)
    if hasattr(repeated, "step"):
        repeated.step = growth_tokens
    return repeated


def cache_bytes(cache: Any, length: int) -> float:
    """Return the size of a cache in bytes once its sequences are `length` tokens long.

    The state of a recurrent layer does not grow.

    Args:
        cache: A cache of at least one token.
        length: Number of tokens of a sequence.
    """
    keys = getattr(cache, "keys", None)
    return cache.nbytes if keys is None else cache.nbytes * length / keys.shape[2]


@contextlib.contextmanager
def plain_trainer() -> Iterator[None]:
    """Run mlx-lm's trainer inside the `with` block without its progress display and its wired memory limit.

    The display takes time to draw, and the memory limit has crashed whole Macs.
    """
    from mlx_lm.tuner import trainer

    replacements: dict[str, Any] = {"TrainUI": _NoDisplay, "maybe_set_recommended_wired_limit": lambda: None}
    originals = {name: getattr(trainer, name) for name in replacements}
    try:
        for name, replacement in replacements.items():
            setattr(trainer, name, replacement)
        yield
    finally:
        for name, original in originals.items():
            setattr(trainer, name, original)


class _NoDisplay:
    """Replaces mlx-lm's progress display; every method does nothing."""

    def __init__(self, *_: Any, **__: Any): ...

    def __enter__(self) -> _NoDisplay:
        return self

    def __exit__(self, *_: Any) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None

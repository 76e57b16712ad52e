"""The sampling that a model's publisher recommends, in the `generation_config.json` of its folder.

It is Hugging Face's file. Its meaning is that of transformers, with two exceptions that vLLM also makes: a file with a
temperature but without `do_sample` samples, and a filter that it does not name is off (transformers' `top_k` would be
50).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlx_personal.errors import UserError
from mlx_personal.models.model_folder import read_json_object
from mlx_personal.models.sampling import SamplingParams

FILE_NAME: Final = "generation_config.json"

_FLOATS: Final = ("temperature", "top_p", "min_p", "repetition_penalty")


@dataclass(frozen=True)
class GenerationConfig:
    """The recommended sampling of a model.

    Attributes:
        sampling: How tokens are sampled; greedy for a model without recommendations. Stop strings are never set.
        max_tokens: Maximum number of tokens of an answer; None if the file does not say.
        invalid: What cannot be used and is ignored, in one line; None if there is nothing.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    invalid: str | None = None


def read_generation_config(folder: Path | None) -> GenerationConfig:
    """Read the recommended sampling of a model.

    A value that cannot be used is ignored, since the model works without it.

    Args:
        folder: The model's folder; None for a model that was not loaded from one.
    """
    if folder is None or not (folder / FILE_NAME).is_file():
        return GenerationConfig()
    try:
        content = read_json_object(folder / FILE_NAME)
    except UserError as error:
        return GenerationConfig(invalid=f"{FILE_NAME} of the model {error.what}")
    values, invalid = _valid_values(content)
    # Hugging Face's default temperature is 1.
    samples = content["do_sample"] is True if isinstance(content.get("do_sample"), bool) else "temperature" in values
    temperature = values.pop("temperature", 1.0) if samples else 0.0
    values.pop("temperature", None)
    max_tokens = content.get("max_new_tokens")
    if max_tokens is not None and not (type(max_tokens) is int and max_tokens > 0):
        invalid, max_tokens = [*invalid, "max_new_tokens"], None
    what = f"{FILE_NAME} of the model has invalid values, which are ignored: {', '.join(invalid)}" if invalid else None
    return GenerationConfig(SamplingParams(temperature, **values), max_tokens, what)


def _valid_values(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the sampling parameters of a file, and the names of those that cannot be used."""
    values: dict[str, Any] = {}
    invalid: list[str] = []
    for name in (*_FLOATS, "top_k"):
        value: Any = content.get(name)
        if value is None:
            continue
        if name == "top_k" and value == -1:
            value = 0  # vLLM's way to say that the filter is off
        is_number = isinstance(value, int if name == "top_k" else (int, float)) and not isinstance(value, bool)
        try:
            if not is_number:
                raise ValueError(name)
            SamplingParams(**{name: value})
        except (ValueError, OverflowError):
            invalid.append(name)
        else:
            values[name] = value if name == "top_k" else float(value)
    return values, invalid

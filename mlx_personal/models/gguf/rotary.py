"""Scaling of rotary embeddings: from a GGUF file's metadata and tensors to `rope_scaling` of config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlx_personal.errors import quoted
from mlx_personal.models.gguf.blocks import read_rows, to_float32
from mlx_personal.models.gguf.file import GGUFFile

FREQUENCY_FACTORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
# Llama 3.1 to 3.3 scale their rotary frequencies with these; a file has only the resulting factors.
_LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}

_MAX_FACTORS = 1 << 16  # far above what any head has


def rope_scaling(file: GGUFFile) -> dict[str, Any] | None:
    """Return the rotary scaling that metadata names, as mlx-lm reads it, or None.

    Args:
        file: The file.

    Raises:
        UserError: If it is of a kind that mlx-lm does not have.
    """
    prefix = f"{file.architecture}.rope"
    kind = file.string(f"{prefix}.scaling.type") or "linear"
    factor = file.number(f"{prefix}.scaling.factor", file.number(f"{prefix}.scale_linear", 1.0))
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and file.number(f"{prefix}.scaling.attn_factor", 1.0) == 1.0:
        original_length = file.integer(f"{prefix}.scaling.original_context_length")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_length,
            "beta_fast": file.number(f"{prefix}.scaling.yarn_beta_fast", 32.0),
            "beta_slow": file.number(f"{prefix}.scaling.yarn_beta_slow", 1.0),
        }
    raise file.error(f"has rotary scaling of the kind {quoted(kind)}, which is not supported")


def scaling_by_factors(file: GGUFFile, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary scaling that a factor for each frequency stands for: Llama 3's where it is that.

    Args:
        file: A file with the tensor `FREQUENCY_FACTORS`.
        config: The model's config.

    Raises:
        UserError: If there is not one positive factor for each frequency.
    """
    factors = rope_factors(file, FREQUENCY_FACTORS)
    if factors is None or len(factors) != config["head_dim"] // 2:
        raise file.error("is a damaged GGUF file: not one rotary factor for each frequency", "download it again")
    llama3 = {"rope_type": "llama3", "factor": float(factors.max()), **_LLAMA3_SCALING}
    if np.allclose(factors, _llama3_factors(config["rope_theta"], config["head_dim"], llama3), rtol=1e-5):
        return llama3
    # mlx-lm multiplies frequencies by a list of factors in this kind only, and scales nothing at equal lengths.
    return {
        "rope_type": "longrope",
        "original_max_position_embeddings": config["max_position_embeddings"],
        "short_factor": factors.tolist(),
        "long_factor": factors.tolist(),
    }


def rope_factors(file: GGUFFile, name: str) -> np.ndarray | None:
    """Return a vector of rotary factors.

    Args:
        file: The file.
        name: Name of the tensor.

    Returns:
        One factor for each frequency [frequencies], or None if the file has none of this name.

    Raises:
        UserError: If a factor is not a positive number.
    """
    tensor = file.tensor(name)
    if tensor is None:
        return None
    if tensor.parameter_count > _MAX_FACTORS:
        raise file.error(f"is a damaged GGUF file: {tensor.parameter_count} factors in {name}", "download it again")
    factors = to_float32(read_rows(tensor), tensor.type).reshape(-1)
    if not np.isfinite(factors).all() or (factors <= 0).any():
        raise file.error(f"is a damaged GGUF file: factors in {name} that are not positive", "download it again")
    return factors


def _llama3_factors(base: float, head_dim: int, scaling: Mapping[str, Any]) -> np.ndarray:
    """Return the factors by which Llama 3 lengthens the period of each frequency [head_dim / 2]."""
    wavelengths = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    context = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = np.clip((context / wavelengths - low) / (high - low), 0.0, 1.0)
    factors: np.ndarray = 1 / ((1 - share) / scaling["factor"] + share)
    return factors

"""`generation_config.json`: what a model's publisher recommends, and files that are invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.models.generation_config import FILE_NAME, GenerationConfig, read_generation_config
from mlx_personal.models.sampling import SamplingParams


def read(folder: Path, content: Any) -> GenerationConfig:
    (folder / FILE_NAME).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_generation_config(folder)


def test_without_a_file_answers_are_greedy(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) == read_generation_config(None) == GenerationConfig()
    assert GenerationConfig().sampling.is_greedy


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # As published with Llama 3, Qwen 2.5, Gemma 3 and SmolLM2.
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2]},
            SamplingParams(0.6, top_p=0.9),
        ),
        (
            {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
            SamplingParams(0.7, top_p=0.8, top_k=20, repetition_penalty=1.05),
        ),
        (
            {"do_sample": True, "top_k": 64, "top_p": 0.95, "cache": "hybrid"},
            SamplingParams(1, 0.95, 64),
        ),
        ({"bos_token_id": 1, "eos_token_id": 2}, SamplingParams()),
        ({"temperature": 0.15}, SamplingParams(0.15)),
        ({"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.1}, SamplingParams(repetition_penalty=1.1)),
        ({"do_sample": None, "temperature": None, "top_p": None, "min_p": None}, SamplingParams()),
        ({"do_sample": True, "temperature": 1, "top_k": -1, "min_p": 0.05}, SamplingParams(1.0, min_p=0.05)),
    ],
)
def test_the_recommended_sampling_is_read(content: dict[str, Any], expected: SamplingParams, tmp_path: Path) -> None:
    assert read(tmp_path, content) == GenerationConfig(expected)


def test_the_longest_answer_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, {"max_new_tokens": 2048}).max_tokens == 2048


@pytest.mark.parametrize("content", ["{", "[]", "7", "", "[" * 100_000])
def test_a_file_that_is_not_an_object_is_ignored_and_said(content: str, tmp_path: Path) -> None:
    config = read(tmp_path, content)
    assert config == GenerationConfig(invalid=f"{FILE_NAME} of the model is not a JSON object")


def test_invalid_values_are_ignored_and_named(tmp_path: Path) -> None:
    content = {"do_sample": True, "temperature": "hot", "top_p": 7, "top_k": 2.5, "max_new_tokens": 0, "min_p": 0.1}
    config = read(tmp_path, content)
    assert config.sampling == SamplingParams(1.0, min_p=0.1)
    assert config.max_tokens is None
    assert config.invalid is not None
    assert config.invalid.endswith("ignored: temperature, top_p, top_k, max_new_tokens")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=2), values, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(["do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens"])


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(NAMES, JSON_VALUES))
def test_no_value_is_an_error(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    config = read(tmp_path_factory.getbasetemp(), content)
    assert config.max_tokens is None or config.max_tokens > 0
    assert config.invalid is None or "\n" not in config.invalid

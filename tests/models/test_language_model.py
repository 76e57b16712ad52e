"""The language model: hidden states, chat templates, generation, adapters, and invalid model folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from mlx.utils import tree_flatten, tree_map

from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.models import loading
from mlx_personal.models.loading import fingerprint
from mlx_personal.models.sampling import SamplingParams
from mlx_personal.progress import ProgressEvent
from mlx_personal.runtime import blas
from mlx_personal.runtime.device import chip_name, device_name, measure_gflops, peak_memory_bytes, prepare_model
from tests.support.cases import quick_cases

WithTemplate = Callable[[str | None], LanguageModel]
TEXTS = ["My cat does not eat.", "Hi", "What shall I cook tonight? Try a soup of leeks and potatoes, with bread."]
CONVERSATIONS = [[{"role": "user", "content": text}] for text in TEXTS]
TWO_TURNS = Dialogue.from_messages(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tomatoes?"},
        {"role": "assistant", "content": "In May."},
        {"role": "user", "content": "How deep?"},
        {"role": "assistant", "content": "A hand."},
    ]
)


@pytest.fixture
def adapter(tiny_model: LanguageModel, tmp_path: Path) -> Path:
    """An adapter for the tiny model that changes what it says."""
    return write_adapter(tiny_model, tmp_path / "adapter")


def write_adapter(model: LanguageModel, folder: Path, rank: int = 4) -> Path:
    parameters = {"rank": rank, "scale": 4.0, "dropout": 0.0}
    model.attach_new_adapter(-1, parameters, seed=0)
    mx.random.seed(1)
    weights = {name: mx.random.normal(w.shape) for name, w in tree_flatten(model.model.trainable_parameters())}
    model.detach_adapter()
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    (folder / "adapter_config.json").write_text(
        json.dumps({"fine_tune_type": "lora", "num_layers": -1, "lora_parameters": parameters})
    )
    return folder


def generate_answers(model: LanguageModel) -> list[str]:
    return model.generate([model.tokenize_prompt(messages) for messages in CONVERSATIONS], max_tokens=12)


# Hidden states


def test_hidden_states_do_not_depend_on_padding_or_the_rest_of_the_batch(tiny_model: LanguageModel) -> None:
    sequences = [tiny_model.tokenize(text) for text in TEXTS]
    together = tiny_model.hidden_states([*sequences, []])
    for sequence, states in zip(sequences, together, strict=False):
        assert states.shape == (len(sequence), 32)
        assert states.dtype == np.float32
        alone = np.array(tiny_model.model.model(mx.array([[1, *sequence]])))[0, 1:]
        # Values are some 1 to 9. Products of another shape round otherwise, and where a state of the random model is
        # nearly zero before its norm, that is 5e-4 on some processors; a mask that let padding in would be far off.
        np.testing.assert_allclose(states, alone, atol=5e-3)
    assert together[3].shape == (0, 32)


def test_no_sequences_have_no_hidden_states(tiny_model: LanguageModel) -> None:
    assert tiny_model.hidden_states([]) == []


# Chat formats


def test_prompts_are_those_of_the_chat_template(tiny_model: LanguageModel) -> None:
    prompt = tiny_model.tokenize_prompt(TWO_TURNS.to_messages()[:2])
    text = "<|bos|><|system|>\nBe brief.<|end|>\n<|user|>\nTomatoes?<|end|>\n<|assistant|>\n"
    assert tiny_model.tokenizer.decode(prompt) == text
    assert prompt[:2] == [1, 3]


def target_text(model: LanguageModel, sequence: tuple[list[int], list[bool]]) -> str:
    tokens, is_target = sequence
    assert len(tokens) == len(is_target)
    return model.tokenizer.decode([token for token, target in zip(*sequence, strict=True) if target])


def test_a_dialogue_is_one_sequence_with_every_answer_and_its_end_as_target(tiny_model: LanguageModel) -> None:
    (sequence,) = tiny_model.tokenize_dialogue(TWO_TURNS)
    assert target_text(tiny_model, sequence) == "In May.<|end|>A hand.<|end|>"
    rendered = tiny_model.tokenizer.apply_chat_template(TWO_TURNS.to_messages())
    assert sequence[0] == rendered[: len(sequence[0])]
    assert tiny_model.tokenizer.decode(rendered[len(sequence[0]) :]) == "\n"


def test_a_template_that_renders_earlier_turns_differently_gives_a_sequence_for_each_answer(
    with_template: WithTemplate,
) -> None:
    model = with_template(
        "{% for m in messages %}{% if m['role'] == 'user' or loop.last %}"
        "{{ m['role'] + ': ' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    sequences = model.tokenize_dialogue(TWO_TURNS)
    assert [target_text(model, sequence) for sequence in sequences] == ["In May.<|end|>", "A hand.<|end|>"]


def test_a_system_turn_is_merged_into_the_question_if_a_template_refuses_it(with_template: WithTemplate) -> None:
    model = with_template(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    prompt = model.tokenize_prompt(TWO_TURNS.to_messages()[:2])
    assert model.tokenizer.decode(prompt) == "<|user|>Be brief.\n\nTomatoes?<|end|><|assistant|>"
    assert [target_text(model, sequence) for sequence in model.tokenize_dialogue(TWO_TURNS)] == [
        "In May.<|end|>A hand.<|end|>"
    ]


def test_a_model_without_a_template_gets_plain_lines(with_template: WithTemplate) -> None:
    model = with_template(None)
    prompt = model.tokenize_prompt(TWO_TURNS.to_messages()[1:4])
    assert model.tokenizer.decode(prompt) == "User: Tomatoes?\nAssistant: In May.\nUser: How deep?\nAssistant:"
    sequences = model.tokenize_dialogue(TWO_TURNS)
    assert (
        "".join(target_text(model, sequence) for sequence in sequences).replace(" ", "") == "InMay.<|end|>Ahand.<|end|>"
    )
    assert len(model.generate([prompt], max_tokens=4)) == 1


def test_thinking_is_switched_off_in_templates_that_allow_it(with_template: WithTemplate) -> None:
    model = with_template(
        "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ 'no' }}{% endif %}"
    )
    assert model.tokenizer.decode(model.tokenize_prompt(CONVERSATIONS[1])) == "Hi<|end|>no"


# Generation


def test_a_batch_a_single_prompt_and_a_stream_give_the_same_greedy_text(tiny_model: LanguageModel) -> None:
    prompts = [tiny_model.tokenize_prompt(messages) for messages in CONVERSATIONS]
    batch = tiny_model.generate(prompts, max_tokens=12)
    assert len(set(batch)) == len(prompts)
    for prompt, text in zip(prompts, batch, strict=True):
        assert tiny_model.generate([prompt], max_tokens=12) == [text]
        assert "".join(tiny_model.stream(prompt, max_tokens=12)).strip() == text


def test_greedy_text_takes_the_likeliest_token_each_time(tiny_model: LanguageModel) -> None:
    tokens = tiny_model.tokenize_prompt(CONVERSATIONS[0])
    start = len(tokens)
    while len(tokens) < start + 12 and tokens[-1] != 2:
        tokens = [*tokens, int(np.argmax(tiny_model.model(mx.array([tokens]))[0, -1]))]
    assert tiny_model.generate([tokens[:start]], max_tokens=12) == [tiny_model.tokenizer.decode(tokens[start:]).strip()]


def test_sampling_is_seeded_and_each_prompt_has_its_own_limit(tiny_model: LanguageModel) -> None:
    prompts = [tiny_model.tokenize_prompt(CONVERSATIONS[0])] * 40
    events: list[ProgressEvent] = []

    def sample(seed: int) -> list[str]:
        return tiny_model.generate(prompts, max_tokens=[1, 6] * 20, sampling=SamplingParams(temperature=1.0), seed=seed)

    first = sample(0)
    assert first == sample(0) != sample(1)
    assert len(set(first)) > 10
    lengths = [len(tiny_model.tokenize(text)) for text in first]
    assert max(lengths[::2]) <= 3 < max(lengths[1::2])
    tiny_model.generate(prompts[:3], max_tokens=2, on_progress=events.append)
    assert [(event.done, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]


def test_a_prompt_longer_than_the_context_loses_its_beginning(tiny_model: LanguageModel) -> None:
    assert tiny_model.context_length == 256
    tokens = [int(t) for t in np.random.default_rng(0).integers(10, 300, 2000)]
    for max_tokens, kept_tokens in ((6, 250), (200, 128)):
        answer, expected = tiny_model.generate([tokens, tokens[-kept_tokens:]], max_tokens=max_tokens)
        assert answer == expected


def test_no_prompts_have_no_answers(tiny_model: LanguageModel) -> None:
    assert tiny_model.generate([], max_tokens=4) == []


def test_the_wired_memory_limit_is_left_alone(
    tiny_model: LanguageModel, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the wired limit was touched")

    monkeypatch.setattr(mx, "set_wired_limit", refuse)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)  # mlx-lm asks this before it changes the limit
    tiny_model.attach_adapter(adapter)
    generate_answers(tiny_model)
    list(tiny_model.stream(tiny_model.tokenize_prompt(CONVERSATIONS[0]), max_tokens=4))
    tiny_model.detach_adapter()


# Adapters


def test_an_adapter_changes_the_answers_and_detaching_restores_them_exactly(
    tiny_model: LanguageModel, adapter: Path
) -> None:
    tokens = mx.array([tiny_model.tokenize_prompt(CONVERSATIONS[2])])
    answers, logits = generate_answers(tiny_model), np.array(tiny_model.model(tokens))
    names = [name for name, _ in tree_flatten(tiny_model.model.parameters())]
    tiny_model.attach_adapter(adapter)
    adapted = generate_answers(tiny_model)
    tiny_model.attach_adapter(adapter)  # Replaces the first one.
    again = generate_answers(tiny_model)
    tiny_model.detach_adapter()
    tiny_model.detach_adapter()
    assert adapted == again != answers
    assert generate_answers(tiny_model) == answers
    assert np.array_equal(np.array(tiny_model.model(tokens)), logits)
    assert [name for name, _ in tree_flatten(tiny_model.model.parameters())] == names


def test_a_model_is_loaded_with_its_adapter(tiny_model: LanguageModel, tiny_model_folder: Path, adapter: Path) -> None:
    tiny_model.attach_adapter(adapter)
    expected = generate_answers(tiny_model)
    tiny_model.detach_adapter()
    assert generate_answers(load_language_model(tiny_model_folder, adapter)) == expected


def test_a_new_adapter_changes_nothing_and_only_it_is_trainable(tiny_model: LanguageModel) -> None:
    answers = generate_answers(tiny_model)
    tiny_model.attach_new_adapter(-1, {"rank": 4, "scale": 2.0, "dropout": 0.0}, seed=0)
    names = {name.rsplit(".", 1)[1] for name, _ in tree_flatten(tiny_model.model.trainable_parameters())}
    assert tiny_model.model.training
    assert generate_answers(tiny_model) == answers
    tiny_model.detach_adapter()
    assert names == {"lora_a", "lora_b"}
    assert not tiny_model.model.training


def damage_shape(folder: Path) -> None:
    weights = mx.load(str(folder / "adapters.safetensors"))
    mx.eval(weights)
    mx.save_safetensors(str(folder / "adapters.safetensors"), tree_map(lambda w: mx.concatenate([w, w]), weights))


def damage_weights(folder: Path) -> None:
    (folder / "adapters.safetensors").write_bytes(b"not tensors")


def damage_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def damage_keys(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def damage_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "damage",
    quick_cases([damage_shape, damage_weights, damage_config, damage_keys, damage_all], damage_shape, damage_keys),
)
def test_an_adapter_that_does_not_fit_is_an_error_the_user_can_fix(
    tiny_model: LanguageModel, adapter: Path, damage: Callable[[Path], None]
) -> None:
    answers = generate_answers(tiny_model)
    damage(adapter)
    with pytest.raises(UserError) as raised:
        tiny_model.attach_adapter(adapter)
    assert str(adapter) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert generate_answers(tiny_model) == answers


# Folders


def test_an_invalid_model_folder_is_an_error_the_user_can_fix(tiny_model_folder: Path, tmp_path: Path) -> None:
    def copy_without(*names: str) -> Path:
        folder = tmp_path / "-".join(names)
        shutil.copytree(tiny_model_folder, folder, ignore=shutil.ignore_patterns(*names))
        return folder

    damaged = copy_without("nothing")
    (damaged / "model.safetensors").write_bytes(b"\0" * 100)
    for folder, reason in (
        (copy_without("tokenizer*"), "has no tokenizer"),
        (copy_without("config.json"), "no config.json or"),
        (copy_without("*.safetensors"), "no config.json or"),
        (tiny_model_folder / "config.json", "is not a model folder"),
        (tmp_path / "none", "no such model folder"),
        (damaged, "cannot be loaded"),
    ):
        with pytest.raises(UserError, match=reason) as raised:
            load_language_model(folder)
        assert str(folder) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_fingerprint_depends_on_the_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    copied, other = tmp_path / "copied", tmp_path / "other"
    shutil.copytree(tiny_model_folder, copied)
    shutil.copytree(tiny_model_folder, other)
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(data)
    (copied / "README.md").write_text("a note")
    assert fingerprint(copied) == fingerprint(tiny_model_folder)
    assert fingerprint(other) != fingerprint(tiny_model_folder)


# Device


def test_models_compute_in_float32_on_a_cpu(tiny_model_folder: Path) -> None:
    model = load_language_model(tiny_model_folder).model
    model.set_dtype(mx.bfloat16)
    dtypes = {value.dtype for _, value in tree_flatten(prepare_model(model).parameters())}
    assert dtypes == ({mx.float32} if device_name() == "cpu" else {mx.bfloat16})


def test_the_machine_is_described() -> None:
    assert device_name() in ("cpu", "metal", "cuda")
    assert chip_name()
    assert measure_gflops(size=64, repeats=2) > 0
    assert peak_memory_bytes() > 1_000_000


def test_the_blas_in_use_is_reported() -> None:
    library = blas.preload()
    assert library.name
    assert library.tuned or library.reason


def test_a_blas_after_mlx_is_reported_as_too_late() -> None:
    code = "import mlx.core, mlx_personal; from mlx_personal.runtime import blas; print(blas.preload())"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if sys.platform == "linux":
        assert "tuned=False" in completed.stdout
        assert "import mlx_personal first" in completed.stdout
    else:
        assert "Accelerate" in completed.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="a Mac has its BLAS already")
def test_a_missing_compiler_is_reported_as_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "SYSTEM_LIBRARY", "libno-such-library.so")
    monkeypatch.delitem(sys.modules, "mlx.core")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    library = blas._load()
    assert not library.tuned
    assert "no C compiler" in library.reason


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="OpenBLAS is for Linux")
@pytest.mark.parametrize(("threads", "after_small"), [(None, "1"), ("2", "2")])
def test_a_small_model_uses_one_thread_unless_the_user_sets_the_number(
    tiny_model_folder: Path, threads: str | None, after_small: str
) -> None:
    code = f"""
import ctypes, os, mlx_personal
from mlx_personal.models import loading
from mlx_personal.runtime import blas
library = blas.preload()
prefix = "scipy_openblas" if "scipy" in library.name else "openblas"
count = getattr(blas._library, prefix + "_get_num_threads") if library.tuned else None
before = count() if count else 0
mlx_personal.load_language_model({str(tiny_model_folder)!r})
small = count() if count else 0
blas.set_thread_count(before)
print(before, small, count() if count else 0)
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = threads
    completed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    before, small, after = completed.stdout.split()
    if before == "0" or (os.cpu_count() or 1) < 2:
        pytest.skip("no OpenBLAS, or no second core")
    assert small == after_small
    assert after == before


# The hub


def test_a_cached_model_needs_no_network(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(repo: str) -> Path:
        raise AssertionError("the network was used")

    monkeypatch.setattr(mlx_lm.utils, "_download", no_network)
    monkeypatch.setattr(mlx_lm.utils, "hf_repo_to_path", lambda repo: tiny_model_folder)
    assert loading.resolve_model("someone/some-model") == tiny_model_folder


def test_a_model_that_is_not_cached_is_downloaded(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_cached(repo: str) -> Path:
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(mlx_lm.utils, "hf_repo_to_path", not_cached)
    monkeypatch.setattr(mlx_lm.utils, "_download", lambda repo: tiny_model_folder)
    assert loading.resolve_model("someone/some-model") == tiny_model_folder


def test_a_hub_model_without_a_network_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repo: str) -> Path:
        raise LocalEntryNotFoundError("cannot connect")

    monkeypatch.setattr(mlx_lm.utils, "hf_repo_to_path", unreachable)
    monkeypatch.setattr(mlx_lm.utils, "_download", unreachable)
    with pytest.raises(UserError, match="check the network"):
        loading.resolve_model("someone/some-model")


def test_a_folder_named_demo_does_not_replace_the_demo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert loading.canonical_name("demo") == "demo"
    assert (loading.resolve_model("demo") / "model.safetensors").exists()


def test_an_architecture_without_a_known_backbone_is_refused(tiny_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="not supported"):
        LanguageModel(nn.Linear(2, 2), tiny_model.tokenizer)

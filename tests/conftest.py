"""Fixtures for all tests: a home folder for each test, and a tiny language model with random weights."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# On a busy machine two threads that wait for each other are far slower than one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import mlx_personal  # noqa: F401, I001 - before mlx.core, so that its BLAS is loaded first

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mlx_personal import LanguageModel, load_language_model
from mlx_personal.errors import StoppedError

if TYPE_CHECKING:
    import sqlite3

    from mlx_personal.storage.database import Database
    from tests.support.augmentation import InProcessJobs
    from tests.support.fake_server import FakeServer


def pytest_exception_interact(node: pytest.Item | pytest.Collector, call: pytest.CallInfo[object]) -> None:
    """End the whole run if a signal stopped a training, which would otherwise only fail the test that trains."""
    if call.excinfo is not None and isinstance(call.excinfo.value, StoppedError):
        node.session.shouldstop = str(call.excinfo.value)


SENTENCES = [
    "What shall I cook tonight? Try a soup of leeks and potatoes, with bread.",
    "My cat does not eat. Take it to the vet, and give it fresh water.",
    "User: How do I plant tomatoes? Assistant: In May, in rich soil, with a stake each.",
    "Rewrite this question in other words, keep its meaning. Give only the new question, in brackets.",
    "Привет, как дела? Спасибо, хорошо. 今日は天気がいいですね。",
]
TEMPLATE = (
    "{{ '<|bos|>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk() -> Iterator[None]:
    """Let no file and no database wait until the disk has it, which only matters if the power fails."""
    from mlx_personal.storage.database import Database

    connect = Database._connect

    def connect_without_waiting(self: Database, write: bool) -> sqlite3.Connection:
        connection = connect(self, write)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(Database, "_connect", connect_without_waiting)
        yield


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder for each test, so that no test touches the real one."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MLX_PERSONAL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as it is downloaded: a random 2-layer Llama with its tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=SPECIAL_TOKENS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**names, "pad_token": "<|pad|>", "clean_up_tokenization_spaces": False, "chat_template": TEMPLATE})
    )
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 384,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    # Larger than the usual initial weights, so that the answers depend on the question.
    weights = {name: 3 * value for name, value in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Path) -> LanguageModel:
    """The model of `tiny_model_folder`. All tests share it: a test that attaches an adapter detaches it."""
    return load_language_model(tiny_model_folder)


@pytest.fixture(scope="session")
def other_model_folder(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second base model with the same shapes and tokenizer, but different weights."""
    folder = tmp_path_factory.mktemp("other-model") / "model"
    shutil.copytree(tiny_model_folder, folder)
    mx.random.seed(1)
    model = llama.Model(llama.ModelArgs.from_dict(json.loads((folder / "config.json").read_text())))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    return folder


@pytest.fixture
def with_template(tiny_model: LanguageModel) -> Callable[[str | None], LanguageModel]:
    """Makes the tiny model with another chat template, or without one."""

    def make(template: str | None) -> LanguageModel:
        tokenizer = copy.deepcopy(tiny_model.tokenizer._tokenizer)
        tokenizer.chat_template = template
        return LanguageModel(tiny_model.model, TokenizerWrapper(tokenizer))

    return make


@pytest.fixture(scope="session")
def demo_model() -> LanguageModel:
    """The demo model of the package."""
    return load_language_model("demo")


@pytest.fixture
def in_process_jobs(monkeypatch: pytest.MonkeyPatch) -> InProcessJobs:
    """Runs jobs in this process, where a model is loaded once for all tests and generates only short records."""
    from mlx_personal import jobs
    from mlx_personal.research.lamp import lamp_jobs
    from tests.support.augmentation import InProcessJobs

    monkeypatch.setattr(lamp_jobs, "_MAX_RECORD_TOKENS", 8)
    run_jobs = InProcessJobs()
    monkeypatch.setattr(jobs, "run_jobs", run_jobs)
    return run_jobs


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A server on this machine that answers with a record similar to those in the prompt."""
    from tests.support.augmentation import similar_record
    from tests.support.fake_server import FakeServer

    with FakeServer(similar_record) as server:
        yield server

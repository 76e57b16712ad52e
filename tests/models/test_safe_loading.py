"""No Python code in a model folder ever runs, and nobody is asked whether it may."""

from __future__ import annotations

import builtins
import contextlib
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from mlx_personal import UserError, load_language_model
from mlx_personal.embedding import EmbeddingConfig, make_embedder
from mlx_personal.models.mlx_lm_compat import code_of_models_refused, known_model_types
from mlx_personal.models.safe_loading import load_unread_model

AddHook = Callable[[Path], None]
# A model type of mlx-lm that transformers has no config for, and no tokenizer.
UNKNOWN_TO_TRANSFORMERS = "xverse"


@pytest.fixture(autouse=True)
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that were asked on standard input, all of which are answered with yes."""
    asked: list[str] = []

    def answer(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr(builtins, "input", answer)
    return asked


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder full of Python files, each of which creates the file `ran` beside it when it is imported."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    code = f"open({str(folder / 'ran')!r}, 'w').close()\n"
    code += (
        "class Evil:\n    @classmethod\n    def from_pretrained(cls, *a, **k): return cls()\nModel = ModelArgs = Evil\n"
    )
    for name in ("evil", "__init__", "custom_generate/generate", "generate", "sitecustomize", "tokenization_evil"):
        (folder / f"{name}.py").parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(code)
    # As if the command ran in the folder with `python -m`, which puts the folder on the path of imports.
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder


def change(file: Path, **entries: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **entries}))


def change_config(**entries: Any) -> AddHook:
    return lambda folder: change(folder / "config.json", **entries)


def change_tokenizer(**entries: Any) -> AddHook:
    return lambda folder: change(folder / "tokenizer_config.json", **entries)


def both(*hooks: AddHook) -> AddHook:
    def add(folder: Path) -> None:
        for hook in hooks:
            hook(folder)

    return add


class Exploit:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (str(self.marker), "w"))


def add_pytorch_weights(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit(folder / "ran")))


def leave_only_pytorch_weights(folder: Path) -> None:
    add_pytorch_weights(folder)
    (folder / "model.safetensors").unlink()


AUTO_MAP = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
OTHER_REPOSITORY = {"AutoTokenizer": ["someone/some-model--evil.Evil", None]}
UNKNOWN = change_config(model_type=UNKNOWN_TO_TRANSFORMERS)
# Hooks that a model does not need: it loads, and they are ignored.
IGNORED: dict[str, AddHook] = {
    "tokenizer auto_map": change_tokenizer(auto_map=AUTO_MAP),
    "tokenizer auto_map as a list": change_tokenizer(auto_map=["evil.Evil", "evil.Evil"]),
    "tokenizer auto_map, own class of a known type": both(
        change_config(model_type="mistral"), change_tokenizer(auto_map=AUTO_MAP, tokenizer_class="EvilTokenizer")
    ),
    "config auto_map": change_config(auto_map=AUTO_MAP),
    "config auto_map, type unknown to transformers": both(UNKNOWN, change_config(auto_map=AUTO_MAP)),
    "processor": lambda folder: change(folder / "processor_config.json", auto_map={"AutoProcessor": "evil.Evil"}),
    "custom_generate": lambda folder: change(folder / "generation_config.json", custom_generate="custom_generate"),
    "PyTorch weights": add_pytorch_weights,
    "trust in the files": both(change_config(trust_remote_code=True), change_tokenizer(trust_remote_code=True)),
}
# Hooks that a model needs, and what is said about it.
REFUSED: dict[str, tuple[AddHook, str]] = {
    "model_file": (change_config(model_file="evil.py"), "needs Python code"),
    "model_file elsewhere": (change_config(model_file="../model/evil.py"), "needs Python code"),
    "model_type": (change_config(model_type="evil"), "mlx-lm has no models of type 'evil'"),
    "model_type as a path": (change_config(model_type="..evil"), "mlx-lm has no models of type"),
    "tokenizer class": (
        both(UNKNOWN, change_tokenizer(auto_map=AUTO_MAP, tokenizer_class="EvilTokenizer")),
        "tokenizer needs Python code",
    ),
    "tokenizer class of another repository": (
        both(UNKNOWN, change_tokenizer(auto_map=OTHER_REPOSITORY, tokenizer_class="EvilTokenizer")),
        "tokenizer needs Python code",
    ),
    "no tokenizer class": (
        both(UNKNOWN, lambda folder: (folder / "tokenizer_config.json").unlink(), change_tokenizer(auto_map=AUTO_MAP)),
        "tokenizer needs Python code",
    ),
    **{
        f"tokenizer class {name}": (
            both(UNKNOWN, change_config(auto_map=AUTO_MAP), change_tokenizer(auto_map=AUTO_MAP, tokenizer_class=name)),
            "is not a tokenizer",
        )
        for name in ("AutoTokenizer", "AutoConfig", "AutoProcessor", "pipeline")
    },
    "tokenizer class in the config": (
        both(UNKNOWN, change_config(auto_map=AUTO_MAP, tokenizer_class="AutoConfig")),
        "is not a tokenizer",
    ),
    "chat_template_type": (change_tokenizer(chat_template_type="evil"), "cannot be loaded"),
    "tool_parser_type": (change_tokenizer(tool_parser_type="..evil"), "cannot be loaded"),
    "only PyTorch weights": (leave_only_pytorch_weights, "can contain code"),
}


@pytest.mark.parametrize("hook", IGNORED)
def test_a_model_loads_without_the_code_that_it_names(hook: str, folder: Path, questions: list[str]) -> None:
    IGNORED[hook](folder)
    lm = load_language_model(folder)
    assert lm.tokenizer.decode(lm.tokenize("Take it to the vet.")) == "Take it to the vet."
    assert lm.generate([lm.tokenize("My cat")], max_tokens=2)
    lm.release_weights([])
    lm.reload_weights()
    assert not (folder / "ran").exists()
    assert questions == []


@pytest.mark.parametrize("hook", REFUSED)
def test_a_model_that_needs_code_of_its_own_is_refused(hook: str, folder: Path, questions: list[str]) -> None:
    add, reason = REFUSED[hook]
    add(folder)
    with pytest.raises(UserError, match=reason) as raised:
        load_language_model(folder)
    assert str(folder) in str(raised.value)
    assert not (folder / "ran").exists()
    assert questions == []


def test_the_type_is_one_that_only_mlx_lm_knows() -> None:
    assert UNKNOWN_TO_TRANSFORMERS in known_model_types()
    assert UNKNOWN_TO_TRANSFORMERS not in CONFIG_MAPPING_NAMES


@pytest.mark.parametrize("name", ["EvilTokenizer", "AutoConfig"])
def test_transformers_alone_would_ask_and_run_the_code(name: str, folder: Path, questions: list[str]) -> None:
    """Without this, the other tests would pass on folders that no loader takes for code."""
    both(UNKNOWN, change_config(auto_map=AUTO_MAP), change_tokenizer(auto_map=AUTO_MAP, tokenizer_class=name))(folder)
    option = {"trust_remote_code": False} if name == "AutoConfig" else {}
    with code_of_models_refused(), pytest.raises(ValueError):
        AutoTokenizer.from_pretrained(folder, **option)
    assert not (folder / "ran").exists() and not questions
    with contextlib.suppress(AttributeError):  # the code is not a tokenizer
        AutoTokenizer.from_pretrained(folder, **option)
    assert (folder / "ran").exists() and questions


def test_weights_that_are_read_again_run_no_code(folder: Path) -> None:
    change(folder / "config.json", model_file="evil.py")
    with pytest.raises(ValueError):
        load_unread_model(folder)
    assert not (folder / "ran").exists()


def test_an_embedding_model_of_another_library_gets_no_trust(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options: dict[str, Any] = {}

    def make(name: str, **given: Any) -> SimpleNamespace:
        options.update(given)
        return SimpleNamespace()

    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=make))
    make_embedder(EmbeddingConfig(embedder=f"sentence-transformers:{tmp_path}"), tiny_model)
    assert options["trust_remote_code"] is False
    assert options["model_kwargs"] == {"use_safetensors": True}
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    with pytest.raises(UserError, match="needs Python code of its own"):
        make_embedder(EmbeddingConfig(embedder=f"sentence-transformers:{tmp_path}"), tiny_model)

"""`models` and `init` with the models of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import error_line, run_cli, run_json
from tests.support.model_stores import ModelStores, write_tiny_gguf


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a random 2-layer llama."""
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gguf_file: Path, tiny_model_folder: Path) -> ModelStores:
    """A user with a model of Ollama, one of LM Studio, and a broken one."""
    stores = ModelStores(tmp_path / "user", monkeypatch)
    stores.add_ollama("registry.ollama.ai/library/tiny/latest", gguf_file)
    stores.add_lm_studio("someone/tiny", tiny_model_folder)
    stores.write_manifest("registry.ollama.ai/library/broken/latest", "{")
    return stores


def test_the_list_names_models_by_what_init_takes(stores: ModelStores) -> None:
    listed = {model["name"]: model for model in run_json("models")}
    assert listed.keys() == {"ollama:tiny:latest", "lmstudio:someone/tiny", "ollama:broken:latest"}
    tiny = listed["ollama:tiny:latest"]
    assert (tiny["store"], tiny["architecture"], tiny["quantization"]) == ("ollama", "llama", "F32")
    assert (tiny["fits_chat"], tiny["fits_training"], tiny["problem"]) == (True, True, None)
    assert tiny["training_bytes"] > tiny["parameters"] * 4
    assert listed["ollama:broken:latest"]["problem"] == "its manifest is damaged"
    output = run_cli("models", "list").stdout
    lines = [line.split() for line in output.splitlines()]
    assert " ".join(lines[0]) == "architecture parameters stored as on disk chat training name"
    assert next(line for line in lines if line[-1:] == ["ollama:tiny:latest"])[:3] == ["llama", "0M", "F32"]
    assert run_cli("models").stdout == output
    assert "ollama:broken:latest (ollama): its manifest is damaged" in output
    assert run_json("models", "list") == run_json("models")


def test_a_listed_model_becomes_the_base_of_a_profile(stores: ModelStores, home: Path) -> None:
    created = run_json("init", "--model", "ollama:tiny")
    assert (created["model"], created["note"]) == ("ollama:tiny", None)
    folder = Path(created["base_model"])
    assert folder.parent == home / "models"
    assert "ollama:tiny)" in run_cli("status").stdout.replace("\n", "")
    assert run_json("status")["model_source"] == "ollama:tiny"
    shown = run_json("models", "show", folder.name)
    assert (shown["store"], shown["source"], shown["profiles"]) == ("converted", "ollama:tiny", ["default"])
    lines = run_cli("models", "show", folder.name).stdout
    assert "converted from" in lines and "base model of" in lines
    run_json("--profile", "other", "init", "--model", "lmstudio:someone/tiny")
    assert run_json("--profile", "other", "status")["model_source"] is None


def test_an_original_in_the_hubs_cache_is_said(stores: ModelStores, tmp_path: Path) -> None:
    run_json("init", "--model", "ollama:tiny")
    converted = Path(run_json("status")["model"])
    stores.add_hub("someone/Original", converted)
    file = write_tiny_gguf(tmp_path / "made.gguf", {"general.source.huggingface.repository": "someone/Original"})
    output = run_cli("init", "--model", file).stdout
    assert "was made from someone/Original, which is in the Hugging Face cache and is used instead." in output
    assert run_json("status")["model"] == "someone/Original"


def test_a_converted_model_is_deleted_when_no_profile_uses_it(stores: ModelStores, home: Path) -> None:
    folder = Path(run_json("init", "--model", "ollama:tiny")["base_model"])
    name = folder.name
    assert f"{name}: is the base model of the profile default" in error_line("models", "delete", name, "--yes")
    run_json("init", "--model", "lmstudio:someone/tiny")
    assert "--yes" in error_line("models", "delete", name)
    assert folder.exists()
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert run_json("models", "delete", name, "--yes") == {"deleted": name, "freed_bytes": size}
    assert not folder.exists()
    assert sorted(path.name for path in (home / "models").iterdir()) == [".lock", "index.json"]
    run_json("init", "--model", "ollama:tiny")
    assert folder.exists()
    assert run_json("models", "delete", name, "--yes", "--force")["deleted"] == name
    assert not folder.exists()


def test_only_converted_models_are_deleted(stores: ModelStores) -> None:
    assert "belongs to another program" in error_line("models", "delete", "ollama:tiny:latest", "--yes")
    assert "there is no converted model of this name" in error_line("models", "delete", "tiny", "--yes")
    assert "there is no converted model" in error_line("models", "delete", "../profiles", "--yes")
    assert "did you mean ollama:tiny:latest" in error_line("models", "show", "ollama:tin:latest")


def test_models_are_converted_into_the_home_that_is_named(stores: ModelStores, home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other home"
    created = run_json("--home", other, "init", "--model", "ollama:tiny")
    assert Path(created["base_model"]).parent == other / "models"
    assert not (home / "models").exists()
    assert "converted" in {model["store"] for model in run_json("--home", other, "models")}


def test_names_cannot_change_the_terminal(stores: ModelStores, gguf_file: Path) -> None:
    stores.add_lm_studio("x/\x1b[2J/a.gguf", gguf_file)
    stores.add_lm_studio("x/\x1b]0;b/a.gguf", gguf_file).write_bytes(b"")
    stores.add_lm_studio("x/two\nlines/a.gguf", gguf_file)
    output = run_cli("models").stdout
    assert "x/two\ufffdlines" in output
    assert "\x1b[2J" not in output and "\x1b]0" not in output
    assert "lmstudio:x/\x1b[2J" in {model["name"] for model in json.loads(run_cli("models", "--json").stdout)}

"""Models in the folders of other programs: listed with what they are, and loaded by their names."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_personal import Personalizer, UserError, load_language_model
from mlx_personal.finetune.planning.fit import chat_bytes, memory_needs
from mlx_personal.finetune.planning.model_spec import spec_from_folder, spec_from_gguf
from mlx_personal.models import finding
from mlx_personal.models.finding import find_model
from mlx_personal.models.gguf import Precision, convert_gguf, file_hash, read_gguf
from mlx_personal.models.local_models import LocalModel, list_local_models, local_model_names
from mlx_personal.models.model_folder import check_model_folder
from mlx_personal.models.model_names import NameKind, nearest_names, parse_model_name
from mlx_personal.models.stores import converted, ollama
from mlx_personal.models.stores.model_source import read_source
from mlx_personal.storage.home import Home
from tests.support.model_stores import ModelStores, copied, write_tiny_gguf


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file of a random 2-layer llama."""
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny-f32.gguf")


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStores:
    """The empty folders of a user."""
    return ModelStores(tmp_path / "user", monkeypatch)


@pytest.fixture
def full_stores(stores: ModelStores, gguf_file: Path, tiny_model_folder: Path) -> ModelStores:
    """A user with models in all stores."""
    stores.add_ollama("registry.ollama.ai/library/tiny/latest", gguf_file)
    stores.add_ollama("registry.ollama.ai/library/tiny/1b-q4", gguf_file)
    stores.add_ollama("registry.ollama.ai/someone/tiny/latest", gguf_file)
    stores.add_ollama("hf.co/someone/Tiny-GGUF/Q4_K_M", gguf_file)
    stores.add_lm_studio("someone/single/tiny.gguf", gguf_file)
    stores.add_lm_studio("someone/two/tiny-q4.gguf", gguf_file)
    stores.add_lm_studio("someone/two/tiny-q8.gguf", gguf_file)
    stores.add_lm_studio("someone/two/mmproj-tiny.gguf", gguf_file)
    stores.add_lm_studio("someone/mlx", tiny_model_folder)
    stores.add_hub("someone/tiny", tiny_model_folder)
    stores.add_hub("someone/tiny-gguf", gguf_file)
    copied(gguf_file, stores.llama_cpp / "someone_tiny.gguf")
    return stores


def models_by_name() -> dict[str, LocalModel]:
    return {model.name: model for model in list_local_models(Home.default())}


def problems() -> dict[str, str]:
    return {model.name: model.problem for model in list_local_models(Home.default()) if model.problem is not None}


# The list


def test_the_models_of_all_stores_are_listed(
    full_stores: ModelStores, gguf_file: Path, tiny_model_folder: Path
) -> None:
    models = models_by_name()
    hub_file = full_stores.hub / "models--someone--tiny-gguf" / "snapshots" / "abc" / gguf_file.name
    assert {name: model.store for name, model in models.items()} == {
        "ollama:tiny:latest": "ollama",
        "ollama:tiny:1b-q4": "ollama",
        "ollama:someone/tiny:latest": "ollama",
        "ollama:hf.co/someone/Tiny-GGUF:Q4_K_M": "ollama",
        "lmstudio:someone/single": "lm studio",
        "lmstudio:someone/two/tiny-q4.gguf": "lm studio",
        "lmstudio:someone/two/tiny-q8.gguf": "lm studio",
        "lmstudio:someone/mlx": "lm studio",
        "someone/tiny": "hugging face",
        str(hub_file): "hugging face",
        str(full_stores.llama_cpp / "someone_tiny.gguf"): "llama.cpp",
    }
    assert sorted(models) == sorted(local_model_names(Home.default()))
    assert {model.problem for model in models.values()} == {None}
    folder, file = models["someone/tiny"], models["ollama:tiny:latest"]
    weights = mx.load(str(tiny_model_folder / "model.safetensors"))
    assert isinstance(weights, dict)
    assert folder.parameters == sum(weight.size for weight in weights.values())
    assert (folder.architecture, folder.quantization, folder.context_length) == ("llama", "f32", 256)
    assert folder.size_bytes == sum(path.stat().st_size for path in tiny_model_folder.iterdir())
    lm = load_language_model("ollama:tiny")
    assert file.parameters == sum(w.size for _, w in mx_weights(lm.path))
    assert (file.architecture, file.quantization, file.context_length) == ("llama", "F32", 512)
    assert file.size_bytes == gguf_file.stat().st_size


def mx_weights(folder: Path | None) -> list[tuple[str, mx.array]]:
    assert folder is not None
    weights = mx.load(str(folder / "model.safetensors"))
    assert isinstance(weights, dict)
    return list(weights.items())


def test_every_listed_name_finds_its_model(full_stores: ModelStores) -> None:
    folders = {name: find_model(name).folder for name in local_model_names(Home.default())}
    converted = {folder for folder in folders.values() if folder.parent == Home.default().models}
    assert len(converted) == 1  # all GGUF files have the same content
    assert [name for name, folder in folders.items() if folder not in converted] == [
        "someone/tiny",
        "lmstudio:someone/mlx",
    ]
    (name,) = (model.name for model in list_local_models(Home.default()) if model.store == "converted")
    assert find_model(name).folder in converted


def test_a_machine_without_models_has_an_empty_list(stores: ModelStores) -> None:
    assert list_local_models(Home.default()) == []


def test_models_that_cannot_be_used_are_listed_with_the_reason(
    stores: ModelStores, gguf_file: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    library = "registry.ollama.ai/library"
    blob = stores.add_ollama(f"{library}/partial/latest", gguf_file)
    blob.rename(blob.with_name(f"{blob.name}-partial"))
    stores.add_ollama(f"{library}/missing/latest", None)
    stores.add_ollama(f"{library}/adapted/latest", None, ("adapter", "sha256:" + "2" * 64))
    stores.add_ollama(f"{library}/tensors/latest", None, ("tensor; name=x", "sha256:" + "2" * 64))
    for name, text in {
        "cloud": '{"layers": [{"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:1"}]}',
        "cut": '{"layers": [',
        "list": "[1]",
        "empty": '{"layers": null}',
        "nested": "[" * 100_000,
        "digest": '{"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "../../../etc/passwd"}]}',
    }.items():
        stores.write_manifest(f"{library}/{name}/latest", text)
    stores.add_lm_studio("x/cut/cut.gguf", gguf_file).write_bytes(gguf_file.read_bytes()[:2000])
    stores.add_lm_studio("x/noise/noise.gguf", gguf_file).write_bytes(bytes(range(256)) * 8)
    write_tiny_gguf(stores.lm_studio / "x" / "projector" / "vision.gguf", {"general.type": "mmproj"})
    for name, damage in FOLDER_DAMAGES.items():
        damage(stores.add_hub(f"x/{name}", tiny_model_folder))
    (stores.hub / "models--x--nothing" / "snapshots" / "abc").mkdir(parents=True)
    (stores.hub / "models--x--loop").symlink_to("models--x--loop")
    (stores.lm_studio / "loop").symlink_to(stores.lm_studio)

    found = problems()
    expected = {
        "ollama:partial:latest": "is still being downloaded",
        "ollama:missing:latest": "its weights are missing",
        "ollama:adapted:latest": "has a LoRA adapter",
        "ollama:tensors:latest": "is stored by tensors",
        "ollama:cloud:latest": "has no weights on this machine",
        **{f"ollama:{name}:latest": "its manifest is damaged" for name in ("cut", "list", "nested", "digest")},
        "ollama:empty:latest": "has no weights on this machine",
        "lmstudio:x/cut": "is cut short",
        "lmstudio:x/noise": "is not a GGUF file",
        "lmstudio:x/projector": "holds 'mmproj'",
        **{f"x/{name}": reason for name, (_, reason) in FOLDER_PROBLEMS.items()},
    }
    assert expected.keys() <= found.keys()
    assert {name for name in found if not name.startswith("lmstudio:loop")} == expected.keys()
    for name, reason in expected.items():
        assert reason in found[name], name
    for name in expected:
        with pytest.raises(UserError) as raised:
            find_model(name)
        assert expected[name].rpartition(": ")[2] in str(raised.value)
        assert "\n" not in str(raised.value)


def change(file: Path, **entries: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def with_config(**entries: object) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **entries)


def remove_a_shard(folder: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / names["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def make_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def make_weights_a_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def change_shape(shape: list[int]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}}).encode()
        (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))

    return write


def rename_weights(name: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / name)

    return rename


def remove_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def write_file(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text)

    return write


FOLDER_PROBLEMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "type": (with_config(model_type="bert"), "mlx-lm has no models of type 'bert'"),
    "type-number": (with_config(model_type=3), "mlx-lm has no models of type '3'"),
    "classifier": (with_config(architectures=["LlamaForSequenceClassification"]), "not a model that writes text"),
    "embedding": (write_file("modules.json", "[]"), "is an embedding model"),
    "bnb": (with_config(quantization_config={"quant_method": "bitsandbytes"}), "quantized with 'bitsandbytes'"),
    "inner-bnb": (
        with_config(text_config={"quantization_config": {"quant_method": "hqq"}}),
        "quantized with 'hqq', which mlx-lm cannot load",
    ),
    "shard": (remove_a_shard, "'model-00002-of-00002.safetensors' is missing"),
    "adapter": (make_adapter, "is a LoRA adapter, not a model"),
    "consolidated": (rename_weights("consolidated.safetensors"), "none of its weight files is called"),
    "pytorch": (rename_weights("pytorch_model.bin"), "are PyTorch files"),
    "no-tokenizer": (remove_tokenizer, "has no tokenizer"),
    "layers": (with_config(num_hidden_layers=10**9), "an impossible number of layers"),
    "inner-layers": (with_config(text_config={"num_layers": float("inf")}), "an impossible number of layers"),
    "pipe": (lambda folder: os.mkfifo(folder / "chat_template.jinja"), "chat_template.jinja: is a pipe or a device"),
    "weights-pipe": (make_weights_a_pipe, "model.safetensors: is a pipe or a device"),
    "config-list": (write_file("config.json", "[1]"), "config.json: is not a JSON object"),
    "config-nested": (write_file("config.json", "[" * 100_000), "config.json: is not a JSON object"),
    "config-binary": (lambda folder: write_bytes(folder / "config.json"), "config.json: is not a JSON object"),
}
FOLDER_DAMAGES = {name: damage for name, (damage, _) in FOLDER_PROBLEMS.items()}


def write_bytes(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize("damage", [cut_weights, change_shape([2**40, 2**40]), change_shape([-1])])
def test_damaged_weights_are_listed_as_damaged(
    stores: ModelStores, tiny_model_folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(stores.add_hub("x/damaged", tiny_model_folder))
    assert "damaged" in problems()["x/damaged"]
    with pytest.raises(UserError, match="cannot be loaded"):
        load_language_model("x/damaged")


def test_an_error_in_a_blob_names_the_model(stores: ModelStores, gguf_file: Path) -> None:
    blob = stores.add_ollama("registry.ollama.ai/library/growing/latest", gguf_file)
    blob.write_bytes(gguf_file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"^ollama:growing: is cut short or still being written"):
        find_model("ollama:growing")


def test_a_folder_that_cannot_be_read_is_one_line_of_the_list(
    full_stores: ModelStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = [full_stores.ollama / "manifests" / "hf.co", full_stores.lm_studio / "someone", full_stores.llama_cpp]
    real = Path.iterdir

    def iterdir(self: Path) -> object:
        if self in forbidden:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert problems() == {str(folder): "cannot write or read here" for folder in forbidden}
    assert "ollama:tiny:latest" in models_by_name()


def test_lm_studios_folder_may_be_elsewhere(stores: ModelStores, tiny_model_folder: Path, tmp_path: Path) -> None:
    (stores.folder / ".lmstudio-home-pointer").parent.mkdir()
    (stores.folder / ".lmstudio-home-pointer").write_text(str(tmp_path / "moved"))
    settings_file = tmp_path / "moved" / "settings.json"
    settings_file.parent.mkdir()
    settings_file.write_text(json.dumps({"downloadsFolder": str(tmp_path / "disk")}))
    copied(tiny_model_folder, tmp_path / "disk" / "a" / "b")
    copied(tiny_model_folder, tmp_path / "moved" / "models" / "c" / "d")
    assert list(models_by_name()) == ["lmstudio:a/b", "lmstudio:c/d"]
    for text in ("[", "[1]", '{"downloadsFolder": 3}', '{"downloadsFolder": "\\u0000"}'):
        settings_file.write_text(text)
        assert list(models_by_name()) == ["lmstudio:c/d"]


def test_a_quantized_folder_is_counted_unpacked(stores: ModelStores, tiny_model_folder: Path) -> None:
    from mlx_lm.utils import load_model, quantize_model, save_config

    folder = stores.add_lm_studio("a/q4", tiny_model_folder)
    model, config = load_model(folder)
    count = sum(weight.size for _, weight in mx_weights(folder))
    model, config = quantize_model(model, config, group_size=32, bits=4)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree(model)))
    save_config(config, folder / "config.json")
    described = models_by_name()["lmstudio:a/q4"]
    assert (described.parameters, described.quantization) == (count, "4-bit")


def tree(model: object) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    flat: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[attr-defined]
    return flat


# Memory


def test_the_size_of_a_gguf_model_is_that_of_its_converted_folder(gguf_file: Path, tmp_path: Path) -> None:
    convert_gguf(gguf_file, tmp_path / "converted")
    spec = spec_from_gguf(read_gguf(gguf_file))
    assert spec == spec_from_folder(tmp_path / "converted")
    needs = memory_needs(read_gguf(gguf_file))
    assert needs == memory_needs(tmp_path / "converted")
    assert needs.training_bytes > spec.bytes
    # The cache of keys and values of two layers with two heads of 16 numbers, and the rest of a forward pass.
    assert chat_bytes(spec, 64) > spec.bytes + 2 * 2 * 2 * 16 * 4 * 64
    assert chat_bytes(spec, 64) < chat_bytes(spec, 128) < spec.bytes + 2**20 * 2


@pytest.mark.parametrize("bits", [None, 8])
def test_the_size_of_a_gguf_model_on_a_gpu_is_that_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int | None
) -> None:
    import gguf

    from mlx_personal.finetune.planning import model_spec
    from tests.support.gguf_files import COMMON, converted_weights, random_model, write_gguf

    weights = converted_weights(random_model("llama", {**COMMON, "hidden_size": 64}), "llama")
    types = {name: gguf.GGMLQuantizationType.Q4_1 for name, weight in weights.items() if weight.ndim == 2}
    file = write_gguf(tmp_path / "q.gguf", "llama", weights, types=types)
    precision = Precision("float16", bits)
    convert_gguf(file, tmp_path / "converted", precision=precision)
    monkeypatch.setattr(model_spec, "device_name", lambda: "metal")
    monkeypatch.setattr(model_spec, "default_precision", lambda _: precision)
    stored = sum(weight.nbytes for _, weight in mx_weights(tmp_path / "converted"))
    assert spec_from_gguf(read_gguf(file)).bytes == stored == spec_from_folder(tmp_path / "converted").bytes


# Names


@pytest.mark.parametrize(
    "name",
    ["tiny", "tiny:latest", "TINY", "library/tiny", "registry.ollama.ai/library/tiny:latest", "tiny:1B-Q4"],
)
def test_ollamas_forms_of_a_name_are_understood(full_stores: ModelStores, name: str) -> None:
    entry = ollama.find(name)
    assert entry is not None and entry.problem is None
    assert entry.name == ("ollama:tiny:1b-q4" if "1" in name else "ollama:tiny:latest")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ollama:tinny", "Ollama has no such model; did you mean ollama:tiny:"),
        ("ollama:tiny:7b", "Ollama has no such model; did you mean ollama:tiny:"),
        ("ollama:../../secret", "is not the name of an Ollama model"),
        ("ollama:a/b/c/d", "is not the name of an Ollama model"),
        ("ollama:", "is not the name of an Ollama model"),
        ("lmstudio:someone/two", "name one: lmstudio:someone/two/tiny-q4.gguf, lmstudio:someone/two/tiny-q8.gguf"),
        ("lmstudio:someone/too", "LM Studio has no such model; did you mean lmstudio:someone/"),
        ("lmstudio:../..", "LM Studio has no such model"),
        ("tiny:latest", "no such model folder; did you mean ollama:someone/tiny:latest or ollama:tiny:latest?"),
        ("someone/tinny", "cannot be downloaded from the hub; check the network, or name a local folder; did you mean"),
        ("", "no model is named; name a folder"),
        ("nothing.gguf", "no such file"),
        ("a\0b", "no such model folder"),
        ("x" * 5000, "no such model folder"),
    ],
)
def test_a_name_that_no_model_has_is_one_line(full_stores: ModelStores, name: str, reason: str) -> None:
    with pytest.raises(UserError) as raised:
        find_model(name)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_of_gguf_files_names_them(full_stores: ModelStores) -> None:
    with pytest.raises(UserError, match=r"is a folder of GGUF files; name one of them: mmproj-tiny.gguf, tiny-q4.gguf"):
        find_model(full_stores.lm_studio / "someone" / "two")


def test_the_only_file_of_a_model_of_lm_studio_may_be_named(full_stores: ModelStores) -> None:
    assert find_model("lmstudio:someone/single/tiny.gguf") == find_model("lmstudio:someone/single")
    assert find_model("lmstudio:someone/two/tiny-q4.gguf") == find_model("lmstudio:someone/single")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30) | st.from_regex(r"(ollama:|lmstudio:)?[./:~a-c-]{0,12}", fullmatch=True))
def test_any_text_is_a_name_or_an_error_of_one_line(stores: ModelStores, name: str) -> None:
    converted = stores.folder / "models"
    try:
        parsed = parse_model_name(name, converted)
        if parsed.kind is NameKind.OLLAMA:
            assert ollama.find(parsed.text) is None
    except UserError as error:
        assert len(str(error).splitlines()) == 1


def test_the_nearest_names_contain_the_name_or_resemble_it() -> None:
    names = ["ollama:smollm2:135m", "ollama:llama3.2:3b", "someone/SmolLM2-GGUF", "demo"]
    assert nearest_names("smollm2", names) == ["ollama:smollm2:135m", "someone/SmolLM2-GGUF"]
    assert nearest_names("ollama:lama3.2:3b", names)[0] == "ollama:llama3.2:3b"
    assert nearest_names("xyz", names) == []


# Conversion


def test_a_converted_model_generates_and_remembers_its_source(full_stores: ModelStores) -> None:
    lm = load_language_model("ollama:tiny:1b-q4")
    assert lm.name == str(lm.path)
    assert len(lm.generate([lm.tokenize("the")], max_tokens=3)) == 1
    assert lm.path is not None
    source = read_source(lm.path)
    assert source is not None
    assert (source.name, Path(source.path).parent.name) == ("ollama:tiny:1b-q4", "blobs")
    assert source.path.endswith(source.sha256)
    assert find_model(lm.path).folder == find_model(lm.path.name).folder == lm.path


def test_a_profile_keeps_a_converted_model(full_stores: ModelStores, tmp_path: Path) -> None:
    with Personalizer.create(tmp_path / "profile", "lmstudio:someone/single") as personalizer:
        folder = Path(personalizer.model_name)
        assert folder.parent == Home.default().models
        assert personalizer.status().model_source == "lmstudio:someone/single"
        fingerprint = personalizer.fingerprint
    shutil.rmtree(full_stores.folder)  # the profile needs the GGUF file no more
    with Personalizer(tmp_path / "profile") as personalizer:
        assert personalizer.base_model().path == folder
        assert personalizer.fingerprint == fingerprint
    shutil.rmtree(folder)
    with Personalizer(tmp_path / "profile") as personalizer, pytest.raises(UserError, match="no such model folder"):
        personalizer.base_model()


def test_a_file_is_hashed_and_converted_once(
    full_stores: ModelStores, gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def recorded_hash(paths: tuple[Path, ...]) -> str:
        hashed.append(paths[0].name)
        return file_hash(paths)

    monkeypatch.setattr(converted, "file_hash", recorded_hash)
    file = copied(gguf_file, tmp_path / "mine.gguf")
    first = find_model(file).folder
    assert find_model(file).folder == find_model(str(file)).folder == first
    assert hashed == ["mine.gguf"]
    renamed = file.rename(tmp_path / "renamed.gguf")
    assert find_model(renamed).folder == first
    assert hashed == ["mine.gguf", "renamed.gguf"]
    index = first.parent / "index.json"
    assert list(json.loads(index.read_text())) == [str(renamed)]  # what is gone is forgotten
    for text in ("[", "[1]", json.dumps({str(renamed): 3}), json.dumps({str(renamed): {"sha256": "0" * 64}})):
        index.write_text(text)
        assert find_model(renamed).folder == first
    write_tiny_gguf(renamed, seed=1)
    other = find_model(renamed).folder
    assert other != first
    assert not np.array_equal(np.array(mx_weights(other)[0][1]), np.array(mx_weights(first)[0][1]))


def test_two_conversions_at_once_make_one_model(
    gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_personal.models.gguf import convert

    conversions: list[Path] = []
    real = convert.convert_gguf

    def convert_gguf(path: Path, folder: Path, **options: object) -> None:
        conversions.append(folder)
        real(path, folder, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(convert, "convert_gguf", convert_gguf)
    (tmp_path / ".half.partial").mkdir()  # what a killed conversion left
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(converted.convert_once(gguf_file, "tiny", tmp_path)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1 and set(found) == set(conversions) and len(found) == 4
    check_model_folder(found[0])
    assert not (tmp_path / ".half.partial").exists()


def test_a_blob_with_other_content_than_its_name_says_is_refused(full_stores: ModelStores) -> None:
    (blob,) = (full_stores.ollama / "blobs").iterdir()
    write_tiny_gguf(blob, seed=1)
    with pytest.raises(UserError, match="has another SHA-256"):
        find_model("ollama:tiny")
    assert [entry.name for entry in converted.entries(Home.default().models)] == []


def test_a_conversion_that_fails_leaves_nothing(stores: ModelStores, tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "odd.gguf", {"llama.expert_count": 8})
    with pytest.raises(UserError, match="expert_count"):
        find_model(file)
    assert sorted(path.name for path in Home.default().models.iterdir()) == [".lock", "index.json"]


# The original of a GGUF file


@pytest.fixture
def original(stores: ModelStores, tmp_path: Path, gguf_file: Path) -> Path:
    """A repository in the hub's cache, which a GGUF file elsewhere was made from."""
    folder = tmp_path / "original"
    convert_gguf(gguf_file, folder)
    return stores.add_hub("someone/Original", folder)


SOURCE = {"general.source.huggingface.repository": "someone/Original"}


def test_the_original_of_a_gguf_file_is_preferred_and_said(original: Path, tmp_path: Path) -> None:
    file = write_tiny_gguf(tmp_path / "made-from-it.gguf", SOURCE)
    found = find_model(file)
    assert (found.name, found.folder) == ("someone/Original", original)
    assert found.note == (
        f"{file} was made from someone/Original, which is in the Hugging Face cache and is used instead"
    )
    assert load_language_model(file).name == "someone/Original"
    assert not Home.default().models.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").unlink(),
        with_config(hidden_size=128),
        with_config(num_hidden_layers=3),
        with_config(model_type="bert"),
        write_file("config.json", "["),
    ],
)
def test_another_or_a_damaged_original_is_not_used(
    original: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(original)
    found = find_model(write_tiny_gguf(tmp_path / "made-from-it.gguf", SOURCE))
    assert found.folder.parent == Home.default().models
    assert found.note is None


def test_the_base_that_a_model_was_tuned_from_is_not_its_original(original: Path, tmp_path: Path) -> None:
    metadata = {"general.base_model.0.repo_url": "https://huggingface.co/someone/Original"}
    assert find_model(write_tiny_gguf(tmp_path / "tuned.gguf", metadata)).note is None


# Loading


def test_a_tokenizer_with_tokens_beyond_the_embedding_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = copied(tiny_model_folder, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["zzz"] = len(tokenizer["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="has 385 tokens, the model only 384 embeddings"):
        load_language_model(folder)


def test_finding_uses_the_home_of_the_environment(full_stores: ModelStores, home: Path) -> None:
    assert find_model("ollama:tiny").folder.parent == home / "models"
    assert finding.find_model("demo").folder.name == "model"

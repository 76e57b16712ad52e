from __future__ import annotations

import json
import math
import os
import resource
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from mlx_personal.errors import UserError
from mlx_personal.models.gguf import Precision, convert_gguf, default_precision, file_hash, read_gguf
from mlx_personal.progress import ProgressEvent
from tests.support.gguf_files import COMMON, converted_weights, random_blocks, random_model, write_gguf

Q8_0, Q6_K, BF16 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q6_K, GGMLQuantizationType.BF16
TENSORS = 21


def small_file(tmp_path: Path, tensor_type: GGMLQuantizationType = Q8_0, **settings: Any) -> Path:
    weights = converted_weights(random_model("llama", COMMON), "llama")
    types = {name: tensor_type for name, weight in weights.items() if weight.ndim == 2}
    return write_gguf(tmp_path / "small.gguf", "llama", weights, types=types, settings=settings)


def load(path: Path) -> dict[str, mx.array]:
    weights: Any = mx.load(str(path))
    return dict(weights)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_the_folder_is_one_that_mlx_lm_loads(tmp_path: Path) -> None:
    convert_gguf(small_file(tmp_path), tmp_path / "out")
    model, tokenizer = mlx_lm.load(str(tmp_path / "out"))[:2]
    assert tokenizer.encode("the")
    assert model.model.layers[0].self_attn.q_proj.bits == 8
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generation_config.json",
        "gguf.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_source_is_stored_with_the_model(tmp_path: Path) -> None:
    path = small_file(tmp_path, **{"general.source.huggingface.repository": "owner/model", "general.file_type": 7})
    convert_gguf(path, tmp_path / "out", precision=Precision("float16", requantize_bits=8))
    source = read_json(tmp_path / "out" / "gguf.json")
    assert (source["name"], source["files"], source["sha256"]) == ("Tiny Model", ["small.gguf"], file_hash([path]))
    assert (source["quantization"], source["repositories"]) == ("Q8_0", ["owner/model"])
    assert source["precision"] == {"dtype": "float16", "requantize_bits": 8}
    assert source["size_bytes"] == path.stat().st_size


def test_recommended_sampling_goes_to_the_generation_config(tmp_path: Path) -> None:
    sampling = {
        "general.sampling.temp": 0.7,
        "general.sampling.top_k": 20,
        "general.sampling.penalty_repeat": 1.1,
        "general.sampling.top_p": math.nan,
        "general.sampling.min_p": "low",
    }
    convert_gguf(small_file(tmp_path, **sampling), tmp_path / "out", sha256="0")
    config = read_json(tmp_path / "out" / "generation_config.json")
    assert config == {
        "bos_token_id": 1,
        "eos_token_id": 0,
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "repetition_penalty": 1.1,
    }


def test_weights_in_several_shards_are_those_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_file(tmp_path)
    convert_gguf(path, tmp_path / "one", sha256="0")
    monkeypatch.setattr("mlx_personal.models.gguf.convert._SHARD_BYTES", 20_000)
    convert_gguf(path, tmp_path / "several", sha256="0")
    shards = sorted((tmp_path / "several").glob("*.safetensors"))
    assert len(shards) > 3
    assert [shard.name for shard in shards] == [
        f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
    ]
    one = load(tmp_path / "one" / "model.safetensors")
    index = read_json(tmp_path / "several" / "model.safetensors.index.json")
    several = {name: weight for shard in shards for name, weight in load(shard).items()}
    assert set(one) == set(several) == set(index["weight_map"])
    assert all(mx.array_equal(one[name], several[name]) for name in one)
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in one.values())


def test_progress_is_reported_for_each_tensor(tmp_path: Path) -> None:
    events: list[ProgressEvent] = []
    convert_gguf(small_file(tmp_path), tmp_path / "out", sha256="0", on_progress=events.append)
    assert [(event.stage, event.done, event.total) for event in events] == [
        ("conversion", number, TENSORS) for number in range(1, TENSORS + 1)
    ]


def test_a_stopped_conversion_leaves_nothing(tmp_path: Path) -> None:
    def stop(event: ProgressEvent, /) -> None:
        if event.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_gguf(small_file(tmp_path), tmp_path / "models" / "out", sha256="0", on_progress=stop)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = small_file(tmp_path)

    def grow(event: ProgressEvent, /) -> None:
        if event.done == 5:
            with path.open("ab") as file:
                file.write(b"more")

    with pytest.raises(UserError, match="changed while it was read; wait until it is complete"):
        convert_gguf(path, tmp_path / "models" / "out", sha256="0", on_progress=grow)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_file_that_shrinks_meanwhile_is_refused(tmp_path: Path) -> None:
    path = small_file(tmp_path)

    def shrink(event: ProgressEvent, /) -> None:
        os.truncate(path, path.stat().st_size // 2)

    with pytest.raises(UserError, match="became shorter while it was read"):
        convert_gguf(path, tmp_path / "out", sha256="0", on_progress=shrink)


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        convert_gguf(small_file(tmp_path), tmp_path / "out", sha256="0")
    assert (tmp_path / "out" / "file").read_text() == "mine"


@pytest.mark.parametrize("limit_bytes", [5_000, 50_000], ids=["tokenizer", "weights"])
def test_a_full_disk_is_one_line(tmp_path: Path, limit_bytes: int) -> None:
    path = small_file(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writes beyond this size fail as those on a full disk do; Python ignores the signal.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        with pytest.raises(UserError) as caught:
            convert_gguf(path, tmp_path / "models" / "out", sha256="0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert "file too large" in str(caught.value) or "disk" in str(caught.value)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_that_of_all_weights(tmp_path: Path, dtype: str) -> None:
    convert_gguf(small_file(tmp_path), tmp_path / "out", precision=Precision(dtype), sha256="0")
    weights = load(tmp_path / "out" / "model.safetensors")
    dtypes = {str(weight.dtype) for weight in weights.values()}
    assert dtypes == {"mlx.core.uint32", f"mlx.core.{dtype}"}


def test_q6_k_can_be_quantized_again(tmp_path: Path) -> None:
    weights = converted_weights(random_model("llama", COMMON | {"intermediate_size": 256}), "llama")
    data = random_blocks(Q6_K, 64, 256, np.random.default_rng(0), 6)
    name = "blk.1.ffn_down.weight"
    settings = {"llama.feed_forward_length": 256}
    path = write_gguf(tmp_path / "model.gguf", "llama", weights | {name: data}, types={name: Q6_K}, settings=settings)
    for bits in (None, 6, 8):
        folder = tmp_path / f"bits-{bits}"
        convert_gguf(path, folder, precision=Precision("float32", requantize_bits=bits), sha256="0")
        quantization = read_json(folder / "config.json").get("quantization")
        assert (quantization["bits"] if quantization else None) == bits
        layer = mlx_lm.load(str(folder))[0].model.layers[1].mlp.down_proj
        assert getattr(layer, "bits", None) == bits
    exact = load(tmp_path / "bits-None" / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    np.testing.assert_array_equal(np.array(exact), gguf.quants.dequantize(data, Q6_K))


@pytest.mark.parametrize(
    ("device", "architecture", "tensor_type", "expected"),
    [
        ("cpu", "llama", Q8_0, Precision("float32", None)),
        ("metal", "llama", Q8_0, Precision("float16", 8)),
        ("metal", "llama", BF16, Precision("bfloat16", 8)),
        ("metal", "gemma3", Q8_0, Precision("bfloat16", 8)),
    ],
)
def test_the_precision_fits_the_device(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    architecture: str,
    tensor_type: GGMLQuantizationType,
    expected: Precision,
) -> None:
    monkeypatch.setattr("mlx_personal.models.gguf.convert.device_name", lambda: device)
    weights = {"token_embd.weight": np.ones((4, 64), np.float32)}
    types = {"token_embd.weight": tensor_type}
    path = write_gguf(tmp_path / "model.gguf", architecture, weights, types=types)
    assert default_precision(read_gguf(path)) == expected


def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path) -> None:
    """Convert a file that is 20 times as large as its largest tensor and look at MLX's own count of its memory."""
    model = random_model("llama", COMMON | {"num_hidden_layers": 20, "intermediate_size": 1024})
    weights = converted_weights(model, "llama")
    settings = {"llama.block_count": 20, "llama.feed_forward_length": 1024}
    path = write_gguf(tmp_path / "model.gguf", "llama", weights, settings=settings)
    largest = max(weight.nbytes for weight in weights.values())
    del model, weights
    peaks = []

    def watch(event: ProgressEvent, /) -> None:
        peaks.append(mx.get_active_memory())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_personal.models.gguf.convert._SHARD_BYTES", 2 * largest)
        before = mx.get_active_memory()
        convert_gguf(path, tmp_path / "out", precision=Precision("float32"), sha256="0", on_progress=watch)
    assert path.stat().st_size > 20 * largest
    assert max(peaks) - before < 5 * largest

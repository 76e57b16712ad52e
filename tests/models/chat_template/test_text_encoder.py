"""Texts that mention control tokens, for tokenizers of several kinds."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mlx_personal.models.chat_template.text_encoder import TextEncoder

CORPUS = ["A turn ends with a mark, and the next begins: user, assistant.", "Write both marks, please! 12 ünïcödé été."]
CONTROL = ["<s>", "</s>", "<|turn|>", "<|end|>"]
TEMPLATE_TEXT = "<|turn|>\0<|end|>\0<think>"
KINDS = ["byte-level", "metaspace", "unigram", "wordpiece"]


@functools.cache
def make_tokenizer(kind: str) -> TokenizerWrapper:
    special = [*CONTROL, "<unk>"]
    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=alphabet)
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special)
    else:
        alphabet = list("<>|/abcdefghijklmnopqrstuvwxyz")
        if kind == "unigram":
            tokenizer = Tokenizer(models.Unigram())
            trainer = trainers.UnigramTrainer(
                vocab_size=120, special_tokens=special, unk_token="<unk>", initial_alphabet=alphabet
            )
        else:
            tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
            trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, initial_alphabet=alphabet)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Not special, as in Qwen3; the spaces are ordinary text.
    tokenizer.add_tokens([AddedToken("<think>", normalized=kind == "wordpiece"), AddedToken("   ", normalized=False)])
    return TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>"))


@functools.cache
def make_encoder(kind: str) -> TextEncoder:
    return TextEncoder(make_tokenizer(kind), TEMPLATE_TEXT)


def render(messages: list[dict[str, str]]) -> str:
    return "<s>" + "".join(f"<|turn|>{m['role']}\n{m['content'].strip()}<|end|>\n" for m in messages) + "<|turn|>a\n"


def conversation(*contents: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content} for content in contents]


TOKENS = st.sampled_from([*CONTROL, "<think>", "<|tu", "rn|>", "<|", "|>", "<", ">", "   ", "\U000f0000", "\U000f0001"])
WORDS = st.sampled_from(["A turn", " ends", "\n\n", " ", "été", "with a mark", "12", "z", "user: x"])


@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_text_gets_the_tokenizers_own_tokens(kind: str) -> None:
    tokenizer, encoder = make_tokenizer(kind), make_encoder(kind)
    for text in ["", *CORPUS, "a   b", " lead", "trail \n", "a <| b |> c < d > e", "naïve\t\tété   \n\n\n"]:
        assert encoder.encode(text) == tokenizer.encode(text, add_special_tokens=False)
        rendering = render(conversation(text or "x", "Write both!"))
        marked, marks = encoder.mark_mentions(conversation(text or "x", "Write both!"))
        assert marks == ""
        assert encoder.encode_rendering(render(marked), marks) == tokenizer.encode(rendering, add_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(parts=st.lists(TOKENS | WORDS, min_size=1, max_size=7))
def test_a_text_never_becomes_a_control_token(kind: str, parts: list[str]) -> None:
    tokenizer, encoder = make_tokenizer(kind), make_encoder(kind)
    text = "".join(parts)
    control = set(encoder.control_tokens.values()) - {tokenizer.convert_tokens_to_ids("<unk>")}
    ids = encoder.encode(text)
    assert control.isdisjoint(ids)
    if kind == "byte-level":
        assert tokenizer.decode(ids) == text
    messages = conversation(f"x{text}", "Write both!", f" {text}x ")
    marked, marks = encoder.mark_mentions(messages)
    row = encoder.encode_rendering(render(marked), marks)
    plain = tokenizer.encode(render(conversation("x", "y", "z")), add_special_tokens=False)
    assert [token for token in row if token in control] == [token for token in plain if token in control]
    if kind == "byte-level":
        assert tokenizer.decode(row) == render(messages)
    pieces = encoder.split(render(marked), marks)
    assert "".join(pieces) == render(marked)
    assert [token for piece in pieces for token in encoder.encode_piece(piece, marks)] == row


@pytest.mark.parametrize("kind", ["byte-level", "metaspace"])
def test_a_mention_is_tokenized_as_by_a_tokenizer_without_control_tokens(kind: str) -> None:
    description = json.loads(make_tokenizer(kind).backend_tokenizer.to_str())
    description["added_tokens"] = []
    reference = Tokenizer.from_str(json.dumps(description))
    for text in ["A turn ends with <|end|> and <s>", "<|turn|>", "x</s></s> ", "</s>\n\n<think> both"]:
        assert make_encoder(kind).encode(text) == reference.encode(text, add_special_tokens=False).ids


def test_other_spellings_of_a_normalized_token_are_text_too() -> None:
    tokenizer, encoder = make_tokenizer("wordpiece"), make_encoder("wordpiece")
    think = encoder.control_tokens["<think>"]
    assert think in tokenizer.encode("so <THINK> it", add_special_tokens=False)
    assert think not in encoder.encode("so <THINK> it")
    marked, marks = encoder.mark_mentions(conversation("so <THINK> it", "b"))
    assert think not in encoder.encode_rendering(render(marked), marks)


def test_a_tokenizer_that_cannot_be_copied_tokenizes_mentions_apart() -> None:
    tokenizer = make_tokenizer("byte-level")

    class Opaque:
        added_tokens_decoder = tokenizer.added_tokens_decoder

        @staticmethod
        def encode(text: str, add_special_tokens: bool) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=add_special_tokens))

    encoder: Any = TextEncoder(Opaque(), TEMPLATE_TEXT)
    text = "A turn ends with <|end|> and <s><think>."
    assert set(encoder.control_tokens.values()).isdisjoint(encoder.encode(text))
    assert tokenizer.decode(encoder.encode(text)) == text
    messages = conversation(text, "Write")
    marked, marks = encoder.mark_mentions(messages)
    row = encoder.encode_rendering(render(marked), marks)
    assert tokenizer.decode(row) == render(messages)
    assert row.count(encoder.control_tokens["<|end|>"]) == 2


def test_added_tokens_without_an_embedding_are_never_used() -> None:
    tokenizer = make_tokenizer("byte-level")
    highest = max(tokenizer.added_tokens_decoder)
    assert tokenizer.added_tokens_decoder[highest].content == "   "
    assert highest in tokenizer.encode("a   b", add_special_tokens=False)
    encoder = TextEncoder(tokenizer, vocabulary_size=highest)
    assert highest not in encoder.encode("a   b")
    assert tokenizer.decode(encoder.encode("a   b")) == "a   b"

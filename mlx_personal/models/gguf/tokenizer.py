"""Write the tokenizer of a GGUF file as transformers reads it: tokenizer.json and tokenizer_config.json.

Two kinds are supported: byte-level BPE (`gpt2` in the metadata), whose merges are in the file, and SentencePiece's BPE
(`llama`), which merges the pair whose piece has the highest score. The latter's merges are derived from the scores:
every way to make a piece of two others is a merge, in the order of the pieces' scores.

Where several special tokens end a turn, all of them end an answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from mlx_personal.errors import UserError, quoted
from mlx_personal.models.gguf.file import GGUFFile
from mlx_personal.models.gguf.pre_tokenizers import BPE_FAMILIES, BPEFamily

_SPACE = "▁"  # stands for a space in SentencePiece's pieces
# SentencePiece makes pieces of at most 512. Merges are found in a time that grows with the square of the length.
_MAX_PIECE_CHARACTERS = 512
# Tokens that end a turn in some chat template; a file names at most three of its end tokens by id.
_END_TOKENS = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "<|return|>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek's, with a full-width bar and a lower block
    }
)


class _TokenType(IntEnum):
    """Values of `tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of special tokens.

    Attributes:
        bos: Begins a text, or None.
        ends: End an answer; the model's own end-of-text token first.
        pad: Fills up batches, or None.
        unknown: Stands for what the vocabulary lacks, or None.
    """

    bos: int | None
    ends: tuple[int, ...]
    pad: int | None
    unknown: int | None


@dataclass(frozen=True)
class _Vocabulary:
    """The tokens of a file, each text once.

    Attributes:
        tokens: Texts by id.
        types: Their types [tokens].
        special: The special tokens.
    """

    tokens: list[str]
    types: np.ndarray
    special: SpecialTokens

    def ids(self) -> dict[str, int]:
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def text(self, token_id: int | None) -> str | None:
        return None if token_id is None else self.tokens[token_id]


def write_tokenizer(file: GGUFFile, folder: Path, vocabulary_size: int) -> SpecialTokens:
    """Write the tokenizer of a file into a model folder.

    Args:
        file: The file.
        folder: The folder.
        vocabulary_size: Number of the model's token embeddings.

    Returns:
        The special tokens.

    Raises:
        UserError: If the file has no tokenizer, one of an unsupported kind, or a damaged one.
    """
    kind = file.required_string("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise file.error(f"has a tokenizer of the kind {quoted(kind)}, which is not supported")
    vocabulary = _read_vocabulary(file, vocabulary_size)
    try:
        tokenizer, adds_bos = _build(file, vocabulary, kind)
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises this class itself
        raise file.error(f"has a damaged tokenizer ({error})", "download it again") from error
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    config = _tokenizer_config(file, vocabulary, adds_bos)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return vocabulary.special


def _build(file: GGUFFile, vocabulary: _Vocabulary, kind: str) -> tuple[Tokenizer, bool]:
    """Return the tokenizer, and whether it begins texts with the begin-of-text token."""
    if file.architecture == "qwen2" and (kind != "gpt2" or not _bpe_family(file).is_qwen2):
        # transformers replaces the tokenizer of every model of this type by Qwen2's pre-tokenizer.
        raise file.error("has a qwen2 model with another model's tokenizer, which is not supported")
    if kind == "gpt2":
        family = _bpe_family(file)
        tokenizer, adds_bos = _byte_level_bpe(file, vocabulary, family), family.adds_bos
    else:
        tokenizer, adds_bos = _sentencepiece_bpe(file, vocabulary), True
    _add_special_tokens(file, tokenizer, vocabulary)
    bos = vocabulary.text(vocabulary.special.bos)
    adds_bos = file.boolean("tokenizer.ggml.add_bos_token", adds_bos) and bos is not None
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, vocabulary.special.bos)]
        )
    return tokenizer, adds_bos


def _read_vocabulary(file: GGUFFile, vocabulary_size: int) -> _Vocabulary:
    tokens = file.strings("tokenizer.ggml.tokens")
    if not tokens:
        raise file.error("has no tokenizer")
    if len(tokens) > vocabulary_size:
        raise file.error(f"has {len(tokens)} tokens and embeddings of only {vocabulary_size}", "download it again")
    types = file.numbers("tokenizer.ggml.token_type")
    if types is None:
        types = np.full(len(tokens), _TokenType.NORMAL)
    if len(types) != len(tokens):
        raise file.error("is a damaged GGUF file: not one type for each token", "download it again")
    if file.string("tokenizer.ggml.model") == "llama":
        # Tokens that users defined match texts in which spaces are not replaced yet; older files have them replaced.
        for token_id in np.flatnonzero(types == _TokenType.USER_DEFINED).tolist():
            tokens[token_id] = tokens[token_id].replace(_SPACE, " ")
    seen: set[str] = set()
    for token_id, token in enumerate(tokens):
        if token in seen:  # the first one is what texts are tokenized to
            tokens[token_id] = f"<duplicate_{token_id}>"
        seen.add(tokens[token_id])
    return _Vocabulary(tokens, types, _special_tokens(file, tokens, types))


def _special_tokens(file: GGUFFile, tokens: list[str], types: np.ndarray) -> SpecialTokens:
    def token_id(name: str) -> int | None:
        key = f"tokenizer.ggml.{name}_token_id"
        if key not in file.metadata:
            return None
        value = file.integer(key)
        if not 0 <= value < len(tokens):
            raise file.error(f"is a damaged GGUF file: {key} is {value} of {len(tokens)} tokens", "download it again")
        return value

    named_ends = [end for name in ("eos", "eot", "eom") if (end := token_id(name)) is not None]
    listed_ends = file.numbers("tokenizer.ggml.eos_token_ids")  # in files that Ollama made
    if listed_ends is not None and np.issubdtype(listed_ends.dtype, np.integer):
        named_ends += [end for end in listed_ends.tolist() if end in range(len(tokens))]
    is_control = types == _TokenType.CONTROL
    known_ends = [i for i in np.flatnonzero(is_control).tolist() if tokens[i] in _END_TOKENS]
    unknown = token_id("unknown")
    if unknown is None and (types == _TokenType.UNKNOWN).any():
        unknown = int(np.argmax(types == _TokenType.UNKNOWN))
    return SpecialTokens(token_id("bos"), tuple(dict.fromkeys(named_ends + known_ends)), token_id("padding"), unknown)


def _bpe_family(file: GGUFFile) -> BPEFamily:
    name = file.string("tokenizer.ggml.pre")
    if name is None or name == "default":
        raise file.error(
            "does not name its pre-tokenizer, as files from before May 2024 do not", "download a newer conversion"
        )
    if name not in BPE_FAMILIES:
        raise file.error(f"has the pre-tokenizer {quoted(name)}, which is not supported")
    return BPE_FAMILIES[name]


def _byte_level_bpe(file: GGUFFile, vocabulary: _Vocabulary, family: BPEFamily) -> Tokenizer:
    merges = file.strings("tokenizer.ggml.merges")
    if merges is None:
        raise file.error("is a damaged GGUF file: its tokenizer has no merges", "download it again")
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocabulary.ids(), pairs, ignore_merges=family.ignores_merges))
    if (normalizer := family.normalizer()) is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = family.pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece_bpe(file: GGUFFile, vocabulary: _Vocabulary) -> Tokenizer:
    scores = file.numbers("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(vocabulary.tokens) or np.isnan(scores).any():
        raise file.error("is a damaged GGUF file: not one score for each token", "download it again")
    is_normal = (vocabulary.types == _TokenType.NORMAL).tolist()
    scored = zip(vocabulary.tokens, scores.tolist(), is_normal, strict=True)
    pieces = {piece: score for piece, score, is_piece in scored if is_piece}
    if (longest := max(map(len, pieces), default=0)) > _MAX_PIECE_CHARACTERS:
        raise file.error(f"is a damaged GGUF file: a token of {longest} characters", "download it again")
    unknown = vocabulary.text(vocabulary.special.unknown)
    has_bytes = bool((vocabulary.types == _TokenType.BYTE).any())
    model = models.BPE(
        vocabulary.ids(), merges_by_score(pieces), unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes
    )
    tokenizer = Tokenizer(model)
    # Ollama's own files of Gemma 3 do not say it.
    adds_space = file.boolean("tokenizer.ggml.add_space_prefix", file.architecture != "gemma3")
    spaces = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if adds_space else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if adds_space else steps)
    return tokenizer


def merges_by_score(pieces: dict[str, float]) -> list[tuple[str, str]]:
    """Return the merges of SentencePiece's BPE in the order in which they apply.

    SentencePiece merges the neighbors whose piece has the highest score, from left to right where scores are equal. The
    same piece can be made of several pairs; the longer left half comes first, as it is what merging from the left makes
    of repeated characters.

    Args:
        pieces: Scores of the normal pieces by text.
    """
    merges = [
        (-score, -split, piece[:split], piece[split:])
        for piece, score in pieces.items()
        for split in range(1, len(piece))
        if piece[:split] in pieces and piece[split:] in pieces
    ]
    merges.sort(key=lambda merge: merge[:2])
    return [(left, right) for _, _, left, right in merges]


def _add_special_tokens(file: GGUFFile, tokenizer: Tokenizer, vocabulary: _Vocabulary) -> None:
    """Make control tokens and the tokens that users defined match as wholes."""
    special = vocabulary.special
    always = {special.bos, special.pad, special.unknown, *special.ends} - {None}
    # Phi-3's template writes line breaks after its tokens that its tokenizer drops.
    strips_right = file.architecture == "phi3" and file.string("tokenizer.ggml.model") == "llama"
    added = []
    for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types.tolist(), strict=True)):
        if kind in (_TokenType.CONTROL, _TokenType.UNKNOWN) or token_id in always:
            rstrip = strips_right and token.startswith("<|") and token != "<|endoftext|>"
            added.append(AddedToken(token, special=True, normalized=False, rstrip=rstrip))
        elif kind == _TokenType.USER_DEFINED:
            added.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_tokens(added)


def _tokenizer_config(file: GGUFFile, vocabulary: _Vocabulary, adds_bos: bool) -> dict[str, Any]:
    special = vocabulary.special
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": adds_bos,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.context_length or 2048,
    }
    ids = {"bos_token": special.bos, "pad_token": special.pad, "unk_token": special.unknown}
    ids["eos_token"] = special.ends[0] if special.ends else None
    # A missing token is null, as transformers' own classes would add the one of the models they were written for.
    config |= {name: vocabulary.text(token_id) for name, token_id in ids.items()}
    template = file.string("tokenizer.chat_template")
    others = {
        name: text
        for name in file.strings("tokenizer.chat_templates") or []
        if (text := file.string(f"tokenizer.chat_template.{name}")) is not None
    }
    if template is not None and others:
        config["chat_template"] = [{"name": n, "template": t} for n, t in {"default": template, **others}.items()]
    elif template is not None:
        config["chat_template"] = template
    return config

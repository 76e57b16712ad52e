"""Pre-tokenizers of byte-level BPE by the name that GGUF gives them in `tokenizer.ggml.pre`.

A pre-tokenizer splits a text into words before merges apply inside each. The patterns are those of the original
models' tokenizer.json files.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_LLAMA3 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_SEED_CODER = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LOWER_WORD, _UPPER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_TEKKEN = rf"{_LOWER_WORD}|{_UPPER_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_GPT4O = (
    rf"{_LOWER_WORD}{_CONTRACTIONS}?|{_UPPER_WORD}{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DIGIT = r"\p{N}"


@dataclass(frozen=True)
class BPEFamily:
    """What tokenizers with one pre-tokenizer have in common.

    Attributes:
        patterns: Regular expressions; each splits further what the ones before it left.
        ignores_merges: Whether a word that is in the vocabulary is one token even if no merges lead to it.
        adds_bos: Whether a text begins with the begin-of-text token where the file does not say.
        normalizes: Whether texts are converted to Unicode's form NFC.
    """

    patterns: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False
    normalizes: bool = False

    @property
    def is_qwen2(self) -> bool:
        """Whether texts are split as Qwen2 splits them."""
        return self.patterns == (_QWEN2,)

    def normalizer(self) -> normalizers.Normalizer | None:
        """Return the normalizer, or None if there is none."""
        return normalizers.NFC() if self.normalizes else None

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """Return the pre-tokenizer, which ends with the mapping of bytes to printable characters."""
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_FAMILIES = {
    ("gpt-2", "phi-2", "mpt", "olmo"): BPEFamily((_GPT2,)),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "minerva-7b"): BPEFamily((_DIGIT, _GPT2)),
    ("llama-bpe", "llama3", "llama-v3", "falcon3"): BPEFamily((_LLAMA3,), ignores_merges=True, adds_bos=True),
    ("dbrx", "smaug-bpe"): BPEFamily((_LLAMA3,)),
    ("qwen2",): BPEFamily((_QWEN2,), normalizes=True),
    ("deepseek-r1-qwen", "stablelm2", "megrez"): BPEFamily((_QWEN2,)),
    ("seed-coder",): BPEFamily((_SEED_CODER,)),
    ("tekken",): BPEFamily((_TEKKEN,), ignores_merges=True, adds_bos=True),
    ("gpt-4o", "llama4"): BPEFamily((_GPT4O,)),
    ("deepseek-coder",): BPEFamily(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT)),
}
BPE_FAMILIES: dict[str, BPEFamily] = {name: family for names, family in _FAMILIES.items() for name in names}

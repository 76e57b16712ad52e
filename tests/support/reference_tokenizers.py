"""Tokenizers that use neither `tokenizers` nor `mlx_personal`: byte-level BPE in Python, and SentencePiece itself.

`TEXTS` are 200 texts in ten scripts.
"""

# ruff: noqa: RUF001 - the texts are in many scripts

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]

_SENTENCES = [
    "What shall I cook tonight? Try a soup of leeks, 2 or 3 potatoes, and bread; it doesn't take long.",
    "Was soll ich heute kochen? Öl, Äpfel und Grünkohl für 12,50 € – größer geht's wohl nicht.",
    "Привет, как дела? Спасибо, хорошо: сегодня 25 градусов, и мы едем на дачу.",
    "Γειά σου, τι κάνεις; Σήμερα θα μαγειρέψω φασολάδα με 3 ντομάτες και λίγο λάδι.",
    "今日は天気がいいですね。スープを作るには、ネギを2本とジャガイモを3個用意します！",
    "今天晚上我该做什么菜？试试韭葱土豆汤，配上面包，大约30分钟就好了。",
    "안녕하세요, 오늘 저녁에 무엇을 요리할까요? 감자 3개와 대파로 수프를 끓여 보세요.",
    "مرحبا، كيف حالك؟ سأطبخ اليوم حساء البطاطس مع ٣ بصلات وقليل من الزيت.",
    "שלום, מה שלומך? היום אבשל מרק תפוחי אדמה עם 3 בצלים ומעט שמן.",
    "नमस्ते, आज रात क्या पकाऊँ? तीन आलू और थोड़ा सा प्याज लेकर सूप बनाइए।",
]


def _texts() -> list[str]:
    """Return 20 texts for each script: the sentence, parts of it, other spacing, and what scripts have in common."""
    rng = random.Random(0)
    texts = []
    for sentence in _SENTENCES:
        words = sentence.split(" ")
        texts += [
            sentence,
            sentence.upper(),
            f"  {sentence}",
            f"{sentence}   ",
            sentence.replace(" ", "  "),
            sentence.replace(", ", ",\n\n"),
            f"\t{sentence}\r\n",
            "".join(reversed(sentence)),
            sentence * 2,
            f"{sentence[:20]} 1234567890 {sentence[20:]}",
        ]
        texts += [" ".join(rng.sample(words, len(words))) for _ in range(4)]
        texts += ["".join(rng.choices(sentence, k=40)) for _ in range(4)]
        texts += [sentence[: rng.randint(1, 12)], f"{words[0]}'s {words[-1]}🙂👩‍👩‍👧\u0301 x=1;// I'LL"]
    return texts


TEXTS = _texts()


def byte_characters() -> list[str]:
    """Return GPT-2's printable character for each byte."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = itertools.count(256)
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@dataclass
class ByteLevelBPE:
    """Byte-level BPE: split a text by patterns, then in each word merge the pair of the lowest rank, again and again.

    Attributes:
        tokens: Texts of tokens by id.
        merges: Pairs in the order of their ranks.
        patterns: Regular expressions; each splits what the one before it left.
        ignores_merges: Whether a word that is a token stays one.
    """

    tokens: Sequence[str]
    merges: Sequence[tuple[str, str]]
    patterns: Sequence[str]
    ignores_merges: bool = False

    def __post_init__(self) -> None:
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self.characters = byte_characters()

    def encode(self, text: str) -> list[int]:
        words = [text]
        for pattern in self.patterns:
            words = [part for word in words for part in self._split(pattern, word)]
        return [token_id for word in words for token_id in self._merge(word)]

    def _split(self, pattern: str, text: str) -> Iterable[str]:
        end = 0
        for match in regex.finditer(pattern, text):
            if match.start() > end:
                yield text[end : match.start()]
            if match.group():
                yield match.group()
            end = match.end()
        if end < len(text):
            yield text[end:]

    def _merge(self, word: str) -> list[int]:
        symbols = [self.characters[byte] for byte in word.encode()]
        if self.ignores_merges and "".join(symbols) in self.ids:
            return [self.ids["".join(symbols)]]
        while len(symbols) > 1:
            ranked = [(self.ranks.get(pair, len(self.ranks)), i) for i, pair in enumerate(itertools.pairwise(symbols))]
            rank, place = min(ranked)
            if rank == len(self.ranks):
                break
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        return [self.ids[symbol] for symbol in symbols]


def train_merges(texts: Sequence[str], pattern: str, count: int) -> list[tuple[str, str]]:
    """Return the merges that byte-pair encoding learns from texts."""
    characters = byte_characters()
    words = [[characters[b] for b in word.encode()] for text in texts for word in regex.findall(pattern, text)]
    merges = []
    for _ in range(count):
        counts: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in itertools.pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for word in words:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = ["".join(best)]
                place += 1
    return merges


def train_sentencepiece(vocabulary_size: int, **options: Any) -> Any:
    """Return a `SentencePieceProcessor` of BPE with byte fallback, trained on most of `TEXTS`."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[: len(TEXTS) * 3 // 4]),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary_size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_by_whitespace=True,
        minloglevel=2,
        **options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

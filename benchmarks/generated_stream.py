"""Generate an endless stream of synthetic dialogues, and embed texts without a model.

Dialogues mix the words of one domain's lexicon with common ones, so that all scores vary. One in ten repeats a dialogue
of the buffer, except for one word.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mlx_personal.dialogue import Dialogue, words
from mlx_personal.embedding import Embedding, unit_mean
from mlx_personal.scoring import Lexicons

MIN_WORDS, MAX_WORDS = 8, 64
REPEAT_PROBABILITY = 0.1
NUM_DOMAINS = 8
COMMON_WORDS = words(
    """
    the a and to of in is it that for on with as was be at this have from or had by but what all were when we there can
    an your which their if do will each about how up out them then she many some so these would other into has more her
    two like him see time could no make than first been its who now people my made over did down only way find use may
    long little very after words just where most know get through back much before go good new write our used me man too
    any day same right look think also around another came come three word must because does
    """
)


def generate_dialogues(lexicons: Lexicons, buffer_texts: Callable[[], Sequence[str]], seed: int) -> Iterator[Dialogue]:
    """Yield dialogues about some of the lexicons' domains, all of them different, also for different seeds.

    Args:
        lexicons: Words of the domains.
        buffer_texts: Returns the texts that are in the buffer now, some of which are repeated.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    domains = [sorted(lexicons[name]) for name in list(lexicons)[:NUM_DOMAINS]]
    for number in itertools.count():
        texts = buffer_texts() if rng.random() < REPEAT_PROBABILITY else []
        text = texts[int(rng.integers(len(texts)))] if len(texts) else _new_text(domains, rng)
        question, _, answer = text.partition("\n")
        # The last word makes each dialogue different from all others.
        yield Dialogue.of(question, f"{answer.rpartition(' ')[0]} n{seed}x{number}")


def _new_text(domains: Sequence[Sequence[str]], rng: np.random.Generator) -> str:
    """Return a question and an answer of 4 to 32 words each, with a random share of words of one domain."""
    domain = domains[int(rng.integers(len(domains)))]
    count = int(rng.integers(MIN_WORDS, MAX_WORDS))
    in_domain = rng.random(count) < rng.uniform(0, 0.6)
    positions = rng.random(count)
    text = [
        source[int(position * len(source))]
        for position, source in zip(
            positions, (domain if is_domain else COMMON_WORDS for is_domain in in_domain), strict=True
        )
    ]
    return f"{' '.join(text[: count // 2])}?\n{' '.join(text[count // 2 :])} n"


class WordVectors:
    """An embedder whose token states are random vectors of the words, so that texts with shared words are similar.

    The number of words in a stream is unlimited; each one uses one of `SIZE` vectors, by its hash.

    Args:
        dim: Dimension of the vectors.
    """

    SIZE = 4096

    def __init__(self, dim: int):
        self.name = f"random vectors of {dim}"
        self._vectors = np.random.default_rng(0).standard_normal((self.SIZE, dim), np.float32)

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return the embedding of each text."""
        states = (self._vectors[[zlib.crc32(w.encode()) % self.SIZE for w in words(text)]] for text in texts)
        return [Embedding(unit_mean(s), s) for s in states]

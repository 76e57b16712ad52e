"""An endless stream of synthetic dialogues, and an embedder without a model.

Dialogues mix the words of one domain's lexicon with common ones, so that every score varies; one in ten repeats, but
for a word, a dialogue that is in the buffer.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mlx_personal.dialogue import Dialogue, words
from mlx_personal.embedding import Embedding, unit_mean
from mlx_personal.scoring import Lexicons

SHORTEST, LONGEST = 8, 64
REPEATED = 0.1
DOMAINS = 8
COMMON = words(
    """
    the a and to of in is it that for on with as was be at this have from or had by but what all were when we there can
    an your which their if do will each about how up out them then she many some so these would other into has more her
    two like him see time could no make than first been its who now people my made over did down only way find use may
    long little very after words just where most know get through back much before go good new write our used me man too
    any day same right look think also around another came come three word must because does
    """
)


def dialogues(lexicons: Lexicons, kept: Callable[[], Sequence[str]], seed: int) -> Iterator[Dialogue]:
    """Dialogues over some of the lexicons' domains, none equal to an earlier one or to one of another seed.

    Args:
        kept: the texts in the buffer now, some of which are repeated.
    """
    rng = np.random.default_rng(seed)
    domains = [sorted(lexicons[name]) for name in list(lexicons)[:DOMAINS]]
    for number in itertools.count():
        texts = kept() if rng.random() < REPEATED else []
        text = texts[int(rng.integers(len(texts)))] if len(texts) else fresh(domains, rng)
        question, _, answer = text.partition("\n")
        # The last word makes each differ from all others.
        yield Dialogue.of(question, f"{answer.rpartition(' ')[0]} n{seed}x{number}")


def fresh(domains: Sequence[Sequence[str]], rng: np.random.Generator) -> str:
    """A question and an answer of some 4 to 32 words each, about one domain, more or less so."""
    domain = domains[int(rng.integers(len(domains)))]
    count = int(rng.integers(SHORTEST, LONGEST))
    about = rng.random(count) < rng.uniform(0, 0.6)
    drawn = rng.random(count)
    spoken = [
        source[int(place * len(source))]
        for place, source in zip(drawn, (domain if on_topic else COMMON for on_topic in about), strict=True)
    ]
    return f"{' '.join(spoken[: count // 2])}?\n{' '.join(spoken[count // 2 :])} n"


class WordVectors:
    """An embedder whose token states are random vectors, one a word: what shares words lies near.

    A stream has no end of words, so that each takes one of `SIZE` vectors by its hash.
    """

    SIZE = 4096

    def __init__(self, dim: int):
        self.name = f"random vectors of {dim}"
        self._vectors = np.random.default_rng(0).standard_normal((self.SIZE, dim), np.float32)

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        states = (self._vectors[[zlib.crc32(w.encode()) % self.SIZE for w in words(text)]] for text in texts)
        return [Embedding(unit_mean(s), s) for s in states]

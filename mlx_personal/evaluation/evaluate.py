"""Before and after: generated answers, their ROUGE against the preferred ones, and how sure the gain is."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_personal.dialogue import Dialogue, rouge1, rougeL, strip_thoughts
from mlx_personal.models import LanguageModel
from mlx_personal.progress import Progress

_CHUNK = 1_000  # resamples drawn at once, so that memory stays at a chunk times n


@dataclass(frozen=True)
class Gain:
    """Means of a score over dialogues, before and after, and the 95 % interval of the mean gain."""

    before: float
    after: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """One held-out dialogue, a tuple entry a turn; the scores are means over its assistant turns, 0..1."""

    questions: tuple[str, ...]
    preferred: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    rouge1_before: float
    rouge1_after: float
    rougeL_before: float  # noqa: N815 - the metric's own name
    rougeL_after: float  # noqa: N815


@dataclass(frozen=True)
class Evaluation:
    """What an adapter changed on `n` held-out dialogues."""

    n: int
    rouge1: Gain
    rougeL: Gain  # noqa: N815
    samples: tuple[Sample, ...]


def answers(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    max_tokens: int = 256,
    on_progress: Progress | None = None,
) -> list[list[str]]:
    """For each dialogue the model's greedy answer at every assistant turn, after what was really said before it.

    One batch for all; thoughts are stripped. `on_done(done, total)` is called each time an answer is finished.
    ValueError for a dialogue whose assistant says nothing but thoughts.
    """
    contexts = [[context for context, _ in d.without_thoughts().exchanges()] for d in dialogues]
    prompts = [lm.prompt_tokens(context) for context in itertools.chain.from_iterable(contexts)]
    generated = iter(lm.generate(prompts, max_tokens=max_tokens, on_progress=on_progress))
    return [[strip_thoughts(next(generated)) for _ in context] for context in contexts]


def compare(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], preferred: Sequence[Dialogue], seed: int = 0
) -> Evaluation:
    """ROUGE-1 and ROUGE-L of two sets of `answers` against those of the preferred dialogues, and the paired gain.

    ValueError for no dialogues, or where the answers are not one for each assistant turn.
    """
    if not preferred:
        raise ValueError("there is no dialogue to evaluate on")
    samples = tuple(_sample(d, tuple(b), tuple(a)) for d, b, a in zip(preferred, before, after, strict=True))
    return Evaluation(
        n=len(samples),
        rouge1=_gain([s.rouge1_before for s in samples], [s.rouge1_after for s in samples], seed),
        rougeL=_gain([s.rougeL_before for s in samples], [s.rougeL_after for s in samples], seed),
        samples=samples,
    )


def bootstrap_interval(values: Sequence[float], seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean: 2.5th and 97.5th percentile of the resampled means.

    Given paired differences, it is the paired bootstrap. One value gives an interval of that point alone; ValueError
    for none.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    data, rng = np.array(values, np.float64), np.random.default_rng(seed)
    means = [
        data[rng.integers(len(data), size=(min(_CHUNK, resamples - done), len(data)))].mean(axis=1)
        for done in range(0, resamples, _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def _sample(dialogue: Dialogue, before: tuple[str, ...], after: tuple[str, ...]) -> Sample:
    preferred = tuple(strip_thoughts(turn) for turn in dialogue.assistant_turns)
    return Sample(
        questions=dialogue.user_turns,
        preferred=preferred,
        before=before,
        after=after,
        rouge1_before=_mean_score(rouge1, before, preferred),
        rouge1_after=_mean_score(rouge1, after, preferred),
        rougeL_before=_mean_score(rougeL, before, preferred),
        rougeL_after=_mean_score(rougeL, after, preferred),
    )


def _mean_score(score: Callable[[str, str], float], given: tuple[str, ...], preferred: tuple[str, ...]) -> float:
    return statistics.fmean(score(answer, ideal) for answer, ideal in zip(given, preferred, strict=True))


def _gain(before: list[float], after: list[float], seed: int) -> Gain:
    differences = [b - a for a, b in zip(before, after, strict=True)]
    low, high = bootstrap_interval(differences, seed)
    return Gain(statistics.fmean(before), statistics.fmean(after), statistics.fmean(differences), low, high)

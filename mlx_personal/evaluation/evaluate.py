"""Generate answers, and compare two models' answers with the preferred ones by ROUGE, length and diversity.

The fields of these dataclasses are the keys under which profiles store evaluations. Those with a default are missing in
evaluations of version 0.1. `comparison` computes the fields that compare likelihoods.
"""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_personal.dialogue import Dialogue, rouge1, rougeL, strip_thoughts
from mlx_personal.evaluation.answer_modes import ModeComparison
from mlx_personal.evaluation.choice import ChoiceChange
from mlx_personal.evaluation.diversity import distinct_2, mean_words
from mlx_personal.evaluation.intervals import MetricChange
from mlx_personal.evaluation.specificity import SpecificityChange
from mlx_personal.progress import Progress

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel


@dataclass(frozen=True)
class EvaluatedDialogue:
    """A held-out dialogue with the answers of two models. Tuples have an entry per turn; scores are means, 0..1.

    Attributes:
        questions: The user's turns.
        preferred: The preferred answers.
        before: Answers of the first model.
        after: Answers of the second model.
        rouge1_before: ROUGE-1 of the first model's answers.
        rouge1_after: ROUGE-1 of the second model's answers.
        rougeL_before: ROUGE-L of the first model's answers.
        rougeL_after: ROUGE-L of the second model's answers.
        log_likelihood_before: Log-likelihood of the preferred answers under the first model, in nats a token.
        log_likelihood_after: Log-likelihood of the preferred answers under the second model, in nats a token.
    """

    questions: tuple[str, ...]
    preferred: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    rouge1_before: float
    rouge1_after: float
    rougeL_before: float  # noqa: N815 - the name of the metric
    rougeL_after: float  # noqa: N815
    log_likelihood_before: float | None = None
    log_likelihood_after: float | None = None


@dataclass(frozen=True)
class AnswerStatistic:
    """A property of all answers together, which is neither good nor bad in itself.

    Attributes:
        before: Value of the first model's answers.
        after: Value of the second model's answers.
        preferred: Value of the preferred answers.
    """

    before: float
    after: float
    preferred: float


@dataclass(frozen=True)
class ConstantAnswer:
    """One answer given to every question, the most typical one among those trained on, compared with the second model.

    Attributes:
        answer: The answer.
        rouge1: Change in ROUGE-1 from this answer to the second model's answers.
        rougeL: Change in ROUGE-L from this answer to the second model's answers.
    """

    answer: str
    rouge1: MetricChange
    rougeL: MetricChange  # noqa: N815


@dataclass(frozen=True)
class Evaluation:
    """The comparison of two models on held-out dialogues.

    Attributes:
        n: Number of dialogues.
        rouge1: Change in ROUGE-1.
        rougeL: Change in ROUGE-L.
        samples: The dialogues with their answers and scores.
        is_inferred: Whether the preferred answers were inferred from exports, and not judged by the user.
        inferred: The comparison on further dialogues for which they were, if there are any.
        log_likelihood: Change in the log-likelihood of the preferred answers, in nats a token, mean over dialogues; the
            perplexity is exp(-log_likelihood).
        specificity: How much likelier a preferred answer is after its own question than after others; None without two
            different questions.
        choice: How high the preferred answer ranks among others; None without two different answers.
        similarity: Change in the cosine similarity of generated and preferred answers, -1..1; None without two
            different preferred answers.
        constant_answer: One answer for all; None without answers to choose it from.
        answer_words: Words per answer.
        distinct_2: Share of the pairs of adjacent words that are different.
        modes: The comparison of both models, with and without memory, with what is in use; None if they were not
            compared for a profile.
    """

    n: int
    rouge1: MetricChange
    rougeL: MetricChange  # noqa: N815
    samples: tuple[EvaluatedDialogue, ...]
    is_inferred: bool = False
    inferred: Evaluation | None = None
    log_likelihood: MetricChange | None = None
    specificity: SpecificityChange | None = None
    choice: ChoiceChange | None = None
    similarity: MetricChange | None = None
    constant_answer: ConstantAnswer | None = None
    answer_words: AnswerStatistic | None = None
    distinct_2: AnswerStatistic | None = None
    modes: ModeComparison | None = None


def generate_answers(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue],
    max_tokens: int = 256,
    on_progress: Progress | None = None,
) -> list[list[str]]:
    """Generate a greedy answer for every assistant turn, given the true preceding turns.

    All answers are generated in one batch; thoughts are removed from them.

    Args:
        lm: The model, with any adapter that is attached to it.
        dialogues: The dialogues to answer.
        max_tokens: Maximum number of tokens of an answer.
        on_progress: Receives an event of stage `generation` for each finished answer.

    Returns:
        The answers of each dialogue.

    Raises:
        ValueError: If an assistant turn of a dialogue consists of thoughts only.
    """
    contexts = [[context for context, _ in d.without_thoughts().exchanges()] for d in dialogues]
    prompts = [lm.tokenize_prompt(context) for context in itertools.chain.from_iterable(contexts)]
    generated = iter(lm.generate(prompts, max_tokens=max_tokens, on_progress=on_progress))
    return [[strip_thoughts(next(generated)) for _ in context] for context in contexts]


def compare_answers(
    before: Sequence[Sequence[str]], after: Sequence[Sequence[str]], preferred: Sequence[Dialogue], seed: int = 0
) -> Evaluation:
    """Compare two models' answers with the preferred ones by ROUGE-1, ROUGE-L, length and diversity.

    Args:
        before: Answers of the first model, one for each assistant turn of each dialogue.
        after: Answers of the second model.
        preferred: The dialogues with the preferred answers.
        seed: Random seed of the bootstrap.

    Returns:
        The scores of both models and the paired differences.

    Raises:
        ValueError: If there are no dialogues, or not one answer for each assistant turn.
    """
    if not preferred:
        raise ValueError("there is no dialogue to evaluate on")
    samples = tuple(_evaluate(d, tuple(b), tuple(a)) for d, b, a in zip(preferred, before, after, strict=True))
    return Evaluation(
        n=len(samples),
        rouge1=MetricChange.of([s.rouge1_before for s in samples], [s.rouge1_after for s in samples], seed),
        rougeL=MetricChange.of([s.rougeL_before for s in samples], [s.rougeL_after for s in samples], seed),
        samples=samples,
        answer_words=_statistic(mean_words, samples),
        distinct_2=_statistic(distinct_2, samples),
    )


def _evaluate(dialogue: Dialogue, before: tuple[str, ...], after: tuple[str, ...]) -> EvaluatedDialogue:
    preferred = tuple(strip_thoughts(turn) for turn in dialogue.assistant_turns)
    return EvaluatedDialogue(
        questions=dialogue.user_turns,
        preferred=preferred,
        before=before,
        after=after,
        rouge1_before=_mean_score(rouge1, before, preferred),
        rouge1_after=_mean_score(rouge1, after, preferred),
        rougeL_before=_mean_score(rougeL, before, preferred),
        rougeL_after=_mean_score(rougeL, after, preferred),
    )


def _statistic(metric: Callable[[list[str]], float], samples: Sequence[EvaluatedDialogue]) -> AnswerStatistic:
    before, after, preferred = (
        metric([turn for sample in samples for turn in getattr(sample, name)])
        for name in ("before", "after", "preferred")
    )
    return AnswerStatistic(before, after, preferred)


def _mean_score(metric: Callable[[str, str], float], answers: tuple[str, ...], preferred: tuple[str, ...]) -> float:
    return statistics.fmean(_score(metric, answer, target) for answer, target in zip(answers, preferred, strict=True))


@functools.lru_cache(maxsize=4096)
def _score(metric: Callable[[str, str], float], answer: str, target: str) -> float:
    """Return the score of an answer, kept because the same answers are compared with those of several models."""
    return metric(answer, target)

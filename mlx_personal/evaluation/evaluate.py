"""Compare two models: generate answers, score them by ROUGE against the preferred answers, and bootstrap the gain.

The fields of these dataclasses are the keys under which profiles store evaluations.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_personal.dialogue import Dialogue, rouge1, rougeL, strip_thoughts
from mlx_personal.evaluation.intervals import MetricChange
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
    """

    questions: tuple[str, ...]
    preferred: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    rouge1_before: float
    rouge1_after: float
    rougeL_before: float  # noqa: N815 - the name of the metric
    rougeL_after: float  # noqa: N815


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
    """

    n: int
    rouge1: MetricChange
    rougeL: MetricChange  # noqa: N815
    samples: tuple[EvaluatedDialogue, ...]
    is_inferred: bool = False
    inferred: Evaluation | None = None


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
    """Compare two models' answers by ROUGE-1 and ROUGE-L against the preferred answers.

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
    )


def compare_apart(
    before: Sequence[Sequence[str]],
    after: Sequence[Sequence[str]],
    preferred: Sequence[Dialogue],
    inferred: Sequence[bool],
    seed: int = 0,
) -> Evaluation:
    """Compare two models' answers on the dialogues that the user judged, and apart from them on all others.

    Args:
        before: Answers of the first model, one for each assistant turn of each dialogue.
        after: Answers of the second model.
        preferred: The dialogues with the preferred answers.
        inferred: For each dialogue, whether its preferred answers were inferred from an export.
        seed: Random seed of the bootstrap.

    Returns:
        The comparison on the dialogues that the user judged, with that on the others; if the user judged none, the
        comparison on the others alone.

    Raises:
        ValueError: If there are no dialogues, or not one answer for each assistant turn.
    """
    evaluations: dict[bool, Evaluation] = {}
    compared = list(zip(before, after, preferred, inferred, strict=True))
    for is_inferred in (False, True):
        part = [(b, a, dialogue) for b, a, dialogue, flag in compared if flag == is_inferred]
        if part:
            evaluation = compare_answers(
                [b for b, _, _ in part], [a for _, a, _ in part], [d for _, _, d in part], seed
            )
            evaluations[is_inferred] = dataclasses.replace(evaluation, is_inferred=is_inferred)
    if not evaluations:
        raise ValueError("there is no dialogue to evaluate on")
    if False not in evaluations:
        return evaluations[True]
    return dataclasses.replace(evaluations[False], inferred=evaluations.get(True))


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


def _mean_score(metric: Callable[[str, str], float], answers: tuple[str, ...], preferred: tuple[str, ...]) -> float:
    return statistics.fmean(metric(answer, target) for answer, target in zip(answers, preferred, strict=True))

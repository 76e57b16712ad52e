"""ROUGE-1 and ROUGE-L [Lin04] by the `rouge-score` package, for any language.

The package's own tokenizer keeps only a-z and 0-9, so a Cyrillic answer would score 0. Here it uses `words` instead.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from mlx_personal.dialogue.words import words

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


def rouge1(candidate: str, reference: str) -> float:
    """Return ROUGE-1, the F-measure of unigram overlap, 0..1; 0 if either text has no words.

    Args:
        candidate: The text to score.
        reference: The text to compare it with.

    References:
        [Lin04]
    """
    return float(_scorer("rouge1").score(reference, candidate)["rouge1"].fmeasure)


def rougeL(candidate: str, reference: str) -> float:  # noqa: N802 - the metric's name
    """Return ROUGE-L, the F-measure of the longest common subsequence, 0..1; 0 if either text has no words.

    Args:
        candidate: The text to score.
        reference: The text to compare it with.

    References:
        [Lin04]
    """
    return float(_scorer("rougeL").score(reference, candidate)["rougeL"].fmeasure)


class _WordTokenizer:
    def tokenize(self, text: str) -> list[str]:
        return words(text)


@functools.cache
def _scorer(metric: str) -> RougeScorer:
    # Imported here because it imports nltk, which takes a second.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([metric], tokenizer=_WordTokenizer())

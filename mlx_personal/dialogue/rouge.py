"""ROUGE-1 and ROUGE-L of the `rouge-score` package, for any language.

The package's own tokenizer keeps only a-z and 0-9, so a Cyrillic answer would score 0; `words` is handed to it instead.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from mlx_personal.dialogue.words import words

if TYPE_CHECKING:
    from rouge_score import rouge_scorer


class _Words:
    def tokenize(self, text: str) -> list[str]:
        return words(text)


@functools.cache
def _scorer(name: str) -> rouge_scorer.RougeScorer:
    from rouge_score import rouge_scorer  # here, as it imports NLTK, which is slow

    return rouge_scorer.RougeScorer([name], tokenizer=_Words())


def rouge1(candidate: str, reference: str) -> float:
    """F-measure of unigram overlap, 0..1; 0 where either text has no words."""
    return float(_scorer("rouge1").score(reference, candidate)["rouge1"].fmeasure)


def rougeL(candidate: str, reference: str) -> float:  # noqa: N802 - the metric's own name
    """F-measure of the longest common subsequence of words, 0..1; 0 where either text has no words."""
    return float(_scorer("rougeL").score(reference, candidate)["rougeL"].fmeasure)

"""Assign topics to dialogues whose data set has no labels, by the words that texts share.

The dominant domain of the lexicons is not used, because DSS and IDD are computed from it, and because one domain can
cover almost a whole data set, as health does with MedDialog.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlx_personal.research.study.schemas import LabeledDialogue
from mlx_personal.scoring import dominant_topics

NUM_TOPICS: Final = 16


def assign_topics(dialogues: Sequence[LabeledDialogue]) -> list[str]:
    """Return a topic for each dialogue: the data set's label, or one of a topic model. The result is deterministic."""
    unlabeled = [labeled.dialogue.text for labeled in dialogues if not labeled.topic]
    topics = iter(dominant_topics(unlabeled, NUM_TOPICS))
    return [labeled.topic or f"topic {next(topics)}" for labeled in dialogues]

"""Dialogues: types, words, similarity and ROUGE."""

from mlx_personal.dialogue.rouge import rouge1, rougeL
from mlx_personal.dialogue.similarity import are_near_duplicates, dialogue_similarity
from mlx_personal.dialogue.types import Dialogue, Message, strip_thoughts
from mlx_personal.dialogue.words import words

__all__ = [
    "Dialogue",
    "Message",
    "are_near_duplicates",
    "dialogue_similarity",
    "rouge1",
    "rougeL",
    "strip_thoughts",
    "words",
]

"""Dialogue sets: what they are, how their words are counted, and how they are read from files."""

from mlx_personal.dialogue.readers import InvalidLine, read_dialogues
from mlx_personal.dialogue.rouge import rouge1, rougeL
from mlx_personal.dialogue.similarity import are_near_duplicates, dialogue_similarity
from mlx_personal.dialogue.types import Dialogue, Message, strip_thoughts
from mlx_personal.dialogue.words import words

__all__ = [
    "InvalidLine",
    "Dialogue",
    "Message",
    "dialogue_similarity",
    "are_near_duplicates",
    "read_dialogues",
    "rouge1",
    "rougeL",
    "strip_thoughts",
    "words",
]

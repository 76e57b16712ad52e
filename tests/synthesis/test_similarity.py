"""The threshold of similarity, from the texts themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_personal.embedding import Embedding
from mlx_personal.synthesis.similarity import SimilarityCheck

TEXTS = [f"What about topic {topic} and this?" for topic in "abcdefghij"]


class TopicEmbedder:
    """Embeds a text as its topic's direction, beside one that all texts share."""

    name = "topics"

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        embeddings = []
        for text in texts:
            topic = text.partition("topic ")[2][:1]
            states = np.zeros((1, 27), np.float32)
            states[0, ord(topic) - ord("a") if topic else sum(map(ord, text)) % 26], states[0, 26] = 1, 5
            embeddings.append(Embedding.from_states(states, "topics"))
        return embeddings


def check(texts: Sequence[str]) -> SimilarityCheck:
    return SimilarityCheck(TopicEmbedder(), texts)


def test_a_rewrite_is_more_similar_to_its_original_than_different_texts_are() -> None:
    found = check(TEXTS)
    assert found.threshold is not None
    # Raw cosine similarities are all above 0.96, of equal and of different topics.
    assert found.passes([0, 1, 2], ["Say topic a", "Say topic d", "Say topic a"]) == [True, False, False]


def test_the_examples_of_the_language_help_a_small_profile() -> None:
    assert check(TEXTS[:1]).threshold is not None
    assert check(["Как испечь ржаной хлеб?"]).threshold is None
    assert check(["Как испечь ржаной хлеб?"]).passes([0], ["anything"]) == [True]
    assert check(TEXTS).passes([], []) == []

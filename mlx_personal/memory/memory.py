"""The memory: the nearest kept dialogues are put before a question as examples of how it is answered.

An example is an exchange of weight 0 (`Message.weight`): it is in the prompt, and nothing else is computed from it. So
a dialogue with examples is generated from, evaluated and trained on like any other one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mlx_personal.dialogue import Dialogue, Message
from mlx_personal.embedding import Embedder, HiddenStateEmbedder
from mlx_personal.memory.bm25 import BM25Index
from mlx_personal.memory.config import MemoryConfig
from mlx_personal.memory.retrieval import rank_entries
from mlx_personal.memory.vectors import WhitenedVectors

if TYPE_CHECKING:
    from mlx_personal.models import LanguageModel

# Number of the nearest dialogues, for each wanted example, of which those that fit into the prompt are taken.
_CANDIDATES: Final = 4
# Number of questions that are embedded together: the states of all their tokens are in memory.
_CHUNK: Final = 64


@dataclass(frozen=True)
class MemoryEntry:
    """A dialogue of the memory.

    Attributes:
        id: Id of the dialogue, which increases along the stream.
        dialogue: The dialogue, with the preferred answers if it is annotated.
        group: Its group of near-duplicates, by which it is excluded; None if it has none.
        is_annotated: Whether its answers are the user's preferred ones.
    """

    id: int
    dialogue: Dialogue
    group: Hashable | None = None
    is_annotated: bool = True


@dataclass(frozen=True)
class RetrievedExample:
    """A dialogue that is put before a question.

    Attributes:
        entry: The entry of the memory.
        similarity: How near its question is by the retrieval, with two of them the larger similarity.
        score: By which examples are ordered, see `RankedEntry`: with two retrievals, whose similarities are of
            different scales, that of their ranks.
    """

    entry: MemoryEntry
    similarity: float
    score: float


class Memory:
    """The kept dialogues, among which the nearest to a question are found.

    A dialogue is found by its first question, and for a dialogue by that one's first question, so that a conversation
    keeps its examples, and thereby its prefix. Entries of which nothing is left without thoughts are left out.

    Args:
        entries: The entries, in the order of the stream.
        config: Settings of the memory.
        lm: The model that answers, with or without an adapter. Its tokenizer counts the tokens of the examples, and its
            base embeds the questions.
        embedder: Embeds the questions; by default with the last hidden layer of the base.
        vectors: The vectors of the entries' first questions by that embedder, float32 [N, D]; None to compute them when
            they are first used.

    Attributes:
        entries: The entries that can be examples, without thoughts.
        config: Settings of the memory.
    """

    def __init__(
        self,
        entries: Sequence[MemoryEntry],
        config: MemoryConfig,
        lm: LanguageModel,
        embedder: Embedder | None = None,
        vectors: np.ndarray | None = None,
    ):
        visible = [(i, entry, _without_thoughts(entry.dialogue)) for i, entry in enumerate(entries)]
        usable = [(i, dataclasses.replace(entry, dialogue=d)) for i, entry, d in visible if d is not None]
        self.entries = tuple(entry for _, entry in usable)
        self.config = config
        self._lm = lm
        self._embedder = embedder
        self._vectors = None if vectors is None else vectors[[i for i, _ in usable]]
        self._is_annotated = np.array([entry.is_annotated for entry in self.entries], bool)
        self._query_vectors: dict[str, np.ndarray] = {}

    def examples_for(
        self, question: str, excluded_groups: Collection[Hashable] = frozenset(), system: str = ""
    ) -> tuple[RetrievedExample, ...]:
        """Return the examples to put before a question, in their order in the prompt.

        Of the nearest dialogues those are taken that fit into `MemoryConfig.max_tokens`, and with the question into
        half of the model's context; one that does not fit is passed over.

        Args:
            question: The first question of a conversation.
            excluded_groups: Groups of near-duplicates of which no dialogue is taken.
            system: System prompt of the conversation; empty for none.
        """
        if not self.config.examples or not self.entries:
            return ()
        before = [Message("system", system)] if system else []
        messages = [*before, Message("user", question)]
        length = self._prompt_length(messages)
        limit = min(length + self.config.max_tokens, self._max_prompt_length)
        if length >= limit:  # the question alone is too long, and is not embedded
            return ()
        taken: list[RetrievedExample] = []
        for example in self.nearest(question, _CANDIDATES * self.config.examples, excluded_groups):
            longer = [*taken, example]
            shown = example_messages(_dialogues_of(self._in_order(longer)))
            if self._prompt_length([*before, *shown, messages[-1]]) <= limit:
                taken = longer
            if len(taken) == self.config.examples:
                break
        return tuple(self._in_order(taken))

    def with_examples(
        self,
        dialogue: Dialogue,
        excluded_groups: Collection[Hashable] = frozenset(),
        max_length: int | None = None,
    ) -> Dialogue:
        """Return a dialogue with its examples before it, after its system turn.

        Args:
            dialogue: The dialogue.
            excluded_groups: As in `examples_of`.
            max_length: As in `examples_of`.

        Returns:
            The dialogue, in which the answers of the examples have weight 0.
        """
        return insert_examples(dialogue, _dialogues_of(self.examples_of(dialogue, excluded_groups, max_length)))

    def examples_of(
        self,
        dialogue: Dialogue,
        excluded_groups: Collection[Hashable] = frozenset(),
        max_length: int | None = None,
    ) -> tuple[RetrievedExample, ...]:
        """Return the examples for the first question of a whole dialogue, in their order in the prompt.

        A dialogue of several turns whose last prompt leaves no space for the examples gets none.

        Args:
            dialogue: The dialogue.
            excluded_groups: Groups of near-duplicates of which no dialogue is taken; its own, if it is trained on.
            max_length: Maximum number of tokens of the dialogue with its examples and all its answers, for a training
                sample; the farthest examples are left out until it fits. None for the limits of a prompt only.
        """
        system = dialogue.messages[0].content if dialogue.messages[0].role == "system" else ""
        examples = self.examples_for(first_question(dialogue), excluded_groups, system)
        visible = _without_thoughts(dialogue) or dialogue  # as it is asked and trained on
        last_prompt = insert_examples(visible, _dialogues_of(examples)).messages[:-1]
        if examples and not self.has_space_for(self._prompt_length(last_prompt)):
            return ()
        while examples and max_length is not None and self._sample_length(visible, examples) > max_length:
            farthest = min(examples, key=_nearness)
            examples = tuple(example for example in examples if example is not farthest)
        return examples

    def has_space_for(self, prompt_length: int) -> bool:
        """Return whether the examples may stay in a prompt of a conversation or of a dialogue that is evaluated.

        Args:
            prompt_length: Number of tokens of the prompt with the examples.
        """
        return prompt_length <= self._max_prompt_length

    def nearest(
        self, question: str, count: int, excluded_groups: Collection[Hashable] = frozenset()
    ) -> list[RetrievedExample]:
        """Return the nearest dialogues, whether or not they fit into a prompt: first annotated ones, then the others.

        Args:
            question: The question.
            count: Maximum number of dialogues.
            excluded_groups: Groups of near-duplicates of which no dialogue is returned.
        """
        is_allowed = np.ones(len(self.entries), bool)
        for group in excluded_groups:
            is_allowed[self._indices_of_groups.get(group, [])] = False
        similarities, smallest = [], []
        if self.config.retrieval in ("hidden-states", "both"):
            similarities.append(self._whitened_vectors.similarities(self._query_vector(question)))
            smallest.append(self.config.min_similarity)
        if self.config.retrieval in ("bm25", "both"):
            similarities.append(self._bm25_index.similarities(question))
            smallest.append(self.config.min_bm25)
        ranked = rank_entries(similarities, self._is_annotated, is_allowed, smallest, count)
        return [RetrievedExample(self.entries[entry.index], entry.similarity, entry.score) for entry in ranked]

    def _query_vector(self, question: str) -> np.ndarray:
        # Kept, because a question is asked once for each model that is compared.
        if question not in self._query_vectors:
            self._query_vectors[question] = embed_questions(self._lm, [question], self._embedder)[0]
        return self._query_vectors[question]

    @functools.cached_property
    def _whitened_vectors(self) -> WhitenedVectors:
        questions = [first_question(entry.dialogue) for entry in self.entries]
        vectors = embed_questions(self._lm, questions, self._embedder) if self._vectors is None else self._vectors
        self._query_vectors.update(zip(questions, vectors, strict=True))
        return WhitenedVectors(vectors)

    @functools.cached_property
    def _bm25_index(self) -> BM25Index:
        return BM25Index([first_question(entry.dialogue) for entry in self.entries])

    @functools.cached_property
    def _indices_of_groups(self) -> dict[Hashable, list[int]]:
        indices: dict[Hashable, list[int]] = {}
        for index, entry in enumerate(self.entries):
            if entry.group is not None:
                indices.setdefault(entry.group, []).append(index)
        return indices

    def _in_order(self, examples: Sequence[RetrievedExample]) -> list[RetrievedExample]:
        """Return examples, given the nearest first, in their order in the prompt."""
        if self.config.order == "received":
            return sorted(examples, key=lambda example: example.entry.id)
        nearest_first = sorted(examples, key=_nearness, reverse=True)
        return nearest_first if self.config.order == "nearest-first" else nearest_first[::-1]

    @property
    def _max_prompt_length(self) -> int:
        """Maximum number of tokens of a prompt with examples: the other half of the context is for the answer."""
        return self._lm.context_length - self._lm.context_length // 2

    def _prompt_length(self, messages: Sequence[Message]) -> int:
        return len(self._lm.tokenize_prompt([{"role": m.role, "content": m.content} for m in messages]))

    def _sample_length(self, dialogue: Dialogue, examples: Sequence[RetrievedExample]) -> int:
        sequences = self._lm.tokenize_dialogue(insert_examples(dialogue, _dialogues_of(examples)))
        return max(len(tokens) for tokens, _ in sequences)


def first_question(dialogue: Dialogue) -> str:
    """Return the first user turn of a dialogue, by which it is found and for which its examples are chosen.

    Args:
        dialogue: The dialogue.
    """
    return next(message.content for message in dialogue.messages if message.role == "user")


def example_messages(examples: Sequence[Dialogue]) -> list[Message]:
    """Return the messages of examples as they stand before a question, with answers of weight 0 and no system turns.

    Args:
        examples: The examples, in their order in the prompt.
    """
    return [
        Message(m.role, m.content, 0 if m.role == "assistant" else 1)
        for example in examples
        for m in example.messages
        if m.role != "system"
    ]


def insert_examples(dialogue: Dialogue, examples: Sequence[Dialogue]) -> Dialogue:
    """Return a dialogue with examples before its first question, after its system turn.

    Args:
        dialogue: The dialogue.
        examples: The examples, in their order in the prompt.
    """
    start = 1 if dialogue.messages[0].role == "system" else 0
    if not examples:
        return dialogue
    return Dialogue((*dialogue.messages[:start], *example_messages(examples), *dialogue.messages[start:]))


def _dialogues_of(examples: Sequence[RetrievedExample]) -> list[Dialogue]:
    return [example.entry.dialogue for example in examples]


def _nearness(example: RetrievedExample) -> tuple[float, float]:
    return example.score, example.similarity


def embed_questions(lm: LanguageModel, questions: Sequence[str], embedder: Embedder | None = None) -> np.ndarray:
    """Return the vectors of questions by the base model, whether or not an adapter is attached.

    Args:
        lm: The model.
        questions: N questions.
        embedder: Embeds them; by default with the last hidden layer of the base.

    Returns:
        float32 [N, D].

    Raises:
        UserError: If the model's weights are damaged.
    """
    embedder = embedder or HiddenStateEmbedder(lm)
    vectors: list[np.ndarray] = []
    with lm.disable_adapter():
        for start in range(0, len(questions), _CHUNK):
            vectors += [embedding.vector for embedding in embedder.embed(questions[start : start + _CHUNK])]
    return np.array(vectors, np.float32)


def _without_thoughts(dialogue: Dialogue) -> Dialogue | None:
    """Return a dialogue without thoughts; None if an answer consists of thoughts only."""
    try:
        return dialogue.without_thoughts()
    except ValueError:
        return None

"""The memory: which dialogues are put before a question, in which order, and how many fit into the prompt."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel, Message
from mlx_personal.embedding import Embedding
from mlx_personal.memory import Memory, MemoryConfig, MemoryEntry, embed_questions
from tests.models.test_adapter_folder import write_adapter
from tests.support.paths import ROOT

SOUP = Dialogue.of("Lentil soup with carrots?", "Simmer the lentils.")
BEANS = Dialogue.of("Bean soup?", "Soak the beans.")
TOMATOES = Dialogue.of("When plant tomatoes?", "In May.")
CAT = Dialogue.of("Is the cat ill?", "Ask the vet.")
DIALOGUES = [SOUP, BEANS, TOMATOES, CAT]
QUESTION = "Lentil soup today?"  # shares words with SOUP, one with BEANS, and none with the others


class WordEmbedder:
    """Embeds a text by the numbers of its first letters, and counts the texts."""

    name = "first letters"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> list[Embedding]:
        self.texts += texts
        vectors = [np.zeros(27, np.float32) for _ in texts]
        for vector, text in zip(vectors, texts, strict=True):
            vector[26] = 5  # what all texts share
            for word in text.lower().split():
                vector["abcdefghijklmnopqrstuvwxyz".index(word[0])] += 1
            vector /= np.linalg.norm(vector)
        return [Embedding(vector, vector[None]) for vector in vectors]


def make_memory(
    lm: LanguageModel,
    dialogues: Sequence[Dialogue] = DIALOGUES,
    annotated: Sequence[bool] | None = None,
    **settings: object,
) -> Memory:
    entries = [
        MemoryEntry(i + 1, dialogue, f"group {i}", annotated is None or annotated[i])
        for i, dialogue in enumerate(dialogues)
    ]
    defaults = {"examples": 2, "retrieval": "bm25", "min_similarity": 0.05, "min_bm25": 0.05}
    config = MemoryConfig(**{**defaults, **settings})  # type: ignore[arg-type]
    return Memory(entries, config, lm, WordEmbedder())


def found(memory: Memory, question: str = QUESTION, **arguments: object) -> list[Dialogue]:
    return [example.entry.dialogue for example in memory.examples_for(question, **arguments)]  # type: ignore[arg-type]


@pytest.mark.parametrize("retrieval", ["hidden-states", "bm25", "both"])
def test_the_nearest_dialogues_are_found_with_their_similarity(tiny_model: LanguageModel, retrieval: str) -> None:
    memory = make_memory(tiny_model, retrieval=retrieval)
    assert SOUP in found(memory) and CAT not in found(memory)
    (same,) = [example for example in memory.examples_for(SOUP.question) if example.entry.dialogue == SOUP]
    assert same.similarity == pytest.approx(1, abs=1e-5)


def test_each_number_of_examples_is_a_maximum(tiny_model: LanguageModel) -> None:
    short = [Dialogue.of(letter, letter) for letter in "abcdefg"]
    for examples in range(9):
        memory = make_memory(tiny_model, short, examples=examples, min_bm25=0.0)
        assert len(found(memory, "x")) == min(examples, 7)


@pytest.mark.parametrize(
    ("order", "expected"),
    [("nearest-last", [BEANS, SOUP]), ("nearest-first", [SOUP, BEANS]), ("received", [SOUP, BEANS])],
)
def test_examples_are_ordered_by_nearness_or_time(
    tiny_model: LanguageModel, order: str, expected: list[Dialogue]
) -> None:
    assert found(make_memory(tiny_model, order=order)) == expected
    nearer_later = make_memory(tiny_model, [BEANS, SOUP], order=order)
    assert found(nearer_later) == ([SOUP, BEANS] if order == "nearest-first" else [BEANS, SOUP])


def test_nothing_is_taken_where_nothing_is_near(tiny_model: LanguageModel) -> None:
    for retrieval in ("hidden-states", "bm25", "both"):
        memory = make_memory(tiny_model, retrieval=retrieval, min_similarity=0.9, min_bm25=0.9)
        assert found(memory, "Zeppelins?") == []
        assert found(memory, SOUP.question) == [SOUP]


def test_both_takes_what_either_retrieval_finds_near(tiny_model: LanguageModel) -> None:
    same_letters, same_words = Dialogue.of("Large sweet tarts?", "Bake."), Dialogue.of("The soup is lentil.", "Stew.")
    dialogues = [TOMATOES, same_letters, CAT, same_words]
    by_vectors, by_words, by_both = (
        found(make_memory(tiny_model, dialogues, retrieval=retrieval, min_similarity=0.3, min_bm25=0.3))
        for retrieval in ("hidden-states", "bm25", "both")
    )
    assert by_vectors[-1] == same_letters and by_words == [same_words]
    assert set(by_both) == {same_letters, same_words}


def test_both_orders_by_the_ranks_of_both_retrievals(
    tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The words say SOUP, BEANS, TOMATOES with large numbers, the vectors BEANS, TOMATOES, SOUP with small ones.
    words, vectors = np.array([0.9, 0.5, 0.4, 0.0]), np.array([0.06, 0.12, 0.1, 0.0])
    for order, expected in (("nearest-first", [BEANS, SOUP, TOMATOES]), ("nearest-last", [TOMATOES, SOUP, BEANS])):
        memory = make_memory(tiny_model, retrieval="both", examples=3, order=order)
        monkeypatch.setattr(memory._bm25_index, "similarities", lambda _: words)
        monkeypatch.setattr(memory._whitened_vectors, "similarities", lambda _: vectors)
        assert found(memory) == expected
        asked = Dialogue.of(QUESTION, "Gently.")
        (tokens, _), *_ = tiny_model.tokenize_dialogue(memory.with_examples(asked))
        shortened = memory.with_examples(asked, max_length=len(tokens) - 1)
        assert [m.content for m in shortened.messages if m.role == "user"][:-1] == [
            dialogue.question for dialogue in expected if dialogue != TOMATOES
        ]


def test_annotated_dialogues_come_first(tiny_model: LanguageModel) -> None:
    memory = make_memory(tiny_model, annotated=[False, True, True, True], examples=1)
    assert found(memory, SOUP.question) == [BEANS]
    both = make_memory(tiny_model, annotated=[False, True, True, True])
    assert found(both, SOUP.question) == [BEANS, SOUP]
    assert found(both, "Lentil flour?") == [SOUP]


def test_groups_can_be_excluded(tiny_model: LanguageModel) -> None:
    memory = make_memory(tiny_model)
    assert found(memory, excluded_groups={"group 0"}) == [BEANS]
    assert found(memory, excluded_groups={"group 0", "group 1", "group 9", None}) == []
    without_groups = Memory([MemoryEntry(1, SOUP), MemoryEntry(2, BEANS)], memory.config, tiny_model)
    assert set(found(without_groups, excluded_groups={None})) == {BEANS, SOUP}


def test_examples_are_context_between_the_system_turn_and_the_dialogue(tiny_model: LanguageModel) -> None:
    with_system = Dialogue((Message("system", "Rhyme."), *SOUP.messages))
    thoughts = Dialogue.of(BEANS.question, "<think>Which beans?</think>Soak the beans.")
    memory = make_memory(tiny_model, [with_system, thoughts, Dialogue.of(QUESTION, "<think>Hm.</think>")])
    asked = Dialogue((Message("system", "Be brief."), *Dialogue.of(QUESTION, "Gently.").messages))
    result = memory.with_examples(asked)
    assert result.to_messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": BEANS.question},
        {"role": "assistant", "content": "Soak the beans.", "weight": 0},
        {"role": "user", "content": SOUP.question},
        {"role": "assistant", "content": SOUP.answer, "weight": 0},
        *asked.to_messages()[1:],
    ]
    assert (result.user_turns, result.text) == (asked.user_turns, asked.text)
    (context, answer) = result.exchanges()[0]
    assert (len(context), answer) == (6, "Gently.")


def test_a_dialogue_has_the_examples_of_its_first_question(tiny_model: LanguageModel) -> None:
    memory = make_memory(tiny_model)
    first, second = Dialogue.of(QUESTION, "Gently."), Dialogue.of(CAT.question, "I see.")
    long = Dialogue((*first.messages, *second.messages))
    continued = Dialogue((first.messages[0], Message("assistant", "Gently.", 0), *second.messages))
    prefix = memory.with_examples(first).messages[:4]
    assert memory.with_examples(long).messages == (*prefix, *long.messages)
    assert memory.with_examples(continued).messages == (*prefix, *continued.messages)


def test_a_memory_without_examples_or_entries_changes_nothing_and_embeds_nothing(tiny_model: LanguageModel) -> None:
    for memory in (make_memory(tiny_model, examples=0), make_memory(tiny_model, [], retrieval="both")):
        assert memory.with_examples(SOUP) is SOUP
        assert isinstance(memory._embedder, WordEmbedder) and memory._embedder.texts == []


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/concepts/memory.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/concepts/memory.md", "exec"), {})
    messages, similarities = map(ast.literal_eval, capsys.readouterr().out.splitlines())
    assert [m.get("weight", 1) for m in messages] == [1, 0, 1, 1] and 0.3 < similarities[0] < 1


# Limits


def prompt_length(lm: LanguageModel, dialogue: Dialogue) -> int:
    return len(lm.tokenize_prompt(dialogue.exchanges()[-1][0]))


def test_examples_stay_within_their_tokens_and_one_that_is_too_long_is_passed_over(tiny_model: LanguageModel) -> None:
    asked = Dialogue.of(QUESTION, "Gently.")
    plain = prompt_length(tiny_model, asked)
    all_tokens = prompt_length(tiny_model, make_memory(tiny_model).with_examples(asked)) - plain
    fits = make_memory(tiny_model, max_tokens=all_tokens)
    assert found(fits) == [BEANS, SOUP]
    assert found(make_memory(tiny_model, max_tokens=all_tokens - 1)) == [SOUP]
    long = Dialogue.of(SOUP.question, "Simmer the lentils. " * 6)
    assert found(make_memory(tiny_model, [long, BEANS, TOMATOES, CAT], max_tokens=all_tokens)) == [BEANS]
    assert found(make_memory(tiny_model, max_tokens=1)) == []


def test_a_memory_that_outgrows_the_context_leaves_half_of_it_for_the_answer(tiny_model: LanguageModel) -> None:
    many = [Dialogue.of(f"How do I cook soup {i}?", "Simmer it.") for i in range(40)]
    memory = make_memory(tiny_model, many, examples=8, max_tokens=100_000, min_bm25=0.0)
    result = memory.with_examples(Dialogue.of(QUESTION, "Gently."))
    assert tiny_model.context_length == 256
    assert 2 < len(result.messages) < 2 + 2 * 8 and prompt_length(tiny_model, result) <= 128
    filling = Dialogue.of("How do I cook soup? " * 10, "Gently.")
    assert prompt_length(tiny_model, filling) > 100
    assert memory.with_examples(filling) is filling
    endless = make_memory(tiny_model, many, retrieval="both", min_similarity=-1.0)
    assert found(endless, "How do I cook soup? " * 1000) == []
    assert isinstance(endless._embedder, WordEmbedder) and endless._embedder.texts == []


def test_a_long_dialogue_whose_last_prompt_has_no_room_gets_no_examples(tiny_model: LanguageModel) -> None:
    turns = [Dialogue.of(f"{QUESTION} And then {i}?", "Gently.") for i in range(5)]
    long = Dialogue(tuple(message for turn in turns for message in turn.messages))
    memory = make_memory(tiny_model)
    assert memory.examples_for(turns[0].question)
    assert memory.with_examples(long) is long


def test_a_training_sample_keeps_the_nearest_examples_that_fit_with_its_answer(tiny_model: LanguageModel) -> None:
    asked = Dialogue.of(QUESTION, "Gently, for half an hour, and salt it last.")
    memory = make_memory(tiny_model)

    def length(dialogue: Dialogue) -> int:
        return max(len(tokens) for tokens, _ in tiny_model.tokenize_dialogue(dialogue))

    both = memory.with_examples(asked)
    assert memory.with_examples(asked, max_length=length(both)) == both
    nearest = memory.with_examples(asked, max_length=length(both) - 1)
    assert [m.content for m in nearest.messages[:2]] == [SOUP.question, SOUP.answer]
    assert memory.with_examples(asked, max_length=length(nearest) - 1) is asked

    thinking = Dialogue.of(QUESTION, f"<think>{'Hm. ' * 40}</think>{asked.answer}")
    assert memory.with_examples(thinking, max_length=length(both)).messages[:-1] == both.messages[:-1]
    unanswered = Dialogue.of(QUESTION, "<think>Hm.</think>")
    assert memory.with_examples(unanswered, max_length=length(both)).messages[-1] == unanswered.messages[-1]


# Vectors


def test_vectors_are_computed_once_and_those_given_are_used(tiny_model: LanguageModel) -> None:
    memory = make_memory(tiny_model, retrieval="hidden-states")
    embedder = memory._embedder
    assert isinstance(embedder, WordEmbedder)
    memory.examples_for(QUESTION)
    memory.examples_for(QUESTION)
    memory.examples_for(SOUP.question)  # an entry's own
    assert embedder.texts == [*(dialogue.question for dialogue in DIALOGUES), QUESTION]
    vectors = embed_questions(tiny_model, [dialogue.question for dialogue in DIALOGUES], WordEmbedder())
    given = Memory(memory.entries, memory.config, tiny_model, WordEmbedder(), vectors)
    assert given.examples_for(QUESTION) == memory.examples_for(QUESTION)
    assert isinstance(given._embedder, WordEmbedder) and given._embedder.texts == [QUESTION]


def test_given_vectors_stay_with_their_entries_if_one_consists_of_thoughts(tiny_model: LanguageModel) -> None:
    dialogues = [Dialogue.of("Hm?", "<think>no</think>"), *DIALOGUES]
    entries = [MemoryEntry(i, dialogue) for i, dialogue in enumerate(dialogues)]
    vectors = embed_questions(tiny_model, [dialogue.question for dialogue in dialogues], WordEmbedder())
    config = MemoryConfig(examples=1, retrieval="hidden-states")
    memory = Memory(entries, config, tiny_model, WordEmbedder(), vectors)
    assert found(memory, SOUP.question) == [SOUP]


def test_questions_are_embedded_by_the_base_while_an_adapter_answers(
    tiny_model: LanguageModel, tiny_model_folder: object, tmp_path: object
) -> None:
    base = embed_questions(tiny_model, [QUESTION, "", SOUP.question])
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", std=0.3)  # type: ignore[arg-type, operator]
    tiny_model.attach_adapter(folder)
    try:
        adapted = np.array(tiny_model.hidden_states([[5, 6, 7]])[0])
        np.testing.assert_array_equal(embed_questions(tiny_model, [QUESTION, "", SOUP.question]), base)
        np.testing.assert_array_equal(tiny_model.hidden_states([[5, 6, 7]])[0], adapted)
    finally:
        tiny_model.detach_adapter()
    assert np.abs(tiny_model.hidden_states([[5, 6, 7]])[0] - adapted).max() > 1e-3


@pytest.mark.parametrize("retrieval", ["hidden-states", "bm25", "both"])
def test_one_dialogue_is_found_by_its_words_and_not_by_its_only_vector(
    tiny_model: LanguageModel, retrieval: str
) -> None:
    memory = make_memory(tiny_model, [SOUP], retrieval=retrieval)
    assert found(memory, SOUP.question) == ([] if retrieval == "hidden-states" else [SOUP])
    assert found(make_memory(tiny_model, [SOUP], retrieval=retrieval, min_similarity=0.0, min_bm25=0.0)) == [SOUP]


def test_dialogues_of_the_same_question_are_near_nothing_by_their_vectors(tiny_model: LanguageModel) -> None:
    same = [Dialogue.of(SOUP.question, answer) for answer in ("Simmer.", "Boil.", "Stew.")]
    assert found(make_memory(tiny_model, same, retrieval="hidden-states"), SOUP.question) == []
    # Of equally near dialogues the latest are taken.
    assert set(found(make_memory(tiny_model, same, retrieval="both"), SOUP.question)) == set(same[1:])


@pytest.mark.parametrize(
    ("min_similarity", "min_bm25", "expected"),
    [(0.3, 1.0, "letters"), (1.0, 0.3, "words"), (0.3, 0.3, "both"), (1.0, 1.0, "neither")],
)
def test_each_retrieval_has_a_limit_on_its_own_scale(
    tiny_model: LanguageModel, min_similarity: float, min_bm25: float, expected: str
) -> None:
    letters, words = Dialogue.of("Large sweet tarts, lad?", "Bake."), Dialogue.of("The soup is lentil.", "Stew.")
    memory = make_memory(
        tiny_model,
        [TOMATOES, letters, CAT, words],
        retrieval="both",
        min_similarity=min_similarity,
        min_bm25=min_bm25,
    )
    taken = found(memory, "Lentil soup today?")
    named = {"letters": [letters], "words": [words], "neither": []}
    if expected == "both":
        assert set(taken) == {letters, words}
    else:
        assert [d for d in taken if d in (letters, words)] == named[expected]


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples": -1}, "examples is -1; it must lie in 0..64"),
        ({"max_tokens": 0}, "max_tokens is 0; it must lie in 1..1,000,000"),
        ({"min_similarity": 1.5}, "min_similarity is 1.5; it must lie in -1..1"),
        ({"min_similarity": float("nan")}, "min_similarity is nan"),
        ({"min_bm25": -0.1}, "min_bm25 is -0.1; it must lie in 0..1"),
        ({"min_bm25": float("nan")}, "min_bm25 is nan"),
        ({"use": "sometimes"}, "use is 'sometimes'; it must be auto, always or never"),
        ({"order": "random"}, "order is 'random'; it must be nearest-last, nearest-first or received"),
        ({"retrieval": "dense"}, "retrieval is 'dense'; it must be hidden-states, bm25 or both"),
    ],
)
def test_a_setting_out_of_range_is_an_error(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryConfig(**settings)  # type: ignore[arg-type]

"""The memory of a profile: what can be an example, vectors that are computed once, and dialogues trained as in chat."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel, LoRAConfig, Personalizer
from mlx_personal.chat import ChatConfig
from mlx_personal.config import Config
from mlx_personal.embedding import Embedding, EmbeddingConfig, HiddenStateEmbedder
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import TrainingData, trainer
from mlx_personal.finetune.data.dataset import draw_validation_groups
from mlx_personal.finetune.data.examples import PreferencePair
from mlx_personal.finetune.data.samples import make_samples
from mlx_personal.finetune.plan import plan_for_model
from mlx_personal.memory import MemoryConfig, first_question
from mlx_personal.personalizer.memory import as_trained, memory_entries
from mlx_personal.personalizer.training_set import TrainingSet, begin_training, build_training_set
from mlx_personal.profile import NewSynthetic
from tests.models.test_adapter_folder import write_adapter

CHAT = ChatConfig(max_tokens=4)
CONFIG = Config(
    chat=CHAT, memory=MemoryConfig(use="always", examples=2, retrieval="hidden-states", min_similarity=-1.0)
)
SOUP = Dialogue.of("How do I cook lentil soup today?", "Simmer it.")
HELD_OUT = Dialogue.of("How do I plant the tomatoes now?", "In May.")
NEAR_HELD_OUT = Dialogue.of("How do I plant the tomatoes, now?", "In June.")
SKIPPED = Dialogue.of("What is the weather like outside?", "Rain.")
WAITING = Dialogue.of("Where can I buy a wool coat?", "In town.")
PREFERRED = Dialogue.of(SOUP.question, "Half an hour, and salt it last.")


@pytest.fixture
def personalizer(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    """A profile of five dialogues, all of them in the buffer, of which one waits for a verdict."""
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model) as personalizer:
        store = personalizer.store
        store.add_dialogues([SOUP, HELD_OUT, NEAR_HELD_OUT, SKIPPED, WAITING], "test")
        for dialogue_id in range(1, 6):
            store.put_bin(dialogue_id, dialogue_id, np.ones(4, np.float32) / 2, 1.0, 1.0)
        store.add_annotation(1, "rewrite", PREFERRED, 0, held_out=False)
        store.add_annotation(2, "accept", HELD_OUT, 1, held_out=True)
        store.add_annotation(3, "accept", NEAR_HELD_OUT, 2, held_out=False)
        store.add_annotation(4, "skip", None, -1, held_out=False)
        yield personalizer


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are embedded."""
    texts: list[str] = []
    embed = HiddenStateEmbedder.embed

    def count(self: HiddenStateEmbedder, batch: Sequence[str]) -> list[Embedding]:
        texts.extend(batch)
        return embed(self, batch)

    monkeypatch.setattr(HiddenStateEmbedder, "embed", count)
    return texts


def reopened(personalizer: Personalizer, lm: LanguageModel | None, **changes: object) -> Personalizer:
    """Return the profile opened again, as by another process, with some settings changed."""
    personalizer.close()
    again = Personalizer(personalizer.folder, lm=lm)
    again.config = dataclasses.replace(again.config, **changes)  # type: ignore[arg-type]
    return again


def test_annotated_dialogues_and_the_buffer_are_the_memory_without_what_is_held_out(personalizer: Personalizer) -> None:
    entries = memory_entries(personalizer.store)
    assert [(entry.id, entry.dialogue, entry.group, entry.is_annotated) for entry in entries] == [
        (1, PREFERRED, 0, True),
        (5, WAITING, None, False),
    ]
    assert personalizer.memory().entries == tuple(entries)


def test_vectors_are_stored_and_not_computed_again(
    personalizer: Personalizer, tiny_model: LanguageModel, embedded: list[str]
) -> None:
    first = personalizer.memory().examples_for("Where is my coat?")
    assert embedded == [SOUP.question, WAITING.question, "Where is my coat?"]
    del embedded[:]
    with reopened(personalizer, tiny_model) as again:
        assert again.memory().examples_for("Where is my coat?") == first
        assert embedded == ["Where is my coat?"]
        again.store.add_dialogues([Dialogue.of("May cats eat bread?", "A little.")], "test")
        again.store.put_bin(5, 6, np.ones(4, np.float32) / 2, 1.0, 1.0)
        again.memory()
        assert embedded[1:] == ["May cats eat bread?"]
        stored = again.store.database.fetch_all("SELECT dialogue_id FROM question_vectors ORDER BY dialogue_id")
        assert [row["dialogue_id"] for row in stored] == [1, 6], "the dialogue that left the buffer is forgotten"


def test_a_changed_base_or_embedder_makes_new_vectors(
    personalizer: Personalizer, other_model_folder: Path, embedded: list[str]
) -> None:
    questions = [first_question(entry.dialogue) for entry in personalizer.memory().entries]
    old = personalizer.memory().examples_for("Where is my coat?")
    del embedded[:]
    personalizer.change_model(other_model_folder)
    del embedded[:]  # those of the buffer
    assert personalizer.memory().examples_for("Where is my coat?") != old
    assert embedded == [*questions, "Where is my coat?"]
    del embedded[:]
    personalizer.config = dataclasses.replace(CONFIG, embedding=EmbeddingConfig(max_tokens=3))
    personalizer.memory()
    personalizer.memory()
    assert embedded == questions
    assert personalizer.store.database.fetch_int("SELECT count(*) FROM question_vectors") == 2


def test_a_reader_computes_vectors_and_stores_nothing(
    personalizer: Personalizer, tiny_model: LanguageModel, embedded: list[str]
) -> None:
    personalizer.close()
    with Personalizer(personalizer.folder, write=False, lm=tiny_model) as reader:
        assert len(reader.memory().examples_for("Where is my coat?")) == 2
        assert reader.store.database.fetch_int("SELECT count(*) FROM question_vectors") == 0


def test_nothing_is_embedded_where_no_vector_is_needed(personalizer: Personalizer, embedded: list[str]) -> None:
    for settings in (
        MemoryConfig(),
        MemoryConfig(use="never"),
        MemoryConfig(use="always", examples=0),
        MemoryConfig(use="always", retrieval="bm25"),
    ):
        personalizer.config = dataclasses.replace(CONFIG, memory=settings)
        personalizer.memory().examples_for("Where is my coat?")
    assert embedded == []


def test_vectors_go_with_the_import_that_brought_their_dialogues(personalizer: Personalizer, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "A coat?"}, {"role": "assistant", "content": "Wool."}]}')
    result = personalizer.import_paths([file])
    personalizer.score()
    personalizer.memory()
    count = "SELECT count(*) FROM question_vectors"
    before = personalizer.store.database.fetch_int(count)
    assert result.import_id is not None
    personalizer.undo_import(result.import_id)
    assert personalizer.store.database.fetch_int(count) == before - 1


def test_the_adapted_model_answers_with_vectors_of_its_base(
    personalizer: Personalizer, tiny_model: LanguageModel, tmp_path: Path, tiny_model_folder: Path
) -> None:
    expected = personalizer.memory().examples_for("Where is my coat?")
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", std=0.3)
    personalizer.store.database.fetch_all("DELETE FROM question_vectors")
    conversation = personalizer.conversation(adapter_folder=folder)
    list(conversation.ask("Where is my coat?"))
    assert conversation.prompt_examples == expected
    tiny_model.detach_adapter()


@pytest.mark.parametrize("retrieval", ["hidden-states", "bm25", "both"])
def test_a_profile_of_one_dialogue_can_be_chatted_with(
    tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel, retrieval: str
) -> None:
    config = Config(chat=CHAT, memory=MemoryConfig(use="always", examples=8, retrieval=retrieval))
    with Personalizer.create(tmp_path / "one", tiny_model_folder, config, tiny_model) as personalizer:
        personalizer.observe([SOUP])
        conversation = personalizer.conversation(seed=0)
        list(conversation.ask(SOUP.question))
        found = [example.entry.dialogue for example in conversation.prompt_examples]
        assert found == ([] if retrieval == "hidden-states" else [SOUP])


def test_held_out_dialogues_are_evaluated_with_the_prompts_of_a_chat_and_without_each_other(
    annotated: Personalizer, tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    other = Dialogue.of("Lamp shade torn?", "Sew it.")
    annotated.store.add_dialogues([other], "test")
    annotated.store.add_annotation(6, "accept", other, 5, held_out=True)
    asked: list[list[int]] = []
    generate = tiny_model.generate

    def record(prompts: Sequence[list[int]], **settings: Any) -> list[str]:
        asked.extend(prompts)
        return generate(prompts, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_model, "generate", record)
        evaluation = annotated.evaluate(write_adapter(tiny_model_folder, tmp_path / "adapter", std=0.3))
    assert evaluation is not None and [sample.questions for sample in evaluation.samples] == [
        ("Lamp shade dusty?",),
        ("Lamp shade torn?",),
    ]
    chats = []
    for dialogue in (HELD_OUT_LAMP, other):
        conversation = annotated.conversation(seed=0)
        chats.append(conversation._prompt(dialogue.messages[0])[0])
        found = {example.entry.dialogue for example in conversation.prompt_examples}
        assert found == set(TRAINED[:2])
    assert asked == [*chats, *chats], "for the base model and for the adapter"


# Training as in chat

TRAINED = [
    Dialogue.of("Lamp bulb broken?", "Change it."),
    Dialogue.of("Lamp cord broken?", "Unplug it."),
    Dialogue.of("Lentil soup tonight?", "Simmer it."),
    Dialogue.of("Bean soup tonight?", "Soak them."),
]
HELD_OUT_LAMP = Dialogue.of("Lamp shade dusty?", "Wipe it.")
REWRITE = Dialogue.of("Is the lamp bulb broken?", "Change it.")


@pytest.fixture
def annotated(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    """A profile of four annotated dialogues, of which the first has a rewrite, and a held-out one."""
    config = Config(
        memory=MemoryConfig(use="always", examples=2, retrieval="bm25", min_bm25=0.05),
        finetune=LoRAConfig(examples="as in chat", epochs=1),
        evaluation=EvaluationConfig(max_tokens=4),
    )
    with Personalizer.create(tmp_path / "annotated", tiny_model_folder, config, tiny_model) as personalizer:
        store = personalizer.store
        store.add_dialogues([*TRAINED, HELD_OUT_LAMP], "test")
        for number, dialogue in enumerate(TRAINED):
            store.add_annotation(number + 1, "accept", dialogue, number, held_out=False)
        store.add_annotation(5, "accept", HELD_OUT_LAMP, 4, held_out=True)
        rewrite = NewSynthetic(1, REWRITE, "", 0.8, True, "kept")
        personalizer.record_synthesis({}, [rewrite], {})
        yield personalizer


def set_as_in_chat(personalizer: Personalizer, lm: LanguageModel) -> TrainingSet:
    store, config = personalizer.store, personalizer.config
    held_out = personalizer.held_out_dialogues()
    training_set = build_training_set(store, config.finetune, personalizer.fingerprint, held_out)
    return as_trained(store, config, lm, training_set)


def examples_in(dialogue: Dialogue) -> list[str]:
    """Return the questions of the examples of a dialogue."""
    return [m.content for m in dialogue.messages if m.role == "user"][: -len(dialogue.user_turns)]


def test_each_dialogue_has_others_before_it_and_never_itself_its_rewrites_or_what_is_held_out(
    annotated: Personalizer, tiny_model: LanguageModel
) -> None:
    bulb, cord, lentil, bean = (dialogue.question for dialogue in TRAINED)
    dialogues = set_as_in_chat(annotated, tiny_model).dialogues
    assert {source: examples_in(dialogue) for source, dialogue in dialogues.items()} == {
        (1, None): [cord],
        (2, None): [bulb],
        (3, None): [bean],
        (4, None): [lentil],
        (1, 1): [cord],
    }
    plain = {
        (1, None): TRAINED[0],
        (2, None): TRAINED[1],
        (3, None): TRAINED[2],
        (4, None): TRAINED[3],
        (1, 1): REWRITE,
    }
    assert {source: dialogue.messages[2:] for source, dialogue in dialogues.items()} == {
        source: dialogue.messages for source, dialogue in plain.items()
    }


def test_dialogues_used_for_validation_are_no_examples(annotated: Personalizer, tiny_model: LanguageModel) -> None:
    finetune = dataclasses.replace(annotated.config.finetune, validation_split=0.5)
    memory = dataclasses.replace(annotated.config.memory, min_bm25=0.0)
    annotated.config = dataclasses.replace(annotated.config, finetune=finetune, memory=memory)
    training_set = set_as_in_chat(annotated, tiny_model)
    validating = draw_validation_groups([annotation for annotation, _ in training_set.dialogues], finetune)
    assert len(validating) == 2
    trained = {TRAINED[number].question for number in range(4) if number + 1 not in validating}
    found = [set(examples_in(dialogue)) for dialogue in training_set.dialogues.values()]
    assert set().union(*found) == trained


def test_training_as_in_chat_trains_on_longer_samples_with_the_same_targets(
    annotated: Personalizer, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: list[TrainingData] = []
    make_plan = plan_for_model

    def record(lm: LanguageModel, samples: TrainingData, *arguments: Any) -> Any:
        data.append(samples)
        return make_plan(lm, samples, *arguments)

    monkeypatch.setattr(trainer, "plan_for_model", record)
    trained = annotated.train()
    run = annotated.store.run(trained.adapter.run_id)
    assert run is not None and run.config["examples"] == "as in chat"
    plain = make_samples(tiny_model, [*TRAINED, REWRITE], 256).samples
    assert [sample.targets[sample.is_target].tolist() for sample in data[0].train] == [
        sample.targets[sample.is_target].tolist() for sample in plain
    ]
    assert all(len(a) > len(b) for a, b in zip(data[0].train, plain, strict=True))
    assert trained.report.forward_mode == "packed"


def test_an_estimate_has_examples_and_reads_no_weights(annotated: Personalizer, embedded: list[str]) -> None:
    memory = dataclasses.replace(annotated.config.memory, retrieval="both")
    annotated.config = dataclasses.replace(annotated.config, memory=memory)
    with_examples = annotated.estimate_training()
    assert embedded == []
    assert [note for note in with_examples.notes if "found by BM25" in note]
    finetune = dataclasses.replace(annotated.config.finetune, examples="none")
    annotated.config = dataclasses.replace(annotated.config, finetune=finetune)
    plain = annotated.estimate_training()
    assert (with_examples.target_tokens, plain.notes) == (plain.target_tokens, ())
    assert with_examples.plan.micro_batch_tokens > plain.plan.micro_batch_tokens


def test_the_sides_of_a_pair_have_the_examples_with_which_the_longer_one_fits(
    annotated: Personalizer, tiny_model: LanguageModel
) -> None:
    stored = Dialogue.of("Lamp cable broken?", "No idea, and no idea what else to say about it.")
    preferred = Dialogue.of("Lamp cable broken?", "Cut it.")
    annotated.store.add_dialogues([stored], "test")
    annotated.store.add_annotation(6, "edit", preferred, 7, held_out=False)

    def pair(max_seq_length: int) -> PreferencePair:
        finetune = dataclasses.replace(annotated.config.finetune, objective="dpo", max_seq_length=max_seq_length)
        annotated.config = dataclasses.replace(annotated.config, finetune=finetune)
        (pair,) = set_as_in_chat(annotated, tiny_model).pairs.values()
        return pair

    both = pair(1024)
    (tokens, _), *_ = tiny_model.tokenize_dialogue(both.rejected)
    one = pair(len(tokens) - 1)
    assert [len(examples_in(side)) for side in (both.chosen, both.rejected, one.chosen, one.rejected)] == [2, 2, 1, 1]
    assert (one.chosen.answer, one.rejected.answer) == (preferred.answer, stored.answer)


def test_an_interrupted_run_is_resumed_with_the_same_samples_after_new_annotations(
    annotated: Personalizer, tiny_model: LanguageModel
) -> None:
    begun = set_as_in_chat(annotated, tiny_model)
    run_id = begin_training(annotated.store, annotated.config.finetune, annotated.fingerprint, begun)
    annotated.store.checkpoint_folder(run_id).mkdir(parents=True)
    nearer = Dialogue.of("Lamp bulb broken again?", "Change it again.")
    annotated.store.add_dialogues([nearer], "test")
    annotated.store.add_annotation(6, "accept", nearer, 6, held_out=False)
    resumed = set_as_in_chat(annotated, tiny_model)
    assert (resumed.resumed_run, resumed.dialogues) == (run_id, begun.dialogues)
    assert nearer in {entry.dialogue for entry in annotated.memory().entries}


@pytest.mark.parametrize("settings", [MemoryConfig(examples=0), MemoryConfig(use="never")])
def test_as_in_chat_without_examples_is_said(
    annotated: Personalizer, tiny_model: LanguageModel, settings: MemoryConfig
) -> None:
    annotated.config = dataclasses.replace(annotated.config, memory=settings)
    training_set = set_as_in_chat(annotated, tiny_model)
    assert list(training_set.dialogues.values()) == [*TRAINED, REWRITE]
    assert training_set.notes == ("finetune.examples has no effect, since the memory is turned off",)

"""The training set of an interrupted run stays as it was, whatever is annotated before the run is resumed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_personal import Dialogue, LanguageModel, LoRAConfig, Personalizer
from mlx_personal.config import Config
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.memory import MemoryConfig
from mlx_personal.personalizer.memory import as_trained
from mlx_personal.personalizer.training_set import TrainingSet, build_training_set
from mlx_personal.profile import NewSynthetic, PreferencePairRow
from tests.support.training_steps import interrupt_training

CONFIG = Config(
    memory=MemoryConfig(examples=2, retrieval="bm25", min_bm25=0.0),
    finetune=LoRAConfig(epochs=1, batch_size=2, num_layers=1, save_every=1, examples="as in chat"),
    evaluation=EvaluationConfig(max_tokens=2, choices=0, other_questions=0),
)
TRAINED = [
    Dialogue.of("Lamp bulb broken?", "<think>Hm.</think>Change it."),
    Dialogue.of("Lamp cord broken?", "Unplug it."),
    Dialogue.of("Bean soup tonight?", "Soak them."),
    Dialogue.of("Lentil soup tonight?", "Simmer it."),
]
# Annotated while a run is interrupted: it holds out what a new run then uses as no example any more.
HELD_OUT = Dialogue.of("Bean soup tonight, please?", "Soak them.")


@pytest.fixture
def profile(tmp_path: Path, tiny_model_folder: Path, tiny_model: LanguageModel) -> Iterator[Personalizer]:
    """A profile of four annotated dialogues, of which one has a rewrite and one is a correction, and a pair."""
    with Personalizer.create(tmp_path / "profile", tiny_model_folder, CONFIG, tiny_model) as personalizer:
        store = personalizer.store
        store.add_dialogues([*TRAINED[:3], Dialogue.of(TRAINED[3].question, "Fry it."), HELD_OUT], "test")
        for number, dialogue in enumerate(TRAINED):
            verdict = "accept" if number < 3 else "rewrite"
            store.add_annotation(number + 1, verdict, dialogue, number, held_out=False)
        rewrite = Dialogue.of("Is the lamp bulb broken?", "Change it.")
        personalizer.record_synthesis({}, [NewSynthetic(1, rewrite, "", 0.8, True, "kept")], {})
        import_id = store.imports.begin(["export"], {})
        store.pairs.add(import_id, PreferencePairRow(1, 0, "Change it.", "Leave it.", "regenerated"))
        yield personalizer


def as_in_chat(personalizer: Personalizer) -> TrainingSet:
    store, config = personalizer.store, personalizer.config
    held_out = personalizer.held_out_dialogues()
    training_set = build_training_set(store, config.finetune, personalizer.fingerprint, held_out)
    return as_trained(store, config, personalizer.base_model(), training_set)


def examples(training_set: TrainingSet) -> set[str]:
    """Return the questions of all examples of the dialogues."""
    questions = [[m.content for m in d.messages if m.role == "user"] for d in training_set.dialogues.values()]
    return {question for *before, _ in questions for question in before}


def set_config(personalizer: Personalizer, **changes: object) -> None:
    personalizer.config = dataclasses.replace(personalizer.config, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("objective", "memory"),
    [
        ("sft", CONFIG.memory),
        ("sft+dpo", CONFIG.memory),
        ("sft", MemoryConfig(examples=1, retrieval="bm25", min_bm25=0.0)),
        ("sft", MemoryConfig(examples=0)),
    ],
    ids=["sft", "pairs", "fewer examples", "memory turned off"],
)
def test_a_resumed_run_has_the_examples_that_it_began_with(
    objective: str, memory: MemoryConfig, profile: Personalizer
) -> None:
    set_config(profile, finetune=dataclasses.replace(CONFIG.finetune, objective=objective))
    begun = as_in_chat(profile)
    assert "Bean soup tonight?" in examples(begun)
    interrupt_training(profile)
    [run] = profile.store.database.fetch_all("SELECT id FROM runs WHERE kind = 'training'")
    profile.store.add_annotation(5, "accept", HELD_OUT, 5, held_out=True)
    set_config(profile, memory=memory)
    resumed = as_in_chat(profile)
    assert (resumed.resumed_run, resumed.dialogues, resumed.pairs) == (run["id"], begun.dialogues, begun.pairs)
    assert len(resumed.pairs) == (2 if objective == "sft+dpo" else 0)
    shutil.rmtree(profile.store.checkpoint_folder(run["id"]))
    assert "Bean soup tonight?" not in examples(as_in_chat(profile)), "a new run leaves it out"


def test_an_interrupted_training_as_in_chat_gives_the_same_adapter_after_new_annotations(
    profile: Personalizer, tmp_path: Path, tiny_model: LanguageModel
) -> None:
    set_config(profile, finetune=dataclasses.replace(CONFIG.finetune, objective="sft+dpo"))
    (profile.folder / "config.toml").write_text(profile.config.to_toml())
    shutil.copytree(profile.folder, tmp_path / "whole")
    with Personalizer(tmp_path / "whole", lm=tiny_model) as whole:
        expected = whole.folder / whole.train().adapter.folder / "adapters.safetensors"
    interrupt_training(profile)
    profile.store.add_annotation(5, "accept", HELD_OUT, 5, held_out=True)
    resumed = profile.train()
    assert resumed.report.resumed_from == 1
    actual = profile.folder / resumed.adapter.folder / "adapters.safetensors"
    assert actual.read_bytes() == expected.read_bytes()

"""From examples to an adapter on disk: loadable by mlx-lm, an unchanged base model, and failures that write nothing."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_personal import Dialogue, LanguageModel, UserError
from mlx_personal.finetune import Example, LoRAConfig, TrainingStep, finetune
from mlx_personal.finetune.data.dataset import prepare_data
from mlx_personal.finetune.data.samples import SampleSet, make_samples, total_target_weight
from mlx_personal.finetune.forward.gradients import GradientComputer
from tests.support import random_models
from tests.support.cases import quick_cases
from tests.support.training_steps import for_each_step

QUESTIONS = ["What shall I cook?", "My cat does not eat.", "How deep?", "Привет", "How do I plant tomatoes in May?"]
DIALOGUES = [Dialogue.of(question, f"Try a soup, number {i}.") for i, question in enumerate(QUESTIONS)]
DIALOGUES.append(
    Dialogue.from_messages(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Tomatoes?"},
            {"role": "assistant", "content": "<think>hm</think>In May."},
            {"role": "user", "content": "How deep?"},
            {"role": "assistant", "content": "A hand."},
        ]
    )
)
EXAMPLES = list(map(Example, DIALOGUES))
GENERAL = [Dialogue.of(f"Is {i} even?", "Yes." if i % 2 == 0 else "No.") for i in range(9)]
QUICK = LoRAConfig(epochs=2, batch_size=4, learning_rate=1e-2)
THOUGHT = Dialogue.of("a", "<think>only</think>")


def generate_answers(model: LanguageModel) -> list[str]:
    prompts = [model.tokenize_prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    return model.generate(prompts, max_tokens=12)


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array([list(range(1, 60))])))


# Training


def test_first_loss_matches_a_float64_masked_cross_entropy(tiny_model: LanguageModel, tmp_path: Path) -> None:
    total, count = 0.0, 0
    for dialogue in DIALOGUES:
        for tokens, is_target in tiny_model.tokenize_dialogue(dialogue.without_thoughts()):
            predicted = np.array(tiny_model.model(mx.array([tokens])))[0].astype(np.float64)
            for position in range(1, len(tokens)):
                if is_target[position]:
                    shifted = predicted[position - 1] - predicted[position - 1].max()
                    total += math.log(np.exp(shifted).sum()) - shifted[tokens[position]]
                    count += 1
    report = finetune(tiny_model, EXAMPLES, LoRAConfig(epochs=1), tmp_path / "a")
    assert (report.steps, report.target_tokens) == (1, count)
    assert report.losses == pytest.approx([total / count], rel=1e-5)
    assert report.epoch_losses == pytest.approx(report.losses)


def test_training_lowers_the_loss_and_leaves_the_base_model_unchanged(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    before = {name: np.array(value) for name, value in tree_flatten(tiny_model.model.parameters())}
    answers, steps = generate_answers(tiny_model), list[TrainingStep]()
    config = LoRAConfig(epochs=12, batch_size=4, learning_rate=1e-2)
    report = finetune(tiny_model, EXAMPLES, config, tmp_path / "a", on_progress=for_each_step(steps.append))
    assert report.epoch_losses[-1] < 0.8 * report.epoch_losses[0]
    assert (report.samples, report.steps, report.epochs, len(steps)) == (6, 24, 12, 24)
    assert [step.number for step in steps] == list(range(1, 25))
    after = dict(tree_flatten(tiny_model.model.parameters()))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], np.array(after[name])) for name in before)
    assert not tiny_model.model.training
    assert generate_answers(tiny_model) == answers


def test_dropped_and_truncated_samples_are_reported(tiny_model: LanguageModel, tmp_path: Path) -> None:
    long = Dialogue.of("soup " * 60, "Yes.")
    config = LoRAConfig(epochs=1, max_seq_length=40)
    report = finetune(tiny_model, [*EXAMPLES[:4], Example(THOUGHT), Example(long)], config, tmp_path / "a")
    assert (report.samples, report.dropped_samples, report.truncated_samples) == (5, 1, 1)


def test_samples_are_truncated_to_the_models_context(tiny_model: LanguageModel, tmp_path: Path) -> None:
    report = finetune(tiny_model, [Example(Dialogue.of("soup " * 300, "Yes."))], LoRAConfig(epochs=1), tmp_path / "a")
    assert (report.samples, report.truncated_samples) == (1, 1)
    assert math.isfinite(report.losses[0])


def test_an_answer_as_long_as_max_seq_length_is_trained_on(tiny_model: LanguageModel, tmp_path: Path) -> None:
    examples = [Example(Dialogue.of("soup", "bread " * 300))]
    report = finetune(tiny_model, examples, LoRAConfig(epochs=1, max_seq_length=16), tmp_path)
    assert (report.samples, report.truncated_samples, report.target_tokens) == (1, 1, 15)


def test_samples_whose_targets_are_truncated_are_dropped(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user turn after the last answer is as long as max_seq_length."""
    original = type(tiny_model).tokenize_dialogue

    def with_a_question_behind(lm: LanguageModel, dialogue: Dialogue) -> list[tuple[list[int], list[bool]]]:
        samples = original(lm, dialogue)
        extra_tokens = 50 if "cat" in dialogue.question else 0
        return [(tokens + [9] * extra_tokens, is_target + [False] * extra_tokens) for tokens, is_target in samples]

    monkeypatch.setattr(type(tiny_model), "tokenize_dialogue", with_a_question_behind)
    config = LoRAConfig(epochs=1, max_seq_length=40)
    report = finetune(tiny_model, EXAMPLES, config, tmp_path / "a")
    assert (report.samples, report.dropped_samples) == (5, 1)
    assert math.isfinite(report.losses[0])
    with pytest.raises(UserError, match="1 samples have no target, or none that fits into 40 tokens"):
        finetune(tiny_model, EXAMPLES[1:2], config, tmp_path / "b")
    assert not (tmp_path / "b").exists()


# Held-out and general samples


def test_examples_of_one_group_are_held_out_together(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogues = [Dialogue.of(f"{question} {i}", f"Soup {i}.") for i in range(4) for question in QUESTIONS]
    groups = [i for i in range(4) for _ in QUESTIONS]
    recorded: list[Sequence[Dialogue]] = []

    def record(lm: LanguageModel, dialogues: Sequence[Dialogue], *arguments: Any) -> SampleSet:
        recorded.append(dialogues)
        return make_samples(lm, dialogues, *arguments)

    monkeypatch.setattr("mlx_personal.finetune.data.dataset.make_samples", record)
    config = LoRAConfig(epochs=2, validation_split=0.25, learning_rate=1e-2)
    report = finetune(tiny_model, list(map(Example, dialogues, groups)), config, tmp_path / "a")
    trained_on, held_out = recorded[:2]
    assert len(held_out) == 5 and len({dialogue.answer for dialogue in held_out}) == 1
    assert [d for d in dialogues if d not in held_out] == trained_on
    assert report.samples == 15
    assert [step for step, _ in report.validation_losses] == [0, 2, 4]


@pytest.mark.parametrize(("validation_split", "samples"), [(0.01, 5), (0.5, 3), (0.99, 1)])
def test_any_validation_split_leaves_samples_on_both_sides(
    tiny_model: LanguageModel, tmp_path: Path, validation_split: float, samples: int
) -> None:
    report = finetune(tiny_model, EXAMPLES, LoRAConfig(epochs=1, validation_split=validation_split), tmp_path / "a")
    assert report.samples == samples
    assert len(report.validation_losses) == 2


def test_a_single_example_is_trained_on_and_none_held_out(tiny_model: LanguageModel, tmp_path: Path) -> None:
    config = LoRAConfig(epochs=2, validation_split=0.5, early_stopping_patience=1)
    report = finetune(tiny_model, EXAMPLES[:1], config, tmp_path / "a")
    assert (report.samples, report.epochs, report.validation_losses) == (1, 2, ())
    assert "validation_split has no effect, since all examples are of one group" in report.notes[0]


def test_settings_that_cannot_be_followed_are_noted(tiny_model: LanguageModel) -> None:
    config = LoRAConfig(validation_split=0.1, general_data="given", replay_ratio=0.5)
    assert prepare_data(tiny_model, EXAMPLES[:5], config, general=GENERAL).notes == ()
    partly = prepare_data(tiny_model, EXAMPLES[:5], config, general=GENERAL[:4])
    assert (len(partly.data.replay), partly.notes) == (
        2,
        ("replay_ratio requires 4 general samples, but half of those in general_data are only 2",),
    )
    none = prepare_data(tiny_model, [Example(THOUGHT), EXAMPLES[0]], config, general=[THOUGHT, *GENERAL[:1]])
    assert [note.split(":")[0] for note in none.notes] == [
        "validation_split has no effect, since the validation examples have no target",
        "the general dialogues have no target",
    ]


def test_half_of_the_general_dialogues_is_replayed_and_half_measures_forgetting(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    config = LoRAConfig(epochs=1, general_data="given", replay_ratio=0.25)
    report = finetune(tiny_model, EXAMPLES, config, tmp_path / "a", general=GENERAL)
    assert (report.samples, report.replayed_samples) == (8, 2)
    assert [step for step, _ in report.general_losses] == [0, 1]
    assert report.forgetting == pytest.approx(report.general_losses[1][1] / report.general_losses[0][1] - 1)
    without = finetune(tiny_model, EXAMPLES, LoRAConfig(epochs=1), tmp_path / "b")
    assert (without.general_losses, without.forgetting, without.replayed_samples) == ((), None, 0)


# The adapter on disk


@pytest.mark.parametrize(
    ("num_layers", "dora"), quick_cases([(-1, False), (-1, True), (1, False), (1, True)], (1, True))
)
def test_mlx_lm_loads_the_adapter_and_computes_the_same_logits(
    tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path, num_layers: int, dora: bool, monkeypatch: Any
) -> None:
    folder, final_logits = tmp_path / "adapter", list[np.ndarray]()
    config = LoRAConfig(epochs=6, batch_size=4, learning_rate=1e-2, num_layers=num_layers, use_dora=dora)
    detach = LanguageModel.detach_adapter

    def record_logits(lm: LanguageModel) -> None:
        if folder.with_name("seen").exists():
            lm.model.eval()
            final_logits.append(logits(lm.model))
        detach(lm)

    monkeypatch.setattr(LanguageModel, "detach_adapter", record_logits)
    recorded = for_each_step(lambda _: folder.with_name("seen").touch())
    metadata = {"base_fingerprint": "abc", "num_layers": 99}
    report = finetune(tiny_model, EXAMPLES, config, folder, metadata=metadata, on_progress=recorded)
    monkeypatch.undo()
    assert report.forward_mode == "packed"
    base = logits(tiny_model.model)
    assert np.abs(final_logits[-1] - base).max() > 0.1
    tiny_model.attach_adapter(folder)
    ours, answers = logits(tiny_model.model), generate_answers(tiny_model)
    tiny_model.detach_adapter()
    model, tokenizer = mlx_lm.load(str(tiny_model_folder), adapter_path=str(folder))[:2]
    assert np.allclose(ours, final_logits[-1], atol=1e-5)
    assert np.allclose(logits(model), final_logits[-1], atol=1e-4)
    prompts = [tiny_model.tokenize_prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    theirs = [mlx_lm.generate(model, tokenizer, prompt, max_tokens=12) for prompt in prompts]
    # mlx-lm's texts have the control tokens that an untrained model generates.
    hidden = sorted(tiny_model.chat_template.hidden_token_ids)
    control_tokens = re.compile("|".join(re.escape(tokenizer.decode([token_id])) for token_id in hidden))
    assert [control_tokens.sub("", text).strip() for text in theirs] == answers
    adapter_config = json.loads((folder / "adapter_config.json").read_text())
    assert adapter_config == {
        "base_fingerprint": "abc",
        "fine_tune_type": "dora" if dora else "lora",
        "num_layers": num_layers,
        "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.05},
    }
    weights = random_models.load_weights(folder / "adapters.safetensors")
    assert {w.dtype for w in weights.values()} == {mx.float32}
    assert len(weights) == (3 if dora else 2) * 7 * (2 if num_layers == -1 else 1)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapters.safetensors"]


def test_the_best_adapter_is_written(tiny_model: LanguageModel, tmp_path: Path, monkeypatch: Any) -> None:
    """With fixed held-out losses, the second of four epochs is the best, and so is the second of two."""
    planted = iter([9.0, 5.0, 3.0, 4.0, 5.0, 9.0, 5.0, 3.0])
    # The mean divides by the number of targets.
    monkeypatch.setattr(
        GradientComputer,
        "sums",
        lambda self, _, indices: [next(planted) * total_target_weight(self._samples[i] for i in indices)],
    )
    config = LoRAConfig(
        epochs=4, batch_size=8, validation_split=0.2, lr_scheduler_type="constant", warmup_ratio=0.0, learning_rate=1e-2
    )
    report = finetune(tiny_model, EXAMPLES, config, tmp_path / "best")
    assert (report.best_step, report.steps) == (2, 4)
    shorter = finetune(tiny_model, EXAMPLES, dataclasses.replace(config, epochs=2), tmp_path / "two")
    assert shorter.losses == report.losses[:2]
    best, two = (random_models.load_weights(tmp_path / name / "adapters.safetensors") for name in ("best", "two"))
    assert all(np.array_equal(np.array(best[name]), np.array(two[name])) for name in two)


def test_an_attached_adapter_does_not_affect_a_training(tiny_model: LanguageModel, tmp_path: Path) -> None:
    finetune(tiny_model, EXAMPLES, QUICK, tmp_path / "a")
    tiny_model.attach_adapter(tmp_path / "a")
    finetune(tiny_model, EXAMPLES, QUICK, tmp_path / "b")
    assert (tmp_path / "a/adapters.safetensors").read_bytes() == (tmp_path / "b/adapters.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_adapter_bit_for_bit(tiny_model: LanguageModel, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finetune(tiny_model, EXAMPLES, LoRAConfig(epochs=1, batch_size=4, seed=seed), tmp_path / name)
        mx.random.seed(7)
    a, b, c = ((tmp_path / name / "adapters.safetensors").read_bytes() for name in "abc")
    assert a == b != c


# Failures


def test_examples_without_targets_are_a_user_error(tiny_model: LanguageModel, tmp_path: Path) -> None:
    for examples in ([], [Example(THOUGHT)]):
        with pytest.raises(UserError, match="nothing to train on") as raised:
            finetune(tiny_model, examples, QUICK, tmp_path / "a")
        assert "\n" not in raised.value.line()
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_changes_nothing_is_reported(tiny_model: LanguageModel, tmp_path: Path) -> None:
    answers = generate_answers(tiny_model)
    report = finetune(tiny_model, EXAMPLES, dataclasses.replace(QUICK, learning_rate=1e-30), tmp_path / "a")
    assert not report.has_effect
    assert "the adapter changes nothing: raise the learning rate or the number of epochs" in report.notes
    tiny_model.attach_adapter(tmp_path / "a")
    assert generate_answers(tiny_model) == answers
    tiny_model.detach_adapter()
    assert finetune(tiny_model, EXAMPLES, QUICK, tmp_path / "b").has_effect


def test_a_loss_that_is_not_finite_writes_no_adapter(tiny_model: LanguageModel, tmp_path: Path) -> None:
    answers = generate_answers(tiny_model)
    with pytest.raises(UserError, match="lower the learning rate"):
        finetune(tiny_model, EXAMPLES, LoRAConfig(learning_rate=1e30, batch_size=1), tmp_path / "a")
    with pytest.raises(
        UserError, match="lower the learning rate"
    ):  # not finite in the weights only, since there is no second loss
        finetune(tiny_model, EXAMPLES[:1], LoRAConfig(learning_rate=1e300, epochs=1), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    assert generate_answers(tiny_model) == answers


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_no_adapter_and_the_base_model_unchanged(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise failure

    answers = generate_answers(tiny_model)
    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.raises(UserError if isinstance(failure, OSError) else KeyboardInterrupt) as raised:
        finetune(tiny_model, EXAMPLES, QUICK, tmp_path / "a")
    assert ("the disk is full" in str(raised.value)) == isinstance(failure, OSError)
    assert list(tmp_path.iterdir()) == []
    assert generate_answers(tiny_model) == answers


def test_an_adapter_is_never_overwritten(tiny_model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("me")
    with pytest.raises(UserError, match="already exists"):
        finetune(tiny_model, EXAMPLES, QUICK, tmp_path)
    assert (tmp_path / "keep").read_text() == "me"


def test_an_adapter_for_other_layers_is_rejected(
    tiny_model: LanguageModel, demo_model: LanguageModel, tmp_path: Path
) -> None:
    finetune(tiny_model, EXAMPLES, QUICK, tmp_path / "a")
    with pytest.raises(UserError, match="damaged or made for another model") as raised:
        demo_model.attach_adapter(tmp_path / "a")
    assert "\n" not in raised.value.line()


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("rank", [0, 1025, 1e8, NAN]),
        ("scale", [-1, float("inf"), NAN]),
        ("gradient_accumulation_steps", [0, 10**6, NAN]),
        ("alpha", [0, -1, float("inf"), NAN]),
        ("dropout", [-0.1, 1, NAN]),
        ("learning_rate", [0, float("inf"), NAN]),
        ("warmup_ratio", [-0.1, 1.1, NAN]),
        ("epochs", [0, 10**6, NAN]),
        ("batch_size", [0, 10**6, NAN]),
        ("micro_batch_tokens", [-1, 10**9, NAN]),
        ("max_seq_length", [1, 10**6, NAN]),
        ("num_layers", [0, -2, 10**6, NAN]),
        ("validation_split", [-0.1, 1, NAN]),
        ("early_stopping_patience", [-1, 10**6, NAN]),
        ("replay_ratio", [-0.1, 1, NAN]),
        ("max_forgetting", [-0.1, float("inf"), NAN]),
        ("save_every", [0, NAN]),
        ("seed", [-1, 2**63, 1e26, NAN]),
        ("lr_scheduler_type", ["", "Cosine", "step"]),
    ],
)
def test_settings_out_of_range_are_rejected(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} is .*; it must"):
            LoRAConfig(**{name: value})


def test_settings_that_depend_on_others_name_them() -> None:
    with pytest.raises(ValueError, match="early_stopping_patience needs validation data: set validation_split above 0"):
        LoRAConfig(early_stopping_patience=2)
    with pytest.raises(ValueError, match="replay_ratio needs general dialogues"):
        LoRAConfig(replay_ratio=0.1)


# Settings


def test_scale_replaces_alpha() -> None:
    assert LoRAConfig(rank=4, alpha=2.0).lora_parameters == {"rank": 4, "scale": 0.5, "dropout": 0.05}
    assert LoRAConfig(rank=4, alpha=2.0, scale=20.0).lora_parameters["scale"] == 20.0


def test_gradient_accumulation_gives_the_steps_of_a_larger_batch(tiny_model: LanguageModel, tmp_path: Path) -> None:
    larger = finetune(tiny_model, EXAMPLES, dataclasses.replace(QUICK, batch_size=4), tmp_path / "larger")
    accumulated = dataclasses.replace(QUICK, batch_size=2, gradient_accumulation_steps=2)
    report = finetune(tiny_model, EXAMPLES, accumulated, tmp_path / "accumulated")
    assert report.losses == larger.losses
    weights = [(tmp_path / name / "adapters.safetensors").read_bytes() for name in ("larger", "accumulated")]
    assert weights[0] == weights[1]


def test_settings_are_stored_under_the_names_of_version_0_1() -> None:
    assert list(LoRAConfig().to_json().items()) == [
        ("rank", 8),
        ("alpha", 16.0),
        ("dropout", 0.05),
        ("dora", False),
        ("learning_rate", 3e-4),
        ("schedule", "cosine"),
        ("warmup", 0.05),
        ("epochs", 3),
        ("batch_size", 8),
        ("batch_tokens", 0),
        ("max_tokens", 1024),
        ("num_layers", -1),
        ("validation", 0.0),
        ("patience", 0),
        ("general", ""),
        ("replay", 0.0),
        ("forgetting", 0.1),
        ("save_every", 50),
        ("seed", 0),
    ]
    changed = LoRAConfig(scale=3.0, gradient_accumulation_steps=2, max_seq_length=9, use_dora=True)
    stored = changed.to_json()
    assert (stored["scale"], stored["gradient_accumulation_steps"], stored["max_tokens"]) == (3.0, 2, 9)
    assert LoRAConfig.from_json(json.loads(json.dumps(stored))) == changed
    assert LoRAConfig.from_json({"max_tokens": 9}) == LoRAConfig(max_seq_length=9)

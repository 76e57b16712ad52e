"""Fine-tuning: exact losses and batches, an untouched base, adapters mlx-lm loads, and failures that save nothing."""

from __future__ import annotations

import errno
import itertools
import json
import math
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_personal import Dialogue, LanguageModel, UserError
from mlx_personal.finetune import LoRAConfig, Step, finetune
from mlx_personal.finetune.batches import Row, collate, epoch, make_rows
from mlx_personal.finetune.trainer import loss_of

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
QUICK = LoRAConfig(epochs=2, batch_size=4, learning_rate=1e-2)


def ask(model: LanguageModel) -> list[str]:
    prompts = [model.prompt_tokens([{"role": "user", "content": question}]) for question in QUESTIONS]
    return model.generate(prompts, max_tokens=12)


def row_of(length: int, value: int = 1) -> Row:
    tokens = np.full(length, value, np.int32)
    return Row(tokens, tokens, np.ones(length, bool))


# Loss


def test_the_loss_is_the_masked_cross_entropy_of_a_float64_reference(tiny_model: LanguageModel) -> None:
    batch = collate(make_rows(tiny_model, DIALOGUES, 1024).rows, 32)
    loss = loss_of(tiny_model.model, mx.array(batch.inputs), mx.array(batch.targets), mx.array(batch.weights)).item()
    total, count = 0.0, 0
    for dialogue in DIALOGUES:
        for tokens, is_target in tiny_model.training_tokens(dialogue.without_thoughts()):
            logits = np.array(tiny_model.model(mx.array([tokens])))[0].astype(np.float64)
            for position in range(1, len(tokens)):
                if is_target[position]:
                    predicted = logits[position - 1]
                    shifted = predicted - predicted.max()
                    total += math.log(np.exp(shifted).sum()) - shifted[tokens[position]]
                    count += 1
    assert count == batch.weights.sum()
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_the_first_step_reports_that_loss(tiny_model: LanguageModel, tmp_path: Path) -> None:
    batch = collate(make_rows(tiny_model, DIALOGUES, 1024).rows, 32)
    expected = loss_of(tiny_model.model, mx.array(batch.inputs), mx.array(batch.targets), mx.array(batch.weights))
    report = finetune(tiny_model, DIALOGUES, LoRAConfig(epochs=1), tmp_path / "a")
    assert report.steps == 1
    assert report.first_loss == pytest.approx(expected.item(), rel=1e-5)
    assert report.epoch_losses == pytest.approx((report.first_loss,))


# Rows and batches


def test_every_assistant_turn_is_a_target_and_thoughts_are_not(tiny_model: LanguageModel) -> None:
    (row,) = make_rows(tiny_model, DIALOGUES[-1:], 1024).rows
    learnt = tiny_model.tokenizer.decode(row.targets[row.is_target].tolist())
    assert learnt == "In May.<|end|>A hand.<|end|>"
    assert "hm" not in tiny_model.tokenizer.decode(row.inputs.tolist())


def test_a_long_row_keeps_its_end(tiny_model: LanguageModel) -> None:
    full, cut = make_rows(tiny_model, DIALOGUES[:1], 1024), make_rows(tiny_model, DIALOGUES[:1], 10)
    assert (full.truncated, cut.truncated) == (0, 1)
    assert cut.rows[0].targets.tolist() == full.rows[0].targets[-9:].tolist()
    assert cut.rows[0].is_target.tolist() == full.rows[0].is_target[-9:].tolist()


def test_rows_without_a_target_are_dropped_and_counted(tiny_model: LanguageModel, monkeypatch) -> None:
    monkeypatch.setattr(
        tiny_model, "training_tokens", lambda dialogue: [([1, 2, 3], [True, False, False]), ([5], [True])]
    )
    rows = make_rows(tiny_model, [*DIALOGUES[:1], Dialogue.of("a", "<think>only</think>")], 1024)
    assert (rows.rows, rows.dropped, rows.target_tokens) == ([], 3, 0)


def test_padding_is_no_target_and_reaches_a_multiple_of_the_step() -> None:
    batch = collate([row_of(33), row_of(5)], 32)
    assert batch.inputs.shape == batch.targets.shape == batch.weights.shape == (2, 64)
    assert batch.weights.sum(axis=1).tolist() == [33, 5]
    assert collate([row_of(32)], 32).inputs.shape == (1, 32)


def test_an_epoch_has_every_row_once_in_batches_of_like_length() -> None:
    rng = np.random.default_rng(1)
    rows = [row_of(int(length), value) for value, length in enumerate(rng.integers(1, 200, 101), 1)]
    batches = list(epoch(rows, 8, 32, np.random.default_rng(0)))
    assert sorted(int(row[0]) for batch in batches for row in batch.inputs) == list(range(1, 102))
    assert sorted(len(batch.inputs) for batch in batches) == [5] + [8] * 12
    steps = sorted(sorted(-(-int(weights.sum()) // 32) for weights in batch.weights) for batch in batches)
    assert all(shorter[-1] <= longer[0] for shorter, longer in itertools.pairwise(steps))
    widths = [batch.inputs.shape[1] for batch in batches]
    assert widths != sorted(widths)


def test_epochs_differ_and_seeds_repeat() -> None:
    rows = [row_of(4, value) for value in range(40)]

    def order(seed: int, epochs: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [[int(row[0]) for batch in epoch(rows, 8, 32, rng) for row in batch.inputs] for _ in range(epochs)]

    first, second = order(0, 2)
    assert first != second
    assert order(0, 2) == [first, second]
    assert order(1, 1) != [first]


# Training


def test_training_learns_and_leaves_the_base_as_it_was(tiny_model: LanguageModel, tmp_path: Path) -> None:
    before = {name: np.array(value) for name, value in tree_flatten(tiny_model.model.parameters())}
    answers = ask(tiny_model)
    steps: list[Step] = []
    report = finetune(
        tiny_model, DIALOGUES, LoRAConfig(epochs=12, batch_size=4, learning_rate=1e-2), tmp_path / "a", steps.append
    )
    assert report.epoch_losses[-1] < 0.8 * report.epoch_losses[0]
    assert (report.rows, report.steps, report.epochs, len(steps)) == (6, 24, 12, 24)
    assert report.target_tokens == make_rows(tiny_model, DIALOGUES, 1024).target_tokens
    assert [step.number for step in steps] == list(range(1, 25))
    assert (steps[0].loss, steps[-1].loss) == (report.first_loss, report.last_loss)
    rates = [step.learning_rate for step in steps]
    assert 0 < rates[0] < max(rates) == pytest.approx(1e-2)
    assert 0 < rates[-1] < 1e-3
    after = dict(tree_flatten(tiny_model.model.parameters()))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], np.array(after[name])) for name in before)
    assert not tiny_model.model.training
    assert ask(tiny_model) == answers


def test_an_adapter_in_use_is_set_aside_and_does_not_leak_into_training(
    tiny_model: LanguageModel, tmp_path: Path
) -> None:
    finetune(tiny_model, DIALOGUES, QUICK, tmp_path / "a")
    tiny_model.attach_adapter(tmp_path / "a")
    finetune(tiny_model, DIALOGUES, QUICK, tmp_path / "b")
    assert (tmp_path / "a/adapters.safetensors").read_bytes() == (tmp_path / "b/adapters.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_adapter_bit_for_bit(tiny_model: LanguageModel, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finetune(tiny_model, DIALOGUES, LoRAConfig(epochs=1, batch_size=4, seed=seed), tmp_path / name)
        mx.random.seed(7)
    a, b, c = ((tmp_path / name / "adapters.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("num_layers", [-1, 1])
def test_mlx_lm_loads_the_adapter_and_answers_alike(
    tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path, num_layers: int
) -> None:
    folder = tmp_path / "adapter"
    config = LoRAConfig(epochs=6, batch_size=4, learning_rate=1e-2, num_layers=num_layers)
    finetune(tiny_model, DIALOGUES, config, folder, metadata={"base_fingerprint": "abc", "num_layers": 99})
    base = ask(tiny_model)
    tiny_model.attach_adapter(folder)
    adapted = ask(tiny_model)
    tiny_model.detach_adapter()
    assert adapted != base
    model, tokenizer = mlx_lm.load(str(tiny_model_folder), adapter_path=str(folder))[:2]
    theirs = [
        mlx_lm.generate(model, tokenizer, tiny_model.prompt_tokens([{"role": "user", "content": q}]), max_tokens=12)
        for q in QUESTIONS
    ]
    assert [text.strip() for text in theirs] == adapted
    written = json.loads((folder / "adapter_config.json").read_text())
    assert written == {
        "base_fingerprint": "abc",
        "fine_tune_type": "lora",
        "num_layers": num_layers,
        "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.05},
    }
    weights = mx.load(str(folder / "adapters.safetensors"))
    assert {w.dtype for w in weights.values()} == {mx.float32}
    assert len(weights) == 2 * 7 * (2 if num_layers == -1 else 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


# Failures


def test_no_dialogues_are_the_users_to_mend(tiny_model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        finetune(tiny_model, [], QUICK, tmp_path / "a")
    with pytest.raises(UserError, match="nothing to train on"):
        finetune(tiny_model, [Dialogue.of("a", "<think>only</think>")], QUICK, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_saves_nothing(tiny_model: LanguageModel, tmp_path: Path) -> None:
    answers = ask(tiny_model)
    with pytest.raises(UserError, match="lower the learning rate"):
        finetune(tiny_model, DIALOGUES, LoRAConfig(learning_rate=1e30, batch_size=1), tmp_path / "a")
    with pytest.raises(UserError, match="lower the learning rate"):  # seen in the weights alone: no second loss
        finetune(tiny_model, DIALOGUES[:1], LoRAConfig(learning_rate=1e300, epochs=1), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    assert ask(tiny_model) == answers


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_no_adapter_and_the_base_model(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise failure

    answers = ask(tiny_model)
    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.raises(UserError if isinstance(failure, OSError) else KeyboardInterrupt) as raised:
        finetune(tiny_model, DIALOGUES, QUICK, tmp_path / "a")
    assert ("the disk is full" in str(raised.value)) == isinstance(failure, OSError)
    assert list(tmp_path.iterdir()) == []
    assert ask(tiny_model) == answers


def test_an_adapter_is_never_overwritten(tiny_model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("me")
    with pytest.raises(UserError, match="exists already"):
        finetune(tiny_model, DIALOGUES, QUICK, tmp_path)
    assert (tmp_path / "keep").read_text() == "me"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0}, "alpha is 0"),
        ({"dropout": 1}, "dropout is 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LoRAConfig(**settings)

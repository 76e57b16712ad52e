"""Fine-tuning: exact losses and batches, an untouched base, adapters mlx-lm loads, and failures that save nothing."""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_personal import Dialogue, LanguageModel, UserError
from mlx_personal.finetune import LoRAConfig, Step, finetune, trainer
from mlx_personal.finetune.batches import Batch, Row, batch_sizes, collate, epoch, make_rows
from mlx_personal.finetune.checkpointing import checkpointed
from mlx_personal.finetune.trainer import arrays_of, loss_of, target_logits

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


def loss_on(model: LanguageModel, batch: Batch) -> float:
    return float(loss_of(target_logits(model, batch.inputs[0].tolist()), *arrays_of(batch)))


# Loss


def test_the_loss_is_the_masked_cross_entropy_of_a_float64_reference(tiny_model: LanguageModel) -> None:
    batch = collate(make_rows(tiny_model, DIALOGUES, 1024).rows, 32)
    loss = loss_on(tiny_model, batch)
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
    expected = loss_on(tiny_model, batch)
    report = finetune(tiny_model, DIALOGUES, LoRAConfig(epochs=1), tmp_path / "a")
    assert report.steps == 1
    assert report.first_loss == pytest.approx(expected, rel=1e-5)
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
    batch = collate([row_of(33), row_of(5, 2)], 32)
    assert batch.inputs.shape == (2, 64)
    assert batch.weights.tolist() == [1] * 38 + [0] * 10  # 38 places, padded to eighths of 128
    assert batch.places[:38].tolist() == [*range(33), *range(64, 69)]
    assert batch.targets[:38].tolist() == [1] * 33 + [2] * 5
    assert collate([row_of(32)], 32).inputs.shape == (1, 32)


def test_only_targets_have_a_place() -> None:
    row = Row(np.arange(10, 18), np.arange(11, 19), np.array([0, 0, 0, 1, 1, 0, 1, 0], bool))
    batch = collate([row, row], 8)
    real = batch.weights == 1
    assert batch.places[real].tolist() == [3, 4, 6, 11, 12, 14]
    assert batch.targets[real].tolist() == [14, 15, 17] * 2


def test_few_shapes_come_out_of_many_rows() -> None:
    rng = np.random.default_rng(0)
    rows = [Row(t := np.ones(int(n), np.int32), t, rng.random(int(n)) < 0.5) for n in rng.integers(8, 64, 400)]
    batches = list(epoch(rows, batch_sizes(rows, 8, 2048, 32), 32, rng))
    assert len({(batch.inputs.shape, batch.places.shape) for batch in batches}) <= 8 < len(batches)


def test_a_batch_never_has_too_many_rows_nor_too_many_tokens() -> None:
    rng = np.random.default_rng(1)
    rows = [row_of(int(length), value) for value, length in enumerate(rng.integers(1, 300, 101), 1)]
    sizes = batch_sizes(rows, 8, 256, 32)
    batches = list(epoch(rows, sizes, 32, rng))
    assert sum(sizes) == 101
    assert len(batches) == len(sizes)
    assert sorted(int(row[0]) for batch in batches for row in batch.inputs) == list(range(1, 102))
    for batch in batches:
        assert len(batch.inputs) <= 8
        assert batch.inputs.size <= 256 or len(batch.inputs) == 1
    assert {len(b.inputs) for b in batches if b.inputs.shape[1] == 128} == {2}
    assert batch_sizes([row_of(30)] * 20, 8, 10**6, 32) == [8, 8, 4]
    assert {len(b.inputs) for b in batches if b.inputs.shape[1] > 256} == {1}


def test_an_epoch_has_every_row_once_in_batches_of_like_length() -> None:
    rng = np.random.default_rng(1)
    rows = [row_of(int(length), value) for value, length in enumerate(rng.integers(1, 200, 101), 1)]
    batches = list(epoch(rows, batch_sizes(rows, 8, 10**6, 32), 32, np.random.default_rng(0)))
    assert sorted(int(row[0]) for batch in batches for row in batch.inputs) == list(range(1, 102))
    assert sorted(len(batch.inputs) for batch in batches) == [5] + [8] * 12
    steps = sorted(sorted(-(-int(length) // 32) for length in (batch.inputs > 0).sum(axis=1)) for batch in batches)
    assert all(shorter[-1] <= longer[0] for shorter, longer in itertools.pairwise(steps))
    widths = [batch.inputs.shape[1] for batch in batches]
    assert widths != sorted(widths)
    assert widths != sorted(widths, reverse=True)


def test_epochs_differ_and_seeds_repeat() -> None:
    rows = [row_of(4, value) for value in range(40)]

    def order(seed: int, epochs: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [[int(row[0]) for batch in epoch(rows, [8] * 5, 32, rng) for row in batch.inputs] for _ in range(epochs)]

    first, second = order(0, 2)
    assert first != second
    assert order(0, 2) == [first, second]
    assert order(1, 1) != [first]


# Memory


def architecture(module: str, **changes: object) -> LanguageModel:
    """A random model of another architecture of mlx-lm's; its tokenizer is never used."""
    code = importlib.import_module(f"mlx_lm.models.{module}")
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    config = {
        "model_type": module,
        "num_key_value_heads": 2,
        "vocab_size": 96,
        "rms_norm_eps": 1e-5,
        **sizes,
        **changes,
    }
    mx.random.seed(0)
    return LanguageModel(code.Model(code.ModelArgs.from_dict(config)), SimpleNamespace())


LLAMA = {"rope_theta": 1e4, "max_position_embeddings": 256}
GRANITE = {
    **LLAMA,
    **{"logits_scaling": 8.0, "attention_multiplier": 0.3, "embedding_multiplier": 12.0, "residual_multiplier": 0.2},
    **{"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True},
}


@pytest.mark.parametrize(
    ("module", "changes", "split"),
    [
        ("llama", {**LLAMA, "tie_word_embeddings": True}, True),
        ("llama", {**LLAMA, "tie_word_embeddings": False}, True),
        ("gemma2", {}, False),  # caps its logits
        ("granite", GRANITE, False),  # scales its logits
    ],
)
def test_targets_alone_are_projected_and_the_loss_is_that_of_all_logits(
    module: str, changes: dict, split: bool
) -> None:
    model = architecture(module, **changes)
    rng = np.random.default_rng(0)
    rows = [Row(t := rng.integers(0, 96, n).astype(np.int32), t, rng.random(n) < 0.3) for n in (30, 17, 24)]
    batch = collate(rows, 8)
    assert (model.body_and_head(rows[0].inputs.tolist()) is not None) == split
    logits = model.model(mx.array(batch.inputs)).astype(mx.float32).reshape(-1, 96)
    losses = np.array(nn.losses.cross_entropy(logits[mx.array(batch.places)], mx.array(batch.targets)))
    assert loss_on(model, batch) == pytest.approx(float(losses[batch.weights == 1].mean()), rel=1e-6)


def test_a_checkpointed_gradient_is_that_of_the_same_loss(tiny_model: LanguageModel) -> None:
    batch = collate(make_rows(tiny_model, DIALOGUES, 1024).rows, 32)
    logits_at = target_logits(tiny_model, batch.inputs[0].tolist())

    def gradient(dropout: float, seed: int) -> tuple[float, dict[str, np.ndarray]]:
        """Of an adapter that does something already, so that dropout matters."""
        tiny_model.attach_new_adapter(-1, {"rank": 4, "scale": 2.0, "dropout": dropout}, 0)
        b = [(name, w + 0.1) for name, w in tree_flatten(tiny_model.model.trainable_parameters()) if "lora_b" in name]
        tiny_model.model.load_weights(b, strict=False)
        mx.random.seed(seed)
        loss, found = nn.value_and_grad(tiny_model.model, lambda *arrays: loss_of(logits_at, *arrays))(
            *arrays_of(batch)
        )
        values = {name: np.array(value) for name, value in tree_flatten(found)}
        return loss.item(), values

    try:
        plain = gradient(0.0, 1)
        with checkpointed(tiny_model.model.layers):
            again = gradient(0.0, 1)
            with_dropout, repeated, other = gradient(0.5, 1), gradient(0.5, 1), gradient(0.5, 2)
        assert again[0] == pytest.approx(plain[0], rel=1e-6)
        assert all(np.allclose(plain[1][name], again[1][name], rtol=1e-4, atol=1e-6) for name in plain[1])
        assert with_dropout[0] == repeated[0] != other[0]
        assert with_dropout[0] != plain[0]
    finally:
        tiny_model.detach_adapter()


def test_dropout_is_the_same_when_a_block_is_computed_again() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.dropout = mx.ones((1000,)), nn.Dropout(0.5)

        def __call__(self, x: mx.array) -> mx.array:
            return self.dropout(x * self.weight)

    block = Block()
    with checkpointed([block]), checkpointed([block]):  # once inside the other is harmless
        # The output is linear in the weight: the gradient of its sum is the output, if both passes drop the same.
        found = mx.value_and_grad(lambda x: block(x).sum())(mx.ones((1000,)))
        total, slope = float(found[0]), np.array(found[1])
    assert type(block) is Block
    assert set(np.unique(slope)) == {0.0, 2.0}
    assert slope.sum() == total
    assert 800 < total < 1200


def test_checkpointing_touches_these_blocks_only_and_is_undone_after_an_error(tiny_model: LanguageModel) -> None:
    first, second = tiny_model.model.layers
    kind, call = type(first), type(first).__call__
    names = [name for name, _ in tree_flatten(tiny_model.model.parameters())]
    with pytest.raises(RuntimeError), checkpointed([first]):
        assert type(first) is not kind
        assert isinstance(first, kind)
        assert type(second) is kind
        assert [name for name, _ in tree_flatten(tiny_model.model.parameters())] == names
        raise RuntimeError
    assert type(first) is type(second) is kind
    assert kind.__call__ is call


def test_the_step_of_a_gpu_learns_what_that_of_a_cpu_does(
    tiny_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LoRAConfig(epochs=3, batch_size=4, learning_rate=1e-2, dropout=0.0)
    eager = finetune(tiny_model, DIALOGUES, config, tmp_path / "cpu")
    kind = type(tiny_model.model.layers[0])
    compiled: list[bool] = []
    compile_ = mx.compile
    monkeypatch.setattr(trainer, "device_name", lambda: "metal")
    monkeypatch.setattr(mx, "compile", lambda *args, **kwargs: compiled.append(True) or compile_(*args, **kwargs))
    fast = finetune(tiny_model, DIALOGUES, config, tmp_path / "gpu")
    assert compiled
    assert type(tiny_model.model.layers[0]) is kind
    # Padding to another length changes the batches, so the epochs' means agree roughly; the first is before any step.
    assert fast.steps == eager.steps
    assert fast.epoch_losses == pytest.approx(eager.epoch_losses, rel=0.05)
    assert fast.epoch_losses[-1] < fast.epoch_losses[0]


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


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("rank", [0, 1025, 1e8, NAN]),
        ("alpha", [0, -1, float("inf"), NAN]),
        ("dropout", [-0.1, 1, NAN]),
        ("learning_rate", [0, float("inf"), NAN]),
        ("epochs", [0, 10**6, NAN]),
        ("batch_size", [0, 10**6, NAN]),
        ("batch_tokens", [0, 10**9, NAN]),
        ("max_tokens", [1, 10**6, NAN]),
        ("num_layers", [0, -2, 10**6, NAN]),
        ("seed", [-1, 2**63, 1e26, NAN]),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(name: str, values: list) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} is .*; it must"):
            LoRAConfig(**{name: value})

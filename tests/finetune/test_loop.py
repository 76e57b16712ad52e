"""The training loop against one in NumPy; what it does not depend on; best adapter, early stopping, forgetting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlx_personal import LanguageModel, UserError
from mlx_personal.finetune import LoRAConfig, TrainingData, TrainingReport, TrainingStep, plan_training, train
from mlx_personal.finetune.data.samples import Sample, count_target_tokens
from mlx_personal.finetune.forward.equivalence import FORWARD_MODES, ModeSelection
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.plan import SampleOrder
from mlx_personal.finetune.planning.memory import MemoryPlan
from mlx_personal.progress import Progress
from mlx_personal.runtime import blas_threads
from mlx_personal.runtime.blas_threads import ThreadChoice
from tests.support import random_models
from tests.support.cases import quick_cases
from tests.support.training_steps import for_each_step

SAMPLES = random_models.prefix_sharing_samples()
# The same inputs with other targets: overfitting to the ones raises the loss on the others.
CONTRARY = [
    Sample(sample.inputs, (sample.targets + 40) % random_models.VOCABULARY, sample.is_target) for sample in SAMPLES
]
OTHERS = [random_models.random_sample(np.random.default_rng(i), 20) for i in range(6)]
CONFIG = LoRAConfig(epochs=2, batch_size=4, num_layers=2, dropout=0.0, learning_rate=1e-2, lr_scheduler_type="linear")


@pytest.fixture
def lm() -> LanguageModel:
    return random_models.random_model("llama")


def trained(
    lm: LanguageModel,
    data: TrainingData,
    config: LoRAConfig,
    memory: MemoryPlan | None = None,
    order: SampleOrder | None = None,
    on_progress: Progress | None = None,
) -> tuple[TrainingReport, Any]:
    """Return the report and the adapter's weights by name; the adapter is detached again."""
    report = train(lm, plan_training(data, config, memory, order), on_progress=on_progress)
    weights = dict(tree_flatten(lm.model.trainable_parameters()))
    lm.detach_adapter()
    return report, weights


def train_in_numpy(lm: LanguageModel, config: LoRAConfig, steps: Sequence[Sequence[int]]) -> tuple[list[float], Any]:
    """Return the loss of each step and the final weights of AdamW in float64 NumPy on the reference gradients."""
    lm.attach_new_adapter(config.num_layers, config.lora_parameters, config.seed, config.use_dora)
    start = tree_flatten(lm.model.trainable_parameters())
    values = {name: np.array(weight, np.float64) for name, weight in start}
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    losses, warmup_steps = [], int(np.ceil(round(config.warmup_ratio * len(steps), 6)))
    for number, step in enumerate(steps):
        samples = [SAMPLES[i] for i in step]
        nested = tree_unflatten([(name, mx.array(v.astype(np.float32))) for name, v in values.items()])
        lm.model.update(nested)
        targets = sum(int(sample.is_target.sum()) for sample in samples)
        losses.append(random_models.reference_loss(lm, samples) / targets)
        gradients = dict(tree_flatten(random_models.reference_gradient(lm, nested, samples)))
        fraction = (
            (number + 1) / (warmup_steps + 1)
            if number < warmup_steps
            else (len(steps) - number) / (len(steps) - warmup_steps)
        )
        rate = config.learning_rate * fraction
        for name in values:
            gradient = np.array(gradients[name], np.float64) / targets
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9 ** (number + 1)), second[name] / (1 - 0.999 ** (number + 1))
            values[name] = values[name] * (1 - rate * 0.01) - rate * mean / (np.sqrt(square) + 1e-8)
    lm.detach_adapter()
    return losses, values


# Correctness


@pytest.mark.parametrize("dora", quick_cases([False, True], True))
def test_training_is_adamw_on_the_mean_loss_of_the_targets(lm: LanguageModel, dora: bool) -> None:
    config = dataclasses.replace(CONFIG, use_dora=dora, warmup_ratio=0.3)
    order = [[[0, 4, 2], [1, 3], [5, 6, 7, 8, 9, 10, 11, 12]], [[12, 0, 3, 7], [9], [1, 2, 4]]]
    steps: list[TrainingStep] = []
    report, weights = trained(
        lm, TrainingData(SAMPLES), config, order=lambda epoch: order[epoch], on_progress=for_each_step(steps.append)
    )
    losses, expected = train_in_numpy(lm, config, [*order[0], *order[1]])
    assert report.losses == pytest.approx(losses, rel=1e-5)
    for name, value in expected.items():
        # Adam's first step is the sign of the gradient, which is noise where the gradient is rounding error.
        errors = np.abs(np.array(weights[name], np.float64) - value)
        assert np.quantile(errors, 0.98) < 1e-4 and errors.mean() < 1e-4, name
    assert [step.loss for step in steps] == list(report.losses)
    assert [step.number for step in steps] == list(range(1, 7))
    assert [step.epoch for step in steps] == [1, 1, 1, 2, 2, 2]
    assert {step.steps for step in steps} == {6}
    assert [step.target_tokens for step in steps] == [
        count_target_tokens(SAMPLES[i] for i in s) for s in order[0] + order[1]
    ]
    assert [step.learning_rate / 1e-2 for step in steps] == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4])


def test_epoch_loss_is_the_mean_over_its_targets(lm: LanguageModel) -> None:
    steps: list[TrainingStep] = []
    report, _ = trained(lm, TrainingData(SAMPLES), CONFIG, on_progress=for_each_step(steps.append))
    for epoch, loss in enumerate(report.epoch_losses, 1):
        epoch_steps = [step for step in steps if step.epoch == epoch]
        total = sum(step.loss * step.target_tokens for step in epoch_steps)
        assert loss == pytest.approx(total / count_target_tokens(SAMPLES), rel=1e-9)
        assert sum(step.target_tokens for step in epoch_steps) == report.target_tokens == count_target_tokens(SAMPLES)
    assert (report.samples, report.steps, report.epochs) == (13, 8, 2)
    assert report.best_step == 8
    assert report.processed_tokens < sum(map(len, SAMPLES))


def test_training_lowers_the_loss(lm: LanguageModel) -> None:
    config = dataclasses.replace(CONFIG, epochs=30, learning_rate=3e-2)
    report, _ = trained(lm, TrainingData(SAMPLES[:4]), config)
    assert report.epoch_losses[-1] < 0.3 * report.epoch_losses[0]


@pytest.mark.parametrize(("count", "size", "steps"), [(1, 8, 1), (3, 8, 1), (9, 4, 3)])
def test_small_data_sets_and_partial_batches_are_trained_on(
    lm: LanguageModel, count: int, size: int, steps: int
) -> None:
    config = dataclasses.replace(CONFIG, batch_size=size, epochs=1)
    recorded: list[TrainingStep] = []
    report, _ = trained(lm, TrainingData(SAMPLES[:count]), config, on_progress=for_each_step(recorded.append))
    assert (report.samples, report.steps) == (count, steps)
    assert sum(step.target_tokens for step in recorded) == count_target_tokens(SAMPLES[:count])
    assert report.epoch_losses[0] > 0


# Independence


@pytest.mark.parametrize("mode", quick_cases(["packed", "padded"], "packed"))
def test_losses_do_not_depend_on_the_micro_batch_size(mode: str) -> None:
    lm = random_models.random_model("llama" if mode == "packed" else "gemma2")
    config = dataclasses.replace(CONFIG, batch_size=7)
    whole_step = trained(lm, TrainingData(SAMPLES), config, memory=MemoryPlan(micro_batch_tokens=10_000))[0]
    assert whole_step.forward_mode == mode
    for tokens in (1, 45, 100):
        report = trained(lm, TrainingData(SAMPLES), config, memory=MemoryPlan(micro_batch_tokens=tokens))[0]
        assert report.losses == pytest.approx(whole_step.losses, abs=1e-5)


def test_losses_do_not_depend_on_the_forward_mode(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    order = [range(5), range(5, 13)]
    losses = {}
    for mode in FORWARD_MODES:
        selection = ModeSelection(mode, ())
        monkeypatch.setattr("mlx_personal.finetune.plan.select_mode_cached", lambda *_, selection=selection: selection)
        report, _ = trained(lm, TrainingData(SAMPLES), CONFIG, order=lambda epoch: order)
        assert report.forward_mode == mode
        losses[mode] = report.losses
    assert losses["packed"] == pytest.approx(losses["plain"], abs=1e-5)
    assert losses["padded"] == pytest.approx(losses["plain"], abs=1e-5)


def test_training_is_reproducible_and_depends_on_the_seed(lm: LanguageModel) -> None:
    config = dataclasses.replace(CONFIG, dropout=0.3)
    first = trained(lm, TrainingData(SAMPLES, OTHERS[:2], OTHERS[2:4]), config)
    mx.random.seed(99)
    np.random.seed(99)
    second = trained(lm, TrainingData(SAMPLES, OTHERS[:2], OTHERS[2:4]), config)
    other = trained(lm, TrainingData(SAMPLES, OTHERS[:2], OTHERS[2:4]), dataclasses.replace(config, seed=1))
    assert first[0].losses == second[0].losses != other[0].losses
    assert random_models.bits(first[1]) == random_models.bits(second[1])


def test_a_change_of_the_number_of_blas_threads_is_noted(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products of LoRA's shapes round differently with another number."""
    data, config = TrainingData(SAMPLES[:4]), LoRAConfig(epochs=3, batch_size=4)
    choice = ThreadChoice(2, "one for each processor")
    monkeypatch.setattr(blas_threads, "adapt_threads", lambda: choice)
    assert trained(lm, data, config)[0].notes == ()
    choices = iter([choice, choice, ThreadChoice(1, "since other processes use 1.0 of 2 processors"), choice])
    monkeypatch.setattr(blas_threads, "adapt_threads", lambda: next(choices))
    (note,) = trained(lm, data, config)[0].notes
    assert note.startswith("the load of the machine changed, and so did the number of BLAS threads")


def test_a_plan_for_the_plain_mode_is_computed_in_it(lm: LanguageModel) -> None:
    data, config = TrainingData(SAMPLES[:4]), LoRAConfig(epochs=2, batch_size=4, dropout=0.0)
    expected, _ = trained(lm, data, config)
    report = train(lm, dataclasses.replace(plan_training(data, config), forward_mode="plain"))
    lm.detach_adapter()
    assert (expected.forward_mode, report.forward_mode, report.fallback_reason) == ("packed", "plain", "")
    assert report.losses == pytest.approx(expected.losses, rel=1e-4)


def test_global_random_state_is_unchanged(lm: LanguageModel) -> None:
    def draw(train_between: bool) -> tuple[Any, float]:
        mx.random.seed(5)
        np.random.seed(5)
        if train_between:
            trained(lm, TrainingData(SAMPLES), dataclasses.replace(CONFIG, dropout=0.3, epochs=1))
        return mx.random.uniform(shape=(4,)).tolist(), np.random.random()

    assert draw(True) == draw(False)


def test_dropout_affects_training_but_not_evaluation(lm: LanguageModel) -> None:
    data = TrainingData(SAMPLES, validation=OTHERS)
    without = trained(lm, data, CONFIG)[0]
    report = trained(lm, data, dataclasses.replace(CONFIG, dropout=0.5))[0]
    # The first step's adapter has no effect yet, with or without dropout.
    assert report.losses[0] == pytest.approx(without.losses[0], rel=1e-5)
    assert report.losses[2] != pytest.approx(without.losses[2], rel=1e-5)
    assert report.validation_losses[0][1] == pytest.approx(without.validation_losses[0][1], rel=1e-6)


def test_with_dropout_samples_do_not_share_a_prompt(lm: LanguageModel) -> None:
    """Four equal samples have different dropout masks, so no token is computed for two of them."""
    report, _ = trained(lm, TrainingData([SAMPLES[0]] * 4), dataclasses.replace(CONFIG, dropout=0.3, epochs=1))
    assert report.processed_tokens == 4 * len(SAMPLES[0])
    assert trained(lm, TrainingData([SAMPLES[0]] * 4), CONFIG)[0].processed_tokens < 4 * len(SAMPLES[0])


# Data types


def test_float32_adapter_weights_are_used_in_bfloat16() -> None:
    lm = random_models.random_model("llama", "bfloat16", num_hidden_layers=2)
    used: set[mx.Dtype] = set()
    forward = type(lm.model.layers[1].mlp).__call__

    def watch(self: Any, x: mx.array) -> mx.array:
        out = forward(self, x)
        used.update([x.dtype, out.dtype, *(weight.dtype for _, weight in tree_flatten(self.parameters()))])
        return out

    config = dataclasses.replace(CONFIG, num_layers=1, learning_rate=1e-6, epochs=1)
    lm.attach_new_adapter(1, config.lora_parameters, 0)
    start = dict(tree_flatten(lm.model.trainable_parameters()))
    tiny_changes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mlx_personal.finetune.plan.select_mode_cached", lambda *_: ModeSelection("packed", ()))
        patch.setattr(type(lm.model.layers[1].mlp), "__call__", watch)
        _, weights = trained(lm, TrainingData(SAMPLES), config)
    assert used == {mx.bfloat16}
    for name, weight in weights.items():
        assert weight.dtype == mx.float32
        tiny_changes.append(float(mx.abs(weight - start[name]).max()))
    # Steps of a millionth would vanish in bfloat16, whose next number after 0.1 is 0.0005 away.
    assert all(0 < change < 1e-5 for change in tiny_changes)
    assert {w.dtype for _, w in tree_flatten(lm.model.parameters())} == {mx.bfloat16}


@pytest.mark.parametrize("kind", quick_cases(["bfloat16", "4-bit"], "bfloat16"))
def test_bfloat16_and_quantized_models_can_be_trained(kind: str) -> None:
    lm = random_models.random_model("llama", kind, num_hidden_layers=2)
    before = random_models.bits(lm.model.parameters())
    config = dataclasses.replace(CONFIG, num_layers=1, epochs=6, learning_rate=5e-2)
    report, _ = trained(lm, TrainingData(sorted(SAMPLES, key=len)[:3]), config)
    assert report.forward_mode == "packed"
    assert report.epoch_losses[-1] < 0.8 * report.epoch_losses[0]
    assert random_models.bits(lm.model.parameters()) == before


# Held-out samples


def mean_loss(lm: LanguageModel, samples: Sequence[Sample]) -> float:
    lm.model.eval()
    return random_models.reference_loss(lm, samples) / count_target_tokens(samples)


def test_held_out_losses_match_the_reference(lm: LanguageModel) -> None:
    data = TrainingData(SAMPLES, validation=OTHERS[:3], general=OTHERS[3:])
    config = dataclasses.replace(CONFIG, dropout=0.2, epochs=1)
    before = mean_loss(lm, OTHERS[:3]), mean_loss(lm, OTHERS[3:])
    report = train(lm, plan_training(data, config))
    after = mean_loss(lm, OTHERS[:3]), mean_loss(lm, OTHERS[3:])
    lm.detach_adapter()
    assert [step for step, _ in report.validation_losses] == [step for step, _ in report.general_losses] == [0, 4]
    assert [loss for _, loss in report.validation_losses] == pytest.approx([before[0], after[0]], rel=1e-5)
    assert [loss for _, loss in report.general_losses] == pytest.approx([before[1], after[1]], rel=1e-5)
    assert report.forgetting == pytest.approx(after[1] / before[1] - 1, abs=1e-5)


def test_a_single_training_sample_beside_held_out_ones_is_exact() -> None:
    """A single sample agrees in every mode; that this family cannot be packed shows only with two."""
    lm = random_models.random_model("gpt2")
    expected = mean_loss(lm, OTHERS)
    report, _ = trained(lm, TrainingData(SAMPLES[:1], validation=OTHERS), dataclasses.replace(CONFIG, epochs=1))
    assert report.validation_losses[0][1] == pytest.approx(expected, rel=1e-5)


def test_the_best_adapter_is_attached_afterwards(lm: LanguageModel) -> None:
    config = dataclasses.replace(CONFIG, epochs=6, lr_scheduler_type="constant", validation_split=0.3)
    report = train(lm, plan_training(TrainingData(SAMPLES, validation=CONTRARY), config))
    actual = mean_loss(lm, CONTRARY)
    lm.detach_adapter()
    after = dict(report.validation_losses[1:])
    assert report.best_step == min(after, key=after.__getitem__) < report.steps
    assert actual == pytest.approx(after[report.best_step], rel=1e-5)
    assert actual < after[report.steps] - 0.1


def test_early_stopping_after_patience_epochs(lm: LanguageModel) -> None:
    config = dataclasses.replace(
        CONFIG, epochs=40, lr_scheduler_type="constant", validation_split=0.3, early_stopping_patience=2
    )
    report = train(lm, plan_training(TrainingData(SAMPLES, validation=CONTRARY), config))
    lm.detach_adapter()
    losses = [loss for _, loss in report.validation_losses[1:]]
    assert report.epochs == len(losses) < 40
    assert report.best_step == 4 * (len(losses) - 2)
    assert min(losses) == losses[-3] < min(losses[-2:])
    assert report.steps == 4 * report.epochs == len(report.losses)
    assert len(report.epoch_losses) == report.epochs


@pytest.mark.slow
def test_replayed_samples_reduce_forgetting(lm: LanguageModel) -> None:
    data = TrainingData(SAMPLES, replay=OTHERS, general=OTHERS)
    with_replay = trained(lm, data, dataclasses.replace(CONFIG, epochs=6))[0]
    without = trained(lm, TrainingData(SAMPLES, general=OTHERS), dataclasses.replace(CONFIG, epochs=6))[0]
    assert (with_replay.samples, with_replay.replayed_samples, without.samples) == (19, 6, 13)
    assert with_replay.target_tokens == count_target_tokens([*SAMPLES, *OTHERS])
    assert with_replay.forgetting is not None and without.forgetting is not None
    assert with_replay.forgetting < without.forgetting - 0.05


def test_forgetting_is_the_rise_of_the_general_loss_at_the_best_step() -> None:
    fields: dict[str, Any] = {field.name: () for field in dataclasses.fields(TrainingReport)}
    fields |= {"general_losses": ((0, 2.0), (3, 3.0), (6, 2.5), (9, 4.0)), "best_step": 6}
    assert TrainingReport(**fields).forgetting == pytest.approx(0.25)
    assert TrainingReport(**fields | {"best_step": 3}).forgetting == pytest.approx(0.5)
    assert TrainingReport(**fields | {"general_losses": ()}).forgetting is None


# Failures


def test_no_samples_are_a_user_error(lm: LanguageModel) -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        train(lm, plan_training(TrainingData([]), CONFIG))


@pytest.mark.parametrize("rate", [1e30, 1e300])
def test_a_diverging_training_is_an_error(lm: LanguageModel, rate: float) -> None:
    before = random_models.bits(lm.model.parameters())
    what = r"training failed, the (loss|gradient|adapter) became (nan|inf) at step \d of 8"
    with pytest.raises(UserError, match=what):
        train(
            lm, plan_training(TrainingData(SAMPLES), dataclasses.replace(CONFIG, learning_rate=rate, warmup_ratio=0.0))
        )
    assert random_models.bits(lm.model.parameters()) == before


def test_divergence_in_the_last_step_is_detected(lm: LanguageModel) -> None:
    config = dataclasses.replace(CONFIG, learning_rate=1e300, epochs=1, batch_size=100, warmup_ratio=0.0)
    with pytest.raises(UserError, match="lower the learning rate"):
        train(lm, plan_training(TrainingData(SAMPLES), config))


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt()])
def test_an_error_leaves_the_base_model_unchanged(lm: LanguageModel, error: BaseException) -> None:
    before, module_types = random_models.bits(lm.model.parameters()), [type(m) for _, m in lm.model.named_modules()]

    def fail(step: TrainingStep) -> None:
        raise error

    with pytest.raises(type(error)):
        train(lm, plan_training(TrainingData(SAMPLES), CONFIG), on_progress=for_each_step(fail))
    assert random_models.bits(lm.model.parameters()) == before
    assert [type(m) for _, m in lm.model.named_modules()] == module_types
    assert not lm.model.training


def test_no_wired_limit_is_set(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "set_wired_limit", lambda _: pytest.fail("set"))
    trained(lm, TrainingData(SAMPLES), CONFIG)


def test_processed_tokens_count_padding(lm: LanguageModel) -> None:
    weights = random_models.with_adapter(lm)
    computing = GradientComputer(lm, SAMPLES, "padded", MemoryPlan(), share_prefixes=True)
    with computing.prepared():
        computing.gradient(weights, [0, 1, 2], (0,))
    assert computing.processed_tokens == 3 * max(len(SAMPLES[i]) for i in range(3))


def test_an_unsupported_adapter_is_a_user_error() -> None:
    """mlx-lm has no DoRA for mixture-of-experts layers."""
    lm = random_models.random_model("mixtral")
    with pytest.raises(UserError, match="this model does not support such an adapter"):
        train(lm, plan_training(TrainingData(random_models.prefix_sharing_samples()), LoRAConfig(use_dora=True)))
    assert not lm.model.training

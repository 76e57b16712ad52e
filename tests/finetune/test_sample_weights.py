"""Sample weights against explicit weights in the reference and against repeated samples."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_map

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.finetune import Example, LoRAConfig, TrainingData, finetune, plan_training, train
from mlx_personal.finetune.data.batching import BatchFormat, collate
from mlx_personal.finetune.data.dataset import prepare_data
from mlx_personal.finetune.data.samples import Sample, make_samples, total_target_weight
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.forward.equivalence import ForwardMode, select_mode
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.forward.losses import cross_entropies
from mlx_personal.finetune.identity import training_identity
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support import random_models
from tests.support.cases import quick_cases

SAMPLES = [
    dataclasses.replace(sample, weight=weight)
    for sample, weight in zip(
        random_models.prefix_sharing_samples(), np.random.default_rng(5).uniform(0.1, 4, 13), strict=True
    )
]
DIALOGUES = [Dialogue.of(f"How do I plant {i} tomatoes?", f"In May, {i} of them.") for i in range(6)]
WEIGHTS = [0.25, 1.0, 3.0, 0.5, 1.0, 2.0]
CONFIG = LoRAConfig(epochs=2, batch_size=3, learning_rate=1e-2, dropout=0.0)


def reference(lm: LanguageModel, weights: Any, samples: list[Sample]) -> tuple[float, Any]:
    """Return the weighted loss and gradient, sample by sample through mlx-lm's forward pass."""
    loss, total = 0.0, tree_map(mx.zeros_like, weights)
    for sample in samples:
        weight = sample.weight
        loss += weight * random_models.reference_loss(lm, [sample])
        gradient = random_models.reference_gradient(lm, weights, [sample])
        total = tree_map(lambda a, b, weight=weight: a + weight * b, total, gradient)
    return loss, total


@pytest.mark.parametrize(
    ("mode", "layers", "share_prefixes"),
    quick_cases(
        itertools.product(["packed", "padded", "plain"], [1, -1], [True, False]),
        *[("packed", 1, True), ("padded", -1, True), ("plain", 1, False)],
    ),
)
def test_loss_and_gradient_match_weighted_samples(mode: ForwardMode, layers: int, share_prefixes: bool) -> None:
    """Samples of different weights share prefixes here."""
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm, layers)
    expected = reference(lm, weights, SAMPLES)
    computing = GradientComputer(lm, SAMPLES, mode, MemoryPlan(micro_batch_tokens=150), share_prefixes)
    with computing.prepared():
        loss, gradient = computing.gradient(weights, range(len(SAMPLES)), (0,))
        [total] = computing.sums(weights, range(len(SAMPLES)))
    assert float(loss) == pytest.approx(expected[0], rel=1e-5)
    assert random_models.distance(gradient, expected[1]) < 1e-5
    assert total == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.parametrize("shape", ["packed", "padded"])
def test_each_target_has_its_samples_weight(shape: BatchFormat) -> None:
    batch = collate(SAMPLES, range(len(SAMPLES)), shape, share_prefixes=True)
    actual = sorted(zip(batch.target_weights.tolist(), batch.targets.tolist(), strict=True))
    assert actual == sorted((float(np.float32(r.weight)), int(t)) for r in SAMPLES for t in r.targets[r.is_target])


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_weighted_cross_entropy_matches_float64(dtype: mx.Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_personal.finetune.forward.losses.CHUNK_BYTES", 0)  # 16 targets per chunk
    rng = np.random.default_rng(0)
    hidden, head = (mx.array(rng.normal(size=s).astype(np.float32)).astype(dtype) for s in ((1, 37, 24), (40, 24)))
    targets, weights = rng.integers(0, 40, 37), rng.uniform(0.1, 5, 37)
    target_weights = mx.array(weights.astype(np.float32))
    actual = mx.value_and_grad(
        lambda h: (cross_entropies(lambda x: x @ head.T, h, mx.array(targets.astype(np.int32))) * target_weights).sum()
    )(hidden)
    hidden64, head64 = (np.array(a.astype(mx.float32), np.float64) for a in (hidden[0], head))
    logits = hidden64 @ head64.T
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    loss = -(weights * np.log(probabilities[np.arange(37), targets])).sum()
    gradient = (weights[:, None] * (probabilities - np.eye(40)[targets])) @ head64
    tolerance = 1e-5 if dtype == mx.float32 else 2e-2
    assert actual[1].dtype == dtype
    assert float(actual[0]) == pytest.approx(loss, rel=tolerance)
    assert random_models.distance(actual[1], mx.array(gradient[None].astype(np.float32))) < tolerance


def trained(lm: LanguageModel, samples: list[Sample], config: LoRAConfig) -> tuple[Any, Any]:
    report = train(lm, plan_training(TrainingData(samples), config))
    weights = lm.model.trainable_parameters()
    lm.detach_adapter()
    return report, weights


def test_a_weight_of_two_equals_the_sample_twice() -> None:
    """Up to rounding, with steps of the whole data set."""
    lm, config = (
        random_models.random_model("llama"),
        LoRAConfig(epochs=3, batch_size=64, learning_rate=1e-3, dropout=0.0),
    )
    plain = random_models.prefix_sharing_samples()[:6]
    doubled = [dataclasses.replace(sample, weight=2.0 if i in (1, 4) else 1.0) for i, sample in enumerate(plain)]
    weighted, first = trained(lm, doubled, config)
    repeated, second = trained(lm, [*plain, plain[1], plain[4]], config)
    assert weighted.losses == pytest.approx(repeated.losses, rel=1e-5)
    assert weighted.epoch_losses == pytest.approx(repeated.epoch_losses, rel=1e-5)
    assert random_models.distance(first, second) < 1e-3


def test_equal_weights_have_no_effect() -> None:
    lm = random_models.random_model("llama")
    samples = random_models.prefix_sharing_samples()
    plain, tenfold = (trained(lm, [dataclasses.replace(r, weight=w) for r in samples], CONFIG)[0] for w in (1.0, 10.0))
    assert tenfold.losses == pytest.approx(plain.losses, rel=1e-5)


def test_reported_losses_are_weighted_means() -> None:
    lm = random_models.random_model("llama")
    report, _ = trained(lm, SAMPLES, LoRAConfig(epochs=1, batch_size=64, dropout=0.0))
    expected = sum(
        sample.weight * random_models.reference_loss(lm, [sample]) for sample in SAMPLES
    ) / total_target_weight(SAMPLES)
    assert report.losses == pytest.approx([expected], rel=1e-5)
    assert report.epoch_losses == pytest.approx([expected], rel=1e-5)
    assert report.target_tokens == sum(int(sample.is_target.sum()) for sample in SAMPLES)


def test_weighted_samples_can_be_packed() -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm)
    assert select_mode(lm, SAMPLES).mode == "packed"


# Weighted examples


def weighted(weights: Sequence[float]) -> list[Example]:
    return [Example(dialogue, weight=weight) for dialogue, weight in zip(DIALOGUES, weights, strict=True)]


def adapter(
    lm: LanguageModel, folder: Path, config: LoRAConfig = CONFIG, weights: Sequence[float] | None = None
) -> bytes:
    finetune(lm, list(map(Example, DIALOGUES)) if weights is None else weighted(weights), config, folder)
    return (folder / "adapters.safetensors").read_bytes()


@pytest.mark.parametrize("dropout", quick_cases([0.0, 0.3], 0.3))
def test_weights_of_one_change_no_bit(tiny_model: LanguageModel, tmp_path: Path, dropout: float) -> None:
    config = dataclasses.replace(CONFIG, dropout=dropout)
    without = adapter(tiny_model, tmp_path / "a", config)
    assert adapter(tiny_model, tmp_path / "b", config, weights=[1.0] * 6) == without
    assert adapter(tiny_model, tmp_path / "c", config, weights=WEIGHTS) != without


def test_a_light_example_is_learned_less(tiny_model: LanguageModel, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=6, batch_size=8)
    samples = make_samples(tiny_model, DIALOGUES[:1], 100).samples
    losses = []
    for name, weight in (("light", 0.01), ("heavy", 10.0)):
        adapter(tiny_model, tmp_path / name, config, weights=[weight] + [1.0] * 5)
        tiny_model.attach_adapter(tmp_path / name)
        losses.append(random_models.reference_loss(tiny_model, samples))
        tiny_model.detach_adapter()
    assert losses[1] < losses[0]


def test_samples_have_the_weight_of_their_dialogue(
    tiny_model: LanguageModel,
) -> None:
    thought = Dialogue.of("a", "<think>only</think>")
    samples = make_samples(tiny_model, [DIALOGUES[0], thought, DIALOGUES[1]], 100, [0.5, 7.0, 2.0])
    assert [sample.weight for sample in samples.samples] == [0.5, 2.0]
    assert samples.dropped == 1


def test_held_out_and_replayed_samples_weigh_one(tiny_model: LanguageModel) -> None:
    config = dataclasses.replace(CONFIG, validation_split=0.4, general_data="general.jsonl", replay_ratio=0.4)
    data = prepare_data(tiny_model, weighted([0.5] * 6), config, general=DIALOGUES).data
    assert {sample.weight for sample in data.train} == {0.5}
    assert data.replay and data.validation and data.general
    assert {sample.weight for sample in [*data.replay, *data.validation, *data.general]} == {1.0}


def test_weights_are_part_of_the_identity(tiny_model: LanguageModel) -> None:
    def identity(weights: list[float] | None) -> Any:
        examples = list(map(Example, DIALOGUES)) if weights is None else weighted(weights)
        data = prepare_data(tiny_model, examples, CONFIG).data
        return training_identity(tiny_model, data, CONFIG, ProcessGroup())

    assert identity(None) == identity([1.0] * 6)
    assert identity(WEIGHTS) != identity(None)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_invalid_weights_are_rejected(weight: float, tiny_model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^a sample's weight is .*; it must be above 0 and finite$"):
        adapter(tiny_model, tmp_path / "a", weights=[1.0] * 5 + [weight])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("count", [0, 5, 7])
def test_one_weight_is_needed_for_each_dialogue(count: int, tiny_model: LanguageModel) -> None:
    with pytest.raises(ValueError):
        make_samples(tiny_model, DIALOGUES, 100, [1.0] * count)


@given(st.lists(st.floats(1e-3, 1e3), min_size=13, max_size=13))
def test_target_weight_is_the_sum_of_the_batchs_weights(weights: list[float]) -> None:
    samples = [dataclasses.replace(sample, weight=weight) for sample, weight in zip(SAMPLES, weights, strict=True)]
    batch = collate(samples, range(len(samples)), "packed", share_prefixes=True)
    assert total_target_weight(samples) == pytest.approx(float(batch.target_weights.astype(np.float64).sum()), rel=1e-6)

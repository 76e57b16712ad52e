"""Preference losses against trl's formulas and against a plain implementation; what they do not depend on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten, tree_map

from mlx_personal import Dialogue, LanguageModel, UserError
from mlx_personal.finetune import (
    Example,
    LoRAConfig,
    TrainingData,
    TrainingReport,
    estimate_training,
    finetune,
    plan_training,
    train,
)
from mlx_personal.finetune.data.batching import interleaved_steps, micro_batches
from mlx_personal.finetune.data.dataset import prepare_data
from mlx_personal.finetune.data.examples import PreferencePair
from mlx_personal.finetune.data.samples import Sample, SamplePair
from mlx_personal.finetune.distributed import ProcessGroup
from mlx_personal.finetune.forward.equivalence import ForwardMode, select_mode
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.forward.preferences import STATISTICS, BatchObjective, dpo_terms, orpo_terms
from mlx_personal.finetune.identity import training_identity
from mlx_personal.finetune.plan import TrainingPlan
from mlx_personal.finetune.planning import memory
from mlx_personal.finetune.planning.layer_memory import MicroBatchSize
from mlx_personal.finetune.planning.memory import MemoryPlan, SampleSizes, estimate_memory, model_spec
from tests.support import random_models
from tests.support.cases import quick_cases, slow_cases
from tests.support.training_steps import for_each_step

BETA = 0.3
LOG_PROBABILITIES = st.lists(st.floats(-60, -1e-3), min_size=4, max_size=4)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


# Formulas


@settings(max_examples=25, deadline=None)
@given(LOG_PROBABILITIES, st.floats(0.01, 2))
def test_dpo_is_trls_formula(values: list[float], beta: float) -> None:
    """`DPOTrainer.dpo_loss` with the loss type `sigmoid` and no label smoothing."""
    chosen, rejected, reference_chosen, reference_rejected = np.array(values, np.float32).astype(np.float64).tolist()
    a, b, c, d = (mx.array([value]) for value in (chosen, rejected, reference_chosen, reference_rejected))
    terms = dpo_terms(a, b, c, d, beta)
    logits = (chosen - rejected) - (reference_chosen - reference_rejected)
    assert terms.losses.item() == pytest.approx(-log_sigmoid(beta * logits), rel=1e-4, abs=1e-5)
    assert terms.chosen_rewards.item() == pytest.approx(beta * (chosen - reference_chosen), rel=1e-4, abs=1e-5)
    assert terms.rejected_rewards.item() == pytest.approx(beta * (rejected - reference_rejected), rel=1e-4, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(LOG_PROBABILITIES, st.floats(0.01, 2))
def test_orpo_is_trls_formula(values: list[float], beta: float) -> None:
    """`ORPOTrainer.odds_ratio_loss`, of mean log-probabilities."""
    chosen, rejected = np.array(values[:2], np.float32).astype(np.float64).tolist()
    terms = orpo_terms(mx.array([chosen]), mx.array([rejected]), beta)
    log_odds = (chosen - rejected) - (math.log1p(-math.exp(chosen)) - math.log1p(-math.exp(rejected)))
    assert terms.losses.item() == pytest.approx(-beta * log_sigmoid(log_odds), rel=1e-4, abs=1e-5)
    assert terms.chosen_rewards.item() == pytest.approx(beta * chosen, rel=1e-5)
    assert terms.rejected_rewards.item() == pytest.approx(beta * rejected, rel=1e-5)


def test_a_certain_answer_has_a_finite_gradient() -> None:
    gradient = mx.grad(lambda x: orpo_terms(x, mx.array([-1.0]), 0.1).losses.sum())(mx.array([0.0]))
    assert np.isfinite(np.array(gradient)).all()


# Losses and gradients of batches, against a plain implementation


def make_pair(rng: np.random.Generator, prompt: Sequence[int], chosen: int, rejected: int, weight: float) -> SamplePair:
    """Return a pair with answers of these numbers of tokens."""
    sides = []
    for length, side_weight in ((chosen, weight), (rejected, 0.0)):
        answer = rng.integers(3, random_models.VOCABULARY, length)
        tokens = np.array([*prompt, *answer], np.int32)
        is_target = np.arange(len(tokens) - 1) >= len(prompt) - 1
        sides.append(Sample(tokens[:-1], tokens[1:], is_target, side_weight))
    return SamplePair(*sides)


def make_data(objective: str) -> TrainingData:
    """Return pairs, some of which share more than their prompt; and single samples unless the pairs are alone."""
    rng = np.random.default_rng(3)
    system = rng.integers(3, random_models.VOCABULARY, 10).tolist()
    weight = 1.0 if objective == "orpo" else 0.0
    prompts = [[*system, *rng.integers(3, random_models.VOCABULARY, n).tolist()] for n in (4, 9, 12)]
    prompts.append(rng.integers(3, random_models.VOCABULARY, 5).tolist())
    sizes = [(6, 11), (12, 3), (1, 20), (7, 7)]
    pairs = [make_pair(rng, p, c, r, weight) for p, (c, r) in zip(prompts, sizes, strict=True)]
    singles = [
        dataclasses.replace(random_models.random_sample(rng, n, system), weight=w) for n, w in ((25, 1), (31, 2))
    ]
    return TrainingData(singles if objective == "sft+dpo" else [], pairs=pairs)


def sample_losses(lm: LanguageModel, sample: Sample) -> mx.array:
    """Return the cross entropies of a sample's targets: all layers, all logits, one sample at a time."""
    logits = lm.model(mx.array(sample.inputs[None]))[0].astype(mx.float32)
    return nn.losses.cross_entropy(logits, mx.array(sample.targets))[mx.array(np.flatnonzero(sample.is_target))]


def plain_loss(lm: LanguageModel, data: TrainingData, config: LoRAConfig, reference: Sequence[Any]) -> mx.array:
    """Return the loss of one step of all the data, from trl's formulas."""
    cross_entropies, weight, pair_losses = mx.array(0.0), 0.0, []
    for sample in data.trained:
        cross_entropies = cross_entropies + sample.weight * sample_losses(lm, sample).sum()
        weight += sample.weight * int(sample.is_target.sum())
    for pair, (reference_chosen, reference_rejected) in zip(data.pairs, reference, strict=True):
        chosen, rejected = -sample_losses(lm, pair.chosen), -sample_losses(lm, pair.rejected)
        if config.objective == "orpo":
            a, b = chosen.mean(), rejected.mean()
            log_odds = (a - b) - (mx.log1p(-mx.exp(a)) - mx.log1p(-mx.exp(b)))
            pair_losses.append(-config.beta * mx.log(mx.sigmoid(log_odds)))
        else:
            logits = (chosen.sum() - rejected.sum()) - (reference_chosen - reference_rejected)
            pair_losses.append(-mx.log(mx.sigmoid(config.beta * logits)))
    loss = mx.stack(pair_losses).mean()
    if config.objective == "sft+dpo":
        return loss + config.rpo_alpha * cross_entropies / weight
    return loss + cross_entropies / weight if weight else loss


def base_log_probabilities(lm: LanguageModel, data: TrainingData) -> list[tuple[float, float]]:
    return [
        (-random_models.reference_loss(lm, [pair.chosen]), -random_models.reference_loss(lm, [pair.rejected]))
        for pair in data.pairs
    ]


def make_plan(objective: str, **changes: Any) -> TrainingPlan:
    config = LoRAConfig(objective=objective, beta=BETA, rpo_alpha=0.7, dropout=0.0, epochs=1, **changes)
    return plan_training(make_data(objective), config)


@pytest.mark.parametrize(
    ("mode", "objective", "layers"),
    quick_cases(
        [
            (mode, objective, -1 if objective == "orpo" else 1)
            for mode in ("packed", "padded", "plain")
            for objective in ("dpo", "orpo", "sft+dpo")
        ],
        *[("packed", "orpo", -1), ("packed", "sft+dpo", 1), ("padded", "dpo", 1), ("plain", "dpo", 1)],
    ),
)
def test_loss_and_gradient_are_those_of_a_plain_implementation(mode: ForwardMode, objective: str, layers: int) -> None:
    lm, plan = random_models.random_model("llama"), make_plan(objective)
    data, reference = plan.data, base_log_probabilities(lm, plan.data)
    weights = random_models.with_adapter(lm, layers)

    def loss(weights: dict[str, Any]) -> mx.array:
        lm.model.update(weights)
        return plain_loss(lm, data, plan.config, reference)

    expected_loss, expected_gradient = mx.value_and_grad(loss)(weights)
    mx.eval(expected_loss, expected_gradient)
    lm.model.update(weights)
    step = dataclasses.replace(plan.steps[0], indices=tuple(range(len(data.trained))))
    # Each micro-batch has one or two of the pairs, never a part of one.
    computer = GradientComputer(
        lm, data.all, mode, MemoryPlan(micro_batch_tokens=75), share_prefixes=True, objective=plan.objective
    )
    with computer.prepared():
        if plan.objective.needs_reference:
            computed = computer.reference_log_probabilities()
            exact = [value for pair in reference for value in pair]
            assert [computed[i] for i in sorted(computed)] == pytest.approx(exact, rel=1e-5)
            computer.objective = dataclasses.replace(computer.objective, reference=computed)
        factor = plan.cross_entropy_factor(step)
        sums, gradient = computer.gradient(weights, step.indices, (0,), factor)
        evaluated = computer.sums(weights, step.indices)
    assert evaluated == pytest.approx(np.array(sums).tolist(), rel=1e-4, abs=1e-5)
    assert plan.mean_loss(evaluated, step.target_weight, step.pair_count) == pytest.approx(
        expected_loss.item(), rel=1e-5
    )
    mean_gradient = tree_map(lambda a: a / step.loss_weight, gradient)
    assert random_models.distance(mean_gradient, expected_gradient) < 1e-4


def test_the_statistics_are_trls() -> None:
    lm, plan = random_models.random_model("llama"), make_plan("dpo")
    reference = base_log_probabilities(lm, plan.data)
    weights = random_models.with_adapter(lm)
    policy = base_log_probabilities(lm, plan.data)
    rewards = BETA * (np.array(policy) - np.array(reference))
    objective = dataclasses.replace(plan.objective, reference=dict(enumerate(np.array(reference).ravel().tolist())))
    computer = GradientComputer(lm, plan.data.all, "packed", MemoryPlan(), share_prefixes=True, objective=objective)
    with computer.prepared():
        sums = computer.sums(weights, range(len(plan.data.all)))
    margins = rewards[:, 0] - rewards[:, 1]
    expected = [rewards[:, 0].sum(), rewards[:, 1].sum(), margins.sum(), (margins > 0).sum()]
    assert dict(zip(STATISTICS, sums[2:], strict=True)) == pytest.approx(
        dict(zip(STATISTICS, expected, strict=True)), rel=1e-3, abs=1e-4
    )


def test_the_gradient_is_the_slope_of_the_loss_in_float64() -> None:
    """By central differences along the gradient, with losses from float64 log-probabilities."""
    lm, plan = random_models.random_model("llama"), make_plan("dpo")
    reference = np.array(base_log_probabilities(lm, plan.data))
    weights = random_models.with_adapter(lm)
    objective = dataclasses.replace(plan.objective, reference=dict(enumerate(reference.ravel().tolist())))
    computer = GradientComputer(lm, plan.data.all, "packed", MemoryPlan(), share_prefixes=True, objective=objective)
    with computer.prepared():
        _, gradient = computer.gradient(weights, range(8), (0,))
        mx.eval(gradient)
    norm = float(np.linalg.norm(random_models.flat(gradient)))

    def loss(step: float) -> float:
        lm.model.update(tree_map(lambda w, g: w + step * g / norm, weights, gradient))
        logits = np.array(base_log_probabilities(lm, plan.data)) - reference
        return -sum(log_sigmoid(BETA * (chosen - rejected)) for chosen, rejected in logits.tolist())

    assert (loss(0.01) - loss(-0.01)) / 0.02 == pytest.approx(norm, rel=1e-2)


def test_gradient_checkpointing_changes_nothing() -> None:
    lm, plan = random_models.random_model("llama"), make_plan("orpo")
    weights, gradients = random_models.with_adapter(lm, -1), []
    for checkpointing in (False, True):
        memory = MemoryPlan(gradient_checkpointing=checkpointing)
        computer = GradientComputer(lm, plan.data.all, "packed", memory, share_prefixes=True, objective=plan.objective)
        with computer.prepared():
            gradients.append(computer.gradient(weights, range(8), (0,), 0.5)[1])
            mx.eval(gradients)
    assert random_models.distance(*gradients) < 1e-5


@pytest.mark.parametrize("dora", [False, True])
def test_the_reference_is_the_model_without_its_adapter(dora: bool) -> None:
    lm, plan = random_models.random_model("llama"), make_plan("dpo")
    expected = [value for pair in base_log_probabilities(lm, plan.data) for value in pair]
    weights = random_models.bits(random_models.with_adapter(lm, 2, dropout=0.4, dora=dora))
    computer = GradientComputer(
        lm, plan.data.all, "padded", MemoryPlan(), share_prefixes=False, objective=plan.objective
    )
    with computer.prepared():
        computed = computer.reference_log_probabilities()
    assert [computed[i] for i in range(8)] == pytest.approx(expected, rel=1e-5)
    assert random_models.bits(lm.model.trainable_parameters()) == weights


def test_the_equivalence_check_computes_the_targets_of_pairs() -> None:
    """They have no weight in the cross entropy."""
    lm, plan = random_models.random_model("llama"), make_plan("dpo")
    random_models.with_adapter(lm)
    selection = select_mode(lm, plan.data.all)
    assert selection.mode == "packed" and selection.checks[0].error < 1e-4


def test_a_loss_without_its_reference_is_an_error() -> None:
    lm, plan = random_models.random_model("llama"), make_plan("dpo")
    weights = random_models.with_adapter(lm)
    computer = GradientComputer(lm, plan.data.all, "plain", MemoryPlan(), share_prefixes=True, objective=plan.objective)
    with computer.prepared(), pytest.raises(ValueError, match="base model are not known"):
        computer.gradient(weights, [0, 1], (0,))


def test_a_pair_longer_than_a_packed_sequence_is_padded() -> None:
    lm, plan = random_models.random_model("ministral3"), make_plan("dpo")
    lm.model.args.rope_parameters = lm.model.args.rope_parameters | {"original_max_position_embeddings": 45}
    random_models.with_adapter(lm)
    computer = GradientComputer(
        lm, plan.data.all, "packed", MemoryPlan(), share_prefixes=True, objective=BatchObjective(plan.data.chosen)
    )
    batches = list(computer._batches(range(8), share_prefixes=True))
    lengths = [sum(len(plan.data.all[i]) for i in batch.indices) for batch in batches]
    assert [len(batch.indices) for batch in batches] == [2, 2, 2, 2]
    assert [batch.segments is None for batch in batches] == [length > 45 for length in lengths] == [0, 1, 1, 0]


def test_the_memory_of_a_pair_longer_than_a_packed_sequence_is_planned_as_it_is_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm, plan = random_models.random_model("ministral3"), make_plan("dpo", batch_size=3)
    lm.model.args.rope_parameters = lm.model.args.rope_parameters | {"original_max_position_embeddings": 45}
    planned = []

    def record(spec: Any, layers: Any, size: MicroBatchSize, *rest: Any, **options: Any) -> int:
        planned.append(size.tokens)
        return 0

    monkeypatch.setattr(memory, "gradient_bytes", record)
    estimate_memory(model_spec(lm), SampleSizes.from_data(plan.data), plan.config, MemoryPlan(), None)
    del planned[-2:]  # of the equivalence check
    random_models.with_adapter(lm)
    computer = GradientComputer(
        lm, plan.data.all, "packed", MemoryPlan(), share_prefixes=False, objective=plan.objective
    )
    computed = [batch for step in plan.steps for batch in computer._batches(step.indices, share_prefixes=False)]
    assert planned == [batch.inputs.size for batch in computed]
    assert {batch.segments is None for batch in computed} == {True, False}


# Steps and micro-batches


@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 6), st.integers(0, 3))
def test_steps_keep_pairs_together_and_spread_them_evenly(singles: int, pairs: int, size: int, epoch: int) -> None:
    steps = interleaved_steps(singles, pairs, size, 0, epoch)
    assert sorted(index for step in steps for index in step) == list(range(singles + 2 * pairs))
    assert len(steps) == math.ceil((singles + pairs) / size)
    counts = []
    for step in steps:
        chosen = [at for at, index in enumerate(step) if index >= singles and (index - singles) % 2 == 0]
        assert all(step[at + 1] == step[at] + 1 for at in chosen)
        assert len(step) - len(chosen) <= size
        counts.append(len(chosen))
    expected = size * pairs / (singles + pairs)
    assert all(abs(count - expected) < 2 for count in counts[:-1])
    assert interleaved_steps(singles, pairs, size, 0, epoch) == steps


@given(
    st.lists(st.integers(1, 50), min_size=2, max_size=24), st.integers(1, 120), st.sampled_from(["packed", "padded"])
)
def test_micro_batches_never_divide_a_pair(lengths: list[int], tokens: int, shape: Any) -> None:
    count = len(lengths) // 2
    chosen = frozenset(range(0, 2 * count, 2))
    batches = list(micro_batches(range(len(lengths)), lengths, tokens, shape, chosen))
    assert [index for batch in batches for index in batch] == list(range(len(lengths)))
    for batch in batches:
        assert all(index + 1 in batch for index in batch if index in chosen)
        size = sum(lengths[i] for i in batch) if shape == "packed" else len(batch) * max(lengths[i] for i in batch)
        assert size <= tokens or len(batch) == 1 or (len(batch) == 2 and batch[0] in chosen)


class _Rank(ProcessGroup):
    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size


def test_machines_share_a_step_without_dividing_pairs() -> None:
    plan = make_plan("sft+dpo", batch_size=8)
    shards = [plan.shard(plan.steps[0], _Rank(rank, 3)) for rank in range(3)]
    assert sorted(index for shard in shards for index in shard) == list(range(10))
    for shard in shards:
        assert all(index + 1 in shard for index in shard if index in plan.objective.chosen)


# Training


def run(objective: str, data: TrainingData | None = None, **changes: Any) -> TrainingReport:
    config = LoRAConfig(objective=objective, beta=BETA, learning_rate=5e-3, **{"dropout": 0.0, "epochs": 4} | changes)
    return train(random_models.random_model("llama"), plan_training(data or make_data(objective), config))


@pytest.mark.parametrize("objective", ["dpo", *slow_cases("orpo", "sft+dpo")])
def test_training_widens_the_margins(objective: str) -> None:
    report = run(objective, epochs=8, num_layers=2)
    margins, accuracies = report.rewards["rewards/margins"], report.rewards["rewards/accuracies"]
    assert len(margins) == len(accuracies) == 8 == len(report.epoch_losses)
    assert margins[-1] > margins[0]
    assert report.epoch_losses[-1] < report.epoch_losses[0]
    assert report.pairs == 4 and report.samples == (6 if objective == "sft+dpo" else 4)
    if objective == "dpo":
        # Before the first step the model is its own reference.
        assert report.losses[0] == pytest.approx(math.log(2), rel=1e-5)
        assert margins[0] == pytest.approx(0, abs=1e-4)
        assert accuracies[-1] == 1


def test_the_order_of_the_pairs_does_not_matter() -> None:
    data = make_data("dpo")
    reversed_data = dataclasses.replace(data, pairs=data.pairs[::-1])
    losses = [run("dpo", of_order, num_layers=1).losses for of_order in (data, reversed_data)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_all_forward_modes_train_alike() -> None:
    losses = []
    modes: tuple[ForwardMode, ...] = ("packed", "plain")
    for mode in modes:
        config = LoRAConfig(objective="sft+dpo", dropout=0.0, epochs=3, learning_rate=5e-3, num_layers=1)
        plan = dataclasses.replace(plan_training(make_data("sft+dpo"), config), forward_mode=mode)
        report = train(random_models.random_model("llama"), plan)
        assert report.forward_mode == mode
        losses.append(report.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_micro_batches_do_not_change_the_result() -> None:
    data, config = (
        make_data("dpo"),
        LoRAConfig(objective="dpo", dropout=0.0, epochs=3, learning_rate=5e-3, num_layers=1),
    )
    losses = [
        train(random_models.random_model("llama"), plan_training(data, config, MemoryPlan(tokens))).losses
        for tokens in (1, 10_000)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_validation_pairs_select_the_best_epoch() -> None:
    data = make_data("dpo")
    data = dataclasses.replace(data, pairs=data.pairs[:3], validation_pairs=data.pairs[3:])
    report = run("dpo", data)
    margins = report.validation_rewards["eval_rewards/margins"]
    assert [step for step, _ in margins] == [step for step, _ in report.validation_losses] == [0, 1, 2, 3, 4]
    assert report.validation_losses[0][1] == pytest.approx(math.log(2), rel=1e-5)
    # The mean loss of one pair follows from its margin.
    assert [loss for _, loss in report.validation_losses] == pytest.approx(
        [-log_sigmoid(margin) for _, margin in margins], rel=1e-4
    )
    assert report.best_step == min(report.validation_losses[1:], key=lambda point: point[1])[0]


# Pairs of dialogues

PAIRS = [
    PreferencePair(
        Dialogue.of(f"How do I plant {i} tomatoes?", f"In May, {i} of them, deep."),
        Dialogue.of(f"How do I plant {i} tomatoes?", "I do not know."),
        group=i,
    )
    for i in range(5)
]
EXAMPLES = [Example(Dialogue.of(f"Is {i} even?", "Yes." if i % 2 == 0 else "No."), group=("e", i)) for i in range(4)]
EQUAL = PreferencePair(Dialogue.of("Hi", "Hello."), Dialogue.of("Hi", "<think>hm</think> Hello."))
CONFIG = LoRAConfig(
    objective="sft+dpo", epochs=2, batch_size=3, num_layers=1, dropout=0.2, learning_rate=1e-2, save_every=1
)


def test_the_last_answer_is_the_only_target_of_a_pair(tiny_model: LanguageModel) -> None:
    messages = [
        {"role": "user", "content": "Tomatoes?"},
        {"role": "assistant", "content": "In May."},
        {"role": "user", "content": "How deep?"},
    ]
    sides = [
        Dialogue.from_messages([*messages, {"role": "assistant", "content": answer}]) for answer in ("A hand.", "Deep.")
    ]
    config = dataclasses.replace(CONFIG, objective="dpo")
    [pair] = prepare_data(tiny_model, [], config, pairs=[PreferencePair(*sides)]).data.pairs
    assert pair.chosen.inputs[: pair.chosen.prompt_length].tolist() == (
        pair.rejected.inputs[: pair.rejected.prompt_length].tolist()
    )
    for sample, answer in ((pair.chosen, "A hand."), (pair.rejected, "Deep.")):
        targets = sample.targets[sample.is_target].tolist()
        assert targets == tiny_model.chat_template.tokenize_answer(answer)


def test_sides_of_different_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in more than their last answers"):
        PreferencePair(Dialogue.of("a", "b"), Dialogue.of("c", "d"))


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_an_objective_of_pairs_needs_pairs(tiny_model: LanguageModel, objective: str) -> None:
    config = dataclasses.replace(CONFIG, objective=objective)
    message = f"^there is no preference pair to train on, which the objective {objective} needs"
    with pytest.raises(UserError, match=f"{message}; edit or rewrite some answers first, or set objective to sft$"):
        prepare_data(tiny_model, EXAMPLES, config)
    with pytest.raises(UserError, match=f"{message}: the two answers of all 2 pairs are equal; "):
        prepare_data(tiny_model, EXAMPLES, config, pairs=[EQUAL, EQUAL])


def test_pairs_with_equal_sides_are_left_out_and_counted(tiny_model: LanguageModel) -> None:
    prepared = prepare_data(tiny_model, EXAMPLES, CONFIG, pairs=[*PAIRS, EQUAL])
    assert len(prepared.data.pairs) == 5
    assert prepared.notes == ("left out, because the two answers are equal: 1 preference pair",)


def test_without_pairs_sft_and_dpo_is_sft(tiny_model: LanguageModel, tmp_path: Path) -> None:
    report = finetune(tiny_model, EXAMPLES, dataclasses.replace(CONFIG, rpo_alpha=3.0), tmp_path / "a", pairs=[EQUAL])
    finetune(tiny_model, EXAMPLES, dataclasses.replace(CONFIG, objective="sft"), tmp_path / "b", pairs=PAIRS)
    adapters = [(tmp_path / name / "adapters.safetensors").read_bytes() for name in "ab"]
    assert adapters[0] == adapters[1]
    assert "there is no preference pair to train on: sft+dpo is the same as sft" in report.notes
    assert not report.rewards


def test_pairs_and_examples_of_a_group_are_on_one_side_of_the_split(tiny_model: LanguageModel) -> None:
    examples = [Example(pair.chosen, group=pair.group) for pair in PAIRS]
    config = dataclasses.replace(CONFIG, validation_split=0.4)
    data = prepare_data(tiny_model, examples, config, pairs=PAIRS).data
    assert len(data.validation_pairs) == len(data.validation) == 2
    for samples, pairs in ((data.train, data.pairs), (data.validation, data.validation_pairs)):
        assert [s.inputs.tolist() for s in samples] == [pair.chosen.inputs.tolist() for pair in pairs]


class Killed(BaseException):
    """Ends a training from within; nothing in it catches this."""


@pytest.mark.parametrize("objective", ["sft+dpo", *slow_cases("dpo")])
def test_a_killed_training_run_is_resumed_bit_for_bit(
    tiny_model: LanguageModel, tmp_path: Path, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, objective=objective, batch_size=4, validation_split=0.3)

    def trained(name: str, kill_at: int = 0) -> TrainingReport:
        def kill(step: Any) -> None:
            if step.number == kill_at:
                raise Killed

        return finetune(
            tiny_model,
            EXAMPLES,
            config,
            tmp_path / name,
            pairs=PAIRS,
            checkpoint_folder=tmp_path / f"{name} states",
            on_progress=for_each_step(kill),
        )

    whole = trained("whole")
    with pytest.raises(Killed):
        trained("killed", 2)
    # The log-probabilities of the base model come from the checkpoint.
    monkeypatch.setattr(GradientComputer, "reference_log_probabilities", lambda self: pytest.fail("computed again"))
    resumed = trained("killed")
    assert resumed.resumed_from == 1
    assert (resumed.losses, resumed.rewards) == (whole.losses, whole.rewards)
    assert (resumed.validation_losses, resumed.validation_rewards) == (
        whole.validation_losses,
        whole.validation_rewards,
    )
    adapters = [(tmp_path / name / "adapters.safetensors").read_bytes() for name in ("whole", "killed")]
    assert adapters[0] == adapters[1]


def test_pairs_are_part_of_the_identity(tiny_model: LanguageModel) -> None:
    def identity(pairs: Sequence[PreferencePair], config: LoRAConfig = CONFIG) -> Any:
        data = prepare_data(tiny_model, EXAMPLES, config, pairs=pairs).data
        return training_identity(tiny_model, data, config, ProcessGroup())

    swapped = [PreferencePair(pair.rejected, pair.chosen, pair.group) for pair in PAIRS]
    assert identity(PAIRS).samples != identity(swapped).samples
    assert identity(PAIRS).samples != identity(PAIRS[1:]).samples
    assert identity(PAIRS).settings["objective"] == "sft+dpo"
    sft = dataclasses.replace(CONFIG, objective="sft")
    assert identity(PAIRS, sft) == identity([], sft)
    assert "objective" not in identity([], sft).settings


def test_settings_of_preferences_are_stored_only_if_they_differ() -> None:
    assert not {"objective", "beta", "rpo_alpha"} & LoRAConfig().to_json().keys()
    config = LoRAConfig(objective="orpo", beta=0.2)
    assert {name: config.to_json()[name] for name in ("objective", "beta")} == {"objective": "orpo", "beta": 0.2}
    assert LoRAConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("changes", [{"objective": "ppo"}, {"beta": 0.0}, {"beta": math.nan}, {"rpo_alpha": -1.0}])
def test_invalid_settings_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(changes))} is "):
        LoRAConfig(**changes)


def test_the_estimate_counts_pairs(tiny_model: LanguageModel) -> None:
    estimate = estimate_training(tiny_model, EXAMPLES, CONFIG, pairs=[*PAIRS, EQUAL])
    assert (estimate.samples, estimate.pairs, estimate.objective, estimate.steps) == (9, 5, "sft+dpo", 6)
    assert estimate.plan.estimated_peak_bytes is not None
    assert any("equal" in note for note in estimate.notes)


def test_indices_of_pairs_refer_to_all_samples() -> None:
    data = make_data("sft+dpo")
    pairs, single = data.pairs, random_models.random_sample(np.random.default_rng(0), 9)
    data = dataclasses.replace(data, pairs=pairs[:3], validation=[single], validation_pairs=pairs[3:], general=[single])
    assert [data.all[i] is pair.chosen for i, pair in zip(sorted(data.chosen), pairs, strict=True)] == [True] * 4
    assert [data.all[i + 1] is pair.rejected for i, pair in zip(sorted(data.chosen), pairs, strict=True)] == [True] * 4
    assert [data.all[i] for i in data.validation_indices] == [single, pairs[3].chosen, pairs[3].rejected]


@pytest.mark.slow
def test_an_adapter_of_preferences_has_the_same_files(tiny_model: LanguageModel, tmp_path: Path) -> None:
    finetune(tiny_model, [], dataclasses.replace(CONFIG, objective="dpo"), tmp_path / "a", pairs=PAIRS)
    tiny_model.attach_adapter(tmp_path / "a")
    assert any(mx.any(w != 0).item() for name, w in tree_flatten(tiny_model.model.parameters()) if "lora_b" in name)
    tiny_model.detach_adapter()

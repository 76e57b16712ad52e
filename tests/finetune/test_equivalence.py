"""Every forward mode gives mlx-lm's loss and gradient, for every family, and an inexact mode is never selected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_personal import LanguageModel, UserError
from mlx_personal.finetune import LoRAConfig, TrainingData, plan_training, train
from mlx_personal.finetune.data.packing import max_packed_length
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward import equivalence, losses, split_model
from mlx_personal.finetune.forward.equivalence import TOLERANCES, ForwardMode, compare_with_reference, select_mode
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.forward.packed_attention import PackedAttention
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support import random_models
from tests.support.cases import quick_cases, slow_cases

SAMPLES = random_models.prefix_sharing_samples()
# For slow dtypes; some of them share a prefix.
FEW_SAMPLES = sorted(SAMPLES, key=len)[:6]
PACKED = [
    *("llama", "llama-untied", "llama-sliding", "qwen2", "qwen3", "qwen3-moe", "gemma", "gemma3", "phi", "phi3"),
    *("mixtral", "ministral3", "granite"),
]


def compute(
    lm: LanguageModel,
    weights: dict[str, Any],
    samples: Sequence[Sample],
    mode: ForwardMode,
    share_prefixes: bool = True,
) -> tuple[float, dict[str, Any], int]:
    """Return the summed loss, the gradient and the processed tokens, in micro-batches of at most 120 tokens."""
    computer = GradientComputer(lm, samples, mode, MemoryPlan(micro_batch_tokens=120), share_prefixes)
    with computer.prepared():
        loss, gradient = computer.gradient(weights, range(len(samples)), (0,))
    return float(loss), gradient, computer.processed_tokens


def check(
    lm: LanguageModel, samples: Sequence[Sample], modes: Sequence[ForwardMode], tolerance: float, **adapter: Any
) -> None:
    weights = random_models.with_adapter(lm, **adapter)
    expected = random_models.reference_loss(lm, samples), random_models.reference_gradient(lm, weights, samples)
    for mode in modes:
        loss, gradient, _ = compute(lm, weights, samples, mode)
        assert loss == pytest.approx(expected[0], rel=min(tolerance, 1e-3)), mode
        assert random_models.distance(gradient, expected[1]) < tolerance, mode


# Every family, against each sample alone through mlx-lm's forward pass


@pytest.mark.parametrize("family", quick_cases(PACKED, "llama", "qwen3-moe", "gemma3", "ministral3"))
def test_all_modes_give_the_loss_and_gradient_of_each_sample_alone(family: str) -> None:
    lm = random_models.random_model(family)
    check(lm, SAMPLES, ["packed", "padded", "plain"], 1e-5)
    selection = select_mode(lm, SAMPLES)
    assert (selection.mode, selection.fallback_reason) == ("packed", "")


@pytest.mark.parametrize("family", ["gemma2", *slow_cases("gpt2", "mamba")])
def test_a_family_that_cannot_be_packed_is_padded_with_a_reason(family: str) -> None:
    lm = random_models.random_model(family)
    check(lm, SAMPLES[:7], ["padded", "plain"], 1e-5)
    selection = select_mode(lm, SAMPLES)
    assert selection.mode == "padded"
    assert selection.fallback_reason.startswith("packed: in float32 the loss differs by ")
    assert selection.fallback_reason.endswith("(tolerance 1e-04)")


@pytest.mark.parametrize(("num_layers", "dora"), [(1, True), *slow_cases((1, False), (-1, False), (-1, True))])
def test_dora_and_any_number_of_layers_are_exact(num_layers: int, dora: bool) -> None:
    check(
        random_models.random_model("gemma3"), SAMPLES[:9], ["packed", "padded"], 1e-5, num_layers=num_layers, dora=dora
    )


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", *slow_cases("qwen3", "gemma3", "phi3", "phi")])
def test_half_precision_is_within_its_tolerance(family: str, kind: str) -> None:
    lm = random_models.random_model(family, kind, num_hidden_layers=2)
    check(lm, FEW_SAMPLES, ["packed", "padded"], TOLERANCES[getattr(mx, kind)] / 2, num_layers=1)
    assert select_mode(lm, FEW_SAMPLES).mode == "packed"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi", "phi3", "ministral3"])
def test_4_bit_families_are_within_the_tolerance_of_their_dtype(family: str) -> None:
    lm = random_models.random_model(family, "4-bit")
    check(lm, SAMPLES[:8], ["packed", "padded"], TOLERANCES[mx.float16] / 2)
    assert select_mode(lm, SAMPLES).mode == "packed"


@pytest.mark.slow
def test_a_4_bit_model_is_within_the_tolerance_of_its_dtype() -> None:
    lm = random_models.random_model("llama", "4-bit", num_hidden_layers=2)
    check(lm, FEW_SAMPLES, ["packed"], TOLERANCES[mx.float16] / 2, num_layers=1)
    assert select_mode(lm, FEW_SAMPLES).mode == "packed"


def test_gemma2_in_bfloat16_is_checked_in_float32_too() -> None:
    lm = random_models.random_model("gemma2", "bfloat16", num_hidden_layers=2)
    random_models.with_adapter(lm)
    before = random_models.bits(lm.model.parameters())
    selection = select_mode(lm, SAMPLES)
    assert selection.mode == "padded"
    assert [c.dtype for c in selection.checks] == [mx.bfloat16, mx.float32, mx.bfloat16]
    assert random_models.bits(lm.model.parameters()) == before


def test_a_4_bit_model_is_restored_after_a_check_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama", "4-bit", num_hidden_layers=2)
    random_models.with_adapter(lm)
    before = random_models.bits(lm.model.parameters())
    monkeypatch.setitem(TOLERANCES, mx.float16, 0.0)  # no mode is that exact
    selection = select_mode(lm, SAMPLES)
    assert selection.mode == "packed"
    assert [(c.mode, c.dtype, c.agrees) for c in selection.checks] == [
        ("packed", mx.float16, False),
        ("packed", mx.float32, True),
    ]
    assert random_models.bits(lm.model.parameters()) == before


# Shared prefixes


def test_a_shared_prefix_is_computed_once() -> None:
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm)
    total_tokens = sum(map(len, SAMPLES))
    shared_tokens = compute(lm, weights, SAMPLES, "packed")[2]
    assert compute(lm, weights, SAMPLES, "packed", share_prefixes=False)[2] == total_tokens
    assert shared_tokens < 0.75 * total_tokens


def test_packing_without_shared_prefixes_is_exact() -> None:
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm)
    loss, gradient, _ = compute(lm, weights, SAMPLES, "packed", share_prefixes=False)
    assert loss == pytest.approx(random_models.reference_loss(lm, SAMPLES), rel=1e-6)
    assert random_models.distance(gradient, random_models.reference_gradient(lm, weights, SAMPLES)) < 1e-5


def test_a_family_whose_mask_has_a_gradient_is_exact() -> None:
    """DeepSeek 3 adds the rotary part of its scores as a mask."""
    lm = random_models.random_model("deepseek3")
    random_models.with_adapter(lm)
    assert select_mode(lm, SAMPLES).mode == "padded"


@pytest.mark.parametrize("family", ["nanochat", *slow_cases("deepseek2", "deepseek3")])
def test_a_family_with_its_own_rotary_embedding_is_never_packed_inexactly(family: str) -> None:
    """Its positions cannot be set, which matters only where samples share a prefix; the shortest two share none."""
    lm = random_models.random_model(family)
    weights = random_models.with_adapter(lm)
    loss, gradient, _ = compute(lm, weights, SAMPLES, select_mode(lm, SAMPLES).mode)
    assert loss == pytest.approx(random_models.reference_loss(lm, SAMPLES), rel=1e-4)
    assert random_models.distance(gradient, random_models.reference_gradient(lm, weights, SAMPLES)) < 1e-4


# Injected faults

Fault = Callable[[pytest.MonkeyPatch], None]


def samples_attend_to_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitModel, "_wrap_attention", lambda self, attention: attention)


def attention_to_the_previous_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    from_segments = split_model._Packing.from_segments

    def wrong(segments: Any) -> Any:
        packing = from_segments(segments)
        assert packing.paths is not None
        if len(packing.paths) == 1:
            return packing
        paths = [packing.paths[0], [packing.paths[0][-1], *packing.paths[1]], *packing.paths[2:]]
        return dataclasses.replace(packing, paths=paths, attention=None)

    monkeypatch.setattr(split_model._Packing, "from_segments", wrong)


def wrong_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    from_segments = split_model._Packing.from_segments

    def wrong(segments: Any) -> Any:
        packing = from_segments(segments)
        assert packing.paths is not None
        if len(packing.paths) == 1:
            return packing
        return dataclasses.replace(packing, positions=mx.arange(sum(map(len, segments))) * 2)

    monkeypatch.setattr(split_model._Packing, "from_segments", wrong)


def scaled_head(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = SplitModel.logits
    monkeypatch.setattr(SplitModel, "logits", lambda self, hidden: 1.3 * logits(self, hidden))


def halved_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    unpatched = losses.cross_entropies
    monkeypatch.setattr(losses, "cross_entropies", lambda *args: unpatched(*args) / 2)


def samples_of_a_bucket_are_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only without shared prefixes; samples with shared prefixes take another code path."""
    attend = PackedAttention.attend

    def wrong(self: PackedAttention, attention: Any, *qkv: mx.array) -> mx.array:
        return attend(self, lambda q, k, v: attention(q, mx.roll(k, 1, 0), v), *qkv)

    monkeypatch.setattr(PackedAttention, "attend", wrong)


def target_positions_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_at_targets = SplitModel.hidden_at_targets
    monkeypatch.setattr(
        SplitModel,
        "hidden_at_targets",
        lambda self, inputs, activations, positions: hidden_at_targets(self, inputs, activations, positions - 1),
    )


def truncated_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss stays correct."""
    hidden_at_targets = SplitModel.hidden_at_targets

    def wrong(
        self: SplitModel, inputs: mx.array, activations: mx.array | None, target_positions: np.ndarray
    ) -> mx.array:
        hidden = hidden_at_targets(self, inputs, activations, target_positions)
        return mx.concatenate([hidden[:, :-1], mx.stop_gradient(hidden[:, -1:])], axis=1)

    monkeypatch.setattr(SplitModel, "hidden_at_targets", wrong)


@pytest.mark.parametrize("kind", ["float32", *slow_cases("bfloat16")])
@pytest.mark.parametrize(
    ("inject", "mode"),
    [
        (samples_attend_to_each_other, "padded"),
        (attention_to_the_previous_sample, "padded"),
        (wrong_positions, "padded"),
        (samples_of_a_bucket_are_mixed, "padded"),
        (scaled_head, "plain"),
        (halved_loss, "plain"),
        (target_positions_off_by_one, "plain"),
        (truncated_gradient, "plain"),
    ],
)
def test_an_injected_fault_is_detected(
    inject: Fault, mode: ForwardMode, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = random_models.random_model("llama", kind, num_hidden_layers=2)
    weights = random_models.with_adapter(lm, num_layers=1)
    expected = random_models.reference_loss(lm, FEW_SAMPLES)
    inject(monkeypatch)
    selection = select_mode(lm, SAMPLES)
    assert selection.mode == mode
    assert f"packed: in {kind} the loss differs by " in selection.fallback_reason
    assert compute(lm, weights, FEW_SAMPLES, selection.mode)[0] == pytest.approx(expected, rel=1e-3)


def test_a_training_reports_that_it_fell_back_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama")
    config = LoRAConfig(epochs=2, batch_size=4, dropout=0.0, num_layers=1)
    data = TrainingData(SAMPLES)
    order = lambda epoch: [range(4), range(4, 9), range(9, len(SAMPLES))]  # noqa: E731
    expected = train(lm, plan_training(data, config, order=order))
    scaled_head(monkeypatch)
    report = train(random_models.random_model("llama"), plan_training(data, config, order=order))
    assert (expected.forward_mode, expected.fallback_reason, expected.notes) == ("packed", "", ())
    assert report.forward_mode == "plain"
    assert "padded: in float32 the loss differs by" in report.fallback_reason
    (note,) = report.notes
    assert note.startswith("computed in a slower mode, plain, since the fastest is not exact: packed: in float32")
    assert report.losses == pytest.approx(expected.losses, rel=1e-4)


def test_the_vocabulary_of_a_real_model_leaves_the_check_ten_times_its_rounding_errors() -> None:
    """Real models have 50,000 logits with a large common part, on which mlx-lm's cross entropy differs by 5e-4."""
    lm = random_models.random_model("llama-untied", vocab_size=50_257, num_hidden_layers=2)
    head = lm.model.lm_head
    head.weight = 4 * head.weight + 4 * mx.random.normal((64,), key=mx.random.key(1))
    weights = random_models.with_adapter(lm, num_layers=1)
    samples = FEW_SAMPLES[:2]
    stock = random_models.reference_gradient(lm, weights, samples)
    assert random_models.distance(compute(lm, weights, samples, "packed")[1], stock) > TOLERANCES[mx.float32]
    for mode in ("packed", "padded"):
        assert compare_with_reference(SplitModel(lm), samples, mode).error < TOLERANCES[mx.float32] / 10


@pytest.mark.parametrize("vocabulary", [100, 128, 50_000])
def test_the_reference_cross_entropy_and_its_gradient_equal_float64(vocabulary: int) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(-12, 2, size=(6, vocabulary)), rng.integers(vocabulary, size=6)
    logits[np.arange(6), rng.integers(vocabulary, size=6)] = 0.0
    logits = logits.astype(np.float32).astype(np.float64)
    exponentials = np.exp(logits)
    expected = np.log(exponentials.sum(axis=1)) - logits[np.arange(6), targets]
    expected_gradient = exponentials / exponentials.sum(axis=1, keepdims=True)
    expected_gradient[np.arange(6), targets] -= 1
    function: Any = lambda x: losses._cross_entropies(x, mx.array(targets)).sum()  # noqa: E731
    loss, gradient = mx.value_and_grad(function)(mx.array(logits.astype(np.float32)))
    assert loss.item() == pytest.approx(expected.sum(), rel=1e-6)
    np.testing.assert_allclose(np.array(gradient), expected_gradient, atol=2e-6, rtol=2e-5)


def test_a_model_that_cannot_be_split_uses_the_reference_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm)

    def refuse(*_: object) -> None:
        raise KeyError("another structure\nentirely")

    monkeypatch.setattr(SplitModel, "frozen_activations", refuse)
    selection = select_mode(lm, SAMPLES)
    assert selection.mode == "plain"
    failure = r"KeyError: 'another structure\nentirely'"
    assert selection.fallback_reason == f"packed: {failure}; padded: {failure}"
    assert compute(lm, weights, SAMPLES, "plain")[0] == pytest.approx(
        random_models.reference_loss(lm, SAMPLES), rel=1e-6
    )


def test_a_check_changes_neither_weights_nor_classes_nor_attention() -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, dropout=0.3)
    before, attention = random_models.bits(lm.model.parameters()), mx.fast.scaled_dot_product_attention
    classes = [type(module) for _, module in lm.model.named_modules()]
    select_mode(lm, SAMPLES)
    assert random_models.bits(lm.model.parameters()) == before
    assert [type(module) for _, module in lm.model.named_modules()] == classes
    assert mx.fast.scaled_dot_product_attention is attention
    assert lm.model.training


def test_the_error_is_the_relative_difference_of_norms() -> None:
    rng = np.random.default_rng(0)
    trees: Any = ({"a": {"b": rng.normal(size=(4, 3))}, "c": rng.normal(size=7)} for _ in range(2))
    reference, result = trees
    difference = ((result["a"]["b"] - reference["a"]["b"]) ** 2).sum() + ((result["c"] - reference["c"]) ** 2).sum()
    size = (reference["a"]["b"] ** 2).sum() + (reference["c"] ** 2).sum()
    arrays = [tree_map(lambda a: mx.array(a.astype(np.float32)), tree) for tree in (reference, result)]
    assert equivalence._relative_difference(*arrays) == pytest.approx(np.sqrt(difference / size), rel=1e-6)
    assert equivalence._relative_difference(arrays[0], tree_map(lambda a: a * mx.nan, arrays[1])) == np.inf


def test_a_check_reports_the_relative_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm)
    halved_loss(monkeypatch)
    result = compare_with_reference(SplitModel(lm), SAMPLES[:3], "packed")
    assert (result.loss_error, result.gradient_error) == pytest.approx((0.5, 0.5), rel=1e-4)


# Broken models


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "4-bit"])
def test_a_damaged_weight_is_refused_in_one_line(value: float, kind: str) -> None:
    """Whether or not a sample contains its token."""
    lm = random_models.random_model("llama", kind, num_hidden_layers=2)
    table = lm.model.model.embed_tokens
    table.update(
        {"scales": table.scales.at[-1].add(value)} if kind == "4-bit" else {"weight": table.weight.at[-1].add(value)}
    )
    with pytest.raises(UserError, match=r"^the base model is damaged: model\.embed_tokens\.") as raised:
        train(lm, plan_training(TrainingData(SAMPLES), LoRAConfig()))
    assert "\n" not in raised.value.line()
    assert not [name for name, _ in tree_flatten(lm.model.parameters()) if "lora" in name]


def test_a_reference_loss_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama", num_hidden_layers=2)
    random_models.with_adapter(lm)
    lm.model.model.norm.weight[3] = np.nan
    with pytest.raises(UserError, match=r"^the base model's loss is not a number"):
        select_mode(lm, SAMPLES)


# Positions


def test_a_packed_sequence_ends_where_a_model_computes_positions_differently() -> None:
    lm = random_models.random_model(
        "ministral3", rope_parameters=random_models.YARN | {"llama_4_scaling_beta": 1.0}, num_hidden_layers=3
    )
    assert max_packed_length(lm.model.args) == random_models.YARN["original_max_position_embeddings"]
    weights = random_models.with_adapter(lm)
    rng = np.random.default_rng(3)
    samples = [random_models.random_sample(rng, length) for length in (50, 47, 46, 90, 3, 1, 20, 61)]
    loss, gradient, _ = compute(lm, weights, samples, "packed")
    assert loss == pytest.approx(random_models.reference_loss(lm, samples), rel=1e-5)
    assert random_models.distance(gradient, random_models.reference_gradient(lm, weights, samples)) < 1e-5


def test_position_limits_are_found_in_nested_settings() -> None:
    nested = {"text_config": {"floor_scale": 8192, "rope_scaling": {"original_max_position_embeddings": 512}}}
    assert max_packed_length(nested) == 512
    assert max_packed_length({"floor_scale": None, "max_position_embeddings": 64}) > 10**9
    assert max_packed_length(None) > 10**9

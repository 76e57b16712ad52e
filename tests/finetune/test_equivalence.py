"""The fast way is mlx-lm's plain one: loss and gradient, for every family, and a way that is not is never taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from mlx_personal import LanguageModel, UserError
from mlx_personal.finetune import LoRAConfig, TrainingData, train
from mlx_personal.finetune.data.packing import max_packed_length
from mlx_personal.finetune.data.samples import Sample
from mlx_personal.finetune.forward import equivalence, losses, split_model
from mlx_personal.finetune.forward.equivalence import TOLERANCES, ForwardMode, compare_with_reference, select_mode
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.forward.packed_attention import PackedAttention
from mlx_personal.finetune.forward.split_model import SplitModel
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support import random_models

ROWS = random_models.a_family_of_rows()
# Of the slow kinds of numbers; with rows that share and rows that do not.
FEW = sorted(ROWS, key=len)[:6]
PACKED = [
    *("llama", "llama-untied", "llama-sliding", "qwen2", "qwen3", "qwen3-moe", "gemma", "gemma3", "phi", "phi3"),
    *("mixtral", "ministral3", "granite"),
]
PADDED = ["gemma2", "gpt2", "mamba"]


def computed(
    lm: LanguageModel, weights: dict[str, Any], rows: Sequence[Sample], way: ForwardMode, share: bool = True
) -> tuple[float, dict[str, Any], int]:
    """Summed loss, gradient and tokens of these rows in this way, in parts of at most 120 tokens."""
    computing = GradientComputer(lm, rows, way, MemoryPlan(batch_tokens=120), share)
    with computing.opened():
        loss, gradient = computing.gradient(weights, range(len(rows)), (0,))
    return float(loss), gradient, computing.processed


def check(lm: LanguageModel, rows: Sequence[Sample], ways: Sequence[ForwardMode], bound: float, **adapter: Any) -> None:
    weights = random_models.with_adapter(lm, **adapter)
    wanted = random_models.reference_loss(lm, rows), random_models.reference_gradient(lm, weights, rows)
    for way in ways:
        loss, gradient, _ = computed(lm, weights, rows, way)
        assert loss == pytest.approx(wanted[0], rel=min(bound, 1e-3)), way
        assert random_models.distance(gradient, wanted[1]) < bound, way


# Every family, against each row alone through mlx-lm's forward


@pytest.mark.parametrize("family", PACKED)
def test_packed_and_padded_give_the_loss_and_gradient_of_rows_alone(family: str) -> None:
    lm = random_models.random_model(family)
    check(lm, ROWS, ["packed", "padded", "plain"], 1e-5)
    choice = select_mode(lm, ROWS)
    assert (choice.way, choice.reason) == ("packed", "")


@pytest.mark.parametrize("family", PADDED)
def test_what_cannot_be_packed_is_padded_and_says_why(family: str) -> None:
    lm = random_models.random_model(family)
    check(lm, ROWS[:7], ["padded", "plain"], 1e-5)
    choice = select_mode(lm, ROWS)
    assert choice.way == "padded"
    assert choice.reason.startswith("packed: in float32 loss off by ")
    assert choice.reason.endswith("bound 1e-04")


@pytest.mark.parametrize("num_layers", [1, -1])
@pytest.mark.parametrize("dora", [False, True])
def test_any_number_of_layers_and_dora_are_as_exact(num_layers: int, dora: bool) -> None:
    check(random_models.random_model("gemma3"), ROWS[:9], ["packed", "padded"], 1e-5, num_layers=num_layers, dora=dora)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "family", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen3", "gemma3", "phi3", "phi"))]
)
def test_half_precision_stays_within_its_bound(family: str, kind: str) -> None:
    lm = random_models.random_model(family, kind, num_hidden_layers=2)
    check(lm, FEW, ["packed", "padded"], TOLERANCES[getattr(mx, kind)] / 2, num_layers=1)
    assert select_mode(lm, FEW).way == "packed"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi", "phi3", "ministral3"])
def test_4_bit_models_stay_within_the_bound_of_their_floats(family: str) -> None:
    lm = random_models.random_model(family, "4-bit")
    check(lm, ROWS[:8], ["packed", "padded"], TOLERANCES[mx.float16] / 2)
    assert select_mode(lm, ROWS).way == "packed"


def test_a_4_bit_model_stays_within_the_bound_of_its_floats() -> None:
    lm = random_models.random_model("llama", "4-bit", num_hidden_layers=2)
    check(lm, FEW, ["packed"], TOLERANCES[mx.float16] / 2, num_layers=1)
    assert select_mode(lm, FEW).way == "packed"


def test_a_gemma2_in_bfloat16_and_its_float32_are_both_compared() -> None:
    lm = random_models.random_model("gemma2", "bfloat16", num_hidden_layers=2)
    random_models.with_adapter(lm)
    before = random_models.bits(lm.model.parameters())
    choice = select_mode(lm, ROWS)
    assert choice.way == "padded"
    assert [c.kind for c in choice.comparisons] == [mx.bfloat16, mx.float32, mx.bfloat16]
    assert random_models.bits(lm.model.parameters()) == before


def test_a_4_bit_model_is_whole_again_after_a_comparison_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama", "4-bit", num_hidden_layers=2)
    random_models.with_adapter(lm)
    before = random_models.bits(lm.model.parameters())
    monkeypatch.setitem(TOLERANCES, mx.float16, 0.0)  # nothing is that exact
    choice = select_mode(lm, ROWS)
    assert choice.way == "packed"
    assert [(c.way, c.kind, c.agrees) for c in choice.comparisons] == [
        ("packed", mx.float16, False),
        ("packed", mx.float32, True),
    ]
    assert random_models.bits(lm.model.parameters()) == before


# Sharing pays once, and only for what is the same


def test_rows_that_share_a_beginning_pay_for_it_once() -> None:
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm)
    whole = sum(map(len, ROWS))
    shared = computed(lm, weights, ROWS, "packed")[2]
    assert computed(lm, weights, ROWS, "packed", share=False)[2] == whole
    assert shared < 0.75 * whole


def test_without_sharing_it_is_as_exact() -> None:
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm)
    loss, gradient, _ = computed(lm, weights, ROWS, "packed", share=False)
    assert loss == pytest.approx(random_models.reference_loss(lm, ROWS), rel=1e-6)
    assert random_models.distance(gradient, random_models.reference_gradient(lm, weights, ROWS)) < 1e-5


def test_a_family_whose_mask_has_a_gradient_is_computed_with_it() -> None:
    """DeepSeek 3 adds its rotary part to the scores as a mask."""
    lm = random_models.random_model("deepseek3")
    random_models.with_adapter(lm)
    assert select_mode(lm, ROWS).way == "padded"


@pytest.mark.parametrize("family", ["nanochat", "deepseek2", "deepseek3"])
def test_a_family_with_its_own_rotation_is_never_packed_inexactly(family: str) -> None:
    """Its positions cannot be set, which only rows that share a beginning notice; the shortest two share none."""
    lm = random_models.random_model(family)
    weights = random_models.with_adapter(lm)
    loss, gradient, _ = computed(lm, weights, ROWS, select_mode(lm, ROWS).way)
    assert loss == pytest.approx(random_models.reference_loss(lm, ROWS), rel=1e-4)
    assert random_models.distance(gradient, random_models.reference_gradient(lm, weights, ROWS)) < 1e-4


# Planted faults

Plant = Callable[[pytest.MonkeyPatch], None]


def rows_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitModel, "_attention_call", lambda self, attention: attention)


def the_row_before_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = split_model._placed

    def wrong(segments: Any) -> Any:
        found = placed(segments)
        if len(found.trails) == 1:
            return found
        trails = [found.trails[0], [found.trails[0][-1], *found.trails[1]], *found.trails[2:]]
        return dataclasses.replace(found, trails=trails, grouping=None)

    monkeypatch.setattr(split_model, "_placed", wrong)


def positions_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    placed = split_model._placed

    def wrong(segments: Any) -> Any:
        found = placed(segments)
        if len(found.trails) == 1:
            return found
        return dataclasses.replace(found, positions=mx.arange(sum(map(len, segments))) * 2)

    monkeypatch.setattr(split_model, "_placed", wrong)


def the_head_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = SplitModel.logits
    monkeypatch.setattr(SplitModel, "logits", lambda self, hidden: 1.3 * logits(self, hidden))


def the_loss_is_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    total = losses.summed_cross_entropy
    monkeypatch.setattr(losses, "summed_cross_entropy", lambda *given: total(*given) / 2)


def rows_of_a_group_are_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where no rows share: what rows that share go through is right."""
    attend = PackedAttention.attend

    def wrong(self: PackedAttention, attention: Any, *qkv: mx.array) -> mx.array:
        return attend(self, lambda q, k, v: attention(q, mx.roll(k, 1, axis=0), v), *qkv)

    monkeypatch.setattr(PackedAttention, "attend", wrong)


def places_are_off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_at_targets = SplitModel.hidden_at_targets
    monkeypatch.setattr(
        SplitModel,
        "hidden_at_targets",
        lambda self, inputs, states, places: hidden_at_targets(self, inputs, states, places - 1),
    )


def the_gradient_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is right."""
    hidden_at_targets = SplitModel.hidden_at_targets

    def wrong(self: SplitModel, inputs: mx.array, states: mx.array | None, places: mx.array) -> mx.array:
        hidden = hidden_at_targets(self, inputs, states, places)
        return mx.concatenate([hidden[:, :-1], mx.stop_gradient(hidden[:, -1:])], axis=1)

    monkeypatch.setattr(SplitModel, "hidden_at_targets", wrong)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("plant", "way"),
    [
        (rows_see_each_other, "padded"),
        (the_row_before_is_seen, "padded"),
        (positions_are_wrong, "padded"),
        (rows_of_a_group_are_mixed, "padded"),
        (the_head_is_scaled, "plain"),
        (the_loss_is_a_mean, "plain"),
        (places_are_off_by_one, "plain"),
        (the_gradient_is_cut, "plain"),
    ],
)
def test_a_planted_fault_is_noticed(plant: Plant, way: ForwardMode, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama", kind, num_hidden_layers=2)
    weights = random_models.with_adapter(lm, num_layers=1)
    wanted = random_models.reference_loss(lm, FEW)
    plant(monkeypatch)
    choice = select_mode(lm, ROWS)
    assert choice.way == way
    assert f"packed: in {kind} loss off by " in choice.reason
    assert computed(lm, weights, FEW, choice.way)[0] == pytest.approx(wanted, rel=1e-3)


def test_a_training_says_that_it_fell_back_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama")
    config = LoRAConfig(epochs=2, batch_size=4, dropout=0.0, num_layers=1)
    data = TrainingData(ROWS)
    order = lambda epoch: [range(4), range(4, 9), range(9, len(ROWS))]  # noqa: E731
    wanted = train(lm, data, config, order=order)
    the_head_is_scaled(monkeypatch)
    report = train(random_models.random_model("llama"), data, config, order=order)
    assert (wanted.way, wanted.fallback_reason, wanted.notes) == ("packed", "", ())
    assert report.way == "plain"
    assert "padded: in float32 loss off by" in report.fallback_reason
    (note,) = report.notes
    assert note.startswith("computed in a slower way, plain, since the fast one is not exact: packed: in float32")
    assert report.losses == pytest.approx(wanted.losses, rel=1e-4)


def test_a_model_that_cannot_be_taken_apart_is_computed_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama")
    weights = random_models.with_adapter(lm)

    def refuse(*_: object) -> None:
        raise KeyError("built otherwise\nby far")

    monkeypatch.setattr(SplitModel, "frozen_activations", refuse)
    choice = select_mode(lm, ROWS)
    assert choice.way == "plain"
    assert choice.reason == "packed: KeyError: 'built otherwise\\nby far'; padded: KeyError: 'built otherwise\\nby far'"
    assert computed(lm, weights, ROWS, "plain")[0] == pytest.approx(random_models.reference_loss(lm, ROWS), rel=1e-6)


def test_a_comparison_changes_neither_weights_nor_classes_nor_attention() -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm, dropout=0.3)
    before, attention = random_models.bits(lm.model.parameters()), mx.fast.scaled_dot_product_attention
    kinds = [type(module) for _, module in lm.model.named_modules()]
    select_mode(lm, ROWS)
    assert random_models.bits(lm.model.parameters()) == before
    assert [type(module) for _, module in lm.model.named_modules()] == kinds
    assert mx.fast.scaled_dot_product_attention is attention
    assert lm.model.training


def test_the_figure_is_the_norm_relative_difference() -> None:
    rng = np.random.default_rng(0)
    wanted, found = ({"a": {"b": rng.normal(size=(4, 3))}, "c": rng.normal(size=7)} for _ in range(2))
    expected = np.sqrt(
        (((found["a"]["b"] - wanted["a"]["b"]) ** 2).sum() + ((found["c"] - wanted["c"]) ** 2).sum())
        / ((wanted["a"]["b"] ** 2).sum() + (wanted["c"] ** 2).sum())
    )
    as_arrays = [tree_map(lambda a: mx.array(a.astype(np.float32)), tree) for tree in (wanted, found)]
    assert equivalence._difference(*as_arrays) == pytest.approx(expected, rel=1e-6)
    assert equivalence._difference(as_arrays[0], tree_map(lambda a: a * mx.nan, as_arrays[1])) == np.inf


def test_the_comparison_reports_what_the_reference_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama")
    random_models.with_adapter(lm)
    the_loss_is_a_mean(monkeypatch)
    found = compare_with_reference(SplitModel(lm), ROWS[:3], "packed")
    assert (found.loss, found.gradient) == pytest.approx((0.5, 0.5), rel=1e-4)


# Broken models


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "4-bit"])
def test_a_damaged_weight_is_refused_in_one_line(value: float, kind: str) -> None:
    """Whether or not a row meets it."""
    lm = random_models.random_model("llama", kind, num_hidden_layers=2)
    table = lm.model.model.embed_tokens
    table.update(
        {"scales": table.scales.at[-1].add(value)} if kind == "4-bit" else {"weight": table.weight.at[-1].add(value)}
    )
    with pytest.raises(UserError, match=r"^the base model is damaged: model\.embed_tokens\.") as raised:
        train(lm, TrainingData(ROWS), LoRAConfig())
    assert "\n" not in raised.value.line()
    assert not [name for name, _ in tree_flatten(lm.model.parameters()) if "lora" in name]


def test_a_comparison_without_a_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_models.random_model("llama", num_hidden_layers=2)
    random_models.with_adapter(lm)
    lm.model.model.norm.weight[3] = np.nan
    with pytest.raises(UserError, match=r"^the base model's loss is not a number"):
        select_mode(lm, ROWS)


# Positions


def test_a_sequence_ends_where_a_model_computes_a_place_otherwise() -> None:
    lm = random_models.random_model(
        "ministral3", rope_parameters=random_models.YARN | {"llama_4_scaling_beta": 1.0}, num_hidden_layers=3
    )
    assert max_packed_length(lm.model.args) == random_models.YARN["original_max_position_embeddings"]
    weights = random_models.with_adapter(lm)
    rng = np.random.default_rng(3)
    rows = [random_models.random_row(rng, length) for length in (50, 47, 46, 90, 3, 1, 20, 61)]
    loss, gradient, _ = computed(lm, weights, rows, "packed")
    assert loss == pytest.approx(random_models.reference_loss(lm, rows), rel=1e-5)
    assert random_models.distance(gradient, random_models.reference_gradient(lm, weights, rows)) < 1e-5


def test_the_settings_are_looked_through_for_such_places() -> None:
    nested = {"text_config": {"floor_scale": 8192, "rope_scaling": {"original_max_position_embeddings": 512}}}
    assert max_packed_length(nested) == 512
    assert max_packed_length({"floor_scale": None, "max_position_embeddings": 64}) > 10**9
    assert max_packed_length(None) > 10**9

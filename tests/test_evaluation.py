"""Evaluation: answers in their true context, paired scores, intervals that cover, and a split that never leaks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.dialogue import rouge1, rougeL
from mlx_personal.evaluation import (
    EvaluationConfig,
    answers,
    assign_group,
    bootstrap_interval,
    compare,
    is_held_out,
    place,
)

TWO_TURNS = Dialogue.from_messages(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tomatoes?"},
        {"role": "assistant", "content": "<think>hm</think>In May."},
        {"role": "user", "content": "How deep?"},
        {"role": "assistant", "content": "A hand deep."},
    ]
)
SOUP = Dialogue.of("What shall I cook?", "A soup of leeks.")

# Answers


def test_every_assistant_turn_is_answered_after_what_was_really_said(tiny_model: LanguageModel) -> None:
    done: list[tuple[int, int]] = []
    given = answers(tiny_model, [TWO_TURNS, SOUP], 8, lambda n, total: done.append((n, total)))
    assert [len(turns) for turns in given] == [2, 1]
    assert done == [(1, 3), (2, 3), (3, 3)]
    context = [{**m, "content": m["content"].removeprefix("<think>hm</think>")} for m in TWO_TURNS.to_messages()[:4]]
    alone = "".join(tiny_model.stream(tiny_model.prompt_tokens(context), max_tokens=8))
    assert given[0][1] == alone.strip()
    assert answers(tiny_model, [TWO_TURNS, SOUP], 8) == given


def test_thoughts_are_no_part_of_an_answer(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model, "generate", lambda prompts, **_: ["<think>hm</think> Soup."] * len(prompts))
    assert answers(tiny_model, [SOUP]) == [["Soup."]]


# Comparison


def test_scores_are_means_over_turns_then_over_dialogues() -> None:
    before, after = [["In June.", "hand"], ["Pasta."]], [["In May.", "A hand deep."], ["Soup of leeks"]]
    found = compare(before, after, [TWO_TURNS, SOUP])
    turns = [("In June.", "In May."), ("hand", "A hand deep.")]
    first = sum(rouge1(a, b) for a, b in turns) / 2
    assert first == pytest.approx((0.5 + 0.5) / 2)
    assert found.samples[0].rouge1_before == pytest.approx(first)
    assert found.samples[0].rougeL_before == pytest.approx(sum(rougeL(a, b) for a, b in turns) / 2)
    assert found.samples[0].preferred == ("In May.", "A hand deep.")
    assert found.samples[0].questions == ("Tomatoes?", "How deep?")
    assert (found.samples[1].before, found.samples[1].after) == (("Pasta.",), ("Soup of leeks",))
    soup = rouge1("Soup of leeks", "A soup of leeks.")
    assert found.n == 2
    assert found.rouge1.before == pytest.approx((first + 0) / 2)
    assert found.rouge1.after == pytest.approx((1 + soup) / 2)
    assert found.rouge1.gain == pytest.approx(found.rouge1.after - found.rouge1.before)
    assert found.rouge1.low == pytest.approx(1 - first)
    assert found.rouge1.high == pytest.approx(soup)


def test_one_dialogue_gives_its_gain_as_the_interval() -> None:
    gain = compare([["Pasta."]], [["A soup of leeks."]], [SOUP]).rouge1
    assert (gain.before, gain.after, gain.gain, gain.low, gain.high) == (0, 1, 1, 1, 1)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="no dialogue"):
        compare([], [], [])
    with pytest.raises(ValueError, match="argument"):
        compare([["a"]], [["a", "b"]], [SOUP])
    with pytest.raises(ValueError, match="argument"):
        compare([["a"]], [], [SOUP])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


# The bootstrap


def test_the_interval_agrees_with_all_resamples_enumerated() -> None:
    values = [0.0, 0.1, 0.25, 0.45, 0.9]
    means = sorted(sum(resample) / 5 for resample in itertools.product(values, repeat=5))
    low, high = bootstrap_interval(values, seed=3)
    for found, tail in ((low, 0.025), (high, 0.975)):
        # A quantile of 10,000 draws lies between the exact ones a few standard errors (0.0016) of its rank away.
        assert means[int((tail - 0.006) * len(means))] <= found <= means[int((tail + 0.006) * len(means))]


def test_the_interval_approaches_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.2, 2000).tolist()
    low, high = bootstrap_interval(values)
    half = 1.96 * np.std(values) / len(values) ** 0.5
    assert low == pytest.approx(np.mean(values) - half, abs=0.1 * half)
    assert high == pytest.approx(np.mean(values) + half, abs=0.1 * half)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.gamma(2.0, 0.5, (300, 40)) - 1.0  # skewed, true mean 0
    covered = [low <= 0 <= high for low, high in (bootstrap_interval(s.tolist(), resamples=1000) for s in samples)]
    assert 0.90 <= np.mean(covered) <= 0.98


def test_the_interval_is_seeded() -> None:
    values = [0.1, 0.5, 0.2, 0.9]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval([0.3] * 7) == pytest.approx((0.3, 0.3))


# The split


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 17])
def test_each_block_of_groups_has_exactly_one_held_out(seed: int, share: float) -> None:
    block = round(1 / share)
    sides = np.array([is_held_out(group, seed, share) for group in range(40 * block)]).reshape(40, block)
    assert (sides.sum(axis=1) == 1).all()
    assert len({int(row.argmax()) for row in sides}) == block  # every place of a block is drawn sometimes


def test_the_split_depends_on_the_seed() -> None:
    splits = {tuple(is_held_out(group, seed) for group in range(100)) for seed in range(5)}
    assert len(splits) == 5


def test_near_duplicates_share_a_group_whatever_comes_between() -> None:
    assert assign_group([], "What shall I cook tonight?") == 0
    placed = [("What shall I cook tonight?", 0), ("How do I plant tomatoes in my garden?", 1)]
    assert assign_group(placed, "what shall I cook tonight") == 0
    assert assign_group(placed, "What shall I cook tonight, dear?") == 0
    assert assign_group(placed, "What shall we eat tonight?") == 2
    assert assign_group(placed, "How do I plant roses in my garden?") == 1
    assert assign_group([*placed, ("?!", 2)], "?!") == 2
    assert assign_group(placed, "!!!") == 2


def test_the_nearest_of_two_groups_is_joined() -> None:
    placed = [("a b c d e f g h i x", 0), ("a b c d e f g h i j", 1)]
    assert assign_group(placed, "a b c d e f g h i j k") == 1


def test_near_duplicates_are_never_on_both_sides() -> None:
    config = EvaluationConfig(share=0.2)
    placed: list[tuple[Dialogue, int]] = []
    sides: dict[int, set[bool]] = {}
    for number in range(60):
        topic = " ".join(f"w{number % 30}x{i}" for i in range(8))
        dialogue = Dialogue.of(f"{topic} extra{number}", f"answer {number}")
        group, held_out = place(dialogue, placed, config)
        placed.append((dialogue, group))
        sides.setdefault(group, set()).add(held_out)
    assert len(sides) == 30
    assert all(len(side) == 1 for side in sides.values())
    assert sum(next(iter(side)) for side in sides.values()) == 6


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 0.6}, {"max_tokens": 0}, {"seed": -1}])
def test_a_setting_that_makes_no_sense_is_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="it must"):
        EvaluationConfig(**settings)

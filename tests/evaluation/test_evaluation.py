"""Evaluation: answers in their true context, paired scores, intervals, and a split without leaks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel
from mlx_personal.annotation import GroupedDialogue
from mlx_personal.dialogue import dialogue_similarity, rouge1, rougeL
from mlx_personal.evaluation import (
    EvaluationConfig,
    assign_split,
    bootstrap_interval,
    compare_answers,
    generate_answers,
    is_held_out,
)
from mlx_personal.evaluation.config import MIN_HELD_OUT
from mlx_personal.progress import ProgressEvent

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
BEANS = Dialogue.of("How long do beans take?", "One hour.")

# Answers


def test_every_assistant_turn_is_answered_given_the_true_preceding_turns(tiny_model: LanguageModel) -> None:
    events: list[ProgressEvent] = []
    answers = generate_answers(tiny_model, [TWO_TURNS, SOUP], 8, events.append)
    assert [len(turns) for turns in answers] == [2, 1]
    assert answers[0][0] != answers[0][1] != ""
    assert [(event.done, event.total) for event in events] == [(1, 3), (2, 3), (3, 3)]
    context = [{**m, "content": m["content"].removeprefix("<think>hm</think>")} for m in TWO_TURNS.to_messages()[:4]]
    alone = "".join(tiny_model.stream(tiny_model.tokenize_prompt(context), max_tokens=8))
    assert answers[0][1] == alone.strip()
    assert generate_answers(tiny_model, [TWO_TURNS, SOUP], 8) == answers


def test_thoughts_are_removed_from_answers(tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_model, "generate", lambda prompts, **_: ["<think>hm</think> Soup."] * len(prompts))
    assert generate_answers(tiny_model, [SOUP]) == [["Soup."]]


# Comparison


def test_scores_are_means_over_turns_then_over_dialogues() -> None:
    before, after = [["In June.", "hand"], ["Pasta."]], [["In May.", "A hand deep."], ["Soup of leeks"]]
    evaluation = compare_answers(before, after, [TWO_TURNS, SOUP])
    turns = [("In June.", "In May."), ("hand", "A hand deep.")]
    first = sum(rouge1(a, b) for a, b in turns) / 2
    assert first == pytest.approx((0.5 + 0.5) / 2)
    assert evaluation.samples[0].rouge1_before == pytest.approx(first)
    assert evaluation.samples[0].rougeL_before == pytest.approx(sum(rougeL(a, b) for a, b in turns) / 2)
    assert evaluation.samples[0].preferred == ("In May.", "A hand deep.")
    assert evaluation.samples[0].questions == ("Tomatoes?", "How deep?")
    assert (evaluation.samples[1].before, evaluation.samples[1].after) == (("Pasta.",), ("Soup of leeks",))
    soup = rouge1("Soup of leeks", "A soup of leeks.")
    assert evaluation.n == 2
    assert evaluation.rouge1.before == pytest.approx((first + 0) / 2)
    assert evaluation.rouge1.after == pytest.approx((1 + soup) / 2)
    assert evaluation.rouge1.gain == pytest.approx(evaluation.rouge1.after - evaluation.rouge1.before)
    assert evaluation.rouge1.low == pytest.approx(1 - first)
    assert evaluation.rouge1.high == pytest.approx(soup)


def test_one_dialogue_gives_its_gain_as_the_interval() -> None:
    gain = compare_answers([["Pasta."]], [["A soup of leeks."]], [SOUP]).rouge1
    assert (gain.before, gain.after, gain.gain, gain.low, gain.high) == (0, 1, 1, 1, 1)


def test_answers_that_do_not_match_the_dialogues_are_refused() -> None:
    with pytest.raises(ValueError, match="no dialogue"):
        compare_answers([], [], [])
    with pytest.raises(ValueError, match="argument"):
        compare_answers([["a"]], [["a", "b"]], [SOUP])
    with pytest.raises(ValueError, match="argument"):
        compare_answers([["a"]], [], [SOUP])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


# The bootstrap


def test_the_interval_agrees_with_all_resamples_enumerated() -> None:
    values = [0.0, 0.1, 0.25, 0.45, 0.9]
    means = sorted(sum(resample) / 5 for resample in itertools.product(values, repeat=5))
    low, high = bootstrap_interval(values, seed=3)
    for bound, tail in ((low, 0.025), (high, 0.975)):
        # A quantile of 10,000 draws lies between the exact ones a few standard errors (0.0016) of its rank away.
        assert means[int((tail - 0.006) * len(means))] <= bound <= means[int((tail + 0.006) * len(means))]


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
    many = np.random.default_rng(0).random(50).tolist()
    assert bootstrap_interval(many, seed=1) != bootstrap_interval(many, seed=2)
    assert bootstrap_interval([0.3] * 7) == pytest.approx((0.3, 0.3))


# The split


@pytest.mark.parametrize(
    ("share", "held_out", "block"),
    [(0.1, 1, 10), (0.2, 1, 5), (0.5, 1, 2), (0.3, 3, 10), (0.4, 2, 5), (0.05, 1, 20), (0.15, 3, 20), (0.33, 1, 3)],
)
@pytest.mark.parametrize("seed", [0, 1, 17])
def test_every_block_of_groups_has_exactly_the_share_held_out(
    seed: int, share: float, held_out: int, block: int
) -> None:
    sides = np.array([is_held_out(group, seed, share) for group in range(100 * block)]).reshape(100, block)
    assert (sides.sum(axis=1) == held_out).all()
    assert sides.any(axis=0).all()  # every position of a block is drawn sometimes
    assert not sides.all(axis=0).any()


NUMBERED = [Dialogue.of(f"{word * 3}?", word) for word in "abcdefghijklmnopqrstuvwxyzäöüßéèàçñøåæ"]


@pytest.mark.parametrize(("ratio", "initial", "first"), [(0.1, 0.2, 5), (0.05, 0.2, 5), (0.5, 0.2, 12), (0.2, 0.4, 10)])
def test_of_the_first_groups_the_initial_ratio_is_held_out_if_it_is_more(
    ratio: float, initial: float, first: int
) -> None:
    config = EvaluationConfig(holdout_ratio=ratio, initial_holdout_ratio=initial)
    sides = []
    for group, dialogue in enumerate(NUMBERED):
        earlier = [GroupedDialogue(other, number, False) for number, other in enumerate(NUMBERED[:group])]
        assigned, held_out = assign_split(dialogue, earlier, config)
        assert assigned == group
        sides.append(held_out)
    assert sum(sides[:25]) in (first, first + (ratio == 0.5))
    assert sides[25:] == [is_held_out(group, config.seed, ratio) for group in range(25, len(NUMBERED))]


def test_with_the_defaults_enough_of_the_first_groups_are_held_out_to_decide() -> None:
    config = EvaluationConfig()
    assert sum(is_held_out(group, 0, config.initial_holdout_ratio) for group in range(25)) == MIN_HELD_OUT


def test_the_split_depends_on_the_seed() -> None:
    splits = {tuple(is_held_out(group, seed) for group in range(100)) for seed in range(5)}
    assert len(splits) == 5


def conversation(*questions: str) -> Dialogue:
    turns = [({"role": "user", "content": q}, {"role": "assistant", "content": "Yes."}) for q in questions]
    return Dialogue.from_messages(itertools.chain.from_iterable(turns))


COOK, PLANT = "What shall I cook tonight?", "How do I plant tomatoes in my garden?"


def group_of(dialogue: Dialogue, *earlier: Dialogue) -> int:
    grouped = [GroupedDialogue(other, group, False) for group, other in enumerate(earlier)]
    return assign_split(dialogue, grouped, EvaluationConfig())[0]


@pytest.mark.parametrize(
    ("questions", "group"),
    [
        ([COOK], 0),
        (["what shall I cook tonight"], 0),
        (["What shall I cook tonight, dear?"], 0),
        (["What shall we eat tonight?"], 2),
        (["How do I plant roses in my garden?"], 1),
        ([COOK, "And how long does the soup of leeks take?", "Thank you, I shall try that."], 0),
        (["Hello there, my good old friend!", "HOW do I plant tomatoes in my garden"], 1),
        (["Hello there!", "And how deep?"], 2),
        (["!!!"], 2),
    ],
)
def test_a_question_meets_its_near_duplicates_wherever_it_is_asked(questions: list[str], group: int) -> None:
    assert group_of(conversation(*questions), conversation(COOK), conversation(PLANT)) == group


def test_a_short_turn_counts_only_together_with_the_others() -> None:
    assert group_of(conversation(PLANT, "ok thanks"), conversation(COOK, "ok thanks")) == 1
    assert group_of(conversation("ok thanks"), conversation("OK, thanks!")) == 0
    assert group_of(conversation("why is that?", "how deep?"), conversation("why is that?", "and how deep?")) == 0
    assert group_of(conversation("?!"), conversation("?!")) == 0


def test_the_nearest_of_two_groups_is_joined() -> None:
    assert (
        group_of(
            conversation("a b c d e f g h i j k"), *map(conversation, ("a b c d e f g h i x", "a b c d e f g h i j"))
        )
        == 1
    )


def test_a_dialogue_between_both_sides_joins_the_held_out_one() -> None:
    both = conversation(COOK, PLANT)
    for sides in ((True, False), (False, True)):
        earlier = [
            GroupedDialogue(conversation(COOK), 0, sides[0]),
            GroupedDialogue(conversation(PLANT), 1, sides[1]),
        ]
        assert assign_split(both, earlier, EvaluationConfig()) == (sides.index(True), True)
    near, nearer = conversation("a b c d e f g h i x"), conversation("a b c d e f g h i j")
    earlier = [GroupedDialogue(near, 4, True), GroupedDialogue(nearer, 7, False)]
    assert assign_split(nearer, earlier, EvaluationConfig()) == (4, True)


@pytest.mark.parametrize("side", [True, False])
def test_a_known_group_keeps_its_side_when_share_and_seed_are_edited(side: bool) -> None:
    earlier = [GroupedDialogue(conversation(COOK), 5, side)]
    drawn = {
        assign_split(conversation(COOK), earlier, EvaluationConfig(share, seed=s))
        for share in (0.1, 0.5)
        for s in range(20)
    }
    assert drawn == {(5, side)}
    fresh = {assign_split(conversation(PLANT), earlier, EvaluationConfig(0.5, seed=s)) for s in range(20)}
    assert fresh == {(6, True), (6, False)}


def test_near_duplicates_are_never_on_both_sides() -> None:
    config = EvaluationConfig(holdout_ratio=0.2)
    earlier: list[GroupedDialogue] = []
    sides: dict[str, set[bool]] = {}
    for number in range(60):
        topic = " ".join(f"w{number % 30}x{i}" for i in range(8))
        dialogue = conversation(
            f"{topic} extra{number}", *([f"give{number} me more{number} please"] if number > 30 else [])
        )
        group, held_out = assign_split(dialogue, earlier, config)
        earlier.append(GroupedDialogue(dialogue, group, held_out))
        sides.setdefault(topic, set()).add(held_out)
    assert len({other.group for other in earlier}) == 30
    assert all(len(side) == 1 for side in sides.values())
    assert sum(next(iter(side)) for side in sides.values()) == 6


def test_similarity_is_rouge_1() -> None:
    for a, b in [
        (COOK, "What shall we eat tonight, and shall I cook?"),
        (PLANT, "How do I plant, and how do I water?"),
    ]:
        assert dialogue_similarity(conversation(a), conversation(b)) == pytest.approx(rouge1(a, b))
        assert 0 < rouge1(a, b) < 1


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("holdout_ratio", [0.0, 0.04, 0.6, NAN, -0.1]),
        ("initial_holdout_ratio", [0.0, 0.04, 0.6, NAN]),
        ("max_tokens", [0, 10**6, NAN]),
        ("seed", [-1, 2**63, 1e26, NAN]),
    ],
)
def test_a_setting_out_of_range_is_refused(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} is {value}; it must lie in".replace("+", r"\+")):
            EvaluationConfig(**{name: value})

"""LaMP's metrics: an example by hand for every task, a comparison with NumPy, and the sums of a bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal.research.lamp.metrics import (
    METRICS,
    UNICODE_METRICS,
    TokenizerCounts,
    compute_metrics,
    pair_statistics,
    tokenizer_counts,
)
from mlx_personal.research.lamp.tasks import TASKS, LampTask


def score(task: LampTask, predictions: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """Return the metrics of pairs of a prediction and a gold answer."""
    metrics = compute_metrics(task, pair_statistics(task, predictions, golds).sum(axis=0))
    return {name: float(value) for name, value in metrics.items()}


# (predictions, golds, metrics computed by hand)
EXAMPLES = {
    # [1]: 1 correct, 1 predicted, 2 gold: 2/3. [2]: 1 correct, 2 predicted, 2 gold: 1/2. The fourth is not a label.
    "1": (
        ["[1]", "[2]", " [2] ", "the first"],
        ["[1]", "[1]", "[2]", "[2]"],
        {"accuracy": 2 / 4, "f1": (2 / 3 + 2 / 4) / 2},
    ),
    # sports: 1 correct, 2 predicted, 1 gold: 2/3. travel: none correct. 13 labels do not occur.
    "2N": (
        ["sports", "sports", "Politics"],
        ["sports", "travel", "politics"],
        {"accuracy": 1 / 3, "f1": 2 / 3 / 15},
    ),
    # comedy and classic: 2 * 1 / 2 and 2 * 1 / 3; sci-fi: 0.
    "2M": (
        ["comedy", "classic", "classic"],
        ["comedy", "classic", "sci-fi"],
        {"accuracy": 2 / 3, "f1": (1 + 2 / 3) / 15},
    ),
    # Errors 0, 2 and 0.5; text that is not a number counts as 5 for a 2, and 1 for a 4.
    "3": (
        ["5", "1", "3.5", "two", "nan"],
        ["5", "3", "4", "2", "4"],
        {"MAE": (0 + 2 + 0.5 + 3 + 3) / 5, "RMSE": ((0 + 4 + 0.25 + 9 + 9) / 5) ** 0.5},
    ),
    # the mayor speaks / mayor of town speaks: 2 of 3 and of 4 words, in order: F = 2 * 2 / (3 + 4).
    "4": (
        ["The mayor speaks", "Rain"],
        ["mayor of town speaks!", "Sun"],
        {"rouge-1": 4 / 7 / 2, "rouge-L": 4 / 7 / 2, "rouge-1 (Unicode)": 4 / 7 / 2, "rouge-L (Unicode)": 4 / 7 / 2},
    ),
    # a b c / c b a: all words match, the longest common sequence has 1: F = 1/3.
    "5": (
        ["alpha beta gamma"],
        ["gamma beta alpha"],
        {"rouge-1": 1.0, "rouge-L": 1 / 3, "rouge-1 (Unicode)": 1.0, "rouge-L (Unicode)": 1 / 3},
    ),
    # so so cold / so cold: 2 * 2 / (3 + 2); an empty prediction scores nothing, and in LaMP's ROUGE neither does a text
    # without a-z and 0-9.
    "7": (
        ["so so cold", "", "Привет"],
        ["SO cold :(", "rain", "Привет"],
        {
            **dict.fromkeys(("rouge-1", "rouge-L"), 4 / 5 / 3),
            **dict.fromkeys(("rouge-1 (Unicode)", "rouge-L (Unicode)"), (4 / 5 + 1) / 3),
        },
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_metrics_are_those_computed_by_hand(name: str) -> None:
    predictions, golds, expected = EXAMPLES[name]
    scores = score(TASKS[name], predictions, golds)
    more = UNICODE_METRICS if TASKS[name].kind == "generation" else ()
    assert tuple(scores) == (*METRICS[TASKS[name].kind], *more)
    assert scores == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("prediction", "gold", "rouge1", "rouge_l"),
    [
        ("снег и дождь", "дождь и снег", 1.0, 1 / 3),
        ("猫が好き", "犬が好き", 3 / 4, 3 / 4),  # each character is a word
        ("ΣΟΦΟΣ λόγος", "σοφός λόγος", 1 / 2, 1 / 2),  # the accent counts, the case does not
        ("café noir", "Café au lait", 2 / 5, 2 / 5),
        ("🎉 🎉", "🎉", 2 / 3, 2 / 3),
        # Neither the form of an emoji nor its color counts, and two emoji differ although both have a form.
        ("❤️", "❤", 1.0, 1.0),
        ("❤️", "☀️", 0.0, 0.0),
        ("so good😀", "so good 👍🏽", 2 / 3, 2 / 3),
        ("rain", "!?", 0.0, 0.0),
    ],
)
def test_words_of_other_scripts_and_emoji_are_scored_beside_lamps_rouge(
    prediction: str, gold: str, rouge1: float, rouge_l: float
) -> None:
    metrics = score(TASKS["4"], [prediction], [gold])
    assert [metrics[name] for name in UNICODE_METRICS] == pytest.approx([rouge1, rouge_l], rel=1e-12)


@given(st.text(st.characters(max_codepoint=127), max_size=40), st.text(st.characters(max_codepoint=127), max_size=40))
def test_both_tokenizers_score_ascii_alike(prediction: str, gold: str) -> None:
    metrics = score(TASKS["5"], [prediction], [gold])
    assert [metrics[name] for name in UNICODE_METRICS] == [metrics[name] for name in METRICS["generation"]]


def test_gold_answers_that_a_tokenizer_cannot_score_are_counted() -> None:
    golds = ["Snow", "Schnee über", "снег", "❄", "...", "1990"]
    sums = pair_statistics(TASKS["4"], ["snow"] * 6, golds).sum(axis=0)
    counts = tokenizer_counts(TASKS["4"], sums)
    # "Snow", "Schnee ber" and "1990" have words of a-z and 0-9.
    assert counts == TokenizerCounts(6, 3, 1, 3)
    assert [counts.unscorable(name) for name in (*METRICS["generation"], *UNICODE_METRICS)] == [3, 3, 1, 1]
    assert tokenizer_counts(TASKS["3"], pair_statistics(TASKS["3"], ["1"], ["1"]).sum(axis=0)) == TokenizerCounts(1)


@pytest.mark.parametrize("gold", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("prediction", ["", "good", "5 stars", "inf", "nan", "5" * 200])
def test_a_rating_that_is_not_a_number_counts_as_the_farther_end(gold: int, prediction: str) -> None:
    assert score(TASKS["3"], [prediction], [str(gold)])["MAE"] == max(gold - 1, 5 - gold)


def test_a_rating_off_the_scale_is_not_clipped() -> None:
    assert score(TASKS["3"], ["10"], ["5"]) == {"MAE": 5, "RMSE": 5}


@pytest.mark.parametrize("prediction", ["Comedy", "comedy.", "tag: comedy", "", "dog"])
def test_an_unknown_label_is_wrong(prediction: str) -> None:
    assert score(TASKS["2M"], [prediction], ["comedy"]) == {"accuracy": 0, "f1": 0}


def test_two_equal_unknown_labels_are_wrong() -> None:
    assert score(TASKS["2M"], ["dog"], ["dog"])["accuracy"] == 0


LABELS = [*TASKS["2M"].labels[:4], "dog"]
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS[:4])), min_size=1, max_size=40)


@given(PAIRS)
def test_macro_f1_is_the_mean_of_precision_and_recall_by_label(pairs: list[tuple[str, str]]) -> None:
    predicted, gold = (np.array(column) for column in zip(*pairs, strict=True))
    f1 = []
    for label in TASKS["2M"].labels:
        correct = np.sum((predicted == label) & (gold == label))
        precision = correct / max(np.sum(predicted == label), 1)
        recall = correct / max(np.sum(gold == label), 1)
        f1.append(2 * precision * recall / (precision + recall) if correct else 0.0)
    metrics = score(TASKS["2M"], list(predicted), list(gold))
    assert metrics["f1"] == pytest.approx(np.mean(f1), abs=1e-12)
    assert metrics["accuracy"] == pytest.approx(np.mean(predicted == gold), abs=1e-12)


@pytest.mark.parametrize("name", ["1", "2M", "3", "4"])
def test_resampled_sums_give_the_metrics_of_the_resampled_pairs(name: str) -> None:
    task, rng = TASKS[name], np.random.default_rng(0)
    answers = [*task.labels, "not a label"] if task.labels else ["rain again", "sun and rain", "snow"]
    golds = task.labels or answers
    users = [[(str(rng.choice(answers)), str(rng.choice(golds))) for _ in range(rng.integers(1, 6))] for _ in range(8)]
    sums = np.stack([pair_statistics(task, *map(list, zip(*user, strict=True))).sum(axis=0) for user in users])
    draws = rng.multinomial(8, np.full(8, 1 / 8), size=50)
    metrics = compute_metrics(task, draws @ sums)
    for number, draw in enumerate(draws):
        pairs = [pair for user, times in zip(users, draw, strict=True) for pair in user * times]
        expected = score(task, *map(list, zip(*pairs, strict=True)))
        assert {metric: values[number] for metric, values in metrics.items()} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["1", "3", "4"])
def test_the_metrics_of_no_pairs_are_nan(name: str) -> None:
    task = TASKS[name]
    statistics = pair_statistics(task, [], [])
    assert statistics.shape == (0, pair_statistics(task, ["1"], ["1"]).shape[1])
    assert all(np.isnan(value) for value in compute_metrics(task, statistics.sum(axis=0)).values())


def test_different_numbers_of_predictions_and_golds_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        score(TASKS["3"], ["1"], ["1", "2"])

"""The filters: each alone, all in order, and the candidates that no setting lets pass."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal import LanguageModel
from mlx_personal.augmentation.filters import FILTERS, OUTCOMES, FilterConfig, FilteredRecord, apply_filters
from mlx_personal.augmentation.filters.balance import label_limits
from mlx_personal.augmentation.filters.copies import text_overlap
from mlx_personal.augmentation.filters.labels import label_confidences, winning_labels
from mlx_personal.augmentation.filters.style import distance_band
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.dialogue import rouge1

FREE = Task()
OWN = [
    Record("What can I change about my spaniel?", "Your spaniel will be better if you fill the water bowl."),
    Record("What time do you suggest for my rabbit?", "It is best to care for your rabbit in the late morning."),
    Record("How often should I wash my cat?", "Most people wash your cat every Sunday. Brush the coat gently."),
    Record("What do I need for my puppy?", "Get a simple bowl, a soft bed and a leash for your puppy."),
    Record(
        "Tell me how one begins with my kitten.",  # codespell:ignore tell
        "For your kitten, begin simply: leave a quiet corner.",
    ),
]
GOOD = Record(
    "At what time should I feed my kitten and my cat?", "In the late morning is the best time for your kitten."
)
COPY = Record("Hello, what can I change about my spaniel?", "Brush the coat gently, and fill the water bowl.")
CODE = Record("x = 3; if (y != 0) { return [1, 2]; }", "{z: 0}; #end; return 7 == 8;")
NOISE = Record("Where does my puppy like to rest at night?", "zeal oxide xylem qualm bric pyre vortex kelp")
KNOWN = Record("test", "Could you say that in other words?")

LABELS = ("pets", "cooking", "home")
SORT = Task("What is it about: pets, cooking or home? {text}", LABELS)
OWN_SORTED = [
    *(Record(record.text, "pets") for record in OWN[:4]),
    Record("What would help my pasta the most?", "cooking"),
    Record("How many times a week should I cook my stew?", "cooking"),
    Record("It annoys me that my routine feels wrong.", "home"),
]


def only(*names: str, **settings: Any) -> FilterConfig:
    return FilterConfig(disabled=frozenset(FILTERS) - set(names), **settings)


def without(*names: str) -> FilterConfig:
    return FilterConfig(disabled=frozenset(names))


def outcomes(filtered: list[FilteredRecord]) -> list[str]:
    return [candidate.outcome for candidate in filtered]


# ---- all filters together


def test_keeps_good_records_and_names_the_filter_that_rejects_a_bad_one(demo_model: LanguageModel) -> None:
    candidates = [GOOD, COPY, CODE, NOISE, KNOWN, GOOD]
    filtered = apply_filters(demo_model, FREE, OWN, candidates, 6)
    assert outcomes(filtered) == ["kept", "copy", "style", "perplexity", "perplexity", "copy"]
    assert [candidate.record for candidate in filtered] == candidates
    assert [candidate.kept for candidate in filtered] == [True] + [False] * 5
    assert Counter(outcomes(filtered)) == {"kept": 1, "copy": 2, "style": 1, "perplexity": 2}
    assert set(outcomes(filtered)) <= set(OUTCOMES)
    assert apply_filters(demo_model, FREE, OWN, candidates, 6) == filtered


@pytest.mark.parametrize(("name", "record"), [("copy", COPY), ("style", CODE), ("perplexity", NOISE)])
def test_a_filter_rejects_only_while_it_is_enabled(demo_model: LanguageModel, name: str, record: Record) -> None:
    assert outcomes(apply_filters(demo_model, FREE, OWN, [record], 1, config=only(name))) == [name]
    all_disabled = only()
    assert outcomes(apply_filters(demo_model, FREE, OWN, [record], 1, config=all_disabled)) == ["kept"]
    assert name not in outcomes(apply_filters(demo_model, FREE, OWN, [record], 1, config=without(name)))


def test_a_disabled_filter_measures_nothing(demo_model: LanguageModel) -> None:
    measurements = {"copy": {"overlap"}, "style": {"distance"}, "perplexity": {"nats"}}
    for name in FILTERS:
        (candidate,) = apply_filters(demo_model, FREE, OWN, [GOOD], 1, config=only(name))
        assert set(candidate.measurements) == measurements.get(name, set())


def test_the_first_filter_in_order_is_the_outcome(demo_model: LanguageModel) -> None:
    absurd = Record(COPY.text, NOISE.answer)
    assert outcomes(apply_filters(demo_model, FREE, OWN, [absurd], 1)) == ["copy"]
    assert outcomes(apply_filters(demo_model, FREE, OWN, [absurd], 1, config=without("copy", "style"))) == [
        "perplexity"
    ]


def test_without_candidates_neither_records_nor_a_model_are_needed() -> None:
    no_model: Any = None
    assert apply_filters(no_model, FREE, [], [], 3) == []


def test_a_user_without_records_is_refused(demo_model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="without records"):
        apply_filters(demo_model, FREE, [], [GOOD], 1)


def test_one_record_is_enough_to_reject_copies_and_noise(demo_model: LanguageModel) -> None:
    filtered = apply_filters(demo_model, FREE, OWN[:1], [GOOD, COPY, NOISE], 3)
    assert outcomes(filtered) == ["kept", "copy", "perplexity"]


def test_measurements_do_not_depend_on_the_other_candidates(demo_model: LanguageModel) -> None:
    together = apply_filters(demo_model, FREE, OWN, [GOOD, CODE, NOISE], 3)
    for candidate in together:
        (alone,) = apply_filters(demo_model, FREE, OWN, [candidate.record], 3)
        assert alone.outcome == candidate.outcome
        for name in ("distance", "nats"):
            assert alone.measurements[name] == pytest.approx(candidate.measurements[name], rel=1e-3)


# ---- excluded whatever the settings


@pytest.mark.parametrize("disabled", [frozenset(), frozenset(FILTERS)])
def test_texts_of_the_test_set_are_never_kept(demo_model: LanguageModel, disabled: frozenset[str]) -> None:
    queries = ["Which bowl suits an old cat?", "When should I feed my kitten and my cat?", "Good?"]
    repeated = [Record(text.upper(), "Yes.") for text in queries]
    near = Record("Which bowl suits my old cat?", "A flat one.")
    filtered = apply_filters(demo_model, FREE, OWN, [*repeated, near], 4, queries, FilterConfig(disabled=disabled))
    assert outcomes(filtered) == ["forbidden"] * 4


@pytest.mark.parametrize("text", ["a\0b", "half a \ud800 character", "long " * 30_000])
def test_texts_that_no_dialogue_can_have_are_unusable(demo_model: LanguageModel, text: str) -> None:
    filtered = apply_filters(demo_model, FREE, OWN, [Record(text, "Yes."), Record("Why?", text)], 2, config=only())
    assert outcomes(filtered) == ["unusable"] * 2


def test_an_answer_of_nothing_but_thoughts_is_unusable(demo_model: LanguageModel) -> None:
    assert outcomes(apply_filters(demo_model, FREE, OWN, [Record("Why?", "<think>hm</think>")], 1)) == ["unusable"]


# ---- copy


@given(st.lists(st.sampled_from("abcdef"), min_size=4), st.lists(st.sampled_from("abcdefg"), min_size=4))
def test_overlap_of_longer_texts_is_rouge_1(a: list[str], b: list[str]) -> None:
    assert text_overlap(" ".join(a), " ".join(b)) == pytest.approx(rouge1(" ".join(a), " ".join(b)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("good book", "Good book!", 1.0),
        ("good book", "book good", 0.0),
        ("a good book", "a good book now", 0.0),
        ("🙂", "🙂 ", 1.0),
        ("🙂", "🙁", 0.0),
    ],
)
def test_short_texts_overlap_only_if_they_are_equal(a: str, b: str, expected: float) -> None:
    assert text_overlap(a, b) == text_overlap(b, a) == expected


def test_a_rejected_text_may_be_kept_in_a_later_candidate(demo_model: LanguageModel) -> None:
    absurd = Record(GOOD.text, NOISE.answer)
    filtered = apply_filters(demo_model, FREE, OWN, [absurd, GOOD, GOOD], 3)
    assert outcomes(filtered) == ["perplexity", "kept", "copy"]


# ---- balance


@given(
    st.lists(st.sampled_from(["a", "b", "c", "no label"])),
    st.integers(1, 200),
    st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
)
def test_limits_are_two_deviations_above_the_smoothed_shares(
    own_labels: list[str], num_requested: int, labels: tuple[str, ...]
) -> None:
    known = [label for label in own_labels if label in labels]
    limits = label_limits(labels, own_labels, num_requested)
    for label in labels:
        p = (known.count(label) + 1) / (len(known) + len(labels))
        deviation = float(np.sqrt(num_requested * p * (1 - p)))
        assert limits[label] - 1 < num_requested * p + 2 * deviation + 1e-9
        assert num_requested * p + 2 * deviation - 1e-9 <= limits[label]
    assert sum(limits.values()) >= num_requested


def test_keeps_labels_in_the_users_proportions(demo_model: LanguageModel) -> None:
    # Of 4, 2 and 1 own records the shares are 5, 3 and 2 of 10; two deviations above them, of 8: 6.8, 4.99 and 3.9.
    candidates = [Record(f"text {i} {i} {i}", label) for i in range(6) for label in LABELS]
    filtered = apply_filters(demo_model, SORT, OWN_SORTED, candidates, 8, config=only("balance"))
    assert [
        candidate.record for candidate in filtered if candidate.kept and candidate.record.answer == "home"
    ] == candidates[2:12:3]
    kept = [candidate.record.answer for candidate in filtered if candidate.kept]
    assert [kept.count(label) for label in LABELS] == [6, 5, 4]
    assert set(outcomes(filtered)) == {"kept", "balance"}
    assert outcomes(apply_filters(demo_model, SORT, OWN_SORTED, candidates, 8, config=only())) == ["kept"] * 18


def test_rejected_candidates_do_not_count_towards_the_limits(demo_model: LanguageModel) -> None:
    copies = [Record(OWN_SORTED[0].text, "home")] * 4
    candidates = [*copies, Record("Sweep the stairs and the hall.", "home")]
    filtered = apply_filters(demo_model, SORT, OWN_SORTED, candidates, 1, config=only("balance", "copy"))
    assert outcomes(filtered) == ["copy"] * 4 + ["kept"]


# ---- label


def test_the_nearest_records_vote_and_ties_share_the_win() -> None:
    own_labels = ["a", "b", "a", "c", "c", "a", "b", "b", "b"]
    cosines = np.array([[0.9, 0.8, 0.7, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.5, 0.0, 0.9, 0.0, 0.0, 0.0]])
    assert winning_labels(cosines, own_labels, 5) == [{"a"}, {"a", "b", "c"}]  # 3 of 9 vote
    assert winning_labels(cosines, own_labels, 1) == [{"a"}, {"a"}]
    assert winning_labels(cosines[:, :1], own_labels[:1], 5) == [{"a"}, {"a"}]


def test_confidence_is_relative_to_the_average_of_the_label() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.7, 0.2, 0.1]])
    # Likelihoods of whole answers sum to less than 1.
    lm: Any = SimpleNamespace(
        tokenize_prompt=lambda messages: messages,
        log_likelihoods=lambda prompts, labels: np.log(probabilities / 1000)[: len(prompts)],
    )
    confidences = label_confidences(lm, SORT, OWN_SORTED[:2], [Record("x", "pets"), Record("y", "cooking")])
    np.testing.assert_allclose(confidences, [0.9 / 0.7, 0.2 / 0.2])
    assert len(label_confidences(lm, SORT, OWN_SORTED, [])) == 0


def test_an_answer_that_is_no_label_is_rejected(demo_model: LanguageModel) -> None:
    filtered = apply_filters(demo_model, SORT, OWN_SORTED, [Record(GOOD.text, "cars")], 1, config=only("label"))
    assert outcomes(filtered) == ["label"]
    filtered = apply_filters(demo_model, SORT, OWN_SORTED, [Record(GOOD.text, "cars")], 1, config=only())
    assert outcomes(filtered) == ["kept"]


@pytest.mark.parametrize(
    ("vote", "confidence", "outcome"), [("pets", 0.0, "kept"), ("home", 0.6, "kept"), ("home", 0.4, "label")]
)
def test_a_vote_or_the_model_confirms_a_label(
    demo_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, vote: str, confidence: float, outcome: str
) -> None:
    pipeline = "mlx_personal.augmentation.filters.pipeline"
    monkeypatch.setattr(f"{pipeline}.winning_labels", lambda cosines, labels, neighbors: [{vote}] * len(cosines))
    monkeypatch.setattr(
        f"{pipeline}.label_confidences", lambda lm, task, own, candidates: np.full(len(candidates), confidence)
    )
    (candidate,) = apply_filters(demo_model, SORT, OWN_SORTED, [Record(GOOD.text, "pets")], 1, config=only("label"))
    assert candidate.outcome == outcome
    assert candidate.measurements == ({} if vote == "pets" else {"confidence": confidence})


def test_a_label_of_the_nearest_records_is_kept_without_the_model(demo_model: LanguageModel) -> None:
    filtered = apply_filters(demo_model, SORT, OWN_SORTED, [Record(GOOD.text, "pets")], 1, config=only("label"))
    assert (filtered[0].outcome, dict(filtered[0].measurements)) == ("kept", {})


def test_label_and_balance_ignore_free_answers(demo_model: LanguageModel) -> None:
    assert (
        outcomes(apply_filters(demo_model, FREE, OWN, [GOOD, NOISE], 1, config=only("label", "balance")))
        == ["kept"] * 2
    )


# ---- style and perplexity


def test_band_is_relative_to_distances_of_the_users_nearest_neighbors() -> None:
    angles = np.array([0.0, 0.1, 0.3, 0.6])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    nearest = 1 - np.cos([0.1, 0.1, 0.2, 0.3])
    low, high = distance_band(vectors, (0.1, 1.5))
    assert low == pytest.approx(0.1 * np.median(nearest), abs=2e-6)
    assert high == pytest.approx(1.5 * nearest.max(), abs=2e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_band_is_infinite_for_fewer_than_three_records(count: int) -> None:
    assert distance_band(np.eye(2)[:count], (0.1, 1.5)) == (-np.inf, np.inf)


def test_an_own_record_is_too_near(demo_model: LanguageModel) -> None:
    assert outcomes(apply_filters(demo_model, FREE, OWN, OWN, 5, config=only("style"))) == ["style"] * 5


def test_rejects_answers_that_the_model_gives_anyway_and_noise(demo_model: LanguageModel) -> None:
    (candidate,) = apply_filters(demo_model, FREE, OWN, [KNOWN], 1, config=only("perplexity"))
    assert candidate.outcome == "perplexity"
    (noise,) = apply_filters(demo_model, FREE, OWN, [NOISE], 1, config=only("perplexity"))
    assert candidate.measurements["nats"] < 0.2 < 3 < noise.measurements["nats"]


# ---- settings


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"disabled": frozenset({"copies"})}, "no filter is named 'copies'"),
        ({"max_copy_overlap": 0.0}, "copy"),
        ({"label_neighbors": 0}, "label_neighbors"),
        ({"min_label_confidence": -0.1}, "label"),
        ({"style_band": (1.0, 1.5)}, "style"),
        ({"perplexity_band": (0.2, 0.9)}, "perplexity"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FilterConfig(**settings)

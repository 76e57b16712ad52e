"""What the device keeps of synthetic records: each filter alone, all in order, and what no setting lets through."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_personal import LanguageModel
from mlx_personal.augmentation.filters import FILTERS, REASONS, FilterConfig, Judged, judge
from mlx_personal.augmentation.filters.balance import most_of_each
from mlx_personal.augmentation.filters.copies import overlap
from mlx_personal.augmentation.filters.labels import by_model, by_vote
from mlx_personal.augmentation.filters.style import own_band
from mlx_personal.augmentation.task import Record, Task
from mlx_personal.dialogue import rouge1

FREE = Task()
OWN = [
    Record("What can I change about my spaniel?", "Your spaniel will be better if you fill the water bowl."),
    Record("What time do you suggest for my rabbit?", "It is best to care for your rabbit in the late morning."),
    Record("How often should I wash my cat?", "Most people wash your cat every Sunday. Brush the coat gently."),
    Record("What do I need for my puppy?", "Get a simple bowl, a soft bed and a leash for your puppy."),
    Record("Tell me how one begins with my kitten.", "For your kitten, begin simply: leave a quiet corner."),
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
    return FilterConfig(off=frozenset(FILTERS) - set(names), **settings)


def without(*names: str) -> FilterConfig:
    return FilterConfig(off=frozenset(names))


def reasons(judged: list[Judged]) -> list[str]:
    return [one.reason for one in judged]


# ---- all filters together


def test_good_records_are_kept_and_each_bad_one_has_its_reason(demo_model: LanguageModel) -> None:
    candidates = [GOOD, COPY, CODE, NOISE, KNOWN, GOOD]
    judged = judge(demo_model, FREE, OWN, candidates, 6)
    assert reasons(judged) == ["kept", "copy", "style", "perplexity", "perplexity", "copy"]
    assert [one.record for one in judged] == candidates
    assert [one.kept for one in judged] == [True] + [False] * 5
    assert Counter(reasons(judged)) == {"kept": 1, "copy": 2, "style": 1, "perplexity": 2}
    assert set(reasons(judged)) <= set(REASONS)
    assert judge(demo_model, FREE, OWN, candidates, 6) == judged


@pytest.mark.parametrize(("name", "record"), [("copy", COPY), ("style", CODE), ("perplexity", NOISE)])
def test_a_filter_drops_what_it_should_and_off_it_does_not(
    demo_model: LanguageModel, name: str, record: Record
) -> None:
    assert reasons(judge(demo_model, FREE, OWN, [record], 1, config=only(name))) == [name]
    others_off = only()
    assert reasons(judge(demo_model, FREE, OWN, [record], 1, config=others_off)) == ["kept"]
    assert name not in reasons(judge(demo_model, FREE, OWN, [record], 1, config=without(name)))


def test_a_filter_that_is_off_measures_nothing(demo_model: LanguageModel) -> None:
    figures = {"copy": {"overlap"}, "style": {"distance"}, "perplexity": {"nats"}}
    for name in FILTERS:
        (found,) = judge(demo_model, FREE, OWN, [GOOD], 1, config=only(name))
        assert set(found.figures) == figures.get(name, set())


def test_the_first_filter_in_order_is_the_reason(demo_model: LanguageModel) -> None:
    absurd = Record(COPY.text, NOISE.answer)
    assert reasons(judge(demo_model, FREE, OWN, [absurd], 1)) == ["copy"]
    assert reasons(judge(demo_model, FREE, OWN, [absurd], 1, config=without("copy", "style"))) == ["perplexity"]


def test_no_candidates_need_neither_records_nor_a_model() -> None:
    nothing: Any = None
    assert judge(nothing, FREE, [], [], 3) == []


def test_a_user_without_records_cannot_judge(demo_model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="without records"):
        judge(demo_model, FREE, [], [GOOD], 1)


def test_a_user_with_one_record_still_drops_copies_and_noise(demo_model: LanguageModel) -> None:
    judged = judge(demo_model, FREE, OWN[:1], [GOOD, COPY, NOISE], 3)
    assert reasons(judged) == ["kept", "copy", "perplexity"]


def test_each_candidate_is_measured_as_if_it_were_alone(demo_model: LanguageModel) -> None:
    together = judge(demo_model, FREE, OWN, [GOOD, CODE, NOISE], 3)
    for one in together:
        (alone,) = judge(demo_model, FREE, OWN, [one.record], 3)
        assert alone.reason == one.reason
        for name in ("distance", "nats"):
            assert alone.figures[name] == pytest.approx(one.figures[name], rel=1e-3)


# ---- what no setting lets through


@pytest.mark.parametrize("off", [frozenset(), frozenset(FILTERS)])
def test_a_text_of_the_test_is_never_kept(demo_model: LanguageModel, off: frozenset[str]) -> None:
    queries = ["Which bowl suits an old cat?", "When should I feed my kitten and my cat?", "Good?"]
    asked = [Record(text.upper(), "Yes.") for text in queries]
    near = Record("Which bowl suits my old cat?", "A flat one.")
    judged = judge(demo_model, FREE, OWN, [*asked, near], 4, queries, FilterConfig(off=off))
    assert reasons(judged) == ["forbidden"] * 4


@pytest.mark.parametrize("text", ["a\0b", "half a \ud800 character", "long " * 30_000])
def test_what_cannot_be_a_dialogue_is_unusable(demo_model: LanguageModel, text: str) -> None:
    judged = judge(demo_model, FREE, OWN, [Record(text, "Yes."), Record("Why?", text)], 2, config=only())
    assert reasons(judged) == ["unusable"] * 2


def test_an_answer_of_thoughts_alone_is_unusable(demo_model: LanguageModel) -> None:
    assert reasons(judge(demo_model, FREE, OWN, [Record("Why?", "<think>hm</think>")], 1)) == ["unusable"]


# ---- copy


@given(st.lists(st.sampled_from("abcdef"), min_size=4), st.lists(st.sampled_from("abcdefg"), min_size=4))
def test_longer_texts_overlap_by_rouge_1(a: list[str], b: list[str]) -> None:
    assert overlap(" ".join(a), " ".join(b)) == pytest.approx(rouge1(" ".join(a), " ".join(b)))


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
def test_short_texts_repeat_each_other_only_if_equal(a: str, b: str, expected: float) -> None:
    assert overlap(a, b) == overlap(b, a) == expected


def test_what_is_dropped_may_be_said_by_a_later_candidate(demo_model: LanguageModel) -> None:
    absurd = Record(GOOD.text, NOISE.answer)
    judged = judge(demo_model, FREE, OWN, [absurd, GOOD, GOOD], 3)
    assert reasons(judged) == ["perplexity", "kept", "copy"]


# ---- balance


@given(
    st.lists(st.sampled_from(["a", "b", "c", "no label"])),
    st.integers(1, 200),
    st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
)
def test_ceilings_are_two_deviations_above_the_smoothed_shares(
    own: list[str], wanted: int, labels: tuple[str, ...]
) -> None:
    known = [label for label in own if label in labels]
    most = most_of_each(labels, own, wanted)
    for label in labels:
        p = (known.count(label) + 1) / (len(known) + len(labels))
        deviation = float(np.sqrt(wanted * p * (1 - p)))
        assert most[label] - 1 < wanted * p + 2 * deviation + 1e-9
        assert wanted * p + 2 * deviation - 1e-9 <= most[label]
    assert sum(most.values()) >= wanted


def test_labels_are_kept_in_the_users_shares_in_order(demo_model: LanguageModel) -> None:
    # Of 4, 2 and 1 own records the shares are 5, 3 and 2 of 10; two deviations above them, of 8: 6.8, 4.99 and 3.9.
    candidates = [Record(f"text {i} {i} {i}", label) for i in range(6) for label in LABELS]
    judged = judge(demo_model, SORT, OWN_SORTED, candidates, 8, config=only("balance"))
    assert [one.record for one in judged if one.kept and one.record.answer == "home"] == candidates[2:12:3]
    kept = [one.record.answer for one in judged if one.kept]
    assert [kept.count(label) for label in LABELS] == [6, 5, 4]
    assert set(reasons(judged)) == {"kept", "balance"}
    assert reasons(judge(demo_model, SORT, OWN_SORTED, candidates, 8, config=only())) == ["kept"] * 18


def test_a_dropped_candidate_takes_no_room(demo_model: LanguageModel) -> None:
    copies = [Record(OWN_SORTED[0].text, "home")] * 4
    candidates = [*copies, Record("Sweep the stairs and the hall.", "home")]
    judged = judge(demo_model, SORT, OWN_SORTED, candidates, 1, config=only("balance", "copy"))
    assert reasons(judged) == ["copy"] * 4 + ["kept"]


# ---- label


def test_the_nearest_records_vote_and_equals_win_together() -> None:
    own = ["a", "b", "a", "c", "c", "a", "b", "b", "b"]
    cosines = np.array([[0.9, 0.8, 0.7, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.5, 0.0, 0.9, 0.0, 0.0, 0.0]])
    assert by_vote(cosines, own, 5) == [{"a"}, {"a", "b", "c"}]  # 3 of 9 vote
    assert by_vote(cosines, own, 1) == [{"a"}, {"a"}]
    assert by_vote(cosines[:, :1], own[:1], 5) == [{"a"}, {"a"}]


def test_the_model_is_asked_in_relation_to_what_it_usually_says() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.9, 0.05, 0.05], [0.7, 0.2, 0.1]])
    # Of whole answers, so that they sum to less than 1.
    lm: Any = SimpleNamespace(
        prompt_tokens=lambda messages: messages,
        log_likelihoods_of_each=lambda prompts, labels: np.log(probabilities / 1000)[: len(prompts)],
    )
    found = by_model(lm, SORT, OWN_SORTED[:2], [Record("x", "pets"), Record("y", "cooking")])
    np.testing.assert_allclose(found, [0.9 / 0.7, 0.2 / 0.2])
    assert len(by_model(lm, SORT, OWN_SORTED, [])) == 0


def test_an_answer_that_is_no_label_is_dropped(demo_model: LanguageModel) -> None:
    judged = judge(demo_model, SORT, OWN_SORTED, [Record(GOOD.text, "cars")], 1, config=only("label"))
    assert reasons(judged) == ["label"]
    judged = judge(demo_model, SORT, OWN_SORTED, [Record(GOOD.text, "cars")], 1, config=only())
    assert reasons(judged) == ["kept"]


@pytest.mark.parametrize(
    ("vote", "probable", "reason"), [("pets", 0.0, "kept"), ("home", 0.6, "kept"), ("home", 0.4, "label")]
)
def test_a_vote_or_the_model_confirms_a_label(
    demo_model: LanguageModel, monkeypatch: pytest.MonkeyPatch, vote: str, probable: float, reason: str
) -> None:
    where = "mlx_personal.augmentation.filters.pipeline"
    monkeypatch.setattr(f"{where}.by_vote", lambda cosines, own, neighbours: [{vote}] * len(cosines))
    monkeypatch.setattr(f"{where}.by_model", lambda lm, task, own, unsure: np.full(len(unsure), probable))
    (judged,) = judge(demo_model, SORT, OWN_SORTED, [Record(GOOD.text, "pets")], 1, config=only("label"))
    assert judged.reason == reason
    assert judged.figures == ({} if vote == "pets" else {"confidence": probable})


def test_what_lies_among_records_of_a_label_has_that_label(demo_model: LanguageModel) -> None:
    judged = judge(demo_model, SORT, OWN_SORTED, [Record(GOOD.text, "pets")], 1, config=only("label"))
    assert (judged[0].reason, dict(judged[0].figures)) == ("kept", {})


def test_free_answers_have_no_labels_to_confirm_or_to_balance(demo_model: LanguageModel) -> None:
    assert reasons(judge(demo_model, FREE, OWN, [GOOD, NOISE], 1, config=only("label", "balance"))) == ["kept"] * 2


# ---- style and perplexity


def test_the_band_is_that_of_the_users_own_neighbours() -> None:
    angles = np.array([0.0, 0.1, 0.3, 0.6])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    nearest = 1 - np.cos([0.1, 0.1, 0.2, 0.3])
    low, high = own_band(vectors, (0.1, 1.5))
    assert low == pytest.approx(0.1 * np.median(nearest), abs=2e-6)
    assert high == pytest.approx(1.5 * nearest.max(), abs=2e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_two_records_tell_no_distance(count: int) -> None:
    assert own_band(np.eye(2)[:count], (0.1, 1.5)) == (-np.inf, np.inf)


def test_what_says_an_own_record_again_is_too_near(demo_model: LanguageModel) -> None:
    assert reasons(judge(demo_model, FREE, OWN, OWN, 5, config=only("style"))) == ["style"] * 5


def test_what_the_model_says_anyway_teaches_nothing(demo_model: LanguageModel) -> None:
    (judged,) = judge(demo_model, FREE, OWN, [KNOWN], 1, config=only("perplexity"))
    assert judged.reason == "perplexity"
    (noise,) = judge(demo_model, FREE, OWN, [NOISE], 1, config=only("perplexity"))
    assert judged.figures["nats"] < 0.2 < 3 < noise.figures["nats"]


# ---- settings


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"off": frozenset({"copies"})}, "no filter is named 'copies'"),
        ({"copy": 0.0}, "copy"),
        ({"neighbours": 0}, "neighbours"),
        ({"label": -0.1}, "label"),
        ({"style": (1.0, 1.5)}, "style"),
        ({"perplexity": (0.2, 0.9)}, "perplexity"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FilterConfig(**settings)

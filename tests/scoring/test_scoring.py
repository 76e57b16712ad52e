"""EOE, DSS, IDD and the suggestion of lexicons, against worked examples and independent references."""

from __future__ import annotations

import importlib.util
import json
import math
import random
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal.dialogue import words
from mlx_personal.errors import UserError
from mlx_personal.scoring import (
    ESTIMATORS,
    Lexicons,
    ScoringConfig,
    dominant_topics,
    entropy_of_embedding,
    in_domain_dissimilarity,
    leave_one_out_dissimilarity,
    suggest_lexicons,
)
from mlx_personal.scoring.dissimilarity import in_domain_dissimilarity_reference
from tests.support.paths import SCRIPTS


def states(tokens: int, dimensions: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((tokens, dimensions)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


# EOE


def entropy_by_singular_values(window: np.ndarray) -> float:
    """Return the entropy of a window's spectrum in nats, by singular values instead of the Gram matrix."""
    p = np.linalg.svd(window - window.mean(axis=0), compute_uv=False) ** 2
    p = p[p > 1e-12 * p.sum()] / p.sum()
    return float(-(p * np.log(p)).sum())


@pytest.mark.parametrize(("tokens", "dimensions"), [(2, 8), (17, 8), (64, 40), (65, 40), (129, 100), (200, 3)])
def test_spectral_entropy_equals_the_one_by_singular_values(tokens: int, dimensions: int) -> None:
    x = states(tokens, dimensions)
    # Starts of the windows by hand: the first at 0, the last at the end, the others evenly between, rounded down.
    starts = {2: [0], 17: [0], 64: [0], 65: [0, 1], 129: [0, 32, 65], 200: [0, 45, 90, 136]}[tokens]
    expected = np.mean([entropy_by_singular_values(x[i : i + 64].astype(np.float64)) for i in starts])
    assert entropy_of_embedding(x) == pytest.approx(expected / math.log(64), abs=1e-9)
    whole = entropy_by_singular_values(x.astype(np.float64)) / math.log(tokens)
    assert entropy_of_embedding(x, "spectral-whole") == pytest.approx(whole, abs=1e-9)


def test_spectral_entropy_of_tokens_at_right_angles() -> None:
    # n orthonormal states, centered, leave n - 1 equal eigenvalues.
    assert entropy_of_embedding(np.eye(64)) == pytest.approx(math.log(63) / math.log(64))
    assert entropy_of_embedding(np.eye(3)) == pytest.approx(math.log(2) / math.log(64))
    assert entropy_of_embedding(np.eye(3), "spectral-whole") == pytest.approx(math.log(2) / math.log(3))


def test_a_few_words_score_low() -> None:
    assert entropy_of_embedding(states(5, 200)) < 1 / 3 < entropy_of_embedding(states(60, 200))


def test_one_token_more_than_a_window_changes_little() -> None:
    x = states(200, 100)
    for length in (64, 128):
        assert entropy_of_embedding(x[: length + 1]) == pytest.approx(entropy_of_embedding(x[:length]), abs=0.02)


def test_spectral_entropy_averages_windows_of_at_most_64_tokens() -> None:
    varied, repeated = np.eye(64), np.ones((64, 64))
    whole = entropy_of_embedding(np.vstack([varied, repeated]))
    assert whole == pytest.approx(entropy_of_embedding(varied) / 2)


@pytest.mark.parametrize("estimator", ["spectral", "spectral-whole"])
@pytest.mark.parametrize("x", [np.zeros((0, 8)), states(1), np.zeros((70, 8)), np.full((70, 8), 1e6 / 3, np.float32)])
def test_no_entropy_where_the_tokens_do_not_differ(estimator: str, x: np.ndarray) -> None:
    assert entropy_of_embedding(x, estimator) == 0.0


@given(st.integers(0, 140), st.integers(1, 24), st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=50, deadline=None)
def test_spectral_entropy_is_a_share_that_ignores_scale_rotation_and_offset(
    tokens: int, dimensions: int, seed: int, scale: float
) -> None:
    x = states(tokens, dimensions, seed).astype(np.float64)
    score = entropy_of_embedding(x)
    assert 0.0 <= score <= 1.0
    rotation = np.linalg.qr(states(dimensions, dimensions, seed).astype(np.float64))[0]
    assert entropy_of_embedding(scale * (x @ rotation + 3.0)) == pytest.approx(score, abs=1e-6)


def test_repetition_lowers_the_spectral_entropy() -> None:
    x = states(60, 128)
    assert entropy_of_embedding(np.tile(x[:6], (10, 1))) < 0.5 * entropy_of_embedding(x)


def test_histogram_entropy_as_in_the_authors_script() -> None:
    halves = np.tile([0.0, 1.0], 50)  # two of the 100 bins, half the values each: one bit
    assert entropy_of_embedding(halves[None], "histogram") == pytest.approx(1.0)
    assert entropy_of_embedding(np.vstack([states(2, 100), halves]), "histogram") == pytest.approx(1 / math.log2(4))
    x = states(9, 500)
    p = np.histogram(x[-1].astype(np.float64), bins=100)[0] / 500
    p = p[p > 0]
    expected = -(p * np.log2(p)).sum() / math.log2(10)
    assert entropy_of_embedding(x, "histogram") == pytest.approx(expected)
    assert expected > 1.0  # which is why it is not the default
    assert entropy_of_embedding(np.zeros((0, 8)), "histogram") == 0.0


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((2, 3, 4)), np.array([[1.0, np.nan]] * 3), [[np.inf, 1.0]] * 3])
def test_states_of_another_shape_or_not_finite_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="token states"):
        entropy_of_embedding(bad)


@pytest.mark.parametrize("use", [lambda name: entropy_of_embedding(states(5), name), ScoringConfig])
def test_an_unknown_estimator_is_refused_with_the_nearest_name(use: Any) -> None:
    with pytest.raises(ValueError, match="'spectral'"):
        use("spectrum")


def test_every_estimator_can_be_configured() -> None:
    assert [ScoringConfig(name).entropy_estimator for name in ESTIMATORS] == list(ESTIMATORS)


# DSS

LEXICONS = Lexicons({"pets": ["cat", "dog"], "cooking": ["soup", "pan", "cat"], "space": ["moon"]})


def test_domain_specific_score_of_a_worked_example() -> None:
    score = LEXICONS.domain_specific_score("The cat, the CAT and the dog eat soup.")
    # 9 words; pets: cat cat dog, cooking: cat cat soup, space: none; a mean over three lexicons.
    assert score.word_count == 9
    assert score.hits == {"cooking": 3, "pets": 3}
    assert score.dss == pytest.approx((3 / 9 + 3 / 9 + 0) / 3)
    assert score.domain == "cooking"  # a tie: the first by name


def test_the_dominant_domain_has_most_hits_not_most_kinds_of_word() -> None:
    assert LEXICONS.domain_specific_score("moon moon moon dog soup pan").domain == "space"


@pytest.mark.parametrize(("text", "n"), [("", 0), ("?!", 0), ("nothing of the kind", 4)])
def test_a_text_without_hits_is_of_the_domain_other(text: str, n: int) -> None:
    score = LEXICONS.domain_specific_score(text)
    assert (score.dss, score.domain, score.hits, score.word_count) == (0.0, "other", {}, n)


@given(st.lists(st.sampled_from(["cat", "dog", "soup", "pan", "moon", "and", "Ж"]), max_size=30))
def test_dss_equals_its_definition(tokens: list[str]) -> None:
    score = LEXICONS.domain_specific_score(" ".join(tokens))
    shares = [sum(t.casefold() in lexicon for t in tokens) / max(len(tokens), 1) for lexicon in LEXICONS.values()]
    assert score.dss == pytest.approx(sum(shares) / 3)
    assert 0.0 <= score.dss <= 1.0


# IDD


def test_dissimilarity_of_worked_examples() -> None:
    x, y = np.eye(2, dtype=np.float32)
    assert in_domain_dissimilarity(x, None, 0) == 1.0
    assert in_domain_dissimilarity(x, (x + y).astype(np.float64), 2) == pytest.approx(0.5)
    assert in_domain_dissimilarity(x, x.astype(np.float64), 1) == pytest.approx(0.0)
    assert in_domain_dissimilarity(x, -x.astype(np.float64), 1) == 1.0  # a distance of 2, clipped


@given(st.integers(0, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_running_sums_equal_the_mean_over_the_list(count: int, dimensions: int, seed: int) -> None:
    rows = unit(states(count + 1, dimensions, seed))
    one, others = rows[0], rows[1:]
    total = others.astype(np.float64).sum(axis=0)
    expected = in_domain_dissimilarity_reference(one, list(others))
    assert in_domain_dissimilarity(one, total, count) == pytest.approx(expected, abs=1e-6)
    fresh = leave_one_out_dissimilarity(rows, rows.astype(np.float64).sum(axis=0))
    for i, score in enumerate(fresh):
        rest = [row for j, row in enumerate(rows) if j != i]
        assert score == pytest.approx(in_domain_dissimilarity_reference(rows[i], rest), abs=1e-6)


def test_a_zero_vector_is_dissimilar_to_all_others() -> None:
    nothing, x = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)[0]
    assert in_domain_dissimilarity(nothing, x.astype(np.float64), 1) == 1.0
    assert leave_one_out_dissimilarity(np.stack([nothing, x]), x.astype(np.float64)).tolist() == [1.0, 1.0]


# Suggesting lexicons

# Words by topic, and function words.
SWEDISH = {
    "mat": "soppa potatis lök smör ugn recept koka steka kryddor deg baka gryta sallad middag",
    "båt": "segel hamn båten vinden ankare skuta roder vågor brygga motorbåt kust fyren skär segla",
    "hund": "hunden valp koppel promenad veterinär päls skälla tass foder katten svans leka rasen klippa",
    "musik": "gitarr sång kör konsert noter trumma piano melodi låten öva band scen ackord refräng",
}
RUSSIAN = {
    "кухня": "суп картошка лук масло духовка рецепт варить жарить тесто пирог салат ужин соль кастрюля",
    "сад": "клумба рассада грядка полив тюльпан роза почва удобрение теплица сорняк яблоня семена лейка куст",
    "деньги": "кредит банк вклад процент бюджет налог зарплата долг счёт платёж ипотека акции валюта копить",
}
CHINESE = {
    "厨": "炒 饭 汤 菜 盐 锅 煮 面 蒸 肉 鱼 豆",
    "园": "花 草 树 种 土 浇 叶 根 苗 枝 盆 肥",
    "钱": "银 贷 债 税 股 款 薪 账 币 存 险 投",
}
FUNCTION_WORDS = {
    "sv": "jag vill att du och det är en hur på för inte",
    "ru": "я хочу что ты и это как на для не мне",
    "zh": "我 想 你 的 是 不 了 在 有 这",
}


def stream(topics: dict[str, str], function_words: str, count: int, seed: int = 0) -> list[str]:
    """Return dialogues of one topic each; half of their words are function words, and one is of another topic."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        topic = rng.choice(sorted(topics))
        stray = rng.choice(topics[rng.choice(sorted(topics))].split())
        tokens = [*rng.sample(topics[topic].split(), 6), *rng.sample(function_words.split(), 6), stray]
        rng.shuffle(tokens)
        texts.append(" ".join(tokens) + f"? {rng.randrange(2000)}")
    return texts


@pytest.mark.parametrize(
    ("topics", "language"), [(SWEDISH, "sv"), (RUSSIAN, "ru"), (CHINESE, "zh")], ids=["Swedish", "Russian", "Chinese"]
)
def test_suggested_lexicons_are_the_topics_of_a_stream_in_any_language(topics: dict[str, str], language: str) -> None:
    texts = stream(topics, FUNCTION_WORDS[language], 120)
    suggestions = suggest_lexicons(texts, max_domains=len(topics), max_words=12)
    assert sum(s.dialogues for s in suggestions) == 120
    covered = set()
    for suggestion in suggestions:
        best = max(topics, key=lambda t: len(set(topics[t].split()) & set(suggestion.words)))
        covered.add(best)
        assert len(set(topics[best].split()) & set(suggestion.words)) >= 0.9 * len(suggestion.words) >= 8
        assert suggestion.name == "_".join(suggestion.words[:2])
        assert not set(FUNCTION_WORDS[language].split()) & set(suggestion.words)
    assert covered == set(topics)
    # As lexicons they assign each dialogue to the domain that it was made for.
    lexicons = Lexicons({s.name: s.words for s in suggestions})
    domains = [lexicons.domain_specific_score(text).domain for text in texts]
    assert domains.count("other") == 0
    assert sorted(domains.count(s.name) for s in suggestions) == pytest.approx(
        sorted(s.dialogues for s in suggestions), abs=6
    )


def test_the_dominant_topic_of_a_text_is_the_subject_of_most_of_its_words() -> None:
    texts = stream(SWEDISH, FUNCTION_WORDS["sv"], 120)
    subjects = [max(SWEDISH, key=lambda name: len(set(SWEDISH[name].split()) & set(text.split()))) for text in texts]
    topics = dominant_topics([*texts, "?!"], len(SWEDISH))
    pairs = Counter(zip(subjects, topics, strict=False))
    assert len(topics) == 121 and topics[-1] == -1
    assert sum(number for _, number in pairs.most_common(len(SWEDISH))) >= 0.95 * 120
    assert {topic for (_, topic), _ in pairs.most_common(len(SWEDISH))} == set(range(len(SWEDISH)))
    assert dominant_topics([], 3) == []


def test_suggestions_are_the_same_for_the_same_seed_and_share_no_word() -> None:
    texts = stream(SWEDISH, FUNCTION_WORDS["sv"], 100)
    suggestions = suggest_lexicons(texts, max_domains=6, seed=3)
    assert suggestions == suggest_lexicons(texts, max_domains=6, seed=3)
    every = [word for s in suggestions for word in s.words]
    assert len(every) == len(set(every))
    assert all(words(word) == [word] and not word.isdigit() for word in every)
    assert [s.dialogues for s in suggestions] == sorted((s.dialogues for s in suggestions), reverse=True)


def test_words_in_too_few_or_too_many_dialogues_are_not_suggested() -> None:
    texts = [text + " överallt" for text in stream(SWEDISH, FUNCTION_WORDS["sv"], 60)]
    texts[0] += " sällsynt"
    every = {word for s in suggest_lexicons(texts, max_domains=4) for word in s.words}
    assert not every & {"överallt", "sällsynt"}


def test_small_talk_is_no_domain() -> None:
    rng = random.Random(1)
    small_talk = ["hej", "tack", "okej", "kanske", "jo", "nej", "fint", "visst", "bra", "då"]
    topics = SWEDISH | RUSSIAN | CHINESE
    texts = stream(topics, FUNCTION_WORDS["sv"], 200) + [" ".join(rng.sample(small_talk, 6)) for _ in range(70)]
    every = {word for s in suggest_lexicons(texts, max_domains=11) for word in s.words}
    assert not every & set(small_talk)
    assert sum(len(every & set(topic.split())) >= 8 for topic in topics.values()) >= 9


def test_too_few_dialogues_for_a_suggestion_name_the_number_needed() -> None:
    with pytest.raises(UserError, match=r"39 dialogues are too few for 8 domains: at least 40"):
        suggest_lexicons(["a text"] * 39)


@pytest.mark.parametrize("text", ["the same words in all", "", "1 2 3"])
def test_dialogues_without_content_words_are_an_error(text: str) -> None:
    with pytest.raises(UserError, match="only 0 content words"):
        suggest_lexicons([text] * 50)


# The study of the estimators


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("entropy_study", SCRIPTS / "entropy_study.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(values=st.lists(st.integers(0, 5), min_size=2, max_size=12), cut=st.integers(1, 11))
def test_auc_is_the_chance_that_a_real_value_is_higher(study: ModuleType, values: list[int], cut: int) -> None:
    cut = min(cut, len(values) - 1)
    real, fake = values[:cut], values[cut:]
    pairs = [(r > f) + 0.5 * (r == f) for r in real for f in fake]
    assert study.auc(real, fake) == pytest.approx(sum(pairs) / len(pairs))


def test_rank_correlation_sees_any_rising_curve_as_one(study: ModuleType) -> None:
    assert study.spearman([1, 2, 3, 10], [1, 4, 9, 1000]) == pytest.approx(1.0)
    assert study.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert study.ranks([5, 1, 5, 3]).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_the_study_writes_its_figures_and_fails_if_they_fall_short(
    study: ModuleType, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stream.jsonl"
    texts = stream(SWEDISH, FUNCTION_WORDS["sv"], 12)
    messages = [[{"role": "user", "content": t}, {"role": "assistant", "content": t}] for t in texts]
    file.write_text("".join(json.dumps({"messages": m}) + "\n" for m in messages), "utf-8")
    out = tmp_path / "out.md"
    status = study.main(["--model", str(tiny_model_folder), "--stream", str(file), "--out", str(out)])
    report = out.read_text("utf-8")
    assert capsys.readouterr().out == report + "\n"
    assert status == (0 if "all reached." in report and "NOT" not in report else 1)
    assert "| | spectral | spectral-whole | histogram |" in report
    assert report.count("(required)") == 5
    assert str(tmp_path) not in report
    assert not any(word in report for word in ("potatis", "skuta", "veterinär"))

"""The table of an evaluation: 80 columns, every metric with what it means, and evaluations of older versions."""

from __future__ import annotations

import dataclasses

from mlx_personal.cli.evaluation_table import evaluation_lines
from mlx_personal.evaluation import (
    AnswerStatistic,
    ChoiceChange,
    ConstantAnswer,
    Evaluation,
    MetricChange,
    SpecificityChange,
)


def change(before: float, after: float) -> MetricChange:
    return MetricChange(before, after, after - before, after - before - 0.1, after - before + 0.1)


EVALUATION = Evaluation(
    n=12,
    rouge1=change(0.2, 0.3),
    rougeL=change(0.1, 0.2),
    samples=(),
    log_likelihood=change(-3.0, -2.0),
    specificity=SpecificityChange(12, 4, change(0.5, 0.7), (0.4, 0.6), (0.5, 0.9), change(0.8, 0.9)),
    choice=ChoiceChange(12, 12, change(0.5, 0.75), change(0.25, 0.5), 0.2586, 1 / 12),
    similarity=change(0.1, 0.4),
    constant_answer=ConstantAnswer("Tea first!", change(0.25, 0.3), change(0.2, 0.2)),
    answer_words=AnswerStatistic(19.4, 32.06, 31.0),
    distinct_2=AnswerStatistic(0.77, 0.44, 0.41),
)


def lines_of(evaluation: Evaluation, name: str = "Adapter 3") -> list[str]:
    return evaluation_lines(dataclasses.asdict(evaluation), name)


def row(lines: list[str], name: str) -> list[str]:
    (line,) = (line for line in lines if line.startswith(name))
    return line.removeprefix(name).split()


def test_every_metric_has_a_row() -> None:
    lines = lines_of(EVALUATION)
    assert lines[0] == "Adapter 3 against the base model, on 12 held-out dialogues:"
    assert row(lines, "log-likelihood") == ["-3.000", "-2.000", "+1.000", "+0.900", "to", "+1.100"]
    assert row(lines, "perplexity") == ["20.09", "7.39", "x0.37", "x0.33", "to", "x0.41"]
    assert row(lines, "specificity") == ["0.500", "0.700", "+0.200", "+0.100", "to", "+0.300"]
    assert row(lines, "own question wins") == ["80.0%", "90.0%", "+10.0%", "+0.0%", "to", "+20.0%"]
    assert row(lines, "right choice") == ["25.0%", "50.0%", "+25.0%", "+15.0%", "to", "+35.0%"]
    assert row(lines, "reciprocal rank")[:3] == ["0.500", "0.750", "+0.250"]
    assert row(lines, "ROUGE-1")[:3] == ["0.200", "0.300", "+0.100"]
    assert row(lines, "similarity")[:3] == ["0.100", "0.400", "+0.300"]
    assert row(lines, "words per answer") == ["19.4", "32.1"]
    assert row(lines, "distinct-2") == ["0.770", "0.440"]


def test_the_table_fits_80_columns_and_says_what_is_compared() -> None:
    lines = lines_of(EVALUATION, "The adapter in " + "/folder-of-adapters" * 3)
    assert max(map(len, lines)) < 80
    text = " ".join(" ".join(lines).split())
    assert "one answer for all has 0.250, the model +0.050 (-0.050 to +0.150)" in text
    assert (
        "the right one of up to 12 of your answers of like length, by likelihood, for 12 questions; chance 8%" in text
    )
    assert "chance 0.259" in text
    assert "(before +0.400 to +0.600, after +0.500 to +0.900)" in text
    assert "yours have 31.0" in text


def test_an_evaluation_of_version_0_1_has_the_rows_that_it_has() -> None:
    old = {key: dataclasses.asdict(EVALUATION)[key] for key in ("n", "rouge1", "rougeL", "samples")}
    lines = evaluation_lines(old, "Adapter 1")
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["Adapter", "ROUGE-1", "ROUGE-L"]


def test_inferred_verdicts_have_a_table_of_their_own() -> None:
    inferred = dataclasses.replace(EVALUATION, n=1, is_inferred=True)
    lines = lines_of(dataclasses.replace(EVALUATION, inferred=inferred))
    assert "Apart from these, adapter 3 against the base model, on 1 held-out dialogue with" in lines, (
        "wrapped before the last words"
    )
    assert sum(line.startswith("ROUGE-1") for line in lines) == 2


def test_a_hopeless_likelihood_has_a_perplexity_all_the_same() -> None:
    hopeless = dataclasses.replace(EVALUATION, log_likelihood=change(-2000.0, -1.0))
    assert row(lines_of(hopeless), "perplexity")[:2] == ["1.01e+304", "2.72"]
    unlikely = dataclasses.replace(EVALUATION, log_likelihood=change(-9.302, -9.29))
    assert row(lines_of(unlikely), "perplexity")[:3] == ["1.1e+04", "1.08e+04", "x0.99"]

"""The table of an evaluation: 80 columns, every metric with what it means, and evaluations of older versions."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.evaluation_table import evaluation_lines, forgetting_lines, mode_lines
from mlx_personal.cli.train import promotion_lines
from mlx_personal.evaluation import (
    AnswerMode,
    AnswerStatistic,
    ChoiceChange,
    ConstantAnswer,
    Evaluation,
    MetricChange,
    ModeComparison,
    ModeResult,
    SpecificityChange,
)
from mlx_personal.memory import MemoryConfig
from mlx_personal.personalizer import PromotionResult


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


# Answer modes

BASE, MEMORY = AnswerMode(None, False), AnswerMode(None, True)
ADAPTER, ADAPTER_MEMORY = AnswerMode(1234, False), AnswerMode(1234, True)
MODES = ModeComparison(
    rule="likelihood",
    n=12,
    can_decide=True,
    in_use=MEMORY,
    evaluated=ADAPTER_MEMORY,
    best=ADAPTER_MEMORY,
    results=(
        ModeResult(BASE, -34.5, None, 0.2, change(0.0, -31.5), False, "worse"),
        ModeResult(MEMORY, -3.0, None, 0.25),
        ModeResult(ADAPTER, -2.5, None, 0.25, change(0.0, 0.5), True, "better"),
        ModeResult(ADAPTER_MEMORY, None, 0.25, 0.3, change(0.0, 0.75), True, "better"),
    ),
    memory=dataclasses.asdict(MemoryConfig()),
    memory_note="",
    earlier_choices=(0, 3),
    compared_at="2026-01-31T12:00:00+00:00",
)


def test_answer_modes_stand_side_by_side_in_80_columns() -> None:
    lines = lines_of(dataclasses.replace(EVALUATION, modes=MODES), "Adapter 1234")
    assert max(map(len, lines)) < 80
    assert lines[0] == "Adapter 1234 with memory against the base model, on 12 held-out dialogues:"
    table = lines[lines.index("Answer modes, compared with the base model with memory, which was in use:") + 1 :]
    assert table[0].split() == ["log-likelihood", "ROUGE-1", "gain", "95", "%", "interval"]
    assert row(table, "the base model with memory") == ["-3.000", "0.250", "in", "use"]
    assert row(table, "adapter 1234 with memory") == ["-", "0.300", "+0.750", "+0.650", "to", "+0.850"]
    assert table[1].split()[-6:] == ["-34.500", "0.200", "-31.500", "-31.600", "to", "-31.400"]
    text = " ".join(" ".join(table).split())
    assert "with memory: up to 2 examples of at most 1,024 tokens, retrieval both" in text
    assert "By the rule likelihood: adapter 1234 with memory is the best." in text
    assert "These held-out dialogues decided 0 to 3 times before; each time" in text


def test_what_decides_nothing_is_said() -> None:
    few = dataclasses.replace(
        MODES, rule="choice", n=4, can_decide=False, best=MEMORY, memory_note="it is empty", earlier_choices=(0, 0)
    )
    text = " ".join(" ".join(mode_lines(dataclasses.asdict(few))).split())
    assert "recip. rank" in text and "adapter 1234 with memory 0.250 0.300" in text
    assert "Memory is not used: it is empty." in text
    assert "With fewer than 5 held-out dialogues nothing is decided" in text and "By the rule" not in text
    assert "before" not in text


def test_a_fixed_use_of_memory_is_in_the_title() -> None:
    always = dataclasses.replace(MODES, results=MODES.results[1::2])
    lines = lines_of(dataclasses.replace(EVALUATION, modes=always), "Adapter 7")
    assert lines[0] == "Adapter 7 with memory against the base model with memory, on 12 held-out"


@pytest.mark.parametrize(
    ("changes", "result", "expected"),
    [
        ({}, {"promoted": True}, "The adapter is promoted: adapter 1234 with memory answers from now on."),
        ({"best": MEMORY}, {}, "The adapter is not better than what is in use: it is kept and not promoted."),
        (
            {"best": BASE},
            {},
            "The adapter is not the best: it is kept and not promoted.\n"
            "The base model is better than the base model with memory and answers from now on.",
        ),
        (
            {"best": MEMORY},
            {"exceeds_forgetting": True},
            "The adapter exceeds `max_forgetting` of the settings: it is kept and not promoted.",
        ),
        (
            {"best": MEMORY, "can_decide": False},
            {},
            "The adapter is kept; to use it: `mlx-personal adapters promote 1234`",
        ),
        ({"best": MEMORY, "can_decide": False}, {"promoted": True}, "The adapter stays in use."),
        ({"best": MEMORY}, {"has_effect": False}, "The adapter changes nothing: it is kept and not promoted."),
    ],
)
def test_what_answers_from_now_on_is_said(changes: dict[str, Any], result: dict[str, bool], expected: str) -> None:
    evaluation = dataclasses.replace(EVALUATION, modes=dataclasses.replace(MODES, **changes))
    facts: dict[str, Any] = {"promoted": False, "exceeds_forgetting": False, "has_effect": True, **result}
    promotion = PromotionResult(evaluation, EVALUATION, reason="it is so", forgetting=None, **facts)
    lines = promotion_lines(CommandContext(), 1234, promotion)
    assert "\n".join(lines).endswith(expected)
    assert result.get("has_effect") is False or lines[0].startswith("Against the base model with memory: it is so.")


def test_forgetting_is_said_where_it_was_measured() -> None:
    assert forgetting_lines(None) == []
    assert forgetting_lines(-0.021) == ["The loss on general dialogues changed by -2.1%."]

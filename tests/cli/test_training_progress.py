"""The progress line of a training: its statistics, and where it is shown."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import mlx.core as mx
import pytest

from mlx_personal.cli.context import CommandContext
from mlx_personal.cli.terminal import make_console
from mlx_personal.cli.training_progress import StepStatistics, training_progress
from mlx_personal.progress import ProgressEvent

if TYPE_CHECKING:
    from mlx_personal.finetune import TrainingStep


@pytest.fixture(autouse=True)
def peak_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "get_peak_memory", lambda: 2_000_000_000)


@dataclasses.dataclass(frozen=True)
class Step:
    """The fields of `TrainingStep` that the line reads."""

    number: int = 1
    steps: int = 100
    epoch: int = 1
    loss: float = 2.0
    learning_rate: float = 1e-4
    target_tokens: int = 500
    elapsed_s: float = 0.5
    memory_bytes: int = 1_500_000_000
    power_watts: float | None = None
    reward_margin: float | None = None


def rendered(steps: list[Step], width: int = 120, as_json: bool = False, is_terminal: bool = True) -> str:
    """Return what the line of these steps writes to standard error."""
    out = io.StringIO()
    cli = CommandContext(Path("nowhere"), "default", as_json=as_json)
    # Set in place of the cached property's value.
    cli.progress_console = make_console(file=out, force_terminal=is_terminal, width=width, color_system=None)
    with training_progress(cli) as on_progress:
        for step in steps:
            on_progress(ProgressEvent("training", step.number, step.steps, detail=step))
    return out.getvalue()


def texts(steps: list[Step], peak_memory_bytes: int = 2_000_000_000) -> list[str]:
    """Return the texts of the line after these steps."""
    statistics = StepStatistics()
    for step in steps:
        statistics.add(cast("TrainingStep", step))
    return statistics.texts(peak_memory_bytes)


def last_line(output: str) -> str:
    lines = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", output.replace("\r", "\n")).splitlines()
    return [line for line in lines if line.startswith("Training")][-1]


def test_line_shows_all_statistics() -> None:
    line = last_line(rendered([Step(number=20, power_watts=23.44)]))
    assert line.rstrip().endswith("20/100  loss 2.000  0:40 left  1,000 tokens/s  1.5 GB, peak 2.0 GB  23.4 W")


def test_the_margin_of_preference_pairs_is_averaged_over_the_steps_that_have_pairs() -> None:
    assert "margin" not in last_line(rendered([Step()]))
    steps = [Step(reward_margin=0.5), Step(), Step(reward_margin=-0.1)]
    assert "  margin 0.200  " in last_line(rendered(steps))


def test_unknown_power_is_not_shown_as_zero() -> None:
    assert " W" not in last_line(rendered([Step()]))
    assert "0.0 W" in last_line(rendered([Step(power_watts=0.0)]))


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (20, "20"),
        (30, "20/100"),
        (50, "20/100  loss 2.000  0:40 left"),
        (80, "20/100  loss 2.000  0:40 left  1,000 tokens/s"),
        (88, "20/100  loss 2.000  0:40 left  1,000 tokens/s  1.5 GB, peak 2.0 GB"),
    ],
)
def test_narrow_terminal_shows_the_most_important_statistics(width: int, expected: str) -> None:
    output = rendered([Step(number=20, power_watts=23.4)], width=width)
    assert len(last_line(output)) <= width
    assert last_line(output)[18:] == expected
    assert output.count("\n") == 1


def test_line_is_shown_before_the_first_step() -> None:
    assert "Training" in rendered([])


@pytest.mark.parametrize("options", [{"as_json": True}, {"is_terminal": False}])
def test_nothing_is_shown_with_json_or_without_a_terminal(options: dict[str, bool]) -> None:
    assert rendered([Step(), Step(number=2)], **options).strip() == ""


def test_line_is_removed_at_the_end() -> None:
    # Up one line and erase it: what a later message then stands on.
    assert rendered([Step()]).endswith("\x1b[1A\x1b[2K")


def test_statistics_are_averages_of_the_last_steps() -> None:
    steps = [Step(number=number, loss=99.0, elapsed_s=9.0) for number in range(1, 11)]
    steps += [Step(number=number, loss=1.0, target_tokens=10, elapsed_s=1.0) for number in range(11, 30)]
    steps.append(Step(number=30, steps=40, loss=3.0, target_tokens=30, elapsed_s=2.0))
    loss = (19 * 10 * 1.0 + 30 * 3.0) / (19 * 10 + 30)
    assert texts(steps, 0)[:4] == ["30/40", f"loss {loss:.3f}", "0:10 left", f"{220 / 21:.0f} tokens/s"]


def test_small_memory_is_shown_in_megabytes() -> None:
    assert texts([Step(memory_bytes=900_400_000)])[-1] == "900 MB, peak 2.0 GB"


@pytest.mark.parametrize(("seconds", "text"), [(0.004, "0:00"), (9.4, "0:09"), (754, "12:34"), (5025, "1:23:45")])
def test_time_left_is_shown_as_a_clock(seconds: float, text: str) -> None:
    assert f"{text} left" in texts([Step(number=1, steps=2, elapsed_s=seconds)])


def test_steps_without_elapsed_time_have_no_speed() -> None:
    assert texts([Step(elapsed_s=0.0)]) == ["1/100", "loss 2.000", "0:00 left", "1.5 GB, peak 2.0 GB"]

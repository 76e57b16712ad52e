"""The live line of a training: right figures, on a terminal's standard error alone."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_personal.cli.context import Cli, terminal
from mlx_personal.cli.training_progress import Figures, training_line
from mlx_personal.profile.home import Home


@pytest.fixture(autouse=True)
def peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "get_peak_memory", lambda: 2_000_000_000)


@dataclasses.dataclass(frozen=True)
class Step:
    """The fields of a training's step that the line reads."""

    number: int = 1
    steps: int = 100
    epoch: int = 1
    loss: float = 2.0
    learning_rate: float = 1e-4
    target_tokens: int = 500
    elapsed_s: float = 0.5
    memory_bytes: int = 1_500_000_000
    power_watts: float | None = None


def cli_of(width: int = 120, as_json: bool = False, is_terminal: bool = True) -> tuple[Cli, io.StringIO]:
    out = io.StringIO()
    console = terminal(file=out, force_terminal=is_terminal, width=width, color_system=None)
    return Cli(Home(Path("nowhere")), "default", as_json, console), out


def rendered(steps: list[Step], **options: object) -> str:
    cli, out = cli_of(**options)
    with training_line(cli) as on_step:
        for step in steps:
            on_step(step)
    return out.getvalue()


def last_line(output: str) -> str:
    lines = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", output.replace("\r", "\n")).splitlines()
    return [line for line in lines if line.startswith("Training")][-1]


def test_the_line_shows_all_figures() -> None:
    line = last_line(rendered([Step(number=20, power_watts=23.44)]))
    assert line.rstrip().endswith("20/100  loss 2.000  0:40 left  1,000 tokens/s  1.5 GB, peak 2.0 GB  23.4 W")


def test_unknown_watts_are_not_shown_as_zero() -> None:
    assert " W" not in last_line(rendered([Step()]))
    assert "0.0 W" in last_line(rendered([Step(power_watts=0.0)]))


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (20, "20"),
        (30, "20/100"),
        (50, "20/100  loss 2.000  0:40 left"),
        (80, "20/100  loss 2.000  0:40 left  1,000 tokens/s"),
        (88, "20/100  loss 2.000  0:40 left  1,000 tokens/s  1.5 GB, peak 2.0 GB"),
    ],
)
def test_a_narrow_terminal_has_the_most_wanted_figures(width: int, shown: str) -> None:
    output = rendered([Step(number=20, power_watts=23.4)], width=width)
    assert len(last_line(output)) <= width
    assert last_line(output)[18:] == shown
    assert output.count("\n") == 1


def test_before_the_first_step_there_is_a_line_too() -> None:
    assert "Training" in rendered([])


@pytest.mark.parametrize("options", [{"as_json": True}, {"is_terminal": False}])
def test_json_and_pipes_get_nothing(options: dict[str, bool]) -> None:
    assert rendered([Step(), Step(number=2)], **options).strip() == ""


def test_the_line_is_gone_afterwards() -> None:
    # Up one line and erase it: what a later message then stands on.
    assert rendered([Step()]).endswith("\x1b[1A\x1b[2K")


def test_the_figures_are_means_over_the_last_steps() -> None:
    figures = Figures()
    for number in range(1, 11):
        figures.after(Step(number=number, loss=99.0, elapsed_s=9.0), 0)
    for number in range(11, 30):
        figures.after(Step(number=number, loss=1.0, target_tokens=10, elapsed_s=1.0), 0)
    text = figures.after(Step(number=30, steps=40, loss=3.0, target_tokens=30, elapsed_s=2.0), 0)
    loss = (19 * 10 * 1.0 + 30 * 3.0) / (19 * 10 + 30)
    assert text[:4] == ["30/40", f"loss {loss:.3f}", "0:10 left", f"{220 / 21:.0f} tokens/s"]


def test_little_memory_is_given_in_megabytes() -> None:
    assert Figures().after(Step(memory_bytes=900_400_000), 2_000_000_000)[-1] == "900 MB, peak 2.0 GB"


@pytest.mark.parametrize(("seconds", "text"), [(0.004, "0:00"), (9.4, "0:09"), (754, "12:34"), (5025, "1:23:45")])
def test_the_time_left_reads_like_a_clock(seconds: float, text: str) -> None:
    assert f"{text} left" in Figures().after(Step(number=1, steps=2, elapsed_s=seconds), 0)


def test_a_clock_that_did_not_move_divides_nothing() -> None:
    assert Figures().after(Step(elapsed_s=0.0), 2_000_000_000) == [
        "1/100",
        "loss 2.000",
        "0:00 left",
        "1.5 GB, peak 2.0 GB",
    ]

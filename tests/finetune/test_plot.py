"""Loss plots as PNG and as text: positions, gaps for losses that are not finite, and atomic files."""

from __future__ import annotations

import dataclasses
import io
import math
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_personal import UserError
from mlx_personal.finetune.plot import Curves, RewardCurves, curves_of, loss_plot_png, loss_plot_text, smoothed

FALLING = Curves(
    [3 * 0.97**i for i in range(100)], [25, 50, 75, 100], [(0, 3.2), (50, 1.0), (100, 0.5)], [(0, 2.0), (100, 2.5)]
)
LOSSES = st.lists(st.floats(-5, 50) | st.sampled_from([math.nan, math.inf]), max_size=300)


# Smoothing


def test_smoothed_is_the_mean_of_the_window() -> None:
    losses = np.random.default_rng(0).normal(2, 1, 207)
    means, width = smoothed(losses.tolist())
    assert width == 11
    expected = [losses[i - min(i, 5) : i + min(i, 5) + 1].mean() for i in range(207)]
    np.testing.assert_allclose(means, expected, rtol=1e-12)


def test_a_line_is_unchanged_except_at_its_end() -> None:
    losses = [float(i) for i in range(40)]
    np.testing.assert_allclose(smoothed(losses)[0][:38], losses[:38])


def test_losses_that_are_not_finite_are_left_out() -> None:
    means, _ = smoothed([1.0, math.nan, math.inf, 3.0, 5.0] + [7.0] * 9 + [math.nan] * 9)
    assert means[3] == pytest.approx((3 + 5 + 7) / 3)
    assert np.isnan(means[-3:]).all() and np.isfinite(means[:16]).all()


# Text plots


def dots(text: str) -> list[tuple[int, int]]:
    """Return the column and line of every braille character."""
    cells = [
        (x, y) for y, line in enumerate(text.splitlines()[:-1]) for x, c in enumerate(line) if "\u2800" < c < "\u2900"
    ]
    return sorted(cells)


def test_text_plot_of_a_falling_loss_goes_from_corner_to_corner() -> None:
    text = loss_plot_text(Curves([float(i) for i in range(99, -1, -1)]), 60, 15)
    cells = dots(text)
    assert cells[0] == (10, 0) and cells[-1] == (59, 11)
    lowest = {x: max(y for column, y in cells if column == x) for x, _ in cells}
    assert list(lowest) == list(range(10, 60))
    assert all(lowest[x] <= lowest[x + 1] for x in range(10, 59))
    assert text.splitlines()[0].startswith("  99.000 ┤") and text.splitlines()[11].startswith("   1.000 ┤")


def test_text_plot_marks_held_out_losses_and_epochs() -> None:
    lines = loss_plot_text(FALLING, 80, 20).splitlines()
    assert lines[0].startswith("   3.200 ┤o")
    assert [line[10] for line in lines[:17]].count("x") == 1
    assert {line[10 + round(69 * 0.25)] for line in lines[:17]} >= {"┊"}
    assert lines[18].split() == ["0", "100"]
    assert lines[19].strip() == "loss by step: ⠤ training, o validation, x general, ┊ end of an epoch"


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.integers(-5, 200), st.integers(-5, 60))
def test_text_plot_has_the_requested_size(losses: list[float], width: int, height: int) -> None:
    curves = Curves(losses, [10, 20, 1000], [(0, 1.0), (7, math.nan)] if len(losses) % 2 else [])
    lines = loss_plot_text(curves, width, height).splitlines()
    assert len(lines) == max(height, 8)
    assert max(len(line) for line in lines[:-1]) <= max(width, 40)


# PNG


def write_png(path: Path) -> np.ndarray:
    image = pytest.importorskip("matplotlib.image")
    return np.round(image.imread(io.BytesIO(path.read_bytes())) * 255).astype(int)


@pytest.mark.parametrize(
    "curves",
    [
        FALLING,
        Curves([]),
        Curves([2.0]),
        Curves([math.nan, math.inf, 2.0, -math.inf]),
        Curves([1.0] * 500, [250, 500]),
    ],
    ids=["all", "none", "one", "gaps", "flat"],
)
def test_a_png_is_written_without_warnings(curves: Curves, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_plot_png(tmp_path / "loss.png", curves)
    assert write_png(tmp_path / "loss.png").shape == (1050, 1500, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


def test_the_rewards_of_pairs_have_a_panel_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    margins = RewardCurves([(25.5, 0.5), (75.5, 2.0)], [(0, 0.0), (50, 1.0), (100, 1.5)])
    accuracies = RewardCurves([(25.5, 0.6), (75.5, 0.9)])
    loss_plot_png(tmp_path / "both.png", dataclasses.replace(FALLING, margins=margins, accuracies=accuracies))
    loss_plot_png(tmp_path / "losses.png", FALLING)
    both, losses = (write_png(tmp_path / name)[..., :3] for name in ("both.png", "losses.png"))
    assert both.shape == (1650, 1500, 3) and losses.shape == (1050, 1500, 3)
    pink = (0xCC, 0x79, 0xA7)
    rows = np.flatnonzero((both == pink).all(-1).sum(1))
    assert len(rows) > 100 and rows.min() > 900, "below the losses"
    assert not (losses == pink).all(-1).any()


def test_the_curves_of_a_report_have_its_rewards() -> None:
    names = ("rewards/margins", "rewards/accuracies")
    report = SimpleNamespace(
        losses=[0.7] * 5,
        epoch_ends=[3, 5],
        validation_losses=[],
        general_losses=[],
        pairs=4,
        rewards=dict(zip(names, [(0.5, 2.0), (0.75, 1.0)], strict=True)),
        validation_rewards={"eval_rewards/margins": ((0, 0.0), (3, 1.0))},
    )
    curves = curves_of(report)  # type: ignore[arg-type]
    # The means of steps 1 to 3 and of steps 4 and 5.
    assert curves.margins == RewardCurves(((2.0, 0.5), (4.5, 2.0)), ((0, 0.0), (3, 1.0)))
    assert curves.accuracies == RewardCurves(((2.0, 0.75), (4.5, 1.0)), ())


@pytest.mark.slow
def test_the_png_has_every_curve_in_its_color(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    colors = {"validation": (0xD5, 0x5E, 0x00), "general": (0x00, 0x9E, 0x73), "training": (0x00, 0x72, 0xB2)}
    loss_plot_png(tmp_path / "all.png", FALLING)
    loss_plot_png(tmp_path / "bare.png", Curves(FALLING.losses))
    for name, color in colors.items():
        counts = [(write_png(tmp_path / f"{file}.png")[..., :3] == color).all(-1).sum() for file in ("all", "bare")]
        assert counts[0] > 500
        assert (counts[1] == 0) == (name != "training")


def test_the_png_is_reproducible(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.png"):
        loss_plot_png(tmp_path / name, FALLING)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.slow
def test_pyplot_and_its_figures_are_untouched(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    program = """
import sys
from pathlib import Path
from mlx_personal.finetune.plot import Curves, loss_plot_png
assert "matplotlib" not in sys.modules
import matplotlib
before = matplotlib.rcParams.copy()
loss_plot_png(Path(sys.argv[1]), Curves([3.0, 2.0]))
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.png")], check=True, timeout=60)


def test_missing_matplotlib_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"needs matplotlib.*pip install 'mlx-personal\[plots\]'"):
        loss_plot_png(tmp_path / "loss.png", FALLING)
    assert list(tmp_path.iterdir()) == []

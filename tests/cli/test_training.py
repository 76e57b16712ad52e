"""`train`: dry runs, stopping by signals, and damaged models."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_personal.progress import Progress, ProgressEvent
from tests.support.cases import slow_cases
from tests.support.cli import error_line, run_cli, run_json


@pytest.fixture
def ready(profile: Path, chats: Path) -> Path:
    """A profile with annotated dialogues, whose next training has several steps and is saved after each."""
    run_cli("import", chats)
    run_cli("review", stdin="a\n" * 8)
    settings = (profile / "config.toml").read_text().replace("epochs = 1", "epochs = 4\nbatch_size = 2\nsave_every = 1")
    (profile / "config.toml").write_text(settings)
    return profile


def call_in_second_step(function: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a function be called when the second step is shown."""

    @contextlib.contextmanager
    def training_progress(cli: object) -> Iterator[Progress]:
        def on_progress(event: ProgressEvent, /) -> None:
            if event.done == 2:
                function()

        yield on_progress

    monkeypatch.setattr("mlx_personal.cli.train.training_progress", training_progress)


def press_ctrl_c(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# Stopping by signals


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("train", signal.SIGINT),
        *slow_cases(("train", signal.SIGTERM), ("run", signal.SIGINT), ("run", signal.SIGTERM)),
    ],
)
def test_signal_stops_a_training_with_its_exit_code(
    ready: Path, monkeypatch: pytest.MonkeyPatch, command: str, number: int
) -> None:
    with monkeypatch.context() as patched:
        call_in_second_step(lambda: os.kill(os.getpid(), number), patched)
        stopped = run_cli(command)
    assert stopped.exit_code == 128 + number
    (line,) = stopped.stderr.splitlines()
    assert line.startswith("mlx-personal: training was stopped after step 3 of ")
    assert line.endswith(" and saved; start the same training run again to resume it")
    assert run_json("train")["report"]["resumed_from"] == 3


def test_stopped_training_is_reported_as_json_too(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call_in_second_step(lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    stopped = run_cli("train", "--json")
    assert stopped.exit_code == 143
    assert "and saved" in json.loads(stopped.stdout)["error"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "forward.activation_cache.ActivationCache._add",
            "interrupted before its first step; the same command starts it again",
        ),
        *slow_cases(
            ("loop._Loop._step", "interrupted before its first step; the same command starts it again"),
            (
                "trainer.write_adapter",
                "the training was interrupted; the same command resumes it from its last checkpoint",
            ),
        ),
    ],
)
def test_ctrl_c_outside_the_steps_is_reported_on_one_line(
    ready: Path, monkeypatch: pytest.MonkeyPatch, where: str, message: str
) -> None:
    settings = ready / "config.toml"
    settings.write_text(settings.read_text().replace("epochs = 4", "epochs = 4\nnum_layers = 1"))
    monkeypatch.setattr(f"mlx_personal.finetune.{where}", press_ctrl_c)
    stopped = run_cli("train")
    assert stopped.exit_code == 130
    (line,) = stopped.stderr.splitlines()
    assert message in line


def test_sigterm_before_the_first_step_is_reported_on_one_line(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mlx_personal.finetune.plan.select_mode_cached", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    )
    stopped = run_cli("train")
    assert stopped.exit_code == 143
    (line,) = stopped.stderr.splitlines()
    assert "interrupted before its first step; the same command starts it again" in line
    assert list((ready / "adapters").glob(".*")) == []


def test_ctrl_c_during_the_comparison_keeps_the_adapter(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("mlx_personal.personalizer.mode_outputs.compute_outputs", press_ctrl_c)
        stopped = run_cli("train")
    assert stopped.exit_code == 130
    assert "the new adapter is kept; `mlx-personal run` compares it" in stopped.stderr
    assert run_json("run")["done"]["evaluate"]["adapter"] == 1


def test_ctrl_c_in_any_command_is_reported_on_one_line(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_personal.personalizer.read_status", press_ctrl_c)
    stopped = run_cli("status")
    assert (stopped.exit_code, stopped.stderr) == (130, "mlx-personal: interrupted\n")


# Dry runs


def test_dry_run_estimates_without_training(ready: Path) -> None:
    result = run_cli("train", "--dry-run")
    assert result.exit_code == 0
    estimate = run_json("train", "--dry-run")
    assert f"{estimate['samples']} samples, 0 of them general ones" in result.stdout
    assert f": {estimate['steps']} steps." in result.stdout
    assert "All 2 layers are adapted" in result.stdout
    assert f"Estimated peak memory: {estimate['plan']['estimated_peak_bytes'] / 1e6:.0f} MB, of" in result.stdout
    assert run_json("adapters", "list") == []
    assert run_json("train")["report"]["estimated_memory_bytes"] == estimate["plan"]["estimated_peak_bytes"]


def test_dry_run_shows_the_cache_the_held_out_samples_and_notes(ready: Path, tmp_path: Path) -> None:
    general = tmp_path / 'ge"ne\\ral.jsonl'
    messages = [{"role": "user", "content": "Even?"}, {"role": "assistant", "content": "Yes."}]
    general.write_text((json.dumps({"messages": messages}) + "\n") * 2)
    settings = ready / "config.toml"
    more = "epochs = 4\nnum_layers = 1\nvalidation_split = 0.2\nreplay_ratio = 0.5\n"
    more += f"general_data = {json.dumps(str(general))}"
    settings.write_text(settings.read_text().replace("epochs = 4", more))
    result = run_cli("train", "--dry-run").stdout
    assert "1 of 2 layers are frozen and computed once per sample; their output is cached in memory" in result
    assert (
        "1 samples are held out to find the best epoch.\n1 general samples are held out to measure forgetting.\n"
        in result
    )
    assert "Note: replay_ratio requires" in result


def test_dry_run_without_enough_memory_fails_as_the_training_would(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("planning.memory", "plan"):
        monkeypatch.setattr(f"mlx_personal.finetune.{module}.usable_memory_bytes", lambda: 1000)
    assert error_line("train", "--dry-run") == error_line("train")


# Damaged models


@pytest.fixture
def damaged(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model folder with a NaN in its weights."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model_folder, folder)
    weights: Any = mx.load(str(folder / "model.safetensors"))
    name = "model.layers.1.mlp.down_proj.weight"
    weights[name] = mx.where(mx.arange(weights[name].size).reshape(weights[name].shape) == 7, mx.nan, weights[name])
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


def test_damaged_model_is_reported_and_loses_nothing(chats: Path, damaged: Path, tiny_model_folder: Path) -> None:
    run_cli("init", "--model", damaged)
    assert f"{damaged}: this model computes states that are not finite" in error_line("import", chats)
    assert run_json("status")["unscored"] == 30
    assert run_cli("init", "--model", tiny_model_folder).exit_code == 0
    assert sum(run_json("run")["done"]["score"].values()) == 30


def test_profile_does_not_change_to_a_damaged_model(profile: Path, chats: Path, damaged: Path) -> None:
    run_cli("import", chats)
    before = run_json("status")
    assert f"{damaged}: this model computes states that are not finite" in error_line("init", "--model", damaged)
    assert run_json("status") == before
    assert run_json("run")["done"] == {}

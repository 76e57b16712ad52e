"""A training that is killed at any step is resumed with the same losses and the same adapter, bit for bit."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx
import numpy as np
import pytest

from mlx_personal import Dialogue, LanguageModel, UserError, load_language_model
from mlx_personal.finetune import (
    Example,
    InterruptedTrainingError,
    LoRAConfig,
    TrainingReport,
    TrainingStep,
    finetune,
    identity,
)
from mlx_personal.finetune.checkpoint import load_latest
from mlx_personal.finetune.forward.equivalence import ModeSelection
from mlx_personal.finetune.planning.memory import MemoryPlan
from tests.support.cases import quick_cases, slow_cases
from tests.support.paths import ROOT
from tests.support.training_steps import for_each_step

QUESTIONS = ["What shall I cook?", "My cat does not eat.", "How deep?", "Привет", "How do I plant tomatoes in May?"]
# Each answer has its own letters, so that overfitting to some soon raises the loss on the others.
LETTERS = np.random.default_rng(0).permuted(np.tile(list("abcdefghijklmnopqrstuvwxyz"), (13, 1)), axis=1)
DIALOGUES = [Dialogue.of(f"{QUESTIONS[i % 5]} {i}", "".join(LETTERS[i, :7])) for i in range(13)]
EXAMPLES = list(map(Example, DIALOGUES))
GENERAL = [Dialogue.of(f"Is {i} even?", "Yes." if i % 2 == 0 else "No.") for i in range(8)]
CONFIG = LoRAConfig(
    epochs=4,
    batch_size=3,
    dropout=0.2,
    learning_rate=3e-2,
    lr_scheduler_type="constant",
    num_layers=1,
    validation_split=0.25,
    early_stopping_patience=3,
    general_data="given",
    replay_ratio=0.2,
    save_every=2,
)


class Killed(BaseException):
    """Ends a training from within; nothing in it catches this."""


def after_step(number: int, callback: Callable[[], object]) -> Callable[[TrainingStep], None]:
    return lambda step: callback() if step.number == number else None  # type: ignore[return-value]


def kill() -> None:
    raise Killed


def run(
    lm: LanguageModel, folder: Path, callback: Callable[[TrainingStep], object] | None = None, **changes: Any
) -> Any:
    return finetune(
        lm,
        EXAMPLES,
        dataclasses.replace(CONFIG, **changes),
        folder / "adapter",
        general=GENERAL,
        checkpoint_folder=folder / "states",
        on_progress=None if callback is None else for_each_step(callback),
    )


def outcome(report: TrainingReport, folder: Path) -> tuple[Any, ...]:
    """Return everything that a training determines."""
    written = (folder / "adapter" / "adapters.safetensors").read_bytes()
    evaluations = report.validation_losses, report.general_losses, report.best_step, report.steps
    return report.losses, report.epoch_losses, *evaluations, report.target_tokens, report.samples, written


@pytest.fixture(scope="module")
def base_folder(other_model_folder: Path) -> Path:
    return other_model_folder


@pytest.fixture(scope="module")
def base(base_folder: Path) -> LanguageModel:
    """Return a model with small weights, which soon overfits, so that the held-out loss rises."""
    return load_language_model(base_folder)


@pytest.fixture(scope="module")
def uninterrupted(base: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Return the outcome without an interruption."""
    folder = tmp_path_factory.mktemp("whole")
    return outcome(run(base, folder), folder)


def checkpoint_names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "states").iterdir()) if (folder / "states").exists() else []


# Killed


def test_this_training_covers_everything_a_checkpoint_holds(
    base: LanguageModel, tmp_path: Path, uninterrupted: Any
) -> None:
    report = run(base, tmp_path)
    assert outcome(report, tmp_path) == uninterrupted  # reproducible
    assert (report.resumed_from, report.notes) == (0, ())
    assert 2 < report.best_step < report.steps  # the best adapter is not the last one
    assert report.replayed_samples > 0
    assert len(report.general_losses) == len(report.validation_losses) == report.epochs + 1
    assert report.activation_cache == "memory"
    assert checkpoint_names(tmp_path) == []


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.slow) if n % 7 else n for n in range(1, 16)])
def test_a_training_killed_after_any_step_resumes_bit_identically(
    base: LanguageModel, tmp_path: Path, uninterrupted: Any, number: int
) -> None:
    assert number < len(uninterrupted[0]) == 16
    with pytest.raises(Killed):
        run(base, tmp_path, after_step(number, kill))
    assert not (tmp_path / "adapter").exists()
    recorded: list[TrainingStep] = []
    report = run(base, tmp_path, recorded.append)
    # Progress is reported before the checkpoint of a step is saved.
    assert report.resumed_from == (number - 1) // 2 * 2
    assert recorded[0].number == report.resumed_from + 1
    assert outcome(report, tmp_path) == uninterrupted


def test_a_training_killed_repeatedly_ends_bit_identically(
    base: LanguageModel, tmp_path: Path, uninterrupted: Any
) -> None:
    for number in (3, 4, 7, 9, 10):
        with pytest.raises(Killed):
            run(base, tmp_path, after_step(number, kill))
    report = run(base, tmp_path)
    assert report.resumed_from == 8
    assert outcome(report, tmp_path) == uninterrupted


@pytest.mark.slow
def test_uncached_activations_stay_uncached_after_a_resume(
    base: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations computed for each batch differ in their last bits from cached ones."""
    with monkeypatch.context() as full:
        full.setattr("mlx_personal.finetune.forward.activation_cache._create_file", lambda _: None)
        full.setattr(
            "mlx_personal.finetune.plan.fastest_plan", lambda *_: MemoryPlan(cache_bytes=0, estimated_peak_bytes=1)
        )
        expected = outcome(report := run(base, tmp_path / "whole"), tmp_path / "whole")
        assert report.activation_cache == "nowhere"
        with pytest.raises(Killed):
            run(base, tmp_path, after_step(5, kill))
    report = run(base, tmp_path)
    assert (report.resumed_from, report.activation_cache, report.notes) == (4, "nowhere", ())
    assert outcome(report, tmp_path) == expected


def test_a_cache_that_no_longer_fits_is_noted(
    base: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mlx_personal.finetune.plan.fastest_plan", lambda *_: MemoryPlan(cache_bytes=0, estimated_peak_bytes=1)
    )
    with pytest.raises(Killed):
        run(base, tmp_path, after_step(5, kill))
    monkeypatch.setattr("mlx_personal.finetune.forward.activation_cache._create_file", lambda _: None)
    report = run(base, tmp_path)
    assert report.resumed_from == 4
    assert report.notes == (
        "no space for the activations that were cached before: the result will not be bit-identical",
    )


def test_another_forward_mode_is_rejected(base: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the samples depends on the mode."""
    with pytest.raises(Killed):
        run(base, tmp_path, after_step(5, kill))
    before_resume = checkpoint_names(tmp_path)
    monkeypatch.setattr("mlx_personal.finetune.plan.select_mode_cached", lambda *_: ModeSelection("padded", ()))
    with pytest.raises(
        UserError, match="the forward mode of this training run was packed, and only padded is exact here; discard"
    ):
        run(base, tmp_path)
    assert checkpoint_names(tmp_path) == before_resume


def test_save_every_does_not_affect_the_result(base: LanguageModel, tmp_path: Path, uninterrupted: Any) -> None:
    with pytest.raises(Killed):
        run(base, tmp_path, after_step(6, kill), save_every=1)
    report = run(base, tmp_path, save_every=1000)
    assert report.resumed_from == 5
    assert outcome(report, tmp_path) == uninterrupted


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True, "validation_split": 0.0, "early_stopping_patience": 0}, *slow_cases({"num_layers": -1})],
)
def test_other_settings_resume_bit_identically(base: LanguageModel, tmp_path: Path, changes: dict[str, Any]) -> None:
    expected = outcome(run(base, tmp_path / "whole", **changes), tmp_path / "whole")
    with pytest.raises(Killed):
        run(base, tmp_path, after_step(5, kill), **changes)
    assert outcome(run(base, tmp_path, **changes), tmp_path) == expected


@pytest.mark.slow
def test_early_stopping_works_after_a_resume(base: LanguageModel, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"epochs": 12, "early_stopping_patience": 1, "learning_rate": 3e-1}
    uninterrupted = run(base, tmp_path / "whole", **changes)
    assert uninterrupted.epochs < 12
    with pytest.raises(Killed):
        run(base, tmp_path, after_step(uninterrupted.steps - 1, kill), **changes)
    report = run(base, tmp_path, **changes)
    assert report.resumed_from > 0
    assert outcome(report, tmp_path) == outcome(uninterrupted, tmp_path / "whole")


# Processes

PROGRAM = """
import json, os, signal, sys
import mlx_personal  # before mlx.core, so that its BLAS is loaded first
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.finetune import test_resume
from mlx_personal import UserError, load_language_model
from mlx_personal.finetune import checkpoint as state
model, folder, number, where = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]

def kill(step=None):
    if step is None or step.number == number:
        os.kill(os.getpid(), getattr(signal, where) if where.startswith("SIG") else signal.SIGKILL)

if where in ("fsync", "replace"):
    whole, count = getattr(os, where), [0]
    def counted(*args):
        count[0] += "state-" in str(args[0]) or where == "fsync"
        kill() if count[0] == number else whole(*args)
    setattr(os, where, counted)
    kill_at = None
else:
    kill_at = kill
try:
    report = test_resume.run(load_language_model(model), folder, kill_at)
except UserError as error:
    print(error)
    sys.exit(2)
losses = [report.losses, report.validation_losses, report.general_losses]
print(json.dumps([report.resumed_from, report.best_step, *losses]))
"""


def process(model: Path, folder: Path, number: int = 0, where: str = "SIGKILL") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(ROOT), str(model), str(folder), str(number), where]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def check_process(done: subprocess.CompletedProcess[str], folder: Path, uninterrupted: Any) -> int:
    """Check that a process ended with the same outcome; return the step it resumed from."""
    assert done.returncode == 0, done.stderr
    resumed_from, best_step, losses, validation, general = json.loads(done.stdout)
    assert tuple(losses) == uninterrupted[0]
    assert tuple(map(tuple, validation)) == uninterrupted[2]
    assert tuple(map(tuple, general)) == uninterrupted[3]
    assert best_step == uninterrupted[4]
    assert (folder / "adapter" / "adapters.safetensors").read_bytes() == uninterrupted[-1]
    return int(resumed_from)


@pytest.mark.slow
def test_a_process_killed_by_sigkill_is_resumed_by_another(
    base: LanguageModel, base_folder: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    assert process(base_folder, tmp_path, 7).returncode == -signal.SIGKILL
    assert checkpoint_names(tmp_path) == ["state-0000004.safetensors", "state-0000006.safetensors"]
    report = run(base, tmp_path)
    assert report.resumed_from == 6
    assert outcome(report, tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_process_killed_during_a_save_is_resumed(
    base_folder: Path, tmp_path: Path, uninterrupted: Any, number: int, where: str
) -> None:
    assert process(base_folder, tmp_path, number, where).returncode == -signal.SIGKILL
    assert any(name.endswith(".partial") for name in checkpoint_names(tmp_path))
    check_process(process(base_folder, tmp_path), tmp_path, uninterrupted)
    assert checkpoint_names(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_process_killed_twice_at_random_steps_is_resumed(
    base_folder: Path, tmp_path: Path, uninterrupted: Any, seed: int
) -> None:
    first, second = np.sort(np.random.default_rng(seed).integers(1, len(uninterrupted[0]), 2)).tolist()
    assert process(base_folder, tmp_path, first).returncode == -signal.SIGKILL
    assert process(base_folder, tmp_path, second).returncode == -signal.SIGKILL
    assert check_process(process(base_folder, tmp_path), tmp_path, uninterrupted) == (second - 1) // 2 * 2


@pytest.mark.slow
def test_a_process_killed_at_any_moment_is_resumed(base_folder: Path, tmp_path: Path, uninterrupted: Any) -> None:
    command = [sys.executable, "-c", PROGRAM, str(ROOT), str(base_folder), str(tmp_path), "0"]
    rng = np.random.default_rng(0)
    for _ in range(3):
        before = checkpoint_names(tmp_path)
        with subprocess.Popen([*command, "SIGKILL"], stdout=subprocess.DEVNULL) as running:
            while checkpoint_names(tmp_path) == before and running.poll() is None:
                threading.Event().wait(0.001)
            threading.Event().wait(rng.uniform(0, 0.05))
            running.kill()
        if (tmp_path / "adapter").exists():  # it finished first
            break
    else:
        check_process(process(base_folder, tmp_path), tmp_path, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_a_process_after_saving(
    base_folder: Path, tmp_path: Path, uninterrupted: Any, name: str
) -> None:
    done = process(base_folder, tmp_path, 5, name)
    assert done.returncode == 2, done.stderr
    # Signaled while step 5 is reported, it finishes step 6 and stops.
    assert done.stdout == (
        f"training was stopped after step 6 of {len(uninterrupted[0])} and saved; "
        "start the same training run again to resume it\n"
    )
    assert check_process(process(base_folder, tmp_path), tmp_path, uninterrupted) == 6


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_that_is_resumed(
    base: LanguageModel, tmp_path: Path, uninterrupted: Any, number: int
) -> None:
    match = "stopped after step 4 of 16 and saved; start the same training run again"
    with pytest.raises(InterruptedTrainingError, match=match) as stopped:
        run(base, tmp_path, after_step(3, lambda: os.kill(os.getpid(), number)), save_every=100)
    assert stopped.value.signal == number
    assert checkpoint_names(tmp_path) == ["state-0000004.safetensors"]
    assert not list(tmp_path.glob("*adapter*"))
    report = run(base, tmp_path)
    assert report.resumed_from == 4
    assert outcome(report, tmp_path) == uninterrupted


def test_a_signal_without_a_checkpoint_folder_only_stops(base: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InterruptedTrainingError) as raised:
        stop = for_each_step(after_step(1, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        finetune(base, EXAMPLES, CONFIG, tmp_path / "a", on_progress=stop)
    assert raised.value.line().startswith("training was stopped after step 2 of ")
    assert "saved" not in raised.value.line()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps_before", [0, *slow_cases(1)])
def test_a_signal_in_the_last_step_stops_what_follows_and_no_step_is_trained_again(
    steps_before: int, base: LanguageModel, tmp_path: Path, uninterrupted: Any
) -> None:
    last = len(uninterrupted[0])
    with pytest.raises(InterruptedTrainingError, match=f"stopped after step {last} of {last} and saved"):
        run(base, tmp_path, after_step(last - steps_before, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    report = run(base, tmp_path)
    assert (report.resumed_from, report.processed_tokens) == (last, 0)
    assert outcome(report, tmp_path) == uninterrupted
    assert checkpoint_names(tmp_path) == []


# Another training


def interrupted(lm: LanguageModel, folder: Path) -> dict[str, bytes]:
    """Interrupt a training and return its checkpoints by name."""
    with pytest.raises(Killed):
        run(lm, folder, after_step(5, kill))
    return {path.name: path.read_bytes() for path in (folder / "states").iterdir()}


def test_a_changed_base_model_is_rejected_and_checkpoints_stay(
    base: LanguageModel, tiny_model: LanguageModel, tmp_path: Path, uninterrupted: Any
) -> None:
    checkpoints = interrupted(base, tmp_path)
    with pytest.raises(UserError, match="cannot resume: the base model is not the one"):
        run(tiny_model, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "states").iterdir()} == checkpoints
    assert outcome(run(base, tmp_path), tmp_path) == uninterrupted


def test_changed_weights_of_a_model_in_memory_are_rejected(base: LanguageModel, tmp_path: Path) -> None:
    lm = LanguageModel(base.model, base.tokenizer)
    interrupted(lm, tmp_path)
    norm = base.model.model.norm
    before = norm.weight
    try:
        norm.weight = before * 1.5
        with pytest.raises(UserError, match="cannot resume: the base model is not the one"):
            run(lm, tmp_path)
    finally:
        norm.weight = before


CHANGES: list[tuple[str, Any, str]] = [
    ("rank", 4, "rank was 8, is 4"),
    ("dropout", 0.1, "dropout was 0.2, is 0.1"),
    ("seed", 1, "seed was 0, is 1"),
    ("use_dora", True, "use_dora was False, is True"),
    ("batch_size", 5, "batch_size was 3, is 5"),
    ("epochs", 9, "epochs was 4, is 9"),
    ("num_layers", 2, "num_layers was 1, is 2"),
    ("lr_scheduler_type", "linear", "lr_scheduler_type was constant, is linear"),
]


def test_a_changed_setting_is_named(base: LanguageModel, tmp_path: Path) -> None:
    checkpoints = interrupted(base, tmp_path)
    for name, value, words in CHANGES:
        with pytest.raises(UserError, match=f"cannot resume: changed settings: {words}"):
            run(base, tmp_path, **{name: value})
    assert {path.name: path.read_bytes() for path in (tmp_path / "states").iterdir()} == checkpoints


def test_another_chip_or_version_is_noted(base: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(base, tmp_path)
    monkeypatch.setattr(identity, "chip_name", lambda: "Apple M9")
    monkeypatch.setattr(identity, "version", lambda package: f"1 of {package}")
    report = run(base, tmp_path)
    assert report.resumed_from == 4
    for words in ("chip was ", "is Apple M9", "is 1 of mlx-lm", "the result will not be bit-identical"):
        assert words in report.notes[0]


def test_changed_samples_are_rejected(base: LanguageModel, tmp_path: Path) -> None:
    interrupted(base, tmp_path)
    adapter = tmp_path / "adapter"
    with pytest.raises(UserError, match="cannot resume: the training samples have changed"):
        finetune(base, EXAMPLES[1:], CONFIG, adapter, general=GENERAL, checkpoint_folder=tmp_path / "states")
    with pytest.raises(UserError, match="cannot resume: the training samples have changed"):
        finetune(base, EXAMPLES, CONFIG, adapter, general=GENERAL[1:], checkpoint_folder=tmp_path / "states")


def test_checkpoints_have_the_metadata_of_version_0_1(base: LanguageModel, tmp_path: Path) -> None:
    interrupted(base, tmp_path)
    latest, _ = load_latest(tmp_path / "states")
    assert latest is not None
    metadata = latest.metadata
    assert metadata.keys() == {
        *("step", "losses", "targets", "validation_losses", "general_losses"),
        *("patience", "plans", "way", "kept_states", "identity"),  # codespell:ignore kept_states
    }
    assert metadata["patience"].keys() == {"best", "best_step", "worse"}
    assert metadata["identity"].keys() == {"base", "rows", "settings", "environment"}
    assert metadata["identity"]["settings"].keys() == CONFIG.to_json().keys() - {"save_every", "forgetting", "general"}
    (plan,) = metadata["plans"]
    assert plan.keys() == {"batch_tokens", "checkpoint", "cache_bytes", "estimate"}
    assert {name.split(".")[0] for name in latest.arrays} == {"weights", "optimizer", "best"}


# Damage


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_truncated_checkpoint_costs_the_steps_since_the_previous_one(
    base: LanguageModel, tmp_path: Path, uninterrupted: Any
) -> None:
    interrupted(base, tmp_path)
    truncate(tmp_path / "states" / "state-0000004.safetensors")
    report = run(base, tmp_path)
    assert report.resumed_from == 2
    assert report.notes == ("state-0000004.safetensors damaged: resuming from step 2",)
    assert outcome(report, tmp_path) == uninterrupted


def test_only_damaged_checkpoints_are_an_error(base: LanguageModel, tmp_path: Path) -> None:
    for name in interrupted(base, tmp_path):
        truncate(tmp_path / "states" / name)
    with pytest.raises(UserError, match=r"damaged: state-0000004.safetensors and state-0000002.safetensors, and"):
        run(base, tmp_path)
    assert len(checkpoint_names(tmp_path)) == 2


@pytest.mark.parametrize("call", quick_cases(["fsync", "replace", "write"], "write"))
def test_a_full_disk_during_a_save_leaves_the_last_checkpoint(
    base: LanguageModel, tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_some(file: BinaryIO, *_: object) -> None:
        file.write(b"some")
        full()

    def fill(step: TrainingStep) -> None:
        if step.number == 5 and call == "write":
            monkeypatch.setattr(mx, "save_safetensors", write_some)
        elif step.number == 5:
            monkeypatch.setattr(os, call, full)

    with pytest.raises(UserError, match="the disk is full") as raised:
        run(base, tmp_path, fill)
    monkeypatch.undo()
    assert "\n" not in raised.value.line()
    assert checkpoint_names(tmp_path) == ["state-0000002.safetensors", "state-0000004.safetensors"]
    report = run(base, tmp_path)
    assert (report.resumed_from, report.notes) == (4, ())
    assert outcome(report, tmp_path) == uninterrupted


def test_a_full_disk_at_the_end_loses_no_training(
    base: LanguageModel, tmp_path: Path, uninterrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    last = len(uninterrupted[0])
    with pytest.raises(UserError, match="the disk is full"):
        run(base, tmp_path, after_step(last, lambda: monkeypatch.setattr(mx, "save_safetensors", full)))
    monkeypatch.undo()
    report = run(base, tmp_path)
    assert report.resumed_from == (last - 1) // 2 * 2
    assert outcome(report, tmp_path) == uninterrupted

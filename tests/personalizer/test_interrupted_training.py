"""A training that is killed after its last step is not trained again: the next one stores its adapter."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_personal import Dialogue, LanguageModel, Personalizer
from mlx_personal.annotation import AnnotationConfig
from mlx_personal.config import Config
from mlx_personal.errors import StorageError
from mlx_personal.evaluation import EvaluationConfig
from mlx_personal.finetune import LoRAConfig, checkpoint, trainer
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.personalizer.promotion import Promoter
from mlx_personal.profile import Store
from mlx_personal.storage import files
from tests.support.paths import ROOT

CONFIG = Config(
    annotation=AnnotationConfig(questions_per_day=100),
    finetune=LoRAConfig(epochs=2, batch_size=2, num_layers=1, save_every=100),
    evaluation=EvaluationConfig(max_tokens=2, holdout_ratio=0.05),
)
QUESTIONS = ["How do I cook a soup?", "Where does the bus stop?", "Why is my cat asleep?", "Who pays the rent?"]


class Killed(BaseException):
    """Ends a training from within; nothing in it catches this."""


@pytest.fixture(scope="module")
def annotated(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, tiny_model: LanguageModel
) -> tuple[Path, bytes]:
    """A profile with annotated dialogues, and the adapter that is trained on them without an interruption."""
    folder = tmp_path_factory.mktemp("annotated") / "profile"
    with Personalizer.create(folder, tiny_model_folder, CONFIG, tiny_model) as personalizer:
        personalizer.observe([Dialogue.of(question, f"Number {i}.") for i, question in enumerate(QUESTIONS)])
        for question in personalizer.annotations.questions():
            personalizer.annotations.record(question.dialogue_id, "accept")
    whole = folder.with_name("whole")
    shutil.copytree(folder, whole)
    with Personalizer(whole, lm=tiny_model) as personalizer:
        personalizer.train()
    return folder, (whole / "adapters/0001/adapters.safetensors").read_bytes()


@pytest.fixture
def folder(annotated: tuple[Path, bytes], tmp_path: Path) -> Path:
    shutil.copytree(annotated[0], tmp_path / "profile")
    return tmp_path / "profile"


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps for which gradients are computed."""
    computed: list[int] = []
    gradient = GradientComputer.gradient

    def counted(self: GradientComputer, weights: Any, indices: Any, seed: Any, *rest: Any) -> Any:
        computed.append(seed[1])
        return gradient(self, weights, indices, seed, *rest)

    monkeypatch.setattr(GradientComputer, "gradient", counted)
    yield computed


def kill_before(target: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def killed(*_: Any, **__: Any) -> None:
            raise Killed

        monkeypatch.setattr(target, name, killed)

    return patch


def kill_after(target: Any, name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(target, name)

        def killed(*arguments: Any, **keywords: Any) -> None:
            original(*arguments, **keywords)
            raise Killed

        monkeypatch.setattr(target, name, killed)

    return patch


# Each step between the end of the training and the evaluation of its adapter.
MOMENTS = {
    "checkpoint saved": kill_after(checkpoint, "save"),
    "adapter not written": kill_before(trainer, "write_adapter"),
    "adapter written": kill_after(trainer, "write_adapter"),
    "folder not renamed": kill_before(files, "_sync_folder"),
    "row not added": kill_before(Store, "add_adapter"),
    "row added": kill_after(Store, "add_adapter"),
    "run not finished": kill_before(Store, "finish_run"),
    "run finished": kill_after(Store, "finish_run"),
}


QUICK = ("adapter written", "folder not renamed", "row added")


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in MOMENTS]
)
def test_a_killed_training_is_finished_without_training_again(
    moment: str,
    folder: Path,
    annotated: tuple[Path, bytes],
    steps: list[int],
    tiny_model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched, Personalizer(folder, lm=tiny_model) as personalizer:
        MOMENTS[moment](patched)
        if moment == "folder not renamed":  # the checkpoint is synced by the same function
            patched.setattr(checkpoint, "atomic_file", plain_file)
        with pytest.raises(Killed):
            personalizer.train()
    assert steps == [1, 2, 3, 4]
    with Personalizer(folder, lm=tiny_model) as personalizer:
        assert [step.step for step in personalizer.pending_steps()][-1] == "train"
        report = personalizer.train().report
        assert (report.resumed_from, report.steps, report.processed_tokens) == (4, 4, 0)
        assert [adapter.folder for adapter in personalizer.adapters.all()] == ["adapters/0001"]
    assert steps == [1, 2, 3, 4], "no step is trained again"
    assert (folder / "adapters/0001/adapters.safetensors").read_bytes() == annotated[1]
    assert [path.name for path in (folder / "adapters").iterdir()] == ["0001"]
    assert not any((folder / "training").iterdir())


def plain_file(path: Path) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


@pytest.mark.parametrize("kill", [kill_before(checkpoint, "discard"), kill_before(Promoter, "promote_if_better")])
def test_a_recorded_adapter_outlives_a_kill_and_its_checkpoints_do_not(
    kill: Callable[[pytest.MonkeyPatch], None],
    folder: Path,
    tiny_model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched, Personalizer(folder, lm=tiny_model) as personalizer:
        kill(patched)
        with pytest.raises(Killed):
            personalizer.train()
    with Personalizer(folder, lm=tiny_model) as personalizer:
        assert len(personalizer.adapters.all()) == 1
        assert "train" not in [step.step for step in personalizer.pending_steps()]
    assert not any((folder / "training").iterdir())


def test_a_full_disk_at_the_row_loses_no_training(
    folder: Path, annotated: tuple[Path, bytes], steps: list[int], tiny_model: LanguageModel
) -> None:
    finish_run = Store.finish_run

    def finish_on_full_disk(self: Store, run_id: int, result: dict[str, Any]) -> None:
        self.database.fetch_all("PRAGMA max_page_count = 1")  # SQLite raises it to the present size
        finish_run(self, run_id, {**result, "notes": ["x" * 200_000]})

    with Personalizer(folder, lm=tiny_model) as personalizer:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Store, "finish_run", finish_on_full_disk)
            with pytest.raises(StorageError, match="the disk is full"):
                personalizer.train()
        assert personalizer.adapters.all() == [], "adapter and run are recorded together"
    with Personalizer(folder, lm=tiny_model) as personalizer:
        personalizer.train()
    assert steps == [1, 2, 3, 4]
    assert (folder / "adapters/0001/adapters.safetensors").read_bytes() == annotated[1]


def test_early_stopping_is_known_after_a_kill(folder: Path, tiny_model: LanguageModel, steps: list[int]) -> None:
    early = dataclasses.replace(CONFIG.finetune, epochs=50, validation_split=0.5, early_stopping_patience=1)
    (folder / "config.toml").write_text(dataclasses.replace(CONFIG, finetune=early).to_toml())
    with pytest.MonkeyPatch.context() as patched, Personalizer(folder, lm=tiny_model) as personalizer:
        # From the second epoch on, the loss is never better.
        patched.setattr(GradientComputer, "sums", lambda self, weights, indices: [1.0])
        kill_before(Store, "add_adapter")(patched)
        with pytest.raises(Killed):
            personalizer.train()
    assert 0 < len(steps) < 50
    before = list(steps)
    with Personalizer(folder, lm=tiny_model) as personalizer:
        assert personalizer.train().report.steps == len(before)
    assert steps == before


def test_folders_of_unknown_runs_are_not_removed(folder: Path) -> None:
    for name in ("adapters/0007", "adapters/mine", "training/0007"):
        (folder / name).mkdir(parents=True)
    Store(folder).close()
    assert (folder / "adapters/0007").exists() and (folder / "adapters/mine").exists()
    assert (folder / "training/0007").exists()


KILLED_SCRIPT = """
import os, signal, sys
from pathlib import Path
from mlx_personal import Personalizer
from mlx_personal.profile import Store
Store.add_adapter = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with Personalizer(Path(sys.argv[1])) as personalizer:
    personalizer.train()
"""


@pytest.mark.slow
def test_a_process_that_is_killed_between_adapter_and_row_trains_once(
    folder: Path, annotated: tuple[Path, bytes], steps: list[int], tiny_model: LanguageModel
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_SCRIPT, str(folder)], cwd=ROOT, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL
    assert (folder / "adapters/0001/adapters.safetensors").exists()
    with Personalizer(folder, lm=tiny_model) as personalizer:
        assert not (folder / "adapters/0001").exists(), "a folder without a row is removed"
        personalizer.train()
    assert steps == []
    assert (folder / "adapters/0001/adapters.safetensors").read_bytes() == annotated[1]

"""OPPU's first stage: an adapter of other users is trained and fused once, and shares no user with the run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mlx_personal import Dialogue, LanguageModel, load_language_model
from mlx_personal.errors import UserError
from mlx_personal.finetune import Example, finetune
from mlx_personal.finetune.forward.gradients import GradientComputer
from mlx_personal.finetune.fuse import fuse
from mlx_personal.research.lamp import run_lamp, task_adapter
from tests.support.augmentation import TRAINING, InProcessJobs
from tests.support.lamp_users import edit_json, lamp_spec, run_and_read, write_lamp_files


@pytest.fixture(autouse=True)
def without_processes(in_process_jobs: InProcessJobs) -> None:
    """No test here starts worker processes."""


@pytest.mark.slow
def test_a_task_adapter_is_trained_and_fused_once(
    tmp_path: Path, world: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused: list[Path] = []

    def record_fuse(lm: LanguageModel, adapter: Path, out: Path) -> Path:
        fused.append(out)
        return fuse(lm, adapter, out)

    monkeypatch.setattr(task_adapter, "fuse", record_fuse)
    others = write_lamp_files(tmp_path / "others", seed=2)
    spec = lamp_spec(
        world,
        tiny_model_folder,
        "non-personalized",
        "oppu",
        others=others / "LaMP_3_questions.json",
        others_outputs=others / "LaMP_3_outputs.json",
        others_training=TRAINING,
        num_users=1,
    )
    results = run_and_read(tmp_path / "run", spec)
    history = dataclasses.replace(spec, others=others / "LaMP_3_history.json", others_outputs=None)
    again = run_lamp(tmp_path / "run", history)
    assert (again.num_stored, len(fused)) == (2, 1)
    # The reference: the same base model, trained and fused by hand, as the model of a plain run.
    users = json.loads((others / "LaMP_3_history.json").read_text())
    dialogues = [Dialogue.of(query["input"], query["gold"]) for user in users for query in user["query"]]
    lm = load_language_model(tiny_model_folder)
    finetune(lm, list(map(Example, dialogues)), TRAINING, tmp_path / "adapter")
    fuse(lm, tmp_path / "adapter", tmp_path / "fused")
    plain = lamp_spec(world, tmp_path / "fused", "non-personalized", "oppu", num_users=1)
    assert run_and_read(tmp_path / "by hand", plain) == results


def test_a_trained_adapter_is_not_trained_again_after_a_kill(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogues = [Dialogue.of(f"Which number follows {i}?", f"It is {i + 1}.") for i in range(4)]

    def fuse_adapter(folder: Path) -> Path:
        return task_adapter.fuse_task_adapter(
            tiny_model_folder, "base", dialogues, TRAINING, folder, lambda event: None
        )

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    whole = fuse_adapter(tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(task_adapter, "fuse", killed)
        with pytest.raises(KeyboardInterrupt):
            fuse_adapter(tmp_path / "killed")
    with monkeypatch.context() as patched:
        patched.setattr(GradientComputer, "gradient", killed)
        fused = fuse_adapter(tmp_path / "killed")
    assert (fused / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [fused.name]


def test_a_user_of_the_run_among_the_others_is_refused(tmp_path: Path, world: Path, tiny_model_folder: Path) -> None:
    others = world / "LaMP_3_history.json"
    spec = lamp_spec(world, tiny_model_folder, "oppu", others=others, others_training=TRAINING)
    with pytest.raises(UserError, match="is among the other users and among those of the run"):
        run_lamp(tmp_path / "run", spec)


def test_a_query_that_cannot_be_trained_on_is_a_user_error(
    tmp_path: Path, world: Path, tiny_model_folder: Path
) -> None:
    others = write_lamp_files(tmp_path / "others", seed=2) / "LaMP_3_history.json"
    edit_json(others, lambda users: users[0]["query"][0].update(input=users[0]["query"][0]["input"] + "\0"))
    with pytest.raises(UserError, match="cannot be trained on: a NUL byte"):
        run_lamp(tmp_path / "run", lamp_spec(world, tiny_model_folder, "oppu", others=others))

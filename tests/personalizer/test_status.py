"""The status: the same counts as the lists behind them, computed without MLX and without loading the stream."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from mlx_personal import LanguageModel, Personalizer
from mlx_personal.errors import UserError
from mlx_personal.personalizer import ProfileStatus, read_status
from tests.personalizer.test_personalizer import CONFIG, stream


@pytest.fixture(scope="module")
def profile_of_the_module(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, tiny_model: LanguageModel
) -> Path:
    folder = tmp_path_factory.mktemp("status") / "profile"
    with Personalizer.create(folder, tiny_model_folder, CONFIG, tiny_model) as personalizer:
        personalizer.observe(stream(40))
        for number, question in enumerate(personalizer.annotations.questions()[:6]):
            personalizer.annotations.record(question.dialogue_id, "skip" if number == 2 else "accept")
        personalizer.annotations.undo()
        personalizer.synthesize()
        personalizer.train()
        personalizer.add_dialogues(stream(5, 100), "later")
    return folder


@pytest.fixture
def profile(profile_of_the_module: Path, tmp_path: Path) -> Path:
    """The folder of a profile with annotations of every kind, synthetic sets and an adapter."""
    return shutil.copytree(profile_of_the_module, tmp_path / "profile")


def listed_status(personalizer: Personalizer) -> dict[str, object]:
    """Return what the status counts, counted in the lists of the profile."""
    annotations, promoted = personalizer.store.annotations(), personalizer.adapters.promoted()
    return {
        "received": len(personalizer.dialogues()),
        "unscored": len(personalizer.store.unscored(100)),
        "bins": {"filled": len(personalizer.buffer()), "capacity": personalizer.config.selection.bins},
        "questions": {
            "open": len(personalizer.annotations.open_questions()),
            "left_today": personalizer.annotations.left_today(),
        },
        "annotated": sum(a.preferred is not None for a in annotations),
        "held_out": sum(a.preferred is not None and a.held_out for a in annotations),
        "skipped": sum(a.preferred is None for a in annotations),
        "synthetic": {
            "written": len(personalizer.synthetic()),
            "kept": sum(s.kept for s in personalizer.synthetic()),
        },
        "adapters": len(personalizer.adapters.all()),
        "promoted": None if promoted is None else promoted.id,
        "due": [{"step": step.step, "reason": step.reason} for step in personalizer.pending_steps()],
    }


def test_the_status_counts_what_the_lists_hold(profile: Path, tiny_model: LanguageModel) -> None:
    with Personalizer(profile, write=False, lm=tiny_model) as personalizer:
        status, expected = personalizer.status(), listed_status(personalizer)
    assert status == read_status(profile)
    printed = status.to_json()
    assert {name: printed[name] for name in expected} == expected
    assert list(printed) == [
        "folder",
        "model",
        "model_source",
        "chat_format",
        "received",
        "unscored",
        "bins",
        "decisions",
        "questions",
        "annotated",
        "held_out",
        "skipped",
        "inferred",
        "synthetic",
        "prompt_style",
        "adapters",
        "promoted",
        "answers",
        "last_training",
        "tuning",
        "due",
    ]
    assert (printed["annotated"], printed["skipped"], printed["unscored"]) == (4, 1, 5)


def test_the_status_loads_no_dialogue(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(messages: str) -> NoReturn:
        raise AssertionError("a dialogue was loaded")

    monkeypatch.setattr("mlx_personal.profile.records.load_dialogue", loaded)
    assert isinstance(read_status(profile), ProfileStatus)


def test_the_status_imports_neither_mlx_nor_transformers_nor_rouge(profile: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from mlx_personal.personalizer import read_status\n"
        "read_status(pathlib.Path(sys.argv[1]))\n"
        "heavy = ('mlx', 'mlx_lm', 'transformers', 'rouge_score', 'torch', 'click', 'rich')\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & set(heavy)))\n"
    )
    process = subprocess.run([sys.executable, "-c", code, str(profile)], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_buffer_that_was_made_smaller_is_an_error(profile: Path) -> None:
    (profile / "config.toml").write_text("[selection]\nbins = 4\n")
    with pytest.raises(UserError, match="can grow, not shrink"):
        read_status(profile)


def test_a_folder_without_a_profile_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no profile here yet"):
        read_status(tmp_path)

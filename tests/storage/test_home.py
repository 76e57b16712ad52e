"""The home folder: the same as click's application folder, without importing click."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from mlx_personal.errors import UserError
from mlx_personal.storage.home import Home, application_folder


@pytest.mark.parametrize("platform", ["darwin", "linux"])
@pytest.mark.parametrize("config_home", [None, "/somewhere/else", ""])
def test_the_application_folder_is_that_of_click(
    platform: str, config_home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    if config_home is not None:
        monkeypatch.setenv("XDG_CONFIG_HOME", config_home)
    assert application_folder() == Path(click.get_app_dir("mlx-personal"))


def test_the_environment_names_another_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_PERSONAL_HOME", "~/profiles of mine")
    assert Home.default().folder == Path(os.path.expanduser("~/profiles of mine"))
    monkeypatch.setenv("MLX_PERSONAL_HOME", "")
    assert Home.default().folder == application_folder()


def test_the_home_is_found_without_click_and_mlx() -> None:
    code = (
        "import sys; import mlx_personal.storage.home; print(sorted({'click', 'mlx.core', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_only_complete_profiles_are_listed(tmp_path: Path) -> None:
    for name in ("work", "home"):
        (tmp_path / "profiles" / name).mkdir(parents=True)
        (tmp_path / "profiles" / name / "profile.db").touch()
    (tmp_path / "profiles" / "empty").mkdir()
    assert Home(tmp_path).profiles() == ["home", "work"]


@pytest.mark.parametrize("name", ["../other", "a/b", "", ".hidden", "x" * 65, "a\0b"])
def test_a_profile_cannot_leave_its_home(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not a valid profile name"):
        Home(tmp_path).profile(name)

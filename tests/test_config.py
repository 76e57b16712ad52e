"""Settings: a profile's config.toml, where a slip is an error that helps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_personal.config import Config
from mlx_personal.errors import UserError


def read(tmp_path: Path, text: Any) -> Any:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Config.read(path)


def test_no_file_gives_the_defaults(tmp_path: Path) -> None:
    assert Config.read(tmp_path / "config.toml") == Config()


def test_settings_change_only_what_they_name(tmp_path: Path) -> None:
    config = read(tmp_path, "[finetune]\nrank = 4\nlearning_rate = 1\n[synthesis]\nband = [0.3, 0.9]")
    assert (config.finetune.rank, config.finetune.alpha) == (4, Config().finetune.alpha)
    assert config.finetune.learning_rate == 1.0
    assert config.synthesis.band == (0.3, 0.9)


def test_the_written_file_reads_back_as_it_was(tmp_path: Path) -> None:
    changed = dataclasses.replace(Config(), finetune=dataclasses.replace(Config().finetune, rank=2))
    assert read(tmp_path, changed.to_toml()) == changed
    uncommented = "\n".join(line.removeprefix("# ") for line in Config().to_toml().splitlines()[1:])
    assert read(tmp_path, uncommented) == Config()


@settings(max_examples=200, deadline=None)
@given(st.text())
@example('a"b\\c\n\t\r\x00\x7f\u2028é😀')
def test_any_text_reads_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, text: Any) -> None:
    changed = dataclasses.replace(Config(), finetune=dataclasses.replace(Config().finetune, general=text))
    assert read(tmp_path_factory.mktemp("settings"), changed.to_toml()) == changed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[finetune]\nrang = 4", "did you mean 'rank'"),
        ("[finetun]\nrank = 4", "did you mean 'finetune'"),
        ("finetune = 4", "must be a table"),
        ("[finetune]\nrank = '4'", "finetune.rank must be a whole number"),
        ("[finetune]\nrank = true", "finetune.rank must be a whole number"),
        ("[finetune]\nlearning_rate = 'fast'", "must be a number"),
        ("[finetune]\nrank = 0", "rank"),
        ("[selection]\nbins = 0", "bins"),
        ("[annotation]\nquestions_per_day = -1", "questions_per_day"),
        ("[scoring]\nentropy = 'spectra'", "spectral"),
        ("[synthesis]\nmode = 'answers'", "mode"),
        ("[synthesis]\nband = [0.3]", "list of 2"),
        ("[synthesis]\nband = 0.3", "list of 2"),
        ("[trigger]\nbuffer_changed = 0.0", "buffer_changed"),
        ("[chat]\ntemperature = -1.0", "temperature"),
        ("[finetune", "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_slip_is_one_line_that_names_file_and_remedy(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert says in caught.value.line()
    assert str(tmp_path / "config.toml") in caught.value.line()
    assert "\n" not in caught.value.line()


def test_a_folder_in_its_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(UserError):
        Config.read(tmp_path / "config.toml")

"""The settings of a profile: reading, errors with a remedy, renamed keys, and writing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_personal.config import RENAMED_KEYS, Config
from mlx_personal.errors import UserError


def read(tmp_path: Path, text: Any) -> Any:
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Config.read(path)


def test_a_missing_file_gives_the_defaults(tmp_path: Path) -> None:
    assert Config.read(tmp_path / "config.toml") == Config()


def test_missing_keys_keep_their_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, "[finetune]\nrank = 4\nlearning_rate = 1\n[synthesis]\nband = [0.3, 0.9]")
    assert (config.finetune.rank, config.finetune.alpha) == (4, Config().finetune.alpha)
    assert config.finetune.learning_rate == 1.0
    assert config.synthesis.band == (0.3, 0.9)


def test_a_written_file_can_be_read_back(tmp_path: Path) -> None:
    changed = dataclasses.replace(Config(), finetune=dataclasses.replace(Config().finetune, rank=2))
    assert read(tmp_path, changed.to_toml()) == changed
    uncommented = "\n".join(line.removeprefix("# ") for line in Config().to_toml().splitlines()[1:])
    assert read(tmp_path, uncommented) == Config()


def test_settings_of_the_model_are_unset(tmp_path: Path) -> None:
    text = 'temperature = "model"\nmax_tokens = 20\nstop = ["###", "\\nUser:"]\nsystem = "Be brief.\\nReally."'
    chat = read(tmp_path, f"[chat]\n{text}").chat
    assert (chat.temperature, chat.top_k, chat.max_tokens) == (None, None, 20)
    assert (chat.stop, chat.system) == (("###", "\nUser:"), "Be brief.\nReally.")
    changed = dataclasses.replace(Config(), chat=chat)
    assert read(tmp_path, changed.to_toml()) == changed
    assert '# temperature = "model"' in changed.to_toml()


OLD = """
[finetune]
rank = 2
max_tokens = 200
batch_tokens = 512
schedule = "linear"
warmup = 0.1
validation = 0.2
patience = 3
general = "general.jsonl"
replay = 0.1
forgetting = 0.2
dora = true
[evaluation]
share = 0.3
[scoring]
entropy = "histogram"
[trigger]
received = 5
buffer_changed = 0.25
"""
NEW = """
[finetune]
rank = 2
max_seq_length = 200
micro_batch_tokens = 512
lr_scheduler_type = "linear"
warmup_ratio = 0.1
validation_split = 0.2
early_stopping_patience = 3
general_data = "general.jsonl"
replay_ratio = 0.1
max_forgetting = 0.2
use_dora = true
[evaluation]
holdout_ratio = 0.3
[scoring]
entropy_estimator = "histogram"
[trigger]
min_received = 5
min_buffer_change = 0.25
"""


def test_old_keys_are_read_with_one_notice_and_written_as_new_ones(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = read(tmp_path, OLD)
    (notice,) = old.notices
    assert [record.message for record in caplog.records] == [notice]
    assert notice.startswith(f"{tmp_path / 'config.toml'}: ") and "\n" not in notice
    for table, keys in RENAMED_KEYS.items():
        for key, name in keys.items():
            assert f"{table}.{key} is now {name}" in notice
    new = read(tmp_path, NEW)
    assert (old, new.notices) == (new, ())
    assert {line for line in old.to_toml().splitlines() if not line.startswith("#")} == {"", *NEW.splitlines()} | {
        line for line in Config().to_toml().splitlines() if line.startswith("[")
    }
    assert read(tmp_path, old.to_toml()) == old


@settings(max_examples=80, deadline=None)
@given(st.text())
@example('a"b\\c\n\t\r\x00\x7f\u2028é😀')
def test_any_text_can_be_read_back(tmp_path_factory: pytest.TempPathFactory, text: Any) -> None:
    changed = dataclasses.replace(Config(), finetune=dataclasses.replace(Config().finetune, general_data=text))
    assert read(tmp_path_factory.mktemp("settings"), changed.to_toml()) == changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[finetune]\nrang = 4", "did you mean 'rank'"),
        ("[finetune]\nmax_tokenz = 9", "did you mean 'max_seq_length'"),  # an old name misspelled
        ("[finetun]\nrank = 4", "did you mean 'finetune'"),
        ("finetune = 4", "must be a table"),
        ("[finetune]\nrank = '4'", "finetune.rank must be a whole number"),
        ("[finetune]\nrank = true", "finetune.rank must be a whole number"),
        ("[finetune]\nlearning_rate = 'fast'", "must be a number"),
        ("[finetune]\nrank = 0", "rank"),
        ("[selection]\nbins = 0", "bins"),
        ("[annotation]\nquestions_per_day = -1", "questions_per_day"),
        ("[scoring]\nentropy_estimator = 'spectra'", "spectral"),
        ("[synthesis]\nmode = 'answers'", "mode"),
        ("[synthesis]\nstyle = 'poetic'", "style"),
        ("[synthesis]\nstyle = 3", "style"),
        ("[synthesis]\nband = [0.3]", "list of 2"),
        ("[synthesis]\nband = 0.3", "list of 2"),
        ("[trigger]\nmin_buffer_change = 0.0", "min_buffer_change"),
        ("[finetune]\nmax_tokens = 1", "max_seq_length is 1"),
        (
            "[finetune]\nmax_tokens = 9\nmax_seq_length = 9",
            "[finetune] has both max_tokens and max_seq_length, which are the old and the new name of the same "
            "setting; remove max_tokens",
        ),
        ("[chat]\ntemperature = -1.0", "temperature"),
        ("[chat]\ntop_p = 'all'", """chat.top_p must be a number or "model", not 'all'"""),
        ("[chat]\ntop_k = 0.5", 'chat.top_k must be a whole number or "model", not 0.5'),
        ("[chat]\nstop = '###'", "chat.stop must be a list"),
        ("[chat]\nstop = ['###', 3]", "chat.stop must be a text"),
        ("[chat]\nstop = ['']", "a text of stop is empty"),
        ("[chat]\nsystem = ' '", "an empty system message"),
        ("[finetune", "not TOML"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_an_invalid_file_is_a_one_line_error_with_a_remedy(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert message in caught.value.line()
    assert str(tmp_path / "config.toml") in caught.value.line()
    assert "\n" not in caught.value.line()


def test_a_folder_instead_of_a_file_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(UserError):
        Config.read(tmp_path / "config.toml")

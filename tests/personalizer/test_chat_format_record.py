"""The chat format of a profile's base model: checked before anything is stored, recorded, and shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlx_personal import Personalizer, UserError
from mlx_personal.personalizer import read_status
from mlx_personal.personalizer.chat_format_record import describe_chat_format
from mlx_personal.profile import Store, is_profile
from tests.conftest import TEMPLATE
from tests.support.cli import run_cli, run_json
from tests.support.model_stores import ModelStores

DATED = "{{ strftime_now('%d %b %Y') }}" + TEMPLATE
LOST = "{{ 'Hello' }}"
NOTE = "it writes today's date: training uses 2026-01-01"


def model_with(template: str, source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return folder


def test_a_notable_format_is_stored_and_shown(tiny_model_folder: Path, tmp_path: Path) -> None:
    profile, model = tmp_path / "profile", model_with(DATED, tiny_model_folder, tmp_path / "dated")
    Personalizer.create(profile, model).close()
    assert read_status(profile).chat_format_notes == (NOTE,)
    with Personalizer(profile) as personalizer:
        assert personalizer.store.model_record("chat_format")["writes_date"] is True
        personalizer.change_model(tiny_model_folder)
    assert read_status(profile).chat_format_notes == ()


def test_a_model_that_cannot_be_used_for_chats_creates_and_changes_nothing(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    profile, model = tmp_path / "profile", model_with(LOST, tiny_model_folder, tmp_path / "lost")
    with pytest.raises(UserError, match="leaves the question out of the prompt"):
        Personalizer.create(profile, model)
    assert not is_profile(profile)
    Personalizer.create(profile, tiny_model_folder).close()
    with Personalizer(profile) as personalizer:
        with pytest.raises(UserError, match="leaves the question out of the prompt"):
            personalizer.change_model(model)
        assert personalizer.model_name == str(tiny_model_folder.resolve())
        assert personalizer.base_model().chat_template.format.notes() == ()


def test_a_profile_without_a_record_gets_one_when_its_model_is_used(tiny_model_folder: Path, tmp_path: Path) -> None:
    profile, model = tmp_path / "profile", model_with(DATED, tiny_model_folder, tmp_path / "dated")
    Personalizer.create(profile, model).close()
    store = Store(profile)
    with store.transaction() as connection:
        connection.execute("DELETE FROM model_records")
    store.close()
    assert read_status(profile).chat_format_notes == ()
    with Personalizer(profile, write=False) as personalizer:
        personalizer.base_model()
    assert read_status(profile).chat_format_notes == ()
    with Personalizer(profile) as personalizer:
        personalizer.base_model()
    assert read_status(profile).chat_format_notes == (NOTE,)


def test_a_template_that_was_damaged_since_is_named_before_any_work(tiny_model_folder: Path, tmp_path: Path) -> None:
    profile, model = tmp_path / "profile", model_with(DATED, tiny_model_folder, tmp_path / "dated")
    Personalizer.create(profile, model).close()
    (model / "chat_template.jinja").write_text("{% for %}")
    with Personalizer(profile) as personalizer, pytest.raises(UserError, match="has an error in line 1"):
        personalizer.base_model()


def test_a_chat_format_is_described_without_a_profile(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert describe_chat_format(tiny_model_folder) == "nothing notable"
    assert describe_chat_format(model_with(DATED, tiny_model_folder, tmp_path / "dated")) == NOTE
    lost = model_with(LOST, tiny_model_folder, tmp_path / "lost")
    expected = "cannot be used: the model's chat template leaves the question out of the prompt"
    assert describe_chat_format(lost) == expected
    stores = ModelStores(tmp_path / "user", monkeypatch)
    stores.add_lm_studio("someone/lost", lost)
    assert run_json("models", "show", "lmstudio:someone/lost")["chat_format"] == expected


def test_init_and_status_say_what_is_notable(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = model_with(DATED, tiny_model_folder, tmp_path / "dated")
    created = run_cli("init", "--model", str(model))
    assert f"Chat format: {NOTE}." in created.stdout.replace("\n", " ")
    assert "chat format" in run_cli("status").stdout
    assert json.loads(run_cli("status", "--json").stdout)["chat_format"] == [NOTE]
    lost = run_cli("init", "--model", str(model_with(LOST, tiny_model_folder, tmp_path / "lost")))
    assert lost.exit_code == 2
    assert len(lost.stderr.splitlines()) == 1
    assert "leaves the question out of the prompt" in lost.stderr

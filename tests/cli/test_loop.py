"""The loop by commands, from `init` to `rollback`, and base models that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.cli import error_line, run_cli, run_json


def test_loop_by_commands(profile: Path, chats: Path) -> None:
    settings = (profile / "config.toml").read_text()
    (profile / "config.toml").write_text(settings.replace("use = 'never'", "use = 'auto'"))
    imported = run_json("import", chats)
    assert (imported["read"], imported["new"], imported["skipped"]) == (30, 30, [])
    assert run_json("import", chats)["new"] == 0
    questions = run_json("review")["questions"]
    assert len(questions) == 8
    keys = "a\n" * 6 + "r\nThe ideal answer is seven.\n" + "s\n"
    assert "8 annotated; 0 questions are open, 1 more can be asked today." in run_cli("review", stdin=keys).stdout
    assert run_json("synthesize")["dialogues"] > 0
    trained = run_json("train")
    assert trained["evaluation"]["n"] > 0
    assert run_json("adapters", "list")[0]["id"] == trained["adapter"]["id"]
    adapter = run_json("adapters", "show", 1)
    assert adapter["rows"] >= len(adapter["dialogues"]) > 0
    evaluated = run_json("evaluate", 1)
    assert evaluated["evaluation"]["n"] == trained["evaluation"]["n"]
    # The same files as an adapter of another program.
    by_path = run_json("evaluate", "--adapter-path", profile / "adapters" / Path(adapter["folder"]).name)
    # An adapter outside the profile has no id, and each comparison has its time.
    modes = [evaluation["evaluation"].pop("modes") for evaluation in (evaluated, by_path)]
    assert by_path["evaluation"] == evaluated["evaluation"]
    assert modes[0]["n"] == modes[1]["n"]
    assert (evaluated["adapter"], by_path["adapter"]) == (1, None)
    assert run_json("adapters", "promote", 1)["promoted"] == 1
    chat = run_json("chat", "How do I fix the lamp?")
    assert chat["adapter"] == 1
    assert run_json("adapters", "rollback")["promoted"] is None
    done = run_json("run")
    assert list(done["done"]) == ["score"]
    status = run_json("status")
    assert (status["received"], status["unscored"]) == (31, 0)
    assert "31 received, 0 not scored yet" in run_cli("status").stdout
    undone = run_cli("imports", "undo", 1, "--yes").stdout
    assert "stay: 1. Go back with" in undone, "nothing is left to train on"
    after = run_json("adapters", "show", 1)
    assert (after["rows"], after["synthetic"], after["dialogues"]) == (adapter["rows"], adapter["synthetic"], [])
    assert "were taken back with their import" in run_cli("adapters", "show", 1).stdout


def test_buffer_explains_every_decision(profile: Path, chats: Path) -> None:
    run_cli("import", chats)
    bins = run_json("buffer", "list")
    assert len(bins) == 8
    assert all(0 <= row[score] <= 1 for row in bins for score in ("eoe", "dss", "idd"))
    for dialogue in range(1, 31, 4):
        why = run_json("buffer", "why", dialogue)
        assert why["detail"]["reason"]
        assert run_cli("buffer", "why", dialogue).exit_code == 0
    assert run_json("buffer", "show", 1)["messages"][0]["role"] == "user"
    assert "no dialogue 99" in error_line("buffer", "show", 99)
    assert "dialogue 99" in error_line("buffer", "why", 99)


def test_init_completes_an_interrupted_init(home: Path, tiny_model_folder: Path) -> None:
    folder = home / "profiles" / "default"
    folder.mkdir(parents=True)
    (folder / "profile.db").write_bytes(b"")
    assert "init" in error_line("status")
    assert run_cli("init", "--model", tiny_model_folder).exit_code == 0
    assert (folder / "config.toml").exists()


def test_invalid_models_are_reported_on_one_line(home: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model_folder, bare)
    for file in bare.glob("token*"):
        file.unlink()
    assert "has no tokenizer" in error_line("init", "--model", bare)
    (tmp_path / "empty").mkdir()
    assert "no config.json" in error_line("init", "--model", tmp_path / "empty")
    assert "no such model folder" in error_line("init", "--model", tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_folder, broken)
    (broken / "model.safetensors").write_bytes(b"junk")
    assert "cannot be loaded" in error_line("init", "--model", broken)
    (broken / "config.json").write_text("{")
    assert "is not a JSON object" in error_line("init", "--model", broken)
    assert not (home / "profiles" / "default" / "profile.db").exists()


def test_adapter_of_another_base_model_is_refused(profile: Path, chats: Path, other_model_folder: Path) -> None:
    run_cli("import", chats)
    run_cli("review", stdin="a\n" * 8)
    run_cli("train")
    assert "no adapter 9" in error_line("adapters", "promote", 9)
    changed = run_json("init", "--model", other_model_folder)
    assert (changed["changed"], changed["re_embedded"]) == (True, 8)
    assert "another base model" in error_line("adapters", "promote", 1)
    assert run_json("status")["annotated"] == 8

"""`import`: invalid lines and files, and safe printing of what was imported."""

from __future__ import annotations

import datetime
import json
import os
import signal
from pathlib import Path

import pytest

from mlx_personal.errors import UserError
from mlx_personal.personalizer.observer import Observer
from tests.support.chatgpt_export import chatgpt_conversation, write_chatgpt_export
from tests.support.cli import dialogue_line, error_line, run_cli, run_json


def test_dialogues_are_printed_without_markup_or_control_characters(profile: Path, tmp_path: Path) -> None:
    said = "[red]Fire[/] [/nothing] :cat: \x1b[2J\x9b2J\rand\tgone"
    (tmp_path / "[b]:cat:.jsonl").write_text(dialogue_line(said, "Take [this]."))
    printed = "[red]Fire[/] [/nothing] :cat: \ufffd[2J\ufffd2J\ufffdand"
    assert run_cli("import", tmp_path / "[b]:cat:.jsonl").exit_code == 0
    output = run_cli("buffer", "show", 1).stdout
    assert printed in output
    assert "from import:[b]:cat:.jsonl" in output
    assert printed in run_cli("review", stdin="q\n").stdout
    assert "[red]Fire[/]" in run_cli("buffer", "list").stdout
    assert run_json("buffer", "show", 1)["messages"][0]["content"] == said
    (profile / "lexicons").mkdir()
    (profile / "lexicons" / "[b]x[b].txt").write_text("boat\n")
    assert "[b]x[b]" in run_cli("lexicon", "list").stdout


def test_file_names_may_not_be_utf8(profile: Path, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    try:
        file.write_text(dialogue_line("Good?", "Good.") + "\n{\n")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "caf\\udce9.jsonl:2" in run_cli("import", file).stdout
    assert run_json("buffer", "show", 1)["source"] == "import:caf\\udce9.jsonl"
    assert "caf\\udce9" in error_line("import", tmp_path / os.fsdecode(b"no-caf\xe9.jsonl"))


def test_invalid_lines_are_reported_and_the_others_imported(profile: Path, chats: Path, tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
    bad = [
        "{broken",
        json.dumps({"messages": [assistant, user]}),
        json.dumps({"messages": []}),
        json.dumps({"messages": [user]}),
        json.dumps({"messages": [{"role": "user", "content": "x" * 1_000_000}, assistant]}),
        '{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": "b"}]}',
        json.dumps({"messages": [{"role": "user", "content": "a\0b"}, assistant]}),
        json.dumps({"text": "no messages"}),
        json.dumps([{"role": "a\nb", "content": 3}, assistant]),
        json.dumps([{"role": "\ud800", "content": "x"}, assistant]),
        json.dumps([{"role": "r" * 3000, "content": "x"}, assistant]),
        "[" * 100_000,
        "3",
    ]
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join([*bad, dialogue_line("Good?", "Good.")]))
    answer = run_json("import", mixed)
    assert (answer["read"], answer["new"]) == (1, 1)
    assert sum(skipped["count"] for skipped in answer["skipped"]) == len(bad)
    places = [place for skipped in answer["skipped"] for place in skipped["places"]]
    assert set(places) <= {f"{mixed}:{number}" for number in range(1, len(bad) + 1)}
    assert all("\n" not in skipped["reason"] for skipped in answer["skipped"])
    report = run_cli("import", mixed).stdout.splitlines()
    assert sum(line.partition(" ")[2].startswith("skipped: ") for line in report) == len(answer["skipped"])
    only_bad = tmp_path / "bad.jsonl"
    only_bad.write_text("\n".join(bad))
    assert f"{only_bad}:9: no dialogue could be read" in error_line("import", only_bad)
    assert run_json("status")["received"] == 1


def test_thousands_of_bad_lines_are_one_line_for_each_reason(profile: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(dialogue_line("Good?", "Good.") + "\n{broken" * 4997)
    (line,) = (line for line in run_cli("import", file).stdout.splitlines() if "not JSON" in line)
    assert line.startswith("4,997 skipped: not JSON")
    assert line.endswith(f" ({file}:2, 3, 4, ...)")


def test_a_dry_run_shows_examples_and_stores_nothing(profile: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text("\n".join(dialogue_line(f"Question {number}?", "Yes.") for number in range(12)))
    shown = run_cli("import", "--dry-run", file).stdout
    assert "Nothing was stored. 12 dialogues would be" in shown
    assert shown.count("Question") == 10
    data = run_json("import", "--dry-run", file)
    assert (data["new"], data["import"], len(data["examples"])) == (12, None, 10)
    assert data["examples"][0]["question"] == "Question 0?"
    assert run_json("status")["received"] == 0


def test_dialogues_can_be_scored_later(profile: Path, chats: Path) -> None:
    data = run_json("import", "--select-later", chats)
    assert (data["new"], data["decisions"], data["unscored"]) == (30, {}, 30)
    decisions = run_json("run")["done"]["score"]
    status = run_json("status")
    assert (sum(decisions.values()), status["decisions"], status["unscored"]) == (30, decisions, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_scoring_says_that_everything_is_stored(
    profile: Path, chats: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Observer, "score", lambda *_: os.kill(os.getpid(), number))
        result = run_cli("import", chats)
    assert result.exit_code == 128 + number
    line = "mlx-personal: scoring was stopped; all dialogues are stored; go on with `mlx-personal run`\n"
    assert (result.stdout, result.stderr) == ("", line)
    status = run_json("status")
    assert (status["received"], status["unscored"]) == (30, 30)


def test_days_of_a_filter_are_local_and_whole(profile: Path, tmp_path: Path) -> None:
    noon = datetime.datetime(2026, 3, 5, 12).timestamp()
    export = write_chatgpt_export(tmp_path / "chats.json", chatgpt_conversation("a", ["Hi?", "Yes."], "Noon", noon))

    def new(*options: str) -> int:
        return int(run_json("import", "--dry-run", *options, export)["new"])

    assert new("--since", "2026-03-05", "--until", "2026-03-05") == 1
    assert new("--since", "2026-03-06") == new("--until", "2026-03-04") == 0
    assert new("--title", "noon", "--app", "ChatGPT") == 1
    assert new("--since", "1970-01-01", "--until", "2100-12-31") == 1
    assert "'05.03.2026' does not match" in error_line("import", "--since", "05.03.2026", export)
    for option, day in (("--since", "0001-01-01"), ("--until", "9999-12-31")):
        assert "no conversation is that old or new" in error_line("import", option, day, export)
    days = ("--since", "2026-03-05", "--until", "2026-03-04")
    assert "is later than --until" in error_line("import", *days, export)


def test_a_format_can_be_forced(profile: Path, tmp_path: Path) -> None:
    export = write_chatgpt_export(tmp_path / "chats.json", chatgpt_conversation("a", ["Hi?", "Yes."]))
    assert run_json("import", "--format", "chatgpt", export)["new"] == 1
    assert "did you mean chatgpt?" in error_line("import", "--format", "chatgtp", export)
    truncated = tmp_path / "truncated.json"
    truncated.write_text(export.read_text()[:-30])
    assert error_line("import", truncated).endswith(
        "(the end of the file is missing); check the file, or export it again"
    )
    assert error_line("import", "--format", "claude", export).endswith("name another format, or none to recognize it")


def test_a_path_that_cannot_be_read_is_named_and_the_others_imported(profile: Path, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(dialogue_line("Good?", "Good."))
    truncated = write_chatgpt_export(tmp_path / "truncated.json", chatgpt_conversation("a", ["Hi?", "Yes."]))
    truncated.write_text(truncated.read_text()[:-30])
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    unanswered = tmp_path / "unanswered.jsonl"
    unanswered.write_text(json.dumps({"messages": [{"role": "user", "content": "Hello?"}]}))
    result = run_cli("import", tmp_path / "none.json", truncated, empty, unanswered, file, "--json")
    cut_off = "no dialogue could be read (the end of the file is missing)"
    lines = [
        f"{tmp_path / 'none.json'}: no such file or folder; check the name",
        f"{truncated}:1: {cut_off}; check the file, or export it again",
        f"{empty}: no dialogue could be read (an empty file); check the file, or export it again",
    ]
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [f"mlx-personal: {line}" for line in lines]
    assert json.loads(result.stdout)["failed"] == lines
    assert run_json("status")["received"] == 1
    file.write_text(f"{dialogue_line('And tea?', 'With hot water.')}\n{{broken")
    assert run_cli("import", file).exit_code == 0, "a file with some damage gave what it has"


def test_unreadable_files_are_reported_on_one_line(profile: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "none.jsonl") in error_line("import", tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    assert "no dialogue" in error_line("import", tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "an empty file" in error_line("import", tmp_path / "binary.jsonl")


def test_a_data_set_of_the_hub_is_downloaded_after_permission_only(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text(dialogue_line("Good?", "Good."))

    def files(name: str, allow_download: bool) -> list[Path]:
        if not allow_download:
            raise UserError("is not on this machine", name, "allow the download")
        return [file]

    monkeypatch.setattr("mlx_personal.importers.hub_dataset.dataset_files", files)
    line = error_line("import", "someone/chats")
    assert line.endswith(
        "someone/chats: there is no such file, and no such data set of the hub on this machine; "
        "correct the path, or allow the download with --yes"
    )
    other = tmp_path / "other.jsonl"
    other.write_text(dialogue_line("Which pear keeps?", "The winter pear."))
    both = run_cli("import", "--json", "someone/chats", other)
    assert (both.exit_code, json.loads(both.stdout)["new"]) == (2, 1)
    assert run_json("import", "--yes", "someone/chats")["new"] == 1

"""The command line as its users meet it: the whole loop by commands, and every kind of bad input in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import mlx_personal
from mlx_personal.cli import main
from mlx_personal.cli.main import _COMMANDS


def run(*arguments: Any, stdin: Any = None) -> Any:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin, catch_exceptions=False)


def as_json(*arguments: Any) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: Any) -> Any:
    """The one line of a command that must fail with status 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("mlx-personal: ")
    return line


def line_of(question: Any, answer: Any) -> Any:
    return json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})


@pytest.fixture
def chats(tmp_path: Path) -> Any:
    nouns = ["soup", "bus", "dog", "rent", "lamp", "song", "coat", "train", "bread", "door"]
    file = tmp_path / "chats.jsonl"
    lines = []
    for i in range(30):
        one, two, three = nouns[i % 10], nouns[(i * 3 + i // 10) % 10], nouns[(i * 7 + 1) % 10]
        lines.append(line_of(f"Can I have {one}, {two} and {three}?", f"Take the {one} {i} times, then the {three}."))
    file.write_text("\n".join(lines))
    return file


@pytest.fixture
def profile(home: Path, tiny_model_folder: Path) -> Any:
    assert run("init", "--model", tiny_model_folder).exit_code == 0
    folder = home / "profiles" / "default"
    (folder / "config.toml").write_text(
        "[selection]\nbins = 8\n[annotation]\nquestions_per_day = 9\n[synthesis]\nk = 1\nmax_tokens = 8\n"
        "[finetune]\nepochs = 1\n[evaluation]\nmax_tokens = 4\nshare = 0.5\n[chat]\nmax_tokens = 8\n"
    )
    return folder


def test_the_loop_by_commands(profile: Any, chats: Any) -> None:
    imported = as_json("import", chats)
    assert (imported["read"], imported["new"], imported["bad_lines"]) == (30, 30, [])
    assert as_json("import", chats)["new"] == 0
    questions = as_json("review")["questions"]
    assert len(questions) == 8
    keys = "a\n" * 6 + "r\nThe ideal answer is seven.\n" + "s\n"
    assert "8 judged; 0 questions are open, 1 more may be asked today." in run("review", stdin=keys).stdout
    assert as_json("synthesize")["dialogues"] > 0
    trained = as_json("train")
    assert trained["evaluation"]["n"] > 0
    assert as_json("adapters", "list")[0]["id"] == trained["adapter"]["id"]
    shown = as_json("adapters", "show", 1)
    assert shown["rows"] >= len(shown["dialogues"]) > 0
    assert as_json("evaluate", 1)["evaluation"]["n"] == trained["evaluation"]["n"]
    assert as_json("adapters", "promote", 1) == {"promoted": 1}
    asked = as_json("chat", "How do I mend the lamp?")
    assert asked["adapter"] == 1
    assert as_json("adapters", "rollback")["promoted"] is None
    done = as_json("run")
    assert list(done["done"]) == ["score"]
    status = as_json("status")
    assert (status["received"], status["unscored"]) == (31, 0)
    assert "31 (0 wait to be scored)" in run("status").stdout


def test_what_was_kept_can_be_explained(profile: Any, chats: Any) -> None:
    run("import", chats)
    bins = as_json("buffer", "list")
    assert len(bins) == 8
    assert all(0 <= row[score] <= 1 for row in bins for score in ("eoe", "dss", "idd"))
    for dialogue in range(1, 31):
        why = as_json("buffer", "why", dialogue)
        assert why["detail"]["reason"]
        assert run("buffer", "why", dialogue).exit_code == 0
    assert as_json("buffer", "show", 1)["messages"][0]["role"] == "user"
    assert "no dialogue 99" in refused("buffer", "show", 99)
    assert "dialogue 99" in refused("buffer", "why", 99)


def test_review_undoes_and_quits(profile: Any, chats: Any) -> None:
    run("import", chats)
    output = run("review", stdin="u\na\nu\na\nq\n").stdout
    assert "Nothing to undo." in output
    assert "is taken back" in output
    assert "1 judged" in output


def test_a_slip_on_the_days_last_question_can_be_mended(profile: Any, chats: Any) -> None:
    run("import", chats)
    assert run("review", stdin="a\n" * 8).exit_code == 0
    assert as_json("review")["questions"] == []
    undone = as_json("review", "--undo")["undone"]
    assert [q["dialogue"] for q in as_json("review")["questions"]] == [undone]


def test_a_profile_that_was_cut_short_can_be_made_again(home: Path, tiny_model_folder: Path) -> None:
    folder = home / "profiles" / "default"
    folder.mkdir(parents=True)
    (folder / "profile.db").write_bytes(b"")
    assert "init" in refused("status")
    assert run("init", "--model", tiny_model_folder).exit_code == 0
    assert (folder / "config.toml").exists()


def test_errors_before_a_command_are_one_line_too(home: Path) -> None:
    for arguments in (["--nosuch", "status"], ["--profile"], ["nosuch"], ["buffer", "show", "x"]):
        refused(*arguments)


def test_review_takes_verdicts_from_a_file_and_passes_over_bad_lines(profile: Any, chats: Any, tmp_path: Path) -> None:
    run("import", chats)
    ids = [q["dialogue"] for q in as_json("review")["questions"]]
    file = tmp_path / "verdicts.jsonl"
    good = {"dialogue": ids[0], "verdict": "rewrite", "answers": ["Seven."]}
    bad = [{"dialogue": 99, "verdict": "accept"}, {"dialogue": ids[1], "verdict": "maybe"}, {"verdict": "skip"}, 3]
    file.write_text("\n".join(json.dumps(line) for line in [good, *bad]) + "\n{\n")
    answer = as_json("review", "--answers", file)
    assert answer["judged"] == 1
    assert [b["where"].rpartition(":")[2] for b in answer["bad_lines"]] == ["2", "3", "4", "5", "6"]
    assert as_json("buffer", "show", ids[0])["preferred"][-1]["content"] == "Seven."
    file.write_text("{\n")
    assert f"{file}:1" in refused("review", "--answers", file)
    assert "check the name" in refused("review", "--answers", tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"dialogue": true, "verdict": "accept"}',
        '{"dialogue": 9223372036854775808, "verdict": "accept"}',
        '{"dialogue": -1, "verdict": "accept"}',
        '{"dialogue": 1, "verdict": ["accept"]}',
        '{"dialogue": 1, "verdict": "a\\nb"}',
        '{"dialogue": 1, "verdict": "rewrite", "answers": ["\\ud800"]}',
        '{"dialogue": 1, "verdict": "rewrite", "answers": "yes"}',
    ],
)
def test_a_verdict_of_any_quality_is_one_line(profile: Any, chats: Any, tmp_path: Path, line: str) -> None:
    run("import", chats)
    file = tmp_path / "verdicts.jsonl"
    file.write_text(line)
    assert f"{file}:1: " in refused("review", "--answers", file)
    assert as_json("status")["annotated"] == 0


def test_a_verdict_may_hold_any_line_separator(profile: Any, chats: Any, tmp_path: Path) -> None:
    run("import", chats)
    chosen = as_json("review")["questions"][0]["dialogue"]
    file = tmp_path / "verdicts.jsonl"
    verdict = {"dialogue": chosen, "verdict": "rewrite", "answers": ["one\u2028two\u0085three"]}
    file.write_text(json.dumps(verdict, ensure_ascii=False), "utf-8")
    assert as_json("review", "--answers", file)["judged"] == 1
    assert as_json("buffer", "show", chosen)["preferred"][-1]["content"] == "one\u2028two\u0085three"


def test_verdicts_from_a_file_keep_to_the_days_number(profile: Any, chats: Any, tmp_path: Path) -> None:
    run("import", chats)
    settings = profile / "config.toml"
    settings.write_text(settings.read_text().replace("questions_per_day = 9", "questions_per_day = 2"))
    ids = [b["dialogue"] for b in as_json("buffer", "list")]
    file = tmp_path / "verdicts.jsonl"
    file.write_text("\n".join(json.dumps({"dialogue": i, "verdict": "accept"}) for i in ids))
    answer = as_json("review", "--answers", file)
    assert (answer["judged"], len(answer["bad_lines"])) == (2, 6)
    assert "one more than the 2 of today" in answer["bad_lines"][0]["reason"]


def test_several_answers_of_a_dialogue_can_be_rewritten(profile: Any, tmp_path: Path) -> None:
    turns = [{"role": r, "content": f"{r} {i}"} for i in range(3) for r in ("user", "assistant")]
    (tmp_path / "chat.jsonl").write_text(json.dumps(turns))
    run("import", tmp_path / "chat.jsonl")
    assert "1 judged" in run("review", stdin="r\n1\nFirst.\n3\nThird.\n\n").stdout
    preferred = as_json("buffer", "show", 1)["preferred"]
    assert [m["content"] for m in preferred if m["role"] == "assistant"] == ["First.", "assistant 1", "Third."]


def test_what_was_said_is_printed_as_it_is_and_moves_no_cursor(profile: Any, tmp_path: Path) -> None:
    said = "[red]Fire[/] [/nothing] :cat: \x1b[2J\x9b2J\rand\tgone"
    (tmp_path / "[b]:cat:.jsonl").write_text(line_of(said, "Take [this]."))
    shown = "[red]Fire[/] [/nothing] :cat: \ufffd[2J\ufffd2J\ufffdand"
    assert run("import", tmp_path / "[b]:cat:.jsonl").exit_code == 0
    output = run("buffer", "show", 1).stdout
    assert shown in output
    assert "from import:[b]:cat:.jsonl" in output
    assert shown in run("review", stdin="q\n").stdout
    assert "[red]Fire[/]" in run("buffer", "list").stdout
    assert as_json("buffer", "show", 1)["messages"][0]["content"] == said
    (profile / "lexicons").mkdir()
    (profile / "lexicons" / "[b]x[b].txt").write_text("boat\n")
    assert "[b]x[b]" in run("lexicon", "list").stdout


def test_file_names_that_are_not_utf8_are_taken(profile: Any, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    try:
        file.write_text(line_of("Good?", "Good.") + "\n{\n")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert "caf\\udce9.jsonl:2" in run("import", file).stdout
    assert as_json("buffer", "show", 1)["source"] == "import:caf\\udce9.jsonl"
    assert "caf\\udce9" in refused("import", tmp_path / os.fsdecode(b"no-caf\xe9.jsonl"))


@pytest.mark.parametrize(
    "command", [("buffer", "show"), ("buffer", "why"), ("adapters", "show"), ("adapters", "promote")]
)
@pytest.mark.parametrize("number", [0, 2**63])
def test_numbers_that_the_database_cannot_hold_are_refused(profile: Any, command: Any, number: Any) -> None:
    result = run(*command, number)
    assert result.exit_code == 2
    assert "is not in the range" in result.stderr


def test_bad_lines_are_named_and_the_rest_goes_in(profile: Any, chats: Any, tmp_path: Path) -> None:
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
    mixed.write_text("\n".join([*bad, line_of("Good?", "Good.")]))
    answer = as_json("import", mixed)
    assert answer["read"] == 1
    assert [b["where"] for b in answer["bad_lines"]] == [f"{mixed}:{n}" for n in range(1, len(bad) + 1)]
    assert all("\n" not in b["reason"] for b in answer["bad_lines"])
    report = run("import", mixed).stdout.splitlines()
    assert [line.split(": ")[0] for line in report[: len(bad)]] == [
        f"skipped {b['where']}" for b in answer["bad_lines"]
    ]
    assert report[len(bad)] == f"1 dialogues read, 0 of them new, {len(bad)} bad lines skipped."
    only_bad = tmp_path / "bad.jsonl"
    only_bad.write_text("\n".join(bad))
    assert f"{only_bad}:1" in refused("import", only_bad)
    assert as_json("status")["received"] == 1


def test_files_that_are_none_are_one_line(profile: Any, tmp_path: Path) -> None:
    assert str(tmp_path / "none.jsonl") in refused("import", tmp_path / "none.jsonl")
    assert "is a folder" in refused("import", tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    assert "no dialogue" in refused("import", tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused("import", tmp_path / "binary.jsonl")


def test_models_that_are_none_are_one_line(home: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model_folder, bare)
    for file in bare.glob("token*"):
        file.unlink()
    assert "without a tokenizer" in refused("init", "--model", bare)
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused("init", "--model", tmp_path / "empty")
    assert "no such model folder" in refused("init", "--model", tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_folder, broken)
    (broken / "model.safetensors").write_bytes(b"junk")
    assert "cannot be loaded" in refused("init", "--model", broken)
    (broken / "config.json").write_text("{")
    assert "cannot be loaded" in refused("init", "--model", broken)
    assert not (home / "profiles" / "default" / "profile.db").exists()


def test_an_adapter_of_another_base_model_is_one_line(profile: Any, chats: Any, other_model_folder: Path) -> None:
    run("import", chats)
    run("review", stdin="a\n" * 8)
    run("train")
    assert "no adapter 9" in refused("adapters", "promote", 9)
    changed = as_json("init", "--model", other_model_folder)
    assert (changed["changed"], changed["re_embedded"]) == (True, 8)
    assert "another base model" in refused("adapters", "promote", 1)
    assert as_json("status")["annotated"] == 8


def test_a_profile_in_use_is_one_line(profile: Any, chats: Any) -> None:
    from mlx_personal.profile import Store

    store = Store(profile)
    try:
        assert "in use by another process" in refused("import", chats)
        assert run("status").exit_code == 0, "reading needs no lock"
    finally:
        store.close()
    assert run("import", chats).exit_code == 0


def test_a_home_that_cannot_be_written_is_one_line(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLX_PERSONAL_HOME", str(tmp_path / "file" / "home"))
    refused("init", "--model", tiny_model_folder)
    if os.path.exists("/proc/self/status"):
        monkeypatch.setenv("MLX_PERSONAL_HOME", "/proc/mlx-personal")
        refused("init", "--model", tiny_model_folder)


def test_a_full_disk_is_one_line_and_nothing_stored_is_lost(
    profile: Any, chats: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run("import", chats)
    from mlx_personal.storage import database

    real = database.Database.__init__

    def small(self: Any, folder: Any, write: Any, schema: Any) -> None:
        real(self, folder, write, schema)
        self.rows("PRAGMA max_page_count = 1")

    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(line_of(f"Big {i}?", "x" * 9000) for i in range(50)))
    with monkeypatch.context() as patched:
        patched.setattr(database.Database, "__init__", small)
        assert "the disk is full" in refused("import", more)
    assert as_json("status")["received"] == 30


def test_a_command_without_a_profile_says_what_to_do(home: Path) -> None:
    for command in (["status"], ["import", "x"], ["review"], ["train"], ["chat", "hi"], ["run"], ["adapters", "list"]):
        assert "run `mlx-personal init` first" in refused(*command)


def test_a_slip_in_the_settings_is_one_line(profile: Any) -> None:
    (profile / "config.toml").write_text("[finetune]\nrang = 2\n")
    assert "did you mean 'rank'" in refused("status")


def test_errors_are_json_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mlx-personal", "status", "--json"])
    result = run("status", "--json")
    assert result.exit_code == 2
    assert "init" in json.loads(result.stdout)["error"]


def test_a_broken_lexicon_is_one_line(profile: Any, chats: Any) -> None:
    (profile / "lexicons").mkdir()
    (profile / "lexicons" / "sailing.txt").write_bytes(b"\xff")
    assert "sailing.txt" in refused("import", chats)
    (profile / "lexicons" / "sailing.txt").write_text("# mine\nboat sail\n")
    listed = {row["domain"]: row["words"] for row in as_json("lexicon", "list")}
    assert listed["sailing"] == 2
    assert len(listed) > 20


def test_suggested_lexicons_are_used_once_written(profile: Any, tmp_path: Path) -> None:
    topics = {
        "segla": ["båt", "segel", "vind", "hamn", "mast", "brygga"],
        "baka": ["deg", "jäst", "ugn", "bröd", "mjöl", "smör"],
        "cykla": ["sadel", "kedja", "däck", "broms", "pedal", "hjälm"],
        "odla": ["frö", "jord", "kruka", "vatten", "spade", "blomma"],
    }
    lines = []
    for i in range(80):
        own = list(topics.values())[i % 4]
        words = [own[(i // 4 + j) % 6] for j in range(4)]
        lines.append(
            line_of(f"Hur är det med {' och '.join(words)} nr {i}?", f"Ta {words[0]} först, sedan {words[1]}.")
        )
    (tmp_path / "svenska.jsonl").write_text("\n".join(lines))
    run("import", tmp_path / "svenska.jsonl")
    found = as_json("lexicon", "suggest", "--domains", 4, "--write")
    assert len(found) == 4
    for row in found:
        own = [len(set(row["words"]) & set(words)) for words in topics.values()]
        assert sorted(own)[:3] == [0, 0, 0], "a domain must not mix two topics"
    assert as_json("lexicon", "suggest", "--domains", 4, "--write") == [], "what was written is no news"
    listed = {row["domain"]: row["bins"] for row in as_json("lexicon", "list")}
    assert sum(listed[row["domain"]] for row in found) == 8


def test_a_suggestion_never_takes_a_name_in_use(profile: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_personal import scoring

    suggestions = [
        scoring.Suggestion(name, ("boat", "sail"), 9) for name in ("other", "Boat_Sail", "music", "boat_sail")
    ]
    monkeypatch.setattr(scoring, "suggest_lexicons", lambda texts, domains: suggestions)
    folder = profile / "lexicons"
    folder.mkdir()
    (folder / "boat_sail.txt").write_text("edited\n")
    names = ["other_2", "Boat_Sail_2", "music_2", "boat_sail_3"]
    assert [row["domain"] for row in as_json("lexicon", "suggest", "--write")] == names
    assert (folder / "boat_sail.txt").read_text() == "edited\n"
    assert {p.stem for p in folder.iterdir()} == {*names, "boat_sail"}


def test_too_little_text_for_a_suggestion_is_one_line(profile: Any) -> None:
    refused("lexicon", "suggest")


def test_chat_talks_and_remembers(profile: Any) -> None:
    result = run("chat", stdin="How do I mend the lamp?\nAnd the soup?\n\n")
    assert result.exit_code == 0
    shown = as_json("buffer", "show", 1)
    assert shown["source"] == "chat"
    assert [m["role"] for m in shown["messages"]] == ["user", "assistant"] * 2
    assert run("chat", "--json").exit_code == 2
    assert "empty" in refused("chat", " ")


def test_chat_takes_no_bytes_that_are_not_text(profile: Any) -> None:
    line = "mlx-personal: standard input: not UTF-8 text; check the terminal's encoding"
    assert run("chat", stdin=b"caf\xe9\n").stderr.splitlines()[-1] == line


def test_review_takes_no_bytes_that_are_not_text(profile: Any, chats: Any) -> None:
    run("import", chats)
    result = run("review", stdin=b"r\ncaf\xe9\n")
    assert (result.exit_code, "standard input: not UTF-8 text" in result.stderr) == (2, True)


def test_help_is_quick_and_names_every_command() -> None:
    code = "import sys; from mlx_personal.cli import main; main(['--help'], standalone_mode=False)"
    code += "; assert not {'mlx.core', 'transformers', 'mlx_lm'} & set(sys.modules), 'heavy imports'"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for command in _COMMANDS:
        assert f"  {command.name} " in shown.stdout


def test_shells_complete_commands() -> None:
    environment = {
        **os.environ,
        "_MLX_PERSONAL_COMPLETE": "bash_complete",
        "COMP_WORDS": "mlx-personal ad",
        "COMP_CWORD": "1",
    }
    code = "from mlx_personal.cli import main; main(prog_name='mlx-personal')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "plain,adapters" in done.stdout


def test_doctor_reports_the_machine(home: Path) -> None:
    result = run("doctor", "--json")
    found = json.loads(result.stdout)
    assert found["gflops"] > 0
    assert {"device", "blas", "speed", "home", "profile"} <= {c["name"] for c in found["checks"]}
    assert result.exit_code == (0 if all(c["ok"] for c in found["checks"]) else 1)


def test_doctor_aligns_its_lines_and_says_that_the_model_is_gone(
    home: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    run("init", "--model", folder)
    assert {c["name"]: c["ok"] for c in json.loads(run("doctor", "--json").stdout)["checks"]}["profile"]
    shutil.rmtree(folder)
    result = run("doctor")
    assert result.exit_code == 1
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("no  profile ")]
    assert "no such model folder" in line
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("ok  mlx-personal")]
    assert line.split() == ["ok", "mlx-personal", mlx_personal.__version__]


@pytest.mark.skipif(sys.platform != "linux", reason="the compiler matters on Linux only")
@pytest.mark.parametrize("tuned", [True, False])
def test_a_missing_compiler_matters_only_without_a_tuned_blas(monkeypatch: pytest.MonkeyPatch, tuned: bool) -> None:
    from mlx_personal.cli import doctor

    monkeypatch.setattr("shutil.which", lambda name: None)
    (check,) = doctor._compiler(tuned)
    assert check.ok == tuned

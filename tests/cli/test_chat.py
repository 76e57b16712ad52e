"""`chat`: conversations, their options, input that is not text, and processes that are ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlx_personal import LanguageModel
from mlx_personal.profile import Store
from tests.models.test_adapter_folder import write_adapter
from tests.support.cli import dialogue_line, error_line, run_cli, run_json


def test_chat_answers_and_stores_the_conversation(profile: Path) -> None:
    result = run_cli("chat", stdin="How do I fix the lamp?\nAnd the soup?\n\n")
    assert result.exit_code == 0
    dialogue = run_json("buffer", "show", 1)
    assert dialogue["source"] == "chat"
    assert [m["role"] for m in dialogue["messages"]] == ["user", "assistant"] * 2
    assert run_cli("chat", "--json").exit_code == 2
    assert "empty" in error_line("chat", " ")


def test_a_question_may_have_several_lines_and_commands_are_not_questions(profile: Path) -> None:
    result = run_cli("chat", stdin='/help\n"""One\n\ntwo"""\n"""Three"""\n/exit\nFour\n')
    assert "/exit    end the conversation" in result.stderr
    messages = run_json("buffer", "show", 1)["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["One\n\ntwo", "Three"]


def test_chat_refuses_input_that_is_not_utf8(profile: Path) -> None:
    line = "mlx-personal: standard input: not UTF-8 text; check the terminal's encoding"
    assert run_cli("chat", stdin=b"caf\xe9\n").stderr.splitlines()[-1] == line


def test_options_override_the_profile_which_overrides_the_model(
    profile: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder, model)
    recommended = {"do_sample": True, "temperature": 1.3, "top_p": 0.9, "top_k": 50, "repetition_penalty": "x"}
    (model / "generation_config.json").write_text(json.dumps(recommended))
    assert run_cli("init", "--model", model).exit_code == 0
    with (profile / "config.toml").open("a") as file:
        file.write('top_p = 0.8\nsystem = "Be brief."\n')
    options = ["--top-k", 0, "--seed", 3, "--stop", "zz", "--stop", "\n", "--max-tokens", 7]
    first, second = (run_json("chat", "How do I fix the lamp?", *options) for _ in range(2))
    assert first == second
    assert first["settings"] == {
        "temperature": 1.3,
        "top_p": 0.8,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop": ["zz", "\n"],
        "max_tokens": 7,
        "system": "Be brief.",
    }
    assert run_json("buffer", "show", 1)["messages"][0] == {"role": "system", "content": "Be brief."}
    notices = run_cli("chat", "--system", "", stdin="\n").stderr.splitlines()
    assert notices[-3:-1] == [
        "mlx-personal: generation_config.json of the model has invalid values, which are ignored: repetition_penalty",
        f"{model}, the base model; top p 0.8, by the model's generation_config.json temperature 1.3, top k 50, "
        "at most 8 tokens an answer.",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--temperature", "-1"], "temperature is -1.0; it must be at least 0 and finite"),
        (["--temperature", "nan"], "temperature is nan; it must be at least 0 and finite"),
        (["--top-p", "0"], "top_p is 0.0; it must be above 0 and at most 1"),
        (["--max-tokens", "0"], "max_tokens is 0; it must be at least 1"),
        (["--stop", ""], "a text of stop is empty"),
        (["--system", " "], "an empty system message"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_an_option_out_of_range_is_one_line(profile: Path, options: list[str], message: str) -> None:
    assert message in error_line("chat", "Hi", *options)


# Examples of the memory


@pytest.fixture
def remembering(profile: Path, tmp_path: Path) -> Path:
    """The folder of a profile with two annotated dialogues, one that waits in the buffer, and up to two examples."""
    settings = (profile / "config.toml").read_text().replace("[memory]\nuse = 'never'\n", "")
    memory = "[memory]\nuse = 'always'\nexamples = 2\nretrieval = 'bm25'\n"
    (profile / "config.toml").write_text(settings + memory)
    rows = [("Lamp bulb?", "Change it."), ("Lentil soup?", "Simmer it."), ("Lamp cord?", "Unplug it.")]
    (tmp_path / "kept.jsonl").write_text("\n".join(dialogue_line(*row) for row in rows))
    assert run_cli("import", tmp_path / "kept.jsonl").exit_code == 0
    return profile


def test_why_names_the_dialogues_in_the_prompt_and_the_conversation_is_stored_without_them(remembering: Path) -> None:
    result = run_cli("chat", stdin="/why\nWhich lamp?\n/why\nThanks!\n/exit\n")
    lines = [line for line in result.stderr.splitlines() if "ialogue" in line or "asked" in line]
    assert "at most 8 tokens an answer, up to 2 of your dialogues as examples." in lines.pop(0)
    assert lines == [
        "Nothing has been asked yet.",
        "Dialogue 1, similarity 0.18, not annotated: 'Lamp bulb?'",
        "Dialogue 3, similarity 0.18, not annotated: 'Lamp cord?'",
    ]
    assert [m["content"] for m in run_json("buffer", "show", 4)["messages"]][::2] == ["Which lamp?", "Thanks!"]
    answered = run_json("chat", "Which lamp?")
    assert [(e["dialogue"], e["annotated"]) for e in answered["examples"]] == [(1, False), (3, False)]
    assert run_json("chat", "Zeppelin?")["examples"] == []


def test_why_says_why_there_is_no_example(remembering: Path) -> None:
    nothing = "No dialogue was in the prompt: none that fits is near enough to the first question."
    assert nothing in run_cli("chat", stdin="Zeppelin?\n/why\n").stderr
    with (remembering / "config.toml").open("a") as file:
        file.write("min_bm25 = 0.9\n")
    assert nothing in run_cli("chat", stdin="Which lamp?\n/why\n").stderr
    settings = (remembering / "config.toml").read_text()
    for change in (("examples = 2", "examples = 0"), ("'always'", "'never'"), ("'always'", "'auto'")):
        (remembering / "config.toml").write_text(settings.replace(*change))
        result = run_cli("chat", stdin="Which lamp?\n/why\n").stderr
        assert "No dialogue was in the prompt: the memory is not used, as the status of the profile says." in result


def test_an_invalid_setting_of_the_memory_is_one_line(remembering: Path) -> None:
    with (remembering / "config.toml").open("a") as file:
        file.write("order = 'random'\n")
    assert "[memory] order is 'random'; it must be nearest-last" in error_line("chat", "Hi")


# Adapters outside the profile


def test_an_adapter_of_another_program_answers_and_is_not_stored(
    profile: Path, tiny_model: LanguageModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", std=0.3)
    question = "What shall I cook tonight?"
    base = run_json("chat", question)
    adapted = run_json("chat", question, "--adapter-path", folder)
    assert (adapted["adapter"], adapted["adapter_path"]) == (None, str(folder))
    assert adapted["answer"] != base["answer"]
    assert run_json("buffer", "show", 2)["source"] == f"chat with the adapter in {folder}"
    assert run_json("adapters", "list") == []


def test_an_adapter_that_changes_nothing_is_said(profile: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", std=0)
    notice = "adapter changes nothing: all its updates are zero"
    assert notice in run_cli("chat", "Hi", "--adapter-path", folder).stderr
    assert notice in run_cli("evaluate", "--adapter-path", folder).stderr


def test_a_folder_without_an_adapter_for_this_model_is_one_line(
    profile: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tiny_model_folder, tmp_path / "adapter", num_layers=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["lora_parameters"]["rank"] = 5
    (folder / "adapter_config.json").write_text(json.dumps(config))
    reason = "this adapter is damaged or made for another model; name the folder of an adapter for this model"
    for command in (["chat", "Hi"], ["evaluate"]):
        assert error_line(*command, "--adapter-path", folder) == f"mlx-personal: {folder}: {reason}"
        assert "is a model, not an adapter" in error_line(*command, "--adapter-path", tiny_model_folder)
    assert "not both" in error_line("evaluate", 1, "--adapter-path", folder)


# Signals


# Three chats in one process, since most of its time is its start.
CHATS = """
from mlx_personal.cli import main
for _ in range(3):
    try:
        main(["chat", "--max-tokens", "8"])
    except SystemExit as exit:
        print("exit code", exit.code, flush=True)
"""


@pytest.mark.slow
def test_complete_answers_outlive_a_process_that_is_ended(profile: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CHATS], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL):
            for thing in ("lamp", "soup", "bus"):
                process.stdin.write(f"How do I get a {thing} before {number.name}?\n")
                process.stdin.flush()
                assert process.stdout.readline()
            process.send_signal(number)
            if number != signal.SIGKILL:
                assert process.stdout.readline() == f"exit code {128 + number}\n"
        assert process.stderr.read().count("the conversation was ended; all complete answers are stored\n") == 2
    assert run_json("status")["received"] == 3
    for index, name in enumerate(["SIGHUP", "SIGTERM", "SIGKILL"], 1):
        questions = [m["content"] for m in run_json("buffer", "show", index)["messages"] if m["role"] == "user"]
        assert questions == [f"How do I get a {thing} before {name}?" for thing in ("lamp", "soup", "bus")]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_ends_the_conversation_and_complete_answers_are_stored(
    number: signal.Signals, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = []

    def stream(*_: object, **__: object) -> Iterator[str]:
        with contextlib.closing(Store(profile, write=False)) as store:  # as another process reads it
            received.append([len(row.dialogue.user_turns) for row in store.dialogues()])
        if len(received) == 3:
            os.kill(os.getpid(), number)
        yield "An answer."

    monkeypatch.setattr(LanguageModel, "stream", stream)
    result = run_cli("chat", stdin="One.\nTwo.\nThree.\nFour.\n")
    assert result.exit_code == 128 + number
    assert result.stderr.endswith("mlx-personal: the conversation was ended; all complete answers are stored\n")
    assert received == [[], [1], [2]]
    questions = [m["content"] for m in run_json("buffer", "show", 1)["messages"] if m["role"] == "user"]
    assert questions == ["One.", "Two."]


def interrupt(pieces: int) -> Callable[..., Iterator[str]]:
    """Return a model's `stream` in which Ctrl-C is pressed before the last piece of an answer."""

    def stream(*_: object, **__: object) -> Iterator[str]:
        yield from ("one ", "two ", "three ")[:pieces]
        os.kill(os.getpid(), signal.SIGINT)
        yield "last "
        yield "never"

    return stream


def test_ctrl_c_ends_the_answer_and_not_the_conversation(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "stream", interrupt(2))
    result = run_cli("chat", stdin="Count.\nAgain.\n\n")
    assert (result.exit_code, result.stdout) == (0, "one two last \n" * 2)
    assert result.stderr.count("Stopped; the conversation goes on with this much of the answer.") == 2
    messages = run_json("buffer", "show", 1)["messages"]
    assert [m["content"] for m in messages] == ["Count.", "one two last", "Again.", "one two last"]


def test_ctrl_c_ends_a_single_question(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LanguageModel, "stream", interrupt(2))
    assert run_cli("chat", "Count.").exit_code == 128 + signal.SIGINT
    assert run_json("status")["received"] == 0


def test_a_second_ctrl_c_ends_the_conversation(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(*_: object, **__: object) -> Iterator[str]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        yield "never"

    assert run_cli("chat", stdin="One.\n\n").exit_code == 0
    monkeypatch.setattr(LanguageModel, "stream", stream)
    assert run_cli("chat", stdin="Count.\nAgain.\n").exit_code == 128 + signal.SIGINT
    assert run_json("status")["received"] == 1
